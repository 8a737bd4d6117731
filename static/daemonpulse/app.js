// Small things every page shares. Listeners sit on the document, so swapped-in elements work too.
(() => {
  const announcer = () => document.getElementById("announcer");

  // Copying. Plain-HTTP LANs have no navigator.clipboard, hence the textarea.
  const copyText = async (text) => {
    if (navigator.clipboard && isSecureContext) {
      try {
        await navigator.clipboard.writeText(text);
        return true;
      } catch { /* refused: try the old way */ }
    }
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    const host = document.querySelector("dialog[open]") || document.body;
    const focused = document.activeElement;
    host.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused?.focus({ preventScroll: true });
    return copied;
  };

  const copySource = (button) => {
    const target = button.dataset.copyTarget;
    if (target) return document.querySelector(target);
    return button.closest("figure.code")?.querySelector("code, pre");
  };

  const copy = async (button) => {
    const source = copySource(button);
    if (!source) return;
    const copied = await copyText("value" in source ? source.value : source.textContent);
    const said = copied ? "Copied" : "Could not copy";
    announcer().textContent = said;
    const label = button.querySelector("[data-copy-label]");
    const before = label?.dataset.copyLabel || label?.textContent;
    if (label) {
      label.dataset.copyLabel = before;
      label.textContent = said;
    }
    clearTimeout(button.copyTimer);
    button.copyTimer = setTimeout(() => {
      if (label) label.textContent = before;
      announcer().textContent = "";
    }, 2000);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-copy-target], [data-dialog], [data-dialog-close]");
    if (!button) {
      if (event.target.matches("dialog[data-dismiss]")) event.target.close();  // the backdrop
      return;
    }
    if (button.dataset.dialog) document.querySelector(button.dataset.dialog)?.showModal();
    else if ("dialogClose" in button.dataset) button.closest("dialog").close();
    else copy(button);
  });

  // Keys: Ctrl/Cmd+Enter sends the form one types in, "/" goes to the search.
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const form = event.target.closest?.("form");
      if (!form) return;
      event.preventDefault();
      form.requestSubmit();
    } else if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const search = document.querySelector("[data-search]");
      if (!search) return;
      event.preventDefault();
      search.focus();
    }
  });

  // The live socket. Its element stands for it here; one that left the page is no longer missed.
  if (window.htmx) htmx.config.wsReconnectDelay = (tries) => Math.min(500 * 2 ** tries, 5000);
  const LOST_AFTER_MS = 700;  // a reconnect shorter than this is not worth a word
  const DELIBERATE = [1000, 1005];
  const RECONNECTED_BY_HTMX = [1006, 1011, 1012, 1013];
  const lost = new Map();
  let leaving = false;

  const showConnection = () => {
    const banner = document.getElementById("connection");
    if (!banner) return;
    for (const element of lost.keys()) if (!element.isConnected) lost.delete(element);
    const refused = [...lost.values()].includes("refused");
    const text = lost.size === 0 ? "" : refused ? banner.dataset.refused : banner.dataset.lost;
    if (banner.textContent !== text) banner.textContent = text;
  };
  const lose = (element, how) => {
    if (leaving) return;
    if (how === "refused" || !lost.has(element)) lost.set(element, how);
    setTimeout(showConnection, LOST_AFTER_MS);
  };
  const regain = (element) => {
    lost.delete(element);
    showConnection();
  };
  addEventListener("pagehide", () => { leaving = true; });
  addEventListener("pageshow", () => { leaving = false; });
  document.addEventListener("htmx:wsOpen", (event) => regain(event.target));
  document.addEventListener("htmx:wsError", (event) => lose(event.target, "lost"));
  document.addEventListener("htmx:wsClose", (event) => {
    const code = event.detail.event.code;
    if (DELIBERATE.includes(code)) return regain(event.target);
    lose(event.target, code >= 4000 ? "refused" : "lost");
    if (code < 4000 && !RECONNECTED_BY_HTMX.includes(code)) {
      setTimeout(() => event.target.isConnected && event.detail.socketWrapper.reconnect(), 1000);
    }
  });

  // An action that failed says so.
  const complain = (text) => {
    const list = document.getElementById("messages");
    if (!list) return;
    const notice = document.createElement("div");
    notice.className = "notice notice-error";
    notice.append(document.createElement("p"));
    notice.firstChild.textContent = text;
    list.replaceChildren(notice);
    list.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("htmx:responseError", (event) => {
    complain(`That did not work: the server answered ${event.detail.xhr.status}. Reload the page and try again.`);
  });
  document.addEventListener("htmx:sendError", () => {
    complain("That did not work: the server could not be reached. Nothing was changed.");
  });

  // Times in the reader's own words.
  const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const localise = (time) => {
    const date = new Date(time.dateTime);
    time.dataset.local = "done";
    if (isNaN(date)) return;
    time.title = date.toString();
    time.textContent = dateTime.format(date);
  };
  const elapsed = (iso) => {
    const seconds = Math.max(0, Math.floor((Date.now() - Date.parse(iso)) / 1000));
    const two = (n) => String(n).padStart(2, "0");
    if (isNaN(seconds)) return "unknown";
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
    return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} min`;
  };
  let timer = null;
  const count = () => {
    const running = document.querySelectorAll("[data-elapsed-since]");
    for (const element of running) {
      const text = elapsed(element.dataset.elapsedSince);
      if (element.textContent !== text) element.textContent = text;
    }
    if (running.length && !timer) timer = setInterval(count, 1000);
    if (!running.length && timer) timer = clearInterval(timer);
  };

  // Following an output: keep to the end until the reader scrolls up.
  const END_SLACK_PX = 16;
  const heldBack = new WeakSet();
  document.addEventListener("scroll", (event) => {
    const box = event.target;
    if (!(box instanceof Element) || !box.matches("[data-follow]")) return;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight <= END_SLACK_PX;
    if (atEnd) heldBack.delete(box); else heldBack.add(box);
  }, { capture: true, passive: true });
  const follow = () => {
    for (const box of document.querySelectorAll("[data-follow]")) {
      if (!heldBack.has(box)) box.scrollTop = box.scrollHeight;
    }
  };

  // One observer for whatever htmx, the socket or a page's own script brings in; at most one pass a frame.
  const refresh = () => {
    document.querySelectorAll('time[data-local=""]').forEach(localise);
    count();
    follow();
    if (lost.size) showConnection();
  };
  let pending = false;
  new MutationObserver(() => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; refresh(); });
  }).observe(document.body, { childList: true, characterData: true, subtree: true });
  refresh();
})();
