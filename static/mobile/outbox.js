/** The outbox: a list of mutations in the order in which they were made (docs/sync.md, Rules for the device).

    An entry: {id, kind, prompt, fields?, at, wasSent?, error?}. `at` is when it was made (ms), for people to read only.
    Every function takes a list and returns a new one; unchanged entries stay the same objects. */

const ENVELOPE_BYTES = 2000;
const SEALED = 4 / 3; // base64
const NO_REASON = { code: "", message: "The server gave no reason." };
const sizeOf = (value) => new TextEncoder().encode(JSON.stringify(value)).length;

/** With one more mutation. One that was in no push yet may be merged; one that was is never altered (rule 3). */
export function add(outbox, mutation) {
  const own = outbox.filter((entry) => entry.prompt === mutation.prompt);
  const isNew = (entry) => !entry.wasSent && !entry.error;
  const submit = own.find((entry) => entry.kind === "submit");
  if (mutation.kind === "delete" && submit && isNew(submit)) return discard(outbox, mutation.prompt);
  if (mutation.kind !== "edit") return [...outbox, mutation];
  const last = own.at(-1);
  if (!last || !isNew(last) || !["submit", "edit"].includes(last.kind)) return [...outbox, mutation];
  const fields = { ...last.fields, ...mutation.fields };
  return outbox.map((entry) => (entry === last ? { ...last, fields } : entry));
}

/** Without this prompt: one that was not accepted, or never left. */
export function discard(outbox, prompt) {
  return outbox.filter((entry) => entry.prompt !== prompt);
}

/** What still has to be sent. */
export function waiting(outbox) {
  return outbox.filter((entry) => !entry.error);
}

/** The next push: from the beginning, as many as the server takes at once, but at least one. */
export function nextPush(outbox, limits) {
  const chosen = [];
  let bytes = ENVELOPE_BYTES;
  for (const entry of waiting(outbox).slice(0, Math.max(limits.mutations, 1))) {
    bytes += sizeOf(wire(entry)) * SEALED + 2;
    if (chosen.length && bytes > limits.body_bytes) break;
    chosen.push(entry);
  }
  return chosen;
}

/** As the server wants it. */
export function wire({ id, kind, prompt, fields }) {
  return fields ? { id, kind, prompt, fields } : { id, kind, prompt };
}

/** Marked before they are sent: from now on they may be there. */
export function markSent(outbox, ids) {
  return outbox.map((entry) => (ids.has(entry.id) && !entry.wasSent ? { ...entry, wasSent: true } : entry));
}

/** Without what has its result. A submit that was refused stays, with the reason, until the person decides. */
export function settle(outbox, results) {
  const byId = new Map(results.map((result) => [result.id, result]));
  return outbox.flatMap((entry) => {
    const result = byId.get(entry.id);
    if (!result) return [entry];
    const isKept = result.status === "refused" && entry.kind === "submit";
    return isKept ? [{ ...entry, error: result.error ?? NO_REASON }] : [];
  });
}

/** Milliseconds until the next try after `failures` in a row: 1, 2, 4 … 60 s, shortened by up to half (rule 5). */
export function delay(failures, random = Math.random) {
  return Math.min(2 ** Math.max(failures - 1, 0), 60) * 1000 * (1 - random() / 2);
}
