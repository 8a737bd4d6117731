/** One prompt: its text, its answer as it comes, and what can be done with it. */

import { abilities, fieldsOf, mayBeThere } from "./abilities.js";
import { announce, answerText, chip, confirmed, h, icon, output, when } from "./dom.js";
import { figures } from "./figures.js";
import { missing, rowOf } from "./mirror.js";

const NAMES = {
  temperature: "Temperature",
  max_output_tokens: "Longest answer",
  reasoning: "Reasoning",
  top_p: "Top P",
  top_k: "Top K",
  min_p: "Min P",
  repeat_penalty: "Repeat penalty",
};
const PHASES = { load: "The model is being loaded.", prompt: "The prompt is being read." };
const NOTHING = "Nothing has come yet.";
const IDLE = "Nothing executes prompts on the server at the moment. It waits there until something does.";
const PARTS = ["header", "trouble", "request", "answer", "figures"];

export class PromptView {
  title = "Prompt";

  constructor(app, id) {
    Object.assign(this, { app, id, signatures: new Map() });
    this.parts = Object.fromEntries(PARTS.map((name) => [name, h("div", { class: "part" })]));
    const back = h("p", {}, h("a", { class: "back", href: "#" }, icon("back"), "All prompts"));
    this.node = [h("article", { class: "stack prompt" }, back, Object.values(this.parts))];
  }

  get row() {
    return rowOf(this.app.library.mirror, this.app.library.outbox, this.id);
  }

  update() {
    const row = this.row;
    if (!row) return this.#gone();
    const { prompt, status, isThere } = row;
    const label = [status.label, status.note].filter(Boolean).join(", ");
    if (this.label && this.label !== label) announce(`This prompt: ${label}.`);
    this.label = label;
    const { model, priority, follows, state, reason, explanation, detail, text, system_prompt, settings, lengths } =
      prompt;
    this.#part("header", [model, status, priority, follows, abilities(row)], () => this.#header(row));
    const { library } = this.app;
    const isIdle = state === "queued" && isThere && library.fact("isWorking") === false;
    const build = () => [isIdle ? notice("warning", h("p", {}, IDLE)) : [], this.#trouble(row)];
    this.#part("trouble", [status.error, reason, explanation, detail, lengths, state, isIdle], build);
    this.#part("request", [text, system_prompt, settings, lengths], () => this.#request(prompt));
    if (isThere) this.#showAnswer(prompt);
    this.#part("figures", [state, prompt.stats, prompt.finished_at], () => figures(prompt));
    this.app.connection.watch(state === "sending" && isThere ? [this.id] : []);
  }

  leave() {
    this.app.connection.watch([]);
  }

  /** Built anew only when what it shows has changed, so that focus, selection and scrolling stay. */
  #part(name, signature, build) {
    const text = JSON.stringify(signature);
    if (this.signatures.get(name) === text) return;
    this.signatures.set(name, text);
    const element = this.parts[name];
    const hadFocus = element.contains(document.activeElement);
    element.replaceChildren(...[build()].flat(Infinity).filter(Boolean));
    if (hadFocus) this.node[0].querySelector("h1").focus();
  }

  #gone() {
    const words = "It was deleted, or is older than what this device keeps.";
    const title = h("h1", { tabindex: "-1" }, "This prompt is not here");
    PARTS.forEach((name) => this.#part(name, "gone", () => (name === "header" ? [title, h("p", {}, words)] : [])));
    this.app.connection.watch([]);
  }

  #header(row) {
    const { prompt, status } = row;
    const { model, priority, follows, enqueued_at } = prompt;
    const note = status.note && h("span", {}, status.note);
    const urgency = priority && priority !== "normal" && h("span", {}, `${priority} priority`);
    return [
      h("h1", { tabindex: "-1" }, "Prompt for ", h("span", { class: "mono" }, model)),
      h("p", { class: "cluster meta-line" }, chip(status), note, when(enqueued_at), urgency),
      follows && h("p", {}, h("a", { href: `#p/${follows}` }, "It continues an earlier prompt")),
      h("div", { class: "cluster" }, this.#actions(abilities(row))),
    ];
  }

