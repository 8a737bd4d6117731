/** So much of a browser's document as the app's screens use, in place of one. */

class Element {
  parent = null;
  hidden = false;

  constructor(tag) {
    Object.assign(this, { tag, nodes: [], attributes: new Map(), events: new Map(), dataset: {} });
  }

  get tagName() {
    return this.tag.toUpperCase();
  }
  get children() {
    return this.nodes.filter((node) => node instanceof Element);
  }
  get firstElementChild() {
    return this.children[0];
  }
  get id() {
    return this.attributes.get("id") ?? "";
  }
  get textContent() {
    return this.nodes.map((node) => (typeof node === "string" ? node : node.textContent)).join("");
  }
  set textContent(text) {
    this.replaceChildren(text);
  }
  get value() {
    if (this.tag !== "select" || this.chosen !== undefined) return this.chosen ?? "";
    const options = this.all("option");
    return (options.find((one) => one.attributes.has("selected")) ?? options[0])?.value ?? "";
  }
  set value(value) {
    this.chosen = value;
  }
  get open() {
    return this.attributes.has("open");
  }

  setAttribute(name, value) {
    if (name.startsWith("data-")) this.dataset[name.slice(5)] = value;
    if (name === "hidden") this.hidden = true;
    this.attributes.set(name, value);
  }
  removeAttribute(name) {
    this.attributes.delete(name);
  }
  addEventListener(name, call) {
    this.events.set(name, call);
  }
  append(...nodes) {
    for (const node of nodes) {
      if (node instanceof Element) node.parent = this;
      this.nodes.push(node instanceof Element ? node : String(node));
    }
  }
  replaceChildren(...nodes) {
    this.nodes = [];
    this.append(...nodes);
  }
  replaceWith(other) {
    other.parent = this.parent;
    this.parent.nodes = this.parent.nodes.map((node) => (node === this ? other : node));
  }
  remove() {
    if (this.parent) this.parent.nodes = this.parent.nodes.filter((node) => node !== this);
  }
  contains(other) {
    return other === this || this.children.some((child) => child.contains(other));
  }
  cloneNode() {
    return new Element(this.tag);
  }
  focus() {}
  closest() {
    return null;
  }
  showModal() {}
  close(value) {
    this.returnValue = value;
    this.fire("close");
  }

  /** All below that fit a tag, #id, [name] or [name=value]. */
  all(selector) {
    const found = this.children.flatMap((child) => [...(child.fits(selector) ? [child] : []), ...child.all(selector)]);
    return found;
  }
  querySelector(selector) {
    return this.all(selector)[0] ?? null;
  }
  querySelectorAll(selector) {
    return this.all(selector);
  }
  fits(selector) {
    const [, name, value] = /^\[([\w-]+)(?:=([\w-]+))?\]$/.exec(selector) ?? [];
    if (name) return value === undefined ? this.attributes.has(name) : this.attributes.get(name) === value;
    return selector.startsWith("#") ? this.id === selector.slice(1) : this.tag === selector;
  }

  /** The button or link with these words. */
  named(words) {
    return [...this.all("button"), ...this.all("a")].find((one) => one.textContent === words);
  }
  /** What happens to it, as a person does it; resolves when the screen has answered. */
  fire(name, event = {}) {
    return this.events.get(name)?.({ preventDefault() {}, ...event });
  }
}

/** A new, empty document; returns its body. */
export function blankScreen() {
  const body = new Element("body");
  const icon = new Element("template");
  icon.content = new Element("i");
  icon.content.append(new Element("svg"));
  globalThis.document = {
    body,
    visibilityState: "visible",
    documentElement: new Element("html"),
    createElement: (tag) => new Element(tag),
    getElementById: (id) => body.querySelector(`#${id}`) ?? (id.startsWith("icon-") ? icon : new Element("div")),
    querySelector: (selector) => body.querySelector(selector),
  };
  globalThis.location ??= { origin: "https://here", protocol: "https:", hash: "" };
  return body;
}

/** Everything of a view under one element. */
export function shown(view) {
  const frame = new Element("main");
  frame.append(...view.node);
  view.update?.();
  return frame;
}
