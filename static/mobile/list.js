/** The list: what waits here and what the server told, newest first. */

import { announce, chip, h, icon, patch, when } from "./dom.js";
import { wholeText } from "./draft.js";
import { find, merged } from "./mirror.js";

const PAGE = 50;
const TYPING_MS = 150; // a search goes through every text that is kept
const STATES = [
  ["", "All states"],
  ["here", "Queued here"],
  ["queued", "Queued there"],
  ["sending", "Sending"],
  ["done", "Done"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
  ["refused", "Not accepted"],
];

export function listView(app) {
  const { library } = app;
  const before = app.listAsLeft ?? { query: "", state: "", shown: PAGE };
  let shown = before.shown;
  let typing;
  const search = h("input", {
    type: "search",
    id: "search",
    autocomplete: "off",
    enterkeyhint: "search",
    value: before.query,
    oninput: soon,
  });
  const state = h(
    "select",
    { id: "state", onchange: again },
    STATES.map(([value, label]) => h("option", { value, selected: value === before.state }, label)),
  );
  const rows = h("ol", { class: "prompt-list", id: "prompts" });
  const frame = h("section", { class: "lane", "aria-label": "Prompts" }, rows);
  const more = h("button", { type: "button", class: "btn", onclick: showMore }, "Show more");
  const empty = h("div", { class: "empty", role: "status" });
  const filters = h(
    "form",
    { class: "filters", role: "search", onsubmit },
    h("div", { class: "field" }, h("label", { for: "search" }, "Search"), search),
    h("div", { class: "field" }, h("label", { for: "state" }, "State"), state),
  );
  const node = [h("h1", { tabindex: "-1" }, "Prompts"), filters, frame, more, empty];

  function onsubmit(event) {
    event.preventDefault();
    again();
  }

  function soon() {
    clearTimeout(typing);
    typing = setTimeout(again, TYPING_MS);
  }

  function again() {
    clearTimeout(typing);
    shown = PAGE;
    const count = update();
    if (count) announce(`${count.toLocaleString()} found`);
  }

  function showMore() {
    const next = rows.children.length;
    shown += PAGE;
    update();
    rows.children[next]?.querySelector("a").focus();
  }

  function update() {
    const all = merged(library.mirror, library.outbox);
    const found = find(all, search.value, state.value);
    patch(rows, found.slice(0, shown), keyOf, rowOf);
    frame.hidden = !found.length;
    filters.hidden = !all.length;
    more.hidden = found.length <= shown;
    empty.hidden = found.length > 0;
    const words = all.length
      ? [h("h2", {}, "Nothing found"), h("p", {}, "Take away a word, or choose another state.")]
      : [
          h("h2", {}, "No prompts yet"),
          h("p", {}, "Write one now. Without a connection it waits here and goes out by itself later."),
          h("a", { class: "btn btn-primary", href: "#new" }, icon("plus"), "New prompt"),
        ];
    if (!found.length && empty.dataset.of !== String(all.length > 0)) empty.replaceChildren(...words);
    empty.dataset.of = found.length ? "" : String(all.length > 0);
    return found.length;
  }

  function leave() {
    clearTimeout(typing);
    const opened = location.hash.split("/")[1];
    app.listAsLeft = { query: search.value, state: state.value, shown, top: scrollY, opened };
  }

  /** Back from a prompt: where one was. */
  function arrive() {
    const link = before.opened && [...rows.querySelectorAll("a")].find(({ hash }) => hash === `#p/${before.opened}`);
    if (!link) return false;
    scrollTo(0, before.top);
    link.focus({ preventScroll: true });
    return true;
  }

  return { title: "Prompts", node, update, leave, arrive };
}

/** The beginning of a text in one line; never empty, because it is a link's name. */
export function excerpt(text) {
  const line = [...text.trimStart().slice(0, 400).replace(/\s+/g, " ")].slice(0, 160).join("");
  return wholeText(line).trim() || "(blank)";
}

const keyOf = ({ id, prompt, status }) =>
  [id, status.state, status.note, prompt.model, prompt.enqueued_at, excerpt(prompt.text)].join("\n");

function rowOf({ id, prompt, status }) {
  return h(
    "li",
    { class: "prompt-row" },
    chip(status),
    h("a", { class: "prompt-row-text", href: `#p/${id}`, dir: "auto" }, excerpt(prompt.text)),
    h("span", { class: "prompt-row-meta" }, h("span", { class: "mono" }, prompt.model), when(prompt.enqueued_at)),
    status.note && h("span", { class: "prompt-row-note" }, status.note),
    status.error && h("span", { class: "prompt-row-note" }, status.error.message),
  );
}
