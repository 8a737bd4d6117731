/** LMRMQ: opens what this device keeps, and shows a screen for each address. */

import { ComposeView } from "./compose.js";
import { Connection, explain } from "./connection.js";
import { Database, erase } from "./database.js";
import { closeQuestion, confirmed, h } from "./dom.js";
import { withText } from "./draft.js";
import { Library } from "./library.js";
import { listView } from "./list.js";
import { missing, rowOf } from "./mirror.js";
import { lackingView, lacks, pairView, workerState } from "./pair.js";
import { PromptView } from "./prompt.js";
import { settingsView } from "./settings.js";
import { statusWords } from "./status.js";
import { Store } from "./store.js";

const place = (id) => document.getElementById(id);

const RESTORED =
  "The server was put back to an earlier state, perhaps from a backup. What had ended and it no longer has stays here, " +
  "“only on this phone”. What still waited is “not accepted”: you say whether it is sent again. What was done and waits " +
  "there again may run a second time; the earlier answer is kept as a prompt of its own.";
const CHANGES = { edit: "change", cancel: "cancelling", retry: "retry", delete: "deletion" };

/** A view has title and node ([element, …]), and where it needs them update(), leave(), pause() and arrive(). */
class App {
  constructor(library, worker) {
    this.library = library;
    worker.then((state) => {
      this.offline = state;
      this.view?.update?.();
    });
    const paired = () => this.view?.isPairing && this.replace("#");
    const progressed = () => this.view?.update?.();
    this.connection = new Connection(library, { changed: () => this.#showStatus(), paired, progressed });
    library.listeners.add((news) => this.#changed(news));
  }

  start() {
    addEventListener("hashchange", () => this.show());
    addEventListener("online", () => this.connection.wake());
    addEventListener("offline", () => this.connection.offline());
    document.addEventListener("visibilitychange", () => this.#looked(document.visibilityState === "visible"));
    addEventListener("beforeinstallprompt", (event) => this.#installable(event));
    history.scrollRestoration = "manual"; // the screens do it
    document.querySelector(".skip-link").addEventListener("click", (event) => this.#skip(event));
    this.show();
    this.#showRefusals();
    this.#showRestored();
    this.connection.wake();
  }

  // Screens

  show() {
    if (this.isLeaving) return;
    const [name, id] = location.hash.replace(/^#/, "").split("/");
    const code = new URLSearchParams(name).get("pair");
    if (code) return this.#showCode(code);
    this.#remember();
    closeQuestion(); // it was asked on the screen before
    this.view?.leave?.();
    this.view = this.library.isPaired ? this.#viewOf(name, id) : pairView(this, this.code);
    document.title = `${this.view.title} · LMRMQ`;
    place("content").replaceChildren(...this.view.node);
    scrollTo(0, 0);
    this.#showPlace(name);
    this.view.update?.();
    this.#showStatus();
    if (this.isShown && !this.view.arrive?.()) this.#focusTitle(); // the first screen is where readers begin anyway
    this.isShown = true;
  }

  #focusTitle() {
    place("content").querySelector("h1")?.focus();
  }

  /** The address says which screen it is, so this link must not change it. */
  #skip(event) {
    event.preventDefault();
    place("content").focus();
  }

  /** Instead of the screen that is shown: going back does not lead to what is done with. */
  replace(hash) {
    history.replaceState(history.state, "", hash);
    this.show();
  }

  /** As replace(), or back, where this screen was opened from there: not twice in a row. */
  done(hash) {
    history.state?.from === hash ? history.back() : this.replace(hash);
  }

  /** Each entry of the history knows from which screen it was opened. */
  #remember() {
    if (!history.state) history.replaceState({ from: this.hash }, "");
    this.hash = location.hash || "#";
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
    const prompt = rowOf(this.library.mirror, this.library.outbox, id)?.prompt;
    const isCut = prompt && ["text", "system_prompt"].some((field) => missing(prompt, field));
    if (!isCut) return new ComposeView(this, { edits: id });
    this.wholeRequest(prompt).then((whole) => this.replace(whole ? location.hash : `#p/${id}`));
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
    if (this.isLeaving) return;
    if (news.wiped) return location.reload();
    this.view?.update?.();
    if (news.facts?.includes("refusals")) this.#showRefusals();
    if (news.facts?.includes("restored")) this.#showRestored();
    this.#showStatus();
  }

  #looked(isVisible) {
    if (isVisible) this.connection.wake();
    else this.view?.pause?.();
  }

  #showStatus() {
    if (this.isLeaving) return;
    const line = place("status");
    const { words, tone } = statusWords(this.library, this.connection, navigator.onLine);
    const { isOut, isOther } = this.connection;
    const link = (isOut || isOther) && location.hash !== "#pair" ? h("a", { href: "#pair" }, "Pair again") : "";
    if (line.textContent === words + (link.textContent ?? "") && line.dataset.tone === tone) return;
    line.dataset.tone = tone;
    line.replaceChildren(h("span", {}, words), link);
  }

  // What people do

  async submit(fields, facts) {
    const id = crypto.randomUUID();
    await this.enqueue("submit", id, fields, facts);
    return id;
  }

  /** Into the outbox, and off as soon as there is a way. Throws when it could not be kept. */
  async enqueue(kind, prompt, fields, facts) {
    await this.library.enqueue(kind, prompt, fields, facts);
    this.connection.send();
  }

  async resubmit(prompt, fields, facts) {
    const id = await this.library.replaceRefused(prompt, fields, facts);
    this.connection.send();
    return id;
  }

  async sendAgain(prompt) {
    await this.library.sendAgain(prompt);
    this.connection.send();
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
    this.#note("told", message, []);
  }

  /** Changes that the server refused, also while no tab was open. The text of one is not lost. */
  #showRefusals() {
    const refusals = this.library.fact("refusals");
    if (!refusals.length) return place("message").querySelector("#refused")?.remove();
    const words = refusals.map(({ kind, message }) => h("p", {}, `A ${CHANGES[kind]} was not accepted: ${message}`));
    const texts = refusals.map(({ fields }) => fields?.text).filter(Boolean);
    const reuse = () => this.attempt(() => this.#reuse(texts));
    const button = h("button", { type: "button", class: "btn btn-small", onclick: reuse }, "Use the text anew");
    this.#note("refused", words, texts.length ? [button] : [], () => this.library.keep({ refusals: undefined }));
  }

  /** Once, until somebody has read it. */
  #showRestored() {
    if (!this.library.fact("restored")) return place("message").querySelector("#restored")?.remove();
    this.#note("restored", RESTORED, [], () => this.library.keep({ restored: undefined }), "Understood");
  }

  async #reuse(texts) {
    const draft = texts.reduce(withText, this.library.fact("draft"));
    await this.library.keep({ draft, refusals: undefined });
    location.hash === "#new" ? this.show() : (location.hash = "#new");
  }

