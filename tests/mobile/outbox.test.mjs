import "./setup.mjs";

import assert from "node:assert/strict";
import test from "node:test";

import { add, delay, discard, markSent, nextPush, settle, waiting, wire } from "../../static/mobile/outbox.js";

const LIMITS = { body_bytes: 100_000, mutations: 250 };
const submit = (prompt, fields = {}) => ({
  id: `s-${prompt}`,
  kind: "submit",
  prompt,
  at: 0,
  fields: { model: "otter", text: prompt, ...fields },
});
const change = (kind, prompt, fields) => ({
  id: `${kind}-${prompt}-${Math.random()}`,
  kind,
  prompt,
  at: 0,
  ...(fields && { fields }),
});
const sent = (outbox) => markSent(outbox, new Set(outbox.map(({ id }) => id)));
const kinds = (outbox) => outbox.map(({ kind, prompt }) => `${kind} ${prompt}`);

test("new mutations go to the end, and are sent from the beginning", () => {
  const outbox = ["a", "b", "c"].reduce((list, prompt) => add(list, submit(prompt)), []);
  assert.deepEqual(kinds(nextPush(outbox, { ...LIMITS, mutations: 2 })), ["submit a", "submit b"]);
});

test("an edit of an unsent prompt changes its submit, and keeps what it does not name", () => {
  const outbox = add([submit("a", { follows: "z", top_p: 0.5 })], change("edit", "a", { model: "otter", text: "new" }));
  assert.equal(outbox.length, 1);
  assert.deepEqual(outbox[0].fields, { model: "otter", text: "new", follows: "z", top_p: 0.5 });
  assert.equal(outbox[0].id, "s-a");
});

test("a delete of an unsent prompt removes all of it, and nothing of others", () => {
  const outbox = [submit("a"), submit("b"), change("cancel", "a")];
  assert.deepEqual(kinds(add(outbox, change("delete", "a"))), ["submit b"]);
});

test("what was in a push is never altered: changes go behind it", () => {
  const before = sent([submit("a")]);
  const edited = add(before, change("edit", "a", { text: "new" }));
  assert.equal(edited[0], before[0]);
  assert.deepEqual(kinds(edited), ["submit a", "edit a"]);
  assert.deepEqual(kinds(add(edited, change("delete", "a"))), ["submit a", "edit a", "delete a"]);
});

test("two edits become one only while the first is unsent and nothing stands between them", () => {
  const edit = change("edit", "a", { text: "1" });
  assert.equal(add([edit], change("edit", "a", { text: "2" }))[0].fields.text, "2");
  assert.equal(add(sent([edit]), change("edit", "a", { text: "2" })).length, 2);
  assert.equal(add([edit, change("cancel", "a")], change("edit", "a", { text: "2" })).length, 3);
});

test("only a result removes an entry, and a refused submit waits for the person", () => {
  const outbox = sent([submit("a"), submit("b"), change("cancel", "c"), submit("d")]);
  const results = [
    { id: "s-a", status: "applied" },
    { id: "s-b", status: "refused", error: { code: "invalid", message: "no" } },
    { id: outbox[2].id, status: "refused", error: { code: "not_found", message: "no" } },
  ];
  const after = settle(outbox, results);
  assert.deepEqual(kinds(after), ["submit b", "submit d"]);
  assert.deepEqual(kinds(waiting(after)), ["submit d"]);
  assert.deepEqual(kinds(nextPush(after, LIMITS)), ["submit d"]);
  assert.deepEqual(kinds(discard(after, "b")), ["submit d"]);
});

test("a push stays within the server's limits, but never sends nothing", () => {
  const large = submit("a", { text: "é".repeat(40_000) });
  assert.equal(nextPush([large, submit("b")], LIMITS).length, 1);
  assert.equal(nextPush([submit("b"), large], LIMITS).length, 1);
  assert.equal(nextPush([submit("b"), submit("c")], { ...LIMITS, mutations: 0 }).length, 1);
});

test("marks of its own do not go over the wire", () => {
  assert.deepEqual(Object.keys(wire(sent([submit("a")])[0])), ["id", "kind", "prompt", "fields"]);
  assert.deepEqual(Object.keys(wire(change("cancel", "a"))), ["id", "kind", "prompt"]);
});

test("it waits 1, 2, 4 … 60 s, shortened by up to half", () => {
  assert.deepEqual(
    [1, 2, 3, 7, 50].map((n) => delay(n, () => 0)),
    [1000, 2000, 4000, 60_000, 60_000],
  );
  assert.equal(
    delay(3, () => 1),
    2000,
  );
});