  #actions(can) {
    const link = (label, href, kind = "") => h("a", { class: `btn ${kind}`, href }, label);
    const button = (label, onclick, kind = "") => h("button", { type: "button", class: `btn ${kind}`, onclick }, label);
    return [
      can.sendAgain && button([icon("send"), "Send it again"], () => this.#sendAgain(), "btn-primary"),
      can.followUp && link("Follow up", `#new/${this.id}`, "btn-primary"),
      can.edit && link("Edit", `#edit/${this.id}`),
      can.retry && button("Retry", () => this.#ask("retry"), "btn-primary"),
      can.cancel && button("Cancel", () => this.#ask("cancel")),
      can.repeat && button("Repeat", () => this.#repeat()),
      can.remove && button([icon("trash"), "Delete"], () => this.#remove(), "btn-quiet"),
    ];
  }

  #request(prompt) {
    const system = prompt.system_prompt && [
      h("summary", {}, "System prompt"),
      output(prompt.system_prompt, { class: "disclosure-body output" }),
      this.#restButton(prompt, "system_prompt"),
    ];
    const settings = Object.entries(prompt.settings ?? {}).map(([name, value]) =>
      h("div", {}, h("dt", {}, NAMES[name] ?? name), h("dd", {}, String(value))),
    );
    return card("text", "Prompt", this.#copyButton(prompt.text, "Copy the prompt"), [
      output(prompt.text),
      this.#restButton(prompt, "text"),
      system && h("details", { class: "disclosure" }, system),
      settings.length > 0 && h("dl", { class: "facts" }, settings),
    ]);
  }

  /** While it comes, only the new end of each text is added. */
  #showAnswer(prompt) {
    const { state, attempts, answer, reasoning, lengths } = prompt;
    if (state !== "sending") {
      this.#part("answer", [state, attempts, answer, reasoning, lengths], () => this.#ended(prompt));
      return;
    }
    this.#part("answer", [attempts, "live"], live);
    const shown = this.parts.answer;
    for (const kind of ["reasoning", "answer"]) append(shown.querySelector(`[data-kind=${kind}]`), prompt[kind] ?? "");
    shown.querySelector("details").hidden = !reasoning;
    const waits = shown.querySelector("[data-waits]");
    waits.hidden = Boolean(answer || reasoning);
    if (!waits.hidden) this.#showProgress(waits);
  }

  #showProgress(waits) {
    const { progress } = this.app.connection;
    const words = (progress?.prompt === this.id && PHASES[progress.phase]) || NOTHING;
    const [text, meter] = ["p", "progress"].map((tag) => waits.querySelector(tag));
    if (text.textContent !== words) text.textContent = words;
    meter.hidden = words === NOTHING;
    if (!meter.hidden && Number.isFinite(progress.fraction)) meter.setAttribute("value", progress.fraction);
    else meter.removeAttribute("value");
  }

  #trouble({ prompt, status }) {
    if (status.error) {
      const isLost = status.error.code === "lost";
      const words = isLost ? "" : h("b", {}, "The server did not accept it. ");
      const canSend = isLost && !status.error.isCut;
      const next = canSend ? "Send it again, change it, or delete it." : "Change it and send it again, or delete it.";
      return notice("error", [h("p", {}, words, status.error.message), h("p", {}, next)]);
    }
    const { state, explanation, detail } = prompt;
    if (!["failed", "queued"].includes(state) || !(explanation || detail)) return [];
    const told = detail && h("p", { class: "detail mono", dir: "auto" }, detail);
    const parts = [explanation && h("p", {}, explanation), told, this.#restButton(prompt, "detail")];
    return notice(state === "failed" ? "error" : "warning", parts);
  }

