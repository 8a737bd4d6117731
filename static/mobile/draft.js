/** A prompt that is being written: {model?, text?, …}, as the form has it. */

/** The text that another app shares, of a form's title, text and url; "" when there is none: a file is no text. */
export function sharedText(form) {
  const texts = ["title", "text", "url"].map((name) => form.get(name)).filter((value) => typeof value === "string");
  const told = texts.map((text) => text.trim()).filter(Boolean);
  return told.filter((text, at) => !told.slice(at + 1).some((later) => later.includes(text))).join("\n");
}

/** The draft with more text, behind what is already written there. */
export function withText(draft, text) {
  return { ...draft, text: [draft?.text, text].filter(Boolean).join("\n\n") };
}

/** Keeps the newest of what changes quickly: at once, and what comes while that is under way right after it. */
export class Latest {
  constructor(write) {
    this.write = write;
  }

  /** Resolves when this value, or a newer one, is kept. */
  put(value) {
    this.next = { value };
    return (this.writing ??= this.#work());
  }

  async #work() {
    try {
      while (this.next) {
        const { value } = this.next;
        this.next = null;
        await this.write(value);
      }
    } finally {
      this.writing = null;
    }
  }
}

/** Without half characters, which no server takes: a cut through an emoji leaves them. */
export function wholeText(text) {
  return text.replace(/[\ud800-\udfff\0]/gu, "\ufffd"); // with u, whole pairs are other characters
}

/** What was typed as a number, or NaN. "0,5" is a half; "1,000", "1.000" and "1 000" tokens are a thousand. */
export function numberOf(typed, isWhole = false) {
  const text = typed.trim();
  if (isWhole && /^\d{1,3}([.,'’\s]\d{3})+$/.test(text)) return Number(text.replace(/\D/g, ""));
  return Number(text.replace(",", "."));
}
