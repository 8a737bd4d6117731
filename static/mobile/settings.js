/** About this device: whom it belongs to, what it keeps, and the way out. */

import { confirmed, h, when } from "./dom.js";
import { offlineTrouble } from "./pair.js";
import { waits } from "./status.js";

const KEPT = [100, 500, 2000];
const THEMES = [
  ["dark", "Dark"],
  ["light", "Light"],
  ["system", "As the device has it"],
];

export function settingsView(app) {
  const { library } = app;
  const facts = h("dl", { class: "facts facts-rows" });
  const storage = h("div", { class: "stack-tight" });
  const install = h("div", { class: "stack-tight" });
  const keep = h(
    "select",
    { id: "keep", onchange: keepChosen },
    KEPT.map((count) =>
      h(
        "option",
        { value: count, selected: count === library.fact("keep") },
        `the newest ${count.toLocaleString()} prompts`,
      ),
    ),
  );
  const theme = h(
    "select",
    { id: "theme", onchange: () => app.chooseTheme(theme.value) },
    THEMES.map(([value, label]) =>
      h("option", { value, selected: value === document.documentElement.dataset.theme }, label),
    ),
  );

  function update() {
    showFacts();
    showInstall();
  }

  function showFacts() {
    const pairing = library.fact("pairing");
    if (!pairing) return;
    const rows = [
      ["This device", pairing.name],
      ["Server", `${pairing.server.name}, version ${pairing.server.version}`],
      ["Last sync", library.fact("syncedAt") ? when(new Date(library.fact("syncedAt")).toISOString()) : "not yet"],
      ["Executes prompts", { true: "yes", false: "not at the moment" }[library.fact("isWorking")] ?? "not known yet"],
      ["Waiting here", library.waitingPrompts],
      ["Prompts kept", library.mirror.size],
      ["Sealed", pairing.sealed ? "yes, only the server can read it" : "no"],
      ["Works offline", offline()],
    ];
    const told = JSON.stringify(rows.map(([, value]) => value.textContent ?? value));
    if (told === facts.dataset.told) return; // a link there keeps the focus
    facts.dataset.told = told;
    facts.replaceChildren(...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  function offline() {
    if (navigator.serviceWorker?.controller) return "yes";
    return offlineTrouble(app.offline) ?? "not yet";
  }

  function showInstall() {
    const button = h("button", { type: "button", class: "btn", onclick: () => app.install() }, "Install the app");
    if (install.dataset.can === String(app.canInstall)) return; // it keeps the focus
    install.dataset.can = app.canInstall;
    install.replaceChildren(app.canInstall ? button : h("p", { class: "hint" }, installWords()));
  }

  async function showStorage() {
    const { usage } = (await navigator.storage?.estimate?.()) ?? {};
    const isLasting = await navigator.storage?.persisted?.();
    const words = usage === undefined ? "Storage used: unknown" : `Storage used: ${(usage / 1e6).toFixed(1)} MB`;
    storage.replaceChildren(
      h("p", {}, words),
      h(
        "p",
        { class: "hint" },
        isLasting
          ? "The browser keeps it until you sign out."
          : "When the device runs short of room, the browser may clear it.",
      ),
      isLasting ? "" : h("button", { type: "button", class: "btn", onclick: persist }, "Ask the browser to keep it"),
    );
  }

  async function persist() {
    const isKept = await navigator.storage.persist();
    await showStorage();
    if (!isKept) storage.append(h("p", { role: "status" }, "The browser declined. Installing the app usually helps."));
  }

  async function keepChosen() {
    await app.attempt(() => library.keep({ keep: Number(keep.value), cursor: "" }));
    await app.connection.sync.run();
    update();
  }

  async function signOut() {
    const count = library.waitingPrompts;
    const lost = count ? `${waits(count).replace(" ", " that ")} will be lost. ` : "";
    const detail = `${lost}All that this device keeps is erased. What the server has stays there.`;
    if (await confirmed("Sign out and erase?", detail, "Sign out")) await app.signOut();
  }

  showStorage();
  const node = [
    h("h1", { tabindex: "-1" }, "Settings"),
    h("section", { class: "card", "aria-label": "This device" }, facts),
    h(
      "section",
      { class: "card" },
      h("h2", { class: "card-title" }, "Storage"),
      h("div", { class: "field" }, h("label", { for: "keep" }, "Keep"), keep),
      storage,
    ),
    h(
      "section",
      { class: "card" },
      h("h2", { class: "card-title" }, "App"),
      h("div", { class: "field" }, h("label", { for: "theme" }, "Theme"), theme),
      install,
    ),
    h(
      "section",
      { class: "card" },
      h("h2", { class: "card-title" }, "Sign out"),
      h("p", {}, "Ends the pairing and erases everything here, even without a connection."),
      h("button", { type: "button", class: "btn btn-danger", onclick: signOut }, "Sign out and erase"),
    ),
  ];
  return { title: "Settings", node, update };
}

function installWords() {
  if (matchMedia("(display-mode: standalone)").matches) return "It is installed.";
  return "To install it, open the browser's menu and choose “Add to Home screen” or “Install app”.";
}
