import assert from "node:assert/strict";
import test from "node:test";

import { numberOf, sharedText, wholeText, withText } from "../../static/mobile/draft.js";
import { excerpt } from "../../static/mobile/list.js";

function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.set(name, value);
  return data;
}

test("what is shared is text, each once; a file or nothing is no text", () => {
  const page = "https://example.org/otters";
  const both = form({ title: "Otters", text: `Look: ${page}`, url: page });
  assert.equal(sharedText(both), `Otters\nLook: ${page}\n${page}`);
  assert.equal(sharedText(form({ title: "Otters", text: "Otters swim" })), "Otters swim");
  assert.equal(sharedText(form({ url: page })), page);
  assert.equal(sharedText(form({ title: " ", text: "" })), "");
  assert.equal(sharedText(form({ text: new File(["bytes"], "a.txt") })), "");
  assert.equal(sharedText(form({})), "");
});

test("what is shared goes behind what was written", () => {
  assert.deepEqual(withText(undefined, "new"), { text: "new" });
  assert.deepEqual(withText({ model: "m", text: "old" }, "new"), { model: "m", text: "old\n\nnew" });
});

test("half characters are replaced, whole ones stay", () => {
  const whole = "Grüße, 🦦 שלום e\u0301 👩‍👩‍👧";
  assert.equal(wholeText(whole), whole);
  assert.equal(wholeText("a\ud83d b\udda6 c\0"), "a\ufffd b\ufffd c\ufffd");
  assert.equal(wholeText("\ud83d🦦\udda6"), "\ufffd🦦\ufffd");
});

test("a thousand tokens are a thousand, however they are written", () => {
  for (const typed of ["1000", "1,000", "1.000", "1 000", "1\u202f000", "1’000"])
    assert.equal(numberOf(typed, true), 1000, typed);
  assert.equal(numberOf("1,000,000", true), 1_000_000);
  assert.equal(numberOf("1,5", true), 1.5); // and that is then no whole number
  assert.deepEqual(["0,5", "0.5", " 1 "].map((typed) => numberOf(typed)), [0.5, 0.5, 1]);
  assert.ok(Number.isNaN(numberOf("many", true)));
});

test("a link to a prompt always has words, and no half emoji at its end", () => {
  assert.equal(excerpt("\n".repeat(500) + "Hello\n  there"), "Hello there");
  assert.equal(excerpt(" \n "), "(blank)");
  assert.equal(excerpt("x".repeat(159) + "🦦🦦"), "x".repeat(159) + "🦦");
  assert.ok(excerpt("🦦".repeat(20_000)).length <= 320);
});
