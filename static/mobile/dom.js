/** Elements from values. Texts become text nodes and nothing else: answers are written by strangers. */

/** h("button", {class, onclick, disabled …}, child, …): children are nodes, texts, arrays or nothing. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}

/** A drawing from the page's templates; words stand beside it. */
export function icon(name) {
  return document.getElementById(`icon-${name}`).content.firstElementChild.cloneNode(true);
}

export const chip = ({ state, label }) => h("span", { class: `chip chip-${state}` }, label);

/** Children of `parent` for `items`, keeping the elements of those that look as before (and with them the focus). */
export function patch(parent, items, keyOf, build) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = keyOf(item);
    const element = old.get(key) ?? build(item);
    element.dataset.key = key;
    return element;
  });
  const kept = new Set(wanted);
  [...parent.children].filter((child) => !kept.has(child)).forEach((child) => child.remove());
  wanted.forEach((element, at) => {
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] ?? null);
  });
}

/** A text as it was written, in its own direction. */
export function output(text, props = {}) {
  return h("div", { class: "output", dir: "auto", ...props }, text);
}

/** Without line breaks at both ends; a pattern would take seconds for a text of nothing else. */
function withoutEmptyEnds(text) {
  let [start, end] = [0, text.length];
  while (text[start] === "\n") start++;
  while (end > start && text[end - 1] === "\n") end--;
  return text.slice(start, end);
}

/** Plain text with its line breaks; what stands between lines of ``` is set in the font of code. */
export function answerText(text) {
  const parts = text.split(/^[ \t]*```[^\n`]*$\n?/m);
  const nodes = parts.map((part, at) => {
    if (at % 2) return h("pre", { tabindex: "0" }, h("code", {}, part.replace(/\n$/, "")));
    return part.trim() ? output(withoutEmptyEnds(part)) : null;
  });
  return nodes.filter(Boolean);
}

/** "14:05" of today, else "3 Nov, 14:05" in the reader's own words. */
export function when(iso, now = new Date()) {
  const at = new Date(iso);
  if (!iso || Number.isNaN(at.getTime())) return "";
  const time = { hour: "2-digit", minute: "2-digit" };
  const isToday = at.toDateString() === now.toDateString();
  const text = isToday
    ? at.toLocaleTimeString([], time)
    : at.toLocaleString([], { day: "numeric", month: "short", ...time });
  return h("time", { datetime: at.toISOString() }, text);
}

/** The screen that asked is left. */
export function closeQuestion() {
  document.querySelector("dialog[open]")?.close("");
}

/** Ask before what cannot be undone. Resolves to whether the person agreed. */
export function confirmed(question, detail, yes) {
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "question" });
  const answer = (value) => () => dialog.close(value);
  dialog.append(
    h("h2", { id: "question" }, question),
    h("p", {}, detail),
    h(
      "div",
      { class: "cluster" },
      h("button", { type: "button", class: "btn btn-danger", onclick: answer("yes") }, yes),
      h("button", { type: "button", class: "btn", autofocus: true, onclick: answer("") }, "No, go back"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

/** Read aloud by screen readers, shown to nobody; the same words twice are two announcements. */
export function announce(text) {
  document.getElementById("announcer").replaceChildren(h("p", {}, text));
}
