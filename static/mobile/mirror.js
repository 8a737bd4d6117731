/** The mirror: what the server told of this person's prompts, and how each of them is shown.

    A mirror is a Map from a prompt's id to its last change (docs/sync.md, pull); with isOnlyHere where the server has
    lost it. Nothing here touches storage. */

import { fieldsOf } from "./abilities.js";

export const ENDED = new Set(["done", "failed", "cancelled"]);
const GIVEN = ["text", "system_prompt", "detail"]; // never longer here than there, but where that was cut
const TEXTS = [...GIVEN, "reasoning", "answer"];
const LOST =
  "The server was put back to an earlier state and has no such prompt now. It may have run before that. " +
  "Nothing is sent again unless you say so.";
const CUT = " Only the beginning of its text was kept here.";

/** How many characters, as the server counts them: code points, not UTF-16 units. */
export function lengthOf(text) {
  let length = text.length;
  for (let at = 1; at < text.length; at++) if (isHalf(text, at, 0xdc00) && isHalf(text, at - 1, 0xd800)) length--;
  return length;
}

const isHalf = (text, at, first) => (text.charCodeAt(at) & 0xfc00) === first;

/** The text from the character with this number on. */
export function from(text, character) {
  if (character <= 0) return text;
  if (text.length === lengthOf(text)) return text.slice(character);
  return [...text].slice(character).join("");
}

/** The change, with those longer texts that we have of the same attempt: a pull cuts them, pieces come before it. */
export function merge(old, change) {
  if (!old || old.attempts !== change.attempts) return change;
  const merged = { ...change };
  for (const field of TEXTS) {
    const [ours, theirs] = [old[field] ?? "", change[field] ?? ""];
    const isOurs = GIVEN.includes(field) ? change.lengths?.[field] : true;
    if (isOurs && ours.length > theirs.length && ours.startsWith(theirs)) merged[field] = ours;
  }
  return merged;
}

/** What of a text is still on the server only, in characters. */
export function missing(prompt, field) {
  const whole = prompt.lengths?.[field];
  return whole ? Math.max(whole - lengthOf(prompt[field] ?? ""), 0) : 0;
}

/** {put: [change…], gone: [id…], beside: [prompt…]} for one answer of pull. `beside` is what was done and is told
    otherwise now, as prompts of their own: the server was put back to an earlier state. */
export function changesOf(mirror, answer) {
  const known = answer.changes.map((change) => [mirror.get(change.id), change]);
  const beside = known.filter(([old, change]) => isOtherwise(old, change)).map(([old]) => old);
  return {
    put: known.map(([old, change]) => merge(beside.includes(old) ? undefined : old, change)),
    gone: answer.removed ?? [],
    beside: beside.map((old) => ({ ...old, id: crypto.randomUUID(), isOnlyHere: true })),
  };
}

/** Of a prompt that a push told to be done, we do not know how it ended before the pull. */
function isOtherwise(old, change) {
  if (old?.state !== "done" || !old.finished_at || old.isOnlyHere) return false;
  return ["state", "attempts", "finished_at"].some((name) => old[name] !== change[name]);
}

/** What a listing, to its end or to as many as we keep, did not list: it is gone or too old for us. */
export function notListed(mirror, listed) {
  return [...mirror.values()].filter(({ id, isOnlyHere }) => !listed.has(id) && !isOnlyHere).map(({ id }) => id);
}

/** {gone, ended, open}, prompts: what to do with those that a server which was put back did not list. It may still
    have what is older than all that it listed, where it was not asked to the end. */
export function lostOnes(mirror, listed, isToItsEnd) {
  const prompts = notListed(mirror, listed).map((id) => mirror.get(id));
  const oldest = Math.min(...[...listed].map((id) => enqueued(mirror.get(id))));
  const isGone = (prompt) => !isToItsEnd && ENDED.has(prompt.state) && enqueued(prompt) < oldest;
  const lost = prompts.filter((prompt) => !isGone(prompt));
  const [ended, open] = [true, false].map((is) => lost.filter(({ state }) => ENDED.has(state) === is));
  return { gone: prompts.filter(isGone), ended, open };
}

/** What waited on a server that has lost it, as an entry that somebody has to decide about. */
export function lostEntry(prompt) {
  const isCut = ["text", "system_prompt"].some((field) => missing(prompt, field));
  const fields = { ...fieldsOf(prompt), ...(prompt.follows ? { follows: prompt.follows } : {}) };
  const error = { code: "lost", message: LOST + (isCut ? CUT : ""), isCut };
  const at = enqueued(prompt);
  return { id: crypto.randomUUID(), kind: "submit", prompt: prompt.id, fields, at, wasSent: true, error };
}

const enqueued = (prompt) => Date.parse(prompt.enqueued_at) || 0;

/** Ids of ended prompts beyond the `keep` newest; what is open stays, however old. */
export function tooOld(mirror, keep) {
  const sorted = [...mirror.values()].sort((a, b) => enqueued(b) - enqueued(a));
  return sorted
    .slice(keep)
    .filter((prompt) => ENDED.has(prompt.state))
    .map((prompt) => prompt.id);
}

