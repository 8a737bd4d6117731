import "./setup.mjs";

import assert from "node:assert/strict";
import test from "node:test";

import { answerText } from "../../static/mobile/dom.js";
import * as mirror from "../../static/mobile/mirror.js";

const prompt = (id, fields = {}) => ({
  id,
  model: "otter",
  text: id,
  state: "queued",
  attempts: 1,
  answer: "",
  reasoning: "",
  lengths: {},
  enqueued_at: "2026-01-01T00:00:00Z",
  ...fields,
});
const entry = (kind, id, more = {}) => ({ id: `${kind}-${id}`, kind, prompt: id, at: 0, ...more });
const submit = (id, more = {}) => entry("submit", id, { fields: { model: "otter", text: `text of ${id}` }, ...more });
const mapOf = (...prompts) => new Map(prompts.map((one) => [one.id, one]));

test("it shows each prompt as the table of states has it", () => {
  const label = (known, ...entries) => {
    const { label, note } = mirror.status(known, entries);
    return note ? `${label}, ${note}` : label;
  };
  assert.equal(label(undefined, submit("a")), "queued here");
  assert.equal(label(prompt("a")), "queued there");
  for (const state of ["sending", "done", "failed", "cancelled"]) assert.equal(label(prompt("a", { state })), state);
  assert.equal(label(prompt("a"), entry("edit", "a")), "queued there, change on its way");
  assert.equal(label(prompt("a", { state: "sending" }), entry("cancel", "a")), "sending, being cancelled");
  const refused = mirror.status(undefined, [submit("a", { error: { message: "No such model." } })]);
  assert.deepEqual([refused.label, refused.error.message], ["not accepted", "No such model."]);
});

test("outbox and mirror are one list, newest first, with changes that are on their way", () => {
  const settings = { temperature: 1, top_p: 0.5 };
  const known = mapOf(
    prompt("old", { settings, lengths: { text: 40_000 } }),
    prompt("new", { enqueued_at: "2026-01-02T00:00:00Z" }),
  );
  const edit = entry("edit", "old", { fields: { model: "otter", text: "changed", temperature: null } });
  const rows = mirror.merged(known, [submit("mine", { at: Date.UTC(2026, 0, 3) }), edit]);
  assert.deepEqual(
    rows.map((row) => row.id),
    ["mine", "new", "old"],
  );
  assert.deepEqual(
    [rows[2].prompt.text, rows[2].prompt.settings, rows[2].prompt.lengths],
    ["changed", { top_p: 0.5 }, {}],
  );
});

test("a prompt whose submit was just accepted does not vanish until the pull", () => {
  const after = mirror.afterPush(undefined, submit("a"), { status: "applied", state: "queued" });
  assert.deepEqual([after.id, after.state, after.text], ["a", "queued", "text of a"]);
  assert.equal(mirror.afterPush(prompt("a"), entry("delete", "a"), { status: "applied" }), undefined);
  assert.equal(
    mirror.afterPush(prompt("a"), entry("cancel", "a"), { status: "applied", state: "cancelled" }).state,
    "cancelled",
  );
  const old = prompt("a");
  assert.equal(mirror.afterPush(old, entry("edit", "a", { fields: {} }), { status: "refused", state: "done" }), old);
});

test("a pulled text never shortens what came as pieces, but another attempt begins anew", () => {
  const ours = prompt("a", { answer: "One two three" });
  assert.equal(mirror.merge(ours, prompt("a", { answer: "One two" })).answer, "One two three");
  assert.equal(mirror.merge(ours, prompt("a", { answer: "Two" })).answer, "Two");
  assert.equal(mirror.merge(ours, prompt("a", { answer: "One", attempts: 2 })).answer, "One");
  assert.equal(mirror.merge(prompt("a", { text: "edited away" }), prompt("a", { text: "edited" })).text, "edited");
});

test("pieces are counted in characters, and one that leaves a gap asks for a pull", () => {
  const begun = prompt("a", { state: "sending", answer: "🦦🦦" });
  const piece = { prompt: "a", attempt: 1, kind: "answer" };
  assert.equal(mirror.withPiece(begun, { ...piece, offset: 2, text: "!" }).answer, "🦦🦦!");
  assert.equal(mirror.withPiece(begun, { ...piece, offset: 1, text: "🦦?" }).answer, "🦦🦦?");
  assert.equal(mirror.withPiece(begun, { ...piece, offset: 0, text: "🦦" }), begun);
  assert.equal(mirror.withPiece(begun, { ...piece, offset: 3, text: "!" }), null);
  assert.equal(mirror.withPiece(begun, { ...piece, attempt: 2, offset: 0, text: "!" }), null);
  assert.equal(mirror.withPiece(undefined, { ...piece, offset: 0, text: "!" }), null);
});

test("it knows how much of a cut text is missing", () => {
  assert.equal(mirror.missing(prompt("a", { answer: "🦦x", lengths: { answer: 10 } }), "answer"), 8);
  assert.equal(mirror.missing(prompt("a", { answer: "whole" }), "answer"), 0);
});

test("what a listing does not list is forgotten, and old ones beyond the limit, but never an open one", () => {
  const known = mapOf(
    ...[1, 2, 3, 4].map((day) =>
      prompt(`p${day}`, { state: day === 1 ? "queued" : "done", enqueued_at: `2026-01-0${day}T00:00:00Z` }),
    ),
  );
  assert.deepEqual(mirror.notListed(known, new Set(["p4", "p3", "p1"])), ["p2"]);
  assert.deepEqual(mirror.tooOld(known, 2), ["p2"]);
  assert.deepEqual(mirror.spare(known), ["p2"]);
});

test("search looks for every word in texts and answers; the state narrows it", () => {
  const rows = mirror.merged(
    mapOf(prompt("a", { text: "About Otters", answer: "They swim" }), prompt("b", { state: "done" })),
    [],
  );
  const ids = (query, state = "") => mirror.find(rows, query, state).map((row) => row.id);
  assert.deepEqual(ids("otters SWIM"), ["a"]);
  assert.deepEqual(ids("otters fly"), []);
  assert.deepEqual(ids("", "done"), ["b"]);
  assert.deepEqual(ids("  ").sort(), ["a", "b"]);
});

test("what waits here is on top, whatever the clock says", () => {
  const there = { id: "there", state: "done", text: "t", attempts: 1, enqueued_at: "2026-01-05T00:00:00Z" };
  const at = Date.parse("2020-01-01T00:00:00Z");
  const late = (id, n) => submit(id, { at: at - n });
  const rows = mirror.merged(new Map([["there", there]]), [late("first", 1), late("second", 2)]);
  assert.deepEqual(rows.map(({ id }) => id), ["second", "first", "there"]);
  assert.deepEqual(mirror.rowOf(new Map([["there", there]]), [late("first", 1)], "first"), rows[1]);
  assert.equal(mirror.rowOf(new Map(), [], "none"), undefined);
});

test("half characters count as one each, as they do on the server", () => {
  for (const text of ["\ud83d\ud83d\udda6\udda6", "\udda6\ud83d", "a\ud83d", "🦦", ""])
    assert.equal(mirror.lengthOf(text), [...text].length, JSON.stringify(text));
});

test("an answer of nothing but line breaks takes no time", () => {
  const made = [];
  const element = () => ({ children: [], setAttribute() {}, append: (...more) => made.push(...more) });
  globalThis.document = { createElement: element };
  const began = performance.now();
  answerText(`\n\nOne${"\n".repeat(150_000)}two\n\n`);
  assert.ok(performance.now() - began < 500);
  assert.match(made[0], /^One\n+two$/);
  delete globalThis.document;
});
