/** The list: what waits here and what the server told, newest first. */

import { chip, h, icon, patch, when } from "./dom.js";
import { find, merged } from "./mirror.js";

const PAGE = 50;
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
  let shown = PAGE;
  const search = h("input", {
    type: "search",
    id: "search",
    autocomplete: "off",
    enterkeyhint: "search",
    oninput: again,
  });
  const state = h(
    "select",
    { id: "state", onchange: again },
    STATES.map(([value, label]) => h("option", { value }, label)),
  );
  const rows = h("ol", { class: "prompt-list", id: "prompts" });
  const frame = h("section", { class: "lane", "aria-label": "Prompts" }, rows);
  const more = h("button", { type: "button", class: "btn", onclick: showMore }, "Show more");
  const empty = h("div", { class: "empty", role: "status" });
  const filters = h(
    "form",
    { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    h("div", { class: "field" }, h("label", { for: "search" }, "Search"), search),
    h("div", { class: "field" }, h("label", { for: "state" }, "State"), state),
  );
  const node = [h("h1", { tabindex: "-1" }, "Prompts"), filters, frame, more, empty];

  function again() {
    shown = PAGE;
    update();
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
    if (!found.length) empty.replaceChildren(...words);
  }

  return { title: "Prompts", node, update };
}

const excerpt = (text) => text.slice(0, 400).split(/\s+/).filter(Boolean).join(" ").slice(0, 160);
const keyOf = ({ id, prompt, status }) =>
  [id, status.state, status.note, prompt.model, prompt.enqueued_at, excerpt(prompt.text)].join("\n");

function rowOf({ id, prompt, status }) {
  return h(
    "li",
    { class: "prompt-row" },
    chip(status),
    h("a", { class: "prompt-row-text", href: `#p/${id}` }, excerpt(prompt.text)),
    h("span", { class: "prompt-row-meta" }, h("span", { class: "mono" }, prompt.model), when(prompt.enqueued_at)),
    status.note && h("span", { class: "prompt-row-note" }, status.note),
    status.error && h("span", { class: "prompt-row-note" }, status.error.message),
  );
}
