/** Writing: a new prompt, a follow-up, or a change of one that waits. */

import { fieldsOf } from "./abilities.js";
import { Latest, numberOf, wholeText } from "./draft.js";
import { h, icon } from "./dom.js";
import { rowOf } from "./mirror.js";
import { problemsOf } from "./problems.js";

const NO_MODELS = "The list comes with the first connection; until then write its key.";
const WORDS = {
  new: ["New prompt", "Queue it"],
  follow: ["Follow up", "Queue it"],
  edit: ["Edit a waiting prompt", "Save the change"],
};

export class ComposeView {
  /** `follows` or `edits`: the id of a prompt; neither: a new one. What is typed is kept: of a new one as the draft, of
      another the last that was left unsaved. */
  constructor(app, { edits, follows }) {
    const { library } = app;
    const kind = edits ? "edit" : follows ? "follow" : "new";
    Object.assign(this, { app, edits, follows, isDraft: true, isNew: kind === "new" });
    this.keeper = new Latest((facts) => app.attempt(() => library.keep(facts)));
    this.place = `${kind}/${edits ?? follows}`;
    [this.title, this.verb] = WORDS[kind];
    const { row } = this;
    if (!this.isNew && !row) return this.#becomeGone();
    const unsaved = library.fact("unsaved");
    if (kind === "edit") this.draft = fieldsOf(row.prompt);
    else this.draft = kind === "follow" ? { model: row.prompt.model } : (library.fact("draft") ?? {});
    if (unsaved?.place === this.place) this.draft = { ...this.draft, ...unsaved.fields };
    this.errors = h("div", { role: "alert" });
    this.#makeInputs(this.draft);
    this.node = [h("h1", { tabindex: "-1" }, this.title), this.errors, this.#makeForm()];
  }

  /** As it is now: it may be sent, or not accepted, while the form is open. */
  get row() {
    return rowOf(this.app.library.mirror, this.app.library.outbox, this.edits ?? this.follows);
  }

  /** The draft or the list of models has changed while the form was open. */
  update() {
    if (this.isNew && !this.isTouched && this.isDraft) this.#readAnew();
    if (!this.inputs || this.follows || this.inputs.model.tagName === "SELECT") return;
    const models = this.app.library.fact("models");
    if (!models.length) return;
    const list = modelInput(models, this.inputs.model.value);
    this.inputs.model.replaceWith(list);
    this.inputs.model = list;
    this.form.querySelector("#model-hint")?.remove();
  }

  /** Another tab has queued what stood here, or something was shared: nobody has written here yet. */
  #readAnew() {
    const draft = this.app.library.fact("draft") ?? {};
    if (JSON.stringify(draft) === JSON.stringify(this.draft)) return;
    this.draft = draft;
    for (const [name, input] of Object.entries(this.inputs)) {
      const empty = { model: input.value, priority: "normal" }[name] ?? "";
      input.value = draft[name] ?? empty;
    }
  }