/** Ids to give up when the device is full: the oldest tenth of what is done; first what the server has as well. */
export function spare(mirror) {
  const done = [...mirror.values()]
    .filter((prompt) => prompt.state === "done")
    .sort((a, b) => Boolean(a.isOnlyHere) - Boolean(b.isOnlyHere) || enqueued(a) - enqueued(b));
  return done.slice(0, Math.ceil(done.length / 10)).map((prompt) => prompt.id);
}

/** The mirror's entry right after a push, before the pull that tells the whole: undefined when it is gone. */
export function afterPush(old, entry, result) {
  if (result.status === "refused") return old;
  if (entry.kind === "delete") return undefined;
  const base = old ?? (entry.kind === "submit" ? submitted(entry) : undefined);
  return (
    base && { ...(entry.kind === "edit" ? withFields(base, entry.fields) : base), state: result.state ?? base.state }
  );
}

function submitted(entry) {
  const fresh = { state: "queued", attempts: 0, started_at: null, finished_at: null, reasoning: "", answer: "" };
  const enqueued_at = new Date(entry.at).toISOString();
  return withFields(
    { id: entry.prompt, ...fresh, enqueued_at, stats: {}, system_prompt: "", priority: "normal" },
    entry.fields,
  );
}

/** The prompt as a submit or an edit has it; what an edit leaves out stays, and null takes a setting away. */
function withFields(prompt, { model, text, system_prompt, priority, follows, ...rest }) {
  const told = Object.entries({ model, text, system_prompt, priority, follows }).filter(
    ([, value]) => value !== undefined,
  );
  const settings = Object.entries({ ...prompt.settings, ...rest }).filter(([, value]) => value !== null);
  const lengths = Object.entries(prompt.lengths ?? {}).filter(([name]) => !told.some(([other]) => other === name));
  return {
    ...prompt,
    ...Object.fromEntries(told),
    settings: Object.fromEntries(settings),
    lengths: Object.fromEntries(lengths),
  };
}

const LABELS = { queued: "queued there", sending: "sending", done: "done", failed: "failed", cancelled: "cancelled" };
const ON_ITS_WAY = {
  edit: "change on its way",
  cancel: "being cancelled",
  retry: "retry on its way",
  delete: "being deleted",
};

/** {state, label, note, error?} by the table “States on the device”. `entries` are the prompt's in the outbox. */
export function status(prompt, entries) {
  const submit = entries.find((entry) => entry.kind === "submit");
  if (!prompt && submit?.error) return { state: "refused", label: "not accepted", note: "", error: submit.error };
  const last = entries.filter((entry) => entry.kind !== "submit").at(-1);
  const note = last ? ON_ITS_WAY[last.kind] : prompt?.isOnlyHere ? "only on this phone" : "";
  if (!prompt) return { state: "here", label: "queued here", note };
  return { state: prompt.state, label: LABELS[prompt.state] ?? prompt.state, note };
}

/** Outbox and mirror in one list, newest first: {id, prompt, entries, status}. `prompt` has the fields to show. What
    is here only was written last, whatever this device's clock says. */
export function merged(mirror, outbox) {
  const entries = Map.groupBy ? Map.groupBy(outbox, (entry) => entry.prompt) : grouped(outbox);
  const there = [...mirror.values()].sort((a, b) => enqueued(b) - enqueued(a));
  const here = [];
  for (const [id, own] of entries) {
    const submit = own.find((entry) => entry.kind === "submit");
    if (submit && !mirror.has(id)) here.unshift(row(undefined, submitted(submit), own));
  }
  return [...here, ...there.map((prompt) => row(prompt, prompt, entries.get(prompt.id) ?? []))];
}

/** The row of one prompt, or undefined. */
export function rowOf(mirror, outbox, id) {
  const known = mirror.get(id);
  const own = outbox.filter((entry) => entry.prompt === id);
  return merged(new Map(known ? [[id, known]] : []), own)[0];
}

function grouped(outbox) {
  const groups = new Map();
  for (const entry of outbox) groups.set(entry.prompt, [...(groups.get(entry.prompt) ?? []), entry]);
  return groups;
}

function row(known, shown, entries) {
  const edit = entries.filter((entry) => entry.kind === "edit").at(-1);
  const prompt = edit ? withFields(shown, edit.fields) : shown;
  return { id: prompt.id, prompt, isThere: Boolean(known), entries, status: status(known, entries) };
}

/** Rows that contain every word of the query and are in the state ("" for any). */
export function find(rows, query, state) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    if (state && row.status.state !== state) return false;
    const { text, answer = "", model, system_prompt = "" } = row.prompt;
    const all = words.length ? `${text}\n${answer}\n${model}\n${system_prompt}`.toLowerCase() : "";
    return words.every((word) => all.includes(word));
  });
}

/** The prompt with a piece of the live output, or as it was when the piece was known; null where one is missing. */
export function withPiece(prompt, { attempt, kind, offset, text }) {
  if (!prompt || attempt !== prompt.attempts) return null;
  const have = lengthOf(prompt[kind] ?? "");
  if (offset > have) return null;
  const news = from(text, have - offset);
  return news ? { ...prompt, [kind]: (prompt[kind] ?? "") + news } : prompt;
}
