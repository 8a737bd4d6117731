/** LMRMQ: opens what this device keeps, and shows a screen for each address. */

import { ComposeView } from "./compose.js";
import { Connection, explain } from "./connection.js";
import { Database } from "./database.js";
import { h } from "./dom.js";
import { Library } from "./library.js";
import { listView } from "./list.js";
import { merged, missing } from "./mirror.js";
import { lackingView, lacks, pairView } from "./pair.js";
import { PromptView } from "./prompt.js";
import { settingsView } from "./settings.js";
import { statusWords } from "./status.js";
import { Store } from "./store.js";

const place = (id) => document.getElementById(id);

/** A view has title and node ([element, …]), and where it needs them update(), leave() and pause(). */
class App {
  constructor(library) {
    this.library = library;
    const refused = ({ error }) => this.tell(`A change was not accepted: ${error.message}`);
    this.connection = new Connection(library, { changed: () => this.#showStatus(), refused });
    library.listeners.add((news) => this.#changed(news));
  }

  start() {
    addEventListener("hashchange", () => this.show());
    addEventListener("online", () => this.connection.wake());
    addEventListener("offline", () => this.connection.offline());
    document.addEventListener("visibilitychange", () => this.#looked(document.visibilityState === "visible"));
    addEventListener("beforeinstallprompt", (event) => this.#installable(event));
    this.show();
    this.connection.wake();
  }

  // Screens

  show() {
    const [name, id] = location.hash.replace(/^#/, "").split("/");
    const code = new URLSearchParams(name).get("pair");
    if (code) return this.#showCode(code);
    this.view?.leave?.();
    this.view = this.library.isPaired ? this.#viewOf(name, id) : pairView(this, this.code);
    document.title = `${this.view.title} · LMRMQ`;
    place("content").replaceChildren(...this.view.node);
    scrollTo(0, 0);
    this.#showPlace(name);
    this.view.update?.();
    this.#showStatus();
    if (this.isShown) this.#focusTitle(); // the first screen is where the reader begins anyway
    this.isShown = true;
  }

  #focusTitle() {
    place("content").querySelector("h1")?.focus();
  }

  #viewOf(name, id) {
    if (name === "new") return new ComposeView(this, { follows: id });
    if (name === "edit") return this.#editView(id);
    if (name === "p") return new PromptView(this, id);
    if (name === "settings") return settingsView(this);
    if (name === "pair") return pairView(this, this.code);
    return listView(this);
  }

  /** A change sends the whole text, so a text that is cut here is read first. */
  #editView(id) {
    const prompt = merged(this.library.mirror, this.library.outbox).find((row) => row.id === id)?.prompt;
    const isCut = prompt && ["text", "system_prompt"].some((field) => missing(prompt, field));
    if (!isCut) return new ComposeView(this, { edits: id });
    this.wholeRequest(prompt).then((whole) => (whole ? this.show() : (location.hash = `#p/${id}`)));
    const title = "Edit a waiting prompt";
    return { title, node: [h("h1", { tabindex: "-1" }, title), h("p", {}, "Reading the whole text…")] };
  }

  /** The code of a QR link; it does not stay in the address. */
  #showCode(code) {
    this.code = code;
    history.replaceState(null, "", this.library.isPaired ? "#pair" : "#");
    this.show();
  }

  #showPlace(name) {
    place("nav").hidden = !this.library.isPaired;
    for (const link of document.querySelectorAll("[data-for]")) {
      if (link.dataset.for === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  #changed(news) {
    if (news.wiped) return location.reload();
    this.view?.update?.();
    this.#showStatus();
  }

  #looked(isVisible) {
    if (isVisible) this.connection.wake();
    else this.view?.pause?.();
  }

  #showStatus() {
    const line = place("status");
    const { words, tone } = statusWords(this.library, this.connection, navigator.onLine);
    const link = this.connection.isOut && location.hash !== "#pair" ? h("a", { href: "#pair" }, "Pair again") : "";
    if (line.textContent === words + (link.textContent ?? "") && line.dataset.tone === tone) return;
    line.dataset.tone = tone;
    line.replaceChildren(h("span", {}, words), link);
  }

  // What people do

  async submit(fields) {
    const id = crypto.randomUUID();
    await this.enqueue("submit", id, fields);
    return id;
  }

  /** Into the outbox, and off as soon as there is a way. Throws when it could not be kept. */
  async enqueue(kind, prompt, fields) {
    await this.library.enqueue(kind, prompt, fields);
    this.connection.send();
  }

  async resubmit(prompt, fields) {
    const id = await this.library.replaceRefused(prompt, fields);
    this.connection.send();
    return id;
  }

  /** The prompt with all of its text and system prompt, or null when they cannot be had now. */
  async wholeRequest(prompt) {
    let whole = prompt;
    for (const field of ["text", "system_prompt"]) {
      if (missing(whole, field)) whole = await this.attempt(() => this.connection.sync.whole(whole, field));
      if (!whole) return null;
    }
    return whole;
  }

  /** What `work` returns; a failure is shown, and null returned. */
  async attempt(work) {
    try {
      return await work();
    } catch (error) {
      this.tell(explain(error));
      return null;
    }
  }

  tell(message) {
    const box = place("message");
    const onclick = () => box.replaceChildren();
    const close = h("button", { type: "button", class: "btn btn-small", onclick }, "Close");
    box.replaceChildren(h("div", { class: "notice notice-error" }, h("p", {}, message), close));
  }

  /** Throws what a call throws. */
  async pair(code, name, kind) {
    await this.connection.pair(code, name, kind);
    this.code = undefined;
    location.hash = "#";
    this.show();
    await navigator.storage?.persist?.();
  }

  async signOut() {
    const isTold = await this.connection.leave();
    await this.library.wipe();
    await Promise.all((await caches.keys()).map((name) => caches.delete(name)));
    const worker = await navigator.serviceWorker?.getRegistration("/m/");
    await worker?.unregister();
    this.#left(isTold);
  }

  #left(isTold) {
    this.view = null;
    place("nav").hidden = true;
    place("status").replaceChildren();
    const untold = "The server could not be told. Revoke this device there under Devices.";
    const parts = [
      h("h1", { tabindex: "-1" }, "Signed out"),
      h("p", {}, "Everything that was kept here is erased."),
      isTold ? "" : h("p", { class: "notice notice-warning" }, untold),
      h("p", {}, h("a", { class: "btn", href: "/m/" }, "Pair again")),
    ];
    place("content").replaceChildren(...parts);
    this.#focusTitle();
  }

  get canInstall() {
    return Boolean(this.installEvent);
  }

  async install() {
    await this.installEvent.prompt();
    this.#installable(null);
  }

  #installable(event) {
    event?.preventDefault();
    this.installEvent = event;
    this.view?.update?.();
  }

  /** theme.js applies what another tab chooses; here we are the other tab. */
  chooseTheme(theme) {
    localStorage.setItem("theme", theme);
    dispatchEvent(new StorageEvent("storage", { key: "theme", newValue: theme }));
  }
}

async function begin() {
  const missingHere = lacks();
  if (missingHere) return place("content").replaceChildren(...lackingView(missingHere).node);
  const how = { scope: "/m/", type: "module", updateViaCache: "none" };
  navigator.serviceWorker?.register("/m/sw.js", how).catch(() => {}); // it works without, while there is a network
  const store = await Store.open(await Database.open());
  const library = await new Library(store, navigator.locks, new BroadcastChannel("lmrmq")).load();
  new App(library).start();
}

begin();
