// Loaded in <head>, blocking, so that the chosen theme stands before the first paint.
(() => {
  const NEXT = { dark: "light", light: "system", system: "dark" };
  const root = document.documentElement;
  const prefersLight = matchMedia("(prefers-color-scheme: light)");

  const stored = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  const remember = (theme) => {
    try { localStorage.setItem("theme", theme); } catch { /* storage is blocked: the choice lasts for this page */ }
  };

  const apply = (theme) => {
    root.dataset.theme = theme in NEXT ? theme : "dark";
    const isLight = root.dataset.theme === "light" || (root.dataset.theme === "system" && prefersLight.matches);
    const meta = document.querySelector('meta[name="theme-color"]');
    if (meta) meta.content = isLight ? meta.dataset.light : meta.dataset.dark;
    const button = document.querySelector("[data-theme-switch]");
    if (button) {
      button.title = `Theme: ${root.dataset.theme}. Switch to ${NEXT[root.dataset.theme]}.`;
      button.setAttribute("aria-label", button.title);
    }
  };

  root.classList.add("js");
  apply(stored());
  document.addEventListener("DOMContentLoaded", () => apply(root.dataset.theme));
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-switch]")) return;
    remember(NEXT[root.dataset.theme]);
    apply(NEXT[root.dataset.theme]);
  });
  addEventListener("storage", (event) => { if (event.key === "theme") apply(event.newValue); });
  prefersLight.addEventListener("change", () => apply(root.dataset.theme));
})();