  #ended(prompt) {
    const { state, answer, reasoning } = prompt;
    if (!answer && !reasoning && state !== "done") return [];
    const thoughts = reasoning && [
      h("summary", {}, "Reasoning"),
      output(reasoning),
      this.#restButton(prompt, "reasoning"),
    ];
    const nothing = h("p", { class: "muted" }, "The model ended without writing an answer.");
    const title = state === "done" ? "Answer" : "What had come by then";
    return card("answer", title, answer && this.#copyButton(answer, "Copy the answer"), [
      thoughts && h("details", { class: "output-reasoning" }, thoughts),
      answer ? answerText(answer) : nothing,
      this.#restButton(prompt, "answer"),
    ]);
  }

  #restButton(prompt, field) {
    const rest = missing(prompt, field);
    const get = () => this.app.attempt(() => this.app.connection.sync.whole(prompt, field));
    const label = `Get the other ${rest.toLocaleString()} characters`;
    if (rest > 0 && prompt.isOnlyHere)
      return h("p", { class: "hint" }, `The other ${rest.toLocaleString()} characters were on the server only.`);
    return rest > 0 && h("button", { type: "button", class: "btn", onclick: get }, label);
  }

  #copyButton(text, label) {
    const words = h("span", {}, label);
    const copy = async () => {
      await navigator.clipboard.writeText(text);
      words.textContent = "Copied";
      announce("Copied");
      setTimeout(() => (words.textContent = label), 2000);
    };
    const onclick = () => this.app.attempt(copy);
    return h("button", { type: "button", class: "btn btn-quiet btn-small", onclick }, icon("copy"), words);
  }

  #sendAgain() {
    return this.#once(() => this.app.attempt(() => this.app.sendAgain(this.id)));
  }

  #ask(kind) {
    return this.#once(() => this.app.attempt(() => this.app.enqueue(kind, this.id)));
  }

  /** A second tap, before the first one has done its work, is none. */
  async #once(work) {
    if (this.isBusy) return null;
    this.isBusy = true;
    try {
      return await work();
    } finally {
      this.isBusy = false;
    }
  }

  #repeat() {
    return this.#once(async () => {
      const whole = await this.app.wholeRequest(this.row.prompt);
      const id = whole && (await this.app.attempt(() => this.app.submit(fieldsOf(whole))));
      if (id) location.hash = `#p/${id}`;
    });
  }

  /** What a deletion would do, as far as it is known. */
  #deletion() {
    const { isThere, status, entries, prompt } = this.row;
    if (prompt.isOnlyHere) return "It is only on this phone, so then it is gone.";
    if (isThere) return "It is deleted here and on the server, with its answer.";
    if (status.error) return "The server does not have it, so then it is gone.";
    if (!mayBeThere(entries)) return "It has not been sent yet.";
    return "It was sent, and the server has not answered yet. If it arrived, it is deleted there too.";
  }

  async #remove() {
    const { prompt, status } = this.row;
    const { library } = this.app;
    if (!(await confirmed("Delete this prompt?", this.#deletion(), "Delete it"))) return;
    const drop = prompt.isOnlyHere ? () => library.forget(this.id) : () => library.replaceRefused(this.id);
    const isHere = prompt.isOnlyHere || status.error;
    const done = isHere ? await this.app.attempt(drop) : await this.#ask("delete");
    if (done !== null) this.app.done("#");
  }
}

function card(id, title, button, children, isBusy = false) {
  const head = h("div", { class: "card-head" }, h("h2", { class: "card-title", id: `${id}-title` }, title), button);
  return h("section", { class: "card", "aria-labelledby": `${id}-title`, "aria-busy": String(isBusy) }, head, children);
}

function live() {
  const thoughts = [h("summary", {}, "Reasoning"), output("", { "data-kind": "reasoning" })];
  const parts = [
    h("details", { class: "output-reasoning", hidden: true }, thoughts),
    h("div", { "data-waits": true }, [
      h("p", { class: "muted", id: "waits" }, NOTHING),
      h("progress", { class: "meter", max: "1", hidden: true, "aria-labelledby": "waits" }),
    ]),
    output("", { "data-live": true, "data-kind": "answer" }),
  ];
  return card("answer", "Answer", null, parts, true);
}

function notice(kind, children) {
  return h("div", { class: `notice notice-${kind}` }, h("div", { class: "stack-tight" }, children));
}

function append(element, text) {
  const have = element.textContent;
  if (text === have) return;
  if (text.startsWith(have)) element.append(text.slice(have.length));
  else element.textContent = text;
}