  #note(id, words, buttons, closed = () => {}, label = "Close") {
    const onclick = () => {
      note.remove();
      this.attempt(closed);
    };
    const close = h("button", { type: "button", class: "btn btn-small", onclick }, label);
    const text = h("div", { class: "stack-tight" }, typeof words === "string" ? h("p", {}, words) : words);
    const note = h("div", { class: "notice notice-error", id }, text, h("div", { class: "cluster" }, buttons, close));
    const before = place("message").querySelector(`#${id}`);
    if (before?.textContent === note.textContent) return; // it keeps the focus, and the finger that is on it
    before?.remove();
    place("message").append(note);
  }

  /** Throws what a call throws. */
  async pair(code, name, kind) {
    await this.connection.server.pair(code, name, kind);
    this.code = undefined;
    await navigator.storage?.persist?.();
  }

  async signOut() {
    this.isLeaving = true;
    this.view = null;
    place("nav").hidden = true;
    place("status").replaceChildren(h("span", {}, "Signing out…"));
    place("content").replaceChildren();
    place("message").replaceChildren();
    const isTold = await this.connection.leave();
    await this.library.wipe();
    await Promise.all((await caches.keys()).map((name) => caches.delete(name)));
    const worker = await navigator.serviceWorker?.getRegistration("/m/");
    await worker?.unregister();
    this.#left(isTold);
  }

  #left(isTold) {
    place("status").replaceChildren();
    const untold = "The server could not be told. Revoke this device there under Settings → Your devices.";
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

/** What is kept here cannot be read: say so, and offer the way out. */
function broken(error) {
  const start = async () => {
    const detail = "What waits here, and what was kept, is lost. What the server has stays there.";
    if (!(await confirmed("Erase and start anew?", detail, "Erase it"))) return;
    await erase();
    location.reload();
  };
  const buttons = [
    h("button", { type: "button", class: "btn btn-primary", onclick: () => location.reload() }, "Try again"),
    h("button", { type: "button", class: "btn", onclick: start }, "Erase and start anew"),
  ];
  const words = "What this device keeps could not be read. Perhaps another tab still runs an older version: close it.";
  const detail = h("p", { class: "detail mono" }, `${error.name}: ${error.message}`);
  const card = h("div", { class: "card" }, h("p", {}, words), detail, h("div", { class: "cluster" }, buttons));
  place("content").replaceChildren(h("h1", { tabindex: "-1" }, "The app cannot start"), card);
}

async function begin() {
  const missingHere = lacks();
  if (missingHere) return place("content").replaceChildren(...lackingView(missingHere).node);
  const worker = workerState(navigator.serviceWorker); // it works without, while there is a network
  const store = await Store.open(await Database.open());
  const library = await new Library(store, navigator.locks, new BroadcastChannel("lmrmq")).load();
  new App(library, worker).start();
}

begin().catch(broken);