  #becomeGone() {
    this.isDraft = false;
    this.title = "This prompt is not here any more";
    this.node = [
      h("h1", { tabindex: "-1" }, this.title),
      h("p", {}, h("a", { class: "btn", href: "#" }, "To the list")),
    ];
  }

  #makeInputs(draft) {
    const text = (id, more) => h("textarea", { id, value: draft[id] ?? "", dir: "auto", ...more });
    const number = (id, inputmode) => h("input", { id, inputmode, autocomplete: "off", value: draft[id] ?? "" });
    const chosen = draft.priority ?? "normal";
    const priorities = ["high", "normal", "low"].map((name) =>
      h("option", { value: name, selected: name === chosen }, name[0].toUpperCase() + name.slice(1)),
    );
    const fixed = this.follows && h("input", { type: "hidden", id: "model", value: draft.model });
    this.inputs = {
      model: fixed || modelInput(this.app.library.fact("models"), draft.model),
      text: text("text", { rows: "6", placeholder: "Ask something…" }),
      system_prompt: text("system_prompt", { rows: "3" }),
      temperature: number("temperature", "decimal"),
      max_output_tokens: number("max_output_tokens", "numeric"),
      priority: h("select", { id: "priority" }, priorities),
    };
  }

  #makeForm() {
    const { model, text } = this.inputs;
    const whither = h("p", {}, "Goes to ", h("span", { class: "mono" }, model.value), ", with the whole chat so far.");
    const events = {
      onsubmit: (event) => this.#submit(event),
      oninput: () => this.#keep(),
      onkeydown: (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && this.form.requestSubmit(),
    };
    this.form = h("form", { class: "card form", ...events }, [
      this.follows ? [model, whither] : field("Model", model, model.tagName === "SELECT" ? "" : NO_MODELS),
      field("Prompt", text),
      this.#makeMore(),
      h("div", { class: "form-actions" }, this.#makeButtons()),
    ]);
    return this.form;
  }

  #makeMore() {
    const { system_prompt, temperature, max_output_tokens, priority } = this.inputs;
    const isOpen = system_prompt.value || temperature.value || max_output_tokens.value || priority.value !== "normal";
    const numbers = [
      field("Temperature", temperature, "0 to 2. Higher is more varied."),
      field("Longest answer", max_output_tokens, "In tokens."),
    ];
    const body = [
      field("System prompt", system_prompt, "What the model should keep in mind, such as its role."),
      h("div", { class: "field-row" }, numbers),
      field("Priority", priority),
    ];
    const parts = [h("summary", {}, "More settings"), h("div", { class: "disclosure-body" }, body)];
    return h("details", { class: "disclosure", open: Boolean(isOpen) }, parts);
  }

  #makeButtons() {
    const onclick = (event) => this.#leaveAsItIs(event);
    const back = { class: "btn btn-quiet", href: `#p/${this.edits ?? this.follows}`, onclick };
    const clear = { class: "btn btn-quiet", type: "button", onclick: () => this.#clear() };
    return [
      h("button", { class: "btn btn-primary" }, icon("send"), this.verb),
      this.edits && h("a", back, "Leave it as it is"),
      this.isNew && h("button", clear, "Empty the form"),
    ];
  }

  /** For a change all of them, so that what was emptied becomes empty there too. */
  #fields() {
    const { model, text, system_prompt, priority, temperature, max_output_tokens } = this.inputs;
    const told = { model: model.value.trim(), text: wholeText(text.value) };
    if (this.edits || system_prompt.value.trim()) told.system_prompt = wholeText(system_prompt.value);
    if (this.edits || priority.value !== "normal") told.priority = priority.value;
    for (const input of [temperature, max_output_tokens]) {
      if (input.value.trim()) told[input.id] = numberOf(input.value, input === max_output_tokens);
      else if (this.edits) told[input.id] = null;
    }
    return told;
  }

  async #submit(event) {
    event.preventDefault();
    const fields = this.#fields();
    const problems = problemsOf(fields);
    this.#showProblems(problems);
    if (problems.length || this.isSending) return;
    this.isSending = true; // a second tap is no second prompt
    this.isDraft = false;
    await this.keeper.writing; // what is typed is on disk until the outbox has it
    const id = await this.app.attempt(() => this.#send(fields, this.#withoutDraft(fields.model)));
    this.isSending = false;
    this.isDraft = !id;
    if (id) this.app.done(`#p/${id}`);
  }

  /** The facts when what was typed has become a prompt, or should not. */
  #withoutDraft(model) {
    return this.isNew ? { draft: { model } } : { unsaved: undefined };
  }

  async #leaveAsItIs(event) {
    event.preventDefault();
    this.isDraft = false;
    await this.keeper.put(this.#withoutDraft());
    this.app.done(`#p/${this.edits}`);
  }

  /** Returns the id of the prompt that it becomes. */
  async #send(fields, facts) {
    if (!this.edits) return this.app.submit(this.follows ? { ...fields, follows: this.follows } : fields, facts);
    if (this.row?.status.error) return this.app.resubmit(this.edits, { ...this.draft, ...fields }, facts);
    await this.app.enqueue("edit", this.edits, fields, facts);
    return this.edits;
  }

  #showProblems(problems) {
    Object.values(this.inputs).forEach((input) => input.removeAttribute("aria-invalid"));
    problems.forEach(([name]) => this.inputs[name].setAttribute("aria-invalid", "true"));
    this.errors.replaceChildren(...problems.map(([, message]) => h("p", { class: "field-error" }, message)));
    const first = problems.length && this.inputs[problems[0][0]];
    if (!first) return;
    first.closest("details")?.setAttribute("open", "");
    first.focus();
  }

  /** At once: the page may be gone in the next moment. */
  #keep() {
    if (!this.isDraft) return;
    this.isTouched = true;
    const { temperature, max_output_tokens } = this.inputs;
    const typed = { temperature: temperature.value, max_output_tokens: max_output_tokens.value };
    const fields = { ...this.#fields(), ...typed };
    this.keeper.put(this.isNew ? { draft: fields } : { unsaved: { place: this.place, fields } });
  }

  #clear() {
    const { text, system_prompt, temperature, max_output_tokens, priority } = this.inputs;
    for (const input of [text, system_prompt, temperature, max_output_tokens]) input.value = "";
    priority.value = "normal";
    this.errors.replaceChildren();
    text.focus();
    this.#keep();
  }
}

function modelInput(models, chosen) {
  const typed = { id: "model", autocomplete: "off", autocapitalize: "off", spellcheck: "false", value: chosen ?? "" };
  if (!models.length) return h("input", typed);
  const isStrange = chosen && !models.some(({ key }) => key === chosen);
  const known = isStrange ? [{ key: chosen, is_usable: true }, ...models] : models;
  const option = (model) => {
    const how = { value: model.key, selected: model.key === chosen };
    return h("option", how, nameOf(model, models));
  };
  return h("select", { id: "model" }, known.map(option));
}

/** Its name, and its key where another has the same name. */
function nameOf({ key, name, is_usable }, models) {
  const isAlone = name && models.filter((other) => other.name === name).length === 1;
  return (isAlone ? name : [name, key].filter(Boolean).join(" · ")) + (is_usable ? "" : " · away, it waits");
}

function field(label, input, hint) {
  if (hint) input.setAttribute("aria-describedby", `${input.id}-hint`);
  const words = hint && h("p", { class: "hint", id: `${input.id}-hint` }, hint);
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, words);
}
