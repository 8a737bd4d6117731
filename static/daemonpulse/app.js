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
    const label = button.querySelector("[data-copy-label]") || (button.childElementCount ? null : button);
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
      // The backdrop; the second click of a double one that opened the dialog is none.
      if (event.target.matches("dialog[data-dismiss]") && event.detail < 2) event.target.close();
      return;
    }
    if (button.dataset.dialog) document.querySelector(button.dataset.dialog)?.showModal();
    else if ("dialogClose" in button.dataset) button.closest("dialog").close();
    else copy(button);
  });

  // A button that writes a value into a field, as if somebody had typed it.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-fill]");
    const field = button && document.querySelector(button.dataset.fill);
    if (!field) return;
    field.value = button.dataset.value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // A swap between pressing and letting go takes the control away, and the browser then sees no click: give it to the
  // control that came in its place, if it is still the one under the pointer.
  const CONTROLS = "a[href], button, summary";
  let pressed = null;
  document.addEventListener("pointerdown", (event) => { pressed = event.target.closest?.(CONTROLS); });
  document.addEventListener("pointerup", (event) => {
    if (!pressed || pressed.isConnected) return;
    const now = document.elementFromPoint(event.clientX, event.clientY)?.closest(CONTROLS);
    const isSame = now && (pressed.id ? now.id === pressed.id : pressed.href && now.href === pressed.href);
    pressed = null;
    if (isSame) now.click();
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
  const sockets = new Set();
  document.addEventListener("htmx:wsOpen", (event) => {
    sockets.add(event.detail.event.target);
    regain(event.target);
  });
  document.addEventListener("htmx:wsError", (event) => lose(event.target, "lost"));
  document.addEventListener("htmx:wsClose", (event) => {
    sockets.delete(event.detail.event.target);
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
  // How a request ended, asked of itself: htmx tells its element, which a socket may have taken from the page by then.
  // An answer may come later than what the socket told of its effect, and be older: the socket shows all once more.
  const isError = (status) => status >= 400 && status !== 422;  // a form that is sent back says itself what is wrong
  document.addEventListener("htmx:beforeSend", (event) => {
    const { xhr, requestConfig } = event.detail;
    xhr.addEventListener("error", () => {
      complain("That did not work: the server could not be reached. Nothing was changed.");
    });
    xhr.addEventListener("load", () => {
      if (isError(xhr.status)) {
        complain(`That did not work: the server answered ${xhr.status}. Reload the page and try again.`);
      } else if (xhr.status < 400 && requestConfig.verb === "post") {
        leadOn(requestConfig.elt.closest("[data-lead-to]"));
        for (const socket of sockets) if (socket.readyState === WebSocket.OPEN) socket.send("anew");
      }
    });
  });

  // Where a form's effect shows: the reader is led there, since what was pressed may be gone or far from it.
  const leadOn = (form) => {
    const title = form && document.querySelector(form.dataset.leadTo);
    if (!title) return;
    title.focus({ preventScroll: true });
    title.scrollIntoView({ block: "nearest" });
  };

  // Forms. One that a socket brought has no CSRF token of its own; one that asks first does so in a dialog;
  // one that must not be sent twice is not.
  const csrfToken = () => JSON.parse(document.body.getAttribute("hx-headers"))["x-csrftoken"];
  // What asks is the form, or the button that was pressed.
  const ask = (form, asker) => {
    const opener = document.activeElement.id;
    const dialog = document.createElement("dialog");
    const add = (parent, tag, className, text) => {
      const element = document.createElement(tag);
      element.className = className;
      element.textContent = text;
      parent.append(element);
      return element;
    };
    dialog.className = "dialog";
    dialog.dataset.dismiss = "";
    const title = add(dialog, "h2", "", asker.dataset.confirm);
    title.id = "confirm-title";
    dialog.setAttribute("aria-labelledby", title.id);
    add(dialog, "p", "", asker.dataset.confirmText);
    const actions = add(dialog, "div", "form-actions", "");
    const yes = add(actions, "button", "btn btn-danger", asker.dataset.confirmYes);
    const no = add(actions, "button", "btn btn-quiet", asker.dataset.confirmNo);
    no.dataset.dialogClose = "";
    no.autofocus = true;
    yes.addEventListener("click", () => {
      const current = document.getElementById(form.id);  // the page may have changed since
      dialog.close();
      if (!current) return;
      current.dataset.confirmed = "";
      if (asker === form) current.requestSubmit();
      else document.getElementById(asker.id)?.click();  // so that htmx knows which button it was
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (document.activeElement === document.body) document.getElementById(opener)?.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
  };
  document.addEventListener("submit", (event) => {
    const form = event.target;
    const asker = event.submitter?.dataset.confirm ? event.submitter : form;
    if (asker.dataset.confirm && !("confirmed" in form.dataset)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      ask(form, asker);
      return;
    }
    delete form.dataset.confirmed;
    if ("sent" in form.dataset) {
      event.preventDefault();
      return;
    }
    if ("once" in form.dataset) form.dataset.sent = "";
    if (form.method === "post" && !form.elements.csrfmiddlewaretoken) {
      const field = document.createElement("input");
      Object.assign(field, { type: "hidden", name: "csrfmiddlewaretoken", value: csrfToken() });
      form.append(field);
    }
  }, { capture: true });
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  });

  // The models to choose from. Options change in place, so that an open list stays open and the choice stands.
  const syncOptions = (list) => {
    const select = document.querySelector(list.dataset.optionsFor);
    if (!select) return;
    const known = new Map([...select.options].map((option) => [option.value, option]));
    const wanted = new Set();
    let place = known.get("") || null;
    for (const source of list.options) {
      const option = known.get(source.value) || document.createElement("option");
      wanted.add(option.value = source.value);
      if (option.textContent !== source.textContent) option.textContent = source.textContent;
      option.toggleAttribute("data-gone", "gone" in source.dataset);
      const next = place ? place.nextElementSibling : select.firstElementChild;
      if (option !== next) select.insertBefore(option, next);
      place = option;
    }
    for (const [value, option] of known) {
      if (!value || wanted.has(value)) continue;
      if (option.selected) option.dataset.gone = "";
      else option.remove();
    }
    tellModels(select, document.querySelector(list.dataset.state));
  };
  const tellModels = (select, state) => {
    const chosen = select.selectedOptions[0];
    const isGone = chosen && "gone" in chosen.dataset;
    const isEmpty = ![...select.options].some((option) => option.value);
    const text = isGone && select.ariaInvalid !== "true" ? `${chosen.value} ${state.dataset.gone}` : isEmpty ? state.dataset.none : "";
    state.classList.toggle("field-error", Boolean(isGone));
    if (state.textContent !== text) state.textContent = text;
  };
  const syncAllOptions = () => document.querySelectorAll("[data-options-for]").forEach(syncOptions);
  document.addEventListener("change", (event) => {
    if (event.target.matches("select")) syncAllOptions();
  });

  // What a swap must not take away: the focus and the caret, what the reader typed, opened or closed, how far they read.
  const TYPED = "input[id]:not([type=hidden], [type=checkbox], [type=radio], [type=file]), textarea[id]";
  const opened = new Map();
  document.addEventListener("click", (event) => {
    const details = event.target.closest("summary")?.parentElement;
    if (details?.id) opened.set(details.id, !details.open);
  });
  let kept = null;
  const keep = () => {
    const focused = document.activeElement;
    const path = [];
    for (let element = focused; element && element !== document.body; element = element.parentElement) {
      if (element.id) path.push(element.id);
    }
    const boxes = [...document.querySelectorAll("[data-follow][id]")].filter((box) => heldBack.has(box));
    const news = [...document.querySelectorAll("[data-announce][id]")];
    const typed = [...document.querySelectorAll(TYPED)].filter((field) => field.value !== field.defaultValue);
    kept = {
      typed: typed.map((field) => [field, field.value]),
      focused, path, start: focused?.selectionStart, end: focused?.selectionEnd,
      scrolled: boxes.map((box) => [box, box.scrollTop]),
      told: new Map(news.map((element) => [element.id, element.dataset.announce])),
    };
  };
  const giveBack = () => {
    syncAllOptions();
    for (const [id, open] of opened) {
      const details = document.getElementById(id);
      if (details && details.open !== open) details.open = open;
    }
    if (!kept) return;
    const { focused, path, start, end, scrolled, told, typed } = kept;
    kept = null;
    for (const [field, value] of typed) {
      const now = field.isConnected ? null : document.getElementById(field.id);
      if (now?.matches(TYPED)) now.value = value;
    }
    for (const [box, top] of scrolled) {
      const now = box.isConnected ? null : document.getElementById(box.id);
      if (!now) continue;
      heldBack.add(now);
      now.scrollTop = top;
    }
    for (const element of document.querySelectorAll("[data-announce][id]")) {
      const before = told.get(element.id);
      if (before && before !== element.dataset.announce) announcer().textContent = element.dataset.announce;
    }
    if (!path.length || focused.isConnected || document.activeElement !== document.body) return;
    const target = path.map((id) => document.getElementById(id)).find(Boolean);
    if (!target) return;
    target.focus({ preventScroll: true });
    if (document.activeElement !== target) {  // its control is gone: stay near
      target.tabIndex = -1;
      target.focus({ preventScroll: true });
    } else if (target.id === focused.id && start != null) target.setSelectionRange(start, end);
  };
  for (const name of ["htmx:wsBeforeMessage", "htmx:beforeSwap"]) document.addEventListener(name, keep);
  for (const name of ["htmx:wsAfterMessage", "htmx:afterSwap"]) document.addEventListener(name, giveBack);

  // Times in the reader's own words.
  const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const localise = (time) => {
    const date = new Date(time.dateTime);
    time.dataset.local = "done";
    if (isNaN(date)) return;
    time.title = date.toString();
    time.textContent = dateTime.format(date);
  };
  const inWords = (seconds) => {
    const two = (n) => String(n).padStart(2, "0");
    if (isNaN(seconds)) return "unknown";
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
    return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} min`;
  };
  const elapsed = (iso) => inWords(Math.max(0, Math.floor((Date.now() - Date.parse(iso)) / 1000)));
  const until = (iso) => {
    const seconds = Math.ceil((Date.parse(iso) - Date.now()) / 1000);
    return seconds > 0 ? `in ${inWords(seconds)}` : "any moment";
  };
  let timer = null;
  const count = () => {
    const running = document.querySelectorAll("[data-elapsed-since], time[data-until]");
    for (const element of running) {
      const since = element.dataset.elapsedSince;
      const text = since ? elapsed(since) : until(element.dateTime);
      if (element.textContent !== text) element.textContent = text;
    }
    if (running.length && !timer) timer = setInterval(count, 1000);
    if (!running.length && timer) timer = clearInterval(timer);
  };

  // Following an output: keep to the end until the reader scrolls up.
  const END_SLACK_PX = 16;
  const heldBack = new WeakSet();
  const lastTop = new WeakMap();  // new text alone never scrolls up, a reader does
  document.addEventListener("scroll", (event) => {
    const box = event.target;
    if (!(box instanceof Element) || !box.matches("[data-follow]")) return;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight <= END_SLACK_PX;
    if (atEnd) heldBack.delete(box);
    else if (box.scrollTop < lastTop.get(box)) heldBack.add(box);
    lastTop.set(box, box.scrollTop);
  }, { capture: true, passive: true });
  const follow = () => {
    for (const box of document.querySelectorAll("[data-follow]")) {
      if (heldBack.has(box)) continue;
      box.scrollTop = box.scrollHeight;
      lastTop.set(box, box.scrollTop);
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
