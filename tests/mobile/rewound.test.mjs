/** A server that was put back to an earlier state (docs/sync.md). */

import { paired } from "./device.mjs";
import { Locks } from "./setup.mjs";

import assert from "node:assert/strict";
import test from "node:test";

import { abilities } from "../../static/mobile/abilities.js";
import { lostOnes, rowOf, spare } from "../../static/mobile/mirror.js";

const ended = (server, id, state = "done") => ({
  ...server.blank(id),
  model: "otter",
  text: `text of ${id}`,
  state,
  attempts: 1,
  answer: "A",
  finished_at: "2026-01-01T00:00:09Z",
});

/** It had "old" when the backup was made; since then others were queued, and some of them ended. */
async function restored(more = {}) {
  const device = await paired();
  const { server, sync } = device;
  const old = ended(server, "old");
  server.change(old);
  for (const state of ["done", "failed", "cancelled"]) server.change(ended(server, state, state));
  for (const id of ["waits", "runs"])
    server.change({ ...ended(server, id, id === "runs" ? "sending" : "queued"), follows: "old", ...more });
  await sync.run();
  server.restore([old]);
  await sync.run();
  return device;
}
const here = (library, id) => rowOf(library.mirror, library.outbox, id);

test("what had ended is kept as history, and said to be only here", async () => {
  const { library, server, sync } = await restored();
  for (const id of ["done", "failed", "cancelled"]) {
    const row = here(library, id);
    assert.deepEqual([row.status.state, row.status.note, row.prompt.answer], [id, "only on this phone", "A"]);
    const { followUp, retry, cancel, edit, repeat, remove } = abilities(row);
    assert.deepEqual([followUp, retry, cancel, edit, repeat, remove], [false, false, false, false, true, true]);
  }
  assert.equal(here(library, "old").status.note, "");
  assert.equal(library.fact("restored"), true);
  await library.keep({ cursor: "" }); // a listing for another reason
  await sync.run();
  assert.equal(library.mirror.size, 4);
  const asked = server.seen;
  await library.forget("done");
  assert.deepEqual([library.mirror.has("done"), library.outbox.length, server.seen], [false, 2, asked]);
});

test("what waited is offered to be sent again, never sent by itself, and once", async () => {
  const { library, server, sync } = await restored();
  await sync.run();
  assert.deepEqual([server.pushes.length, library.waiting], [0, 0]);
  for (const id of ["waits", "runs"]) assert.equal(here(library, id).status.error.code, "lost");
  await library.sendAgain("waits");
  await sync.run();
  assert.deepEqual([server.prompts.get("waits").text, server.prompts.get("waits").follows], ["text of waits", "old"]);
  await library.sendAgain("waits");
  assert.equal(here(library, "waits").status.state, "queued");
  assert.equal(library.outbox.length, 1);
});

test("what another device has sent again is not asked about any more", async () => {
  const { library, server, sync } = await restored();
  server.change(ended(server, "waits"));
  await sync.run();
  assert.deepEqual([here(library, "waits").status.state, library.outbox.map(({ prompt }) => prompt)], ["done", ["runs"]]);
});

test("a text of which only the beginning is here is not offered as if it were whole", async () => {
  const { library } = await restored({ lengths: { text: 40_000 } });
  const { error } = here(library, "waits").status;
  assert.ok(error.isCut && /beginning/.test(error.message));
});

test("what was done and is told otherwise is kept beside, with its answer", async () => {
  const { server, library, sync } = await paired();
  server.change(ended(server, "p"));
  await sync.run();
  server.change({ ...ended(server, "p", "queued"), attempts: 0, answer: "", finished_at: null });
  await sync.run();
  assert.equal(here(library, "p").prompt.state, "queued");
  const beside = [...library.mirror.values()].filter((prompt) => prompt.id !== "p");
  assert.deepEqual(beside.map(({ text, answer, isOnlyHere }) => [text, answer, isOnlyHere]), [["text of p", "A", true]]);
  assert.equal(library.fact("restored"), true);
});

test("a push that is answered late is no sign of a backup", async () => {
  const { server, library, sync } = await paired();
  await library.enqueue("submit", "p", { model: "otter", text: "t" });
  server.apply = (({ prompt, fields }) => {
    server.change({ ...ended(server, prompt), ...fields });
    return { status: "applied", state: "done" };
  });
  await sync.run();
  assert.deepEqual([library.mirror.size, library.fact("restored")], [1, undefined]);
});

test("a listing that was broken off is known to be of a server that was put back", async () => {
  const { server, library, sync } = await paired();
  for (let n = 0; n < 6; n++) server.change(ended(server, `p${n}`));
  await sync.run();
  server.restore([...server.prompts.values()].slice(0, 4));
  server.page = 2;
  const pull = server.pull;
  server.pull = (asked) => {
    if (asked.cursor.startsWith("l.")) throw new Error("gone");
    return pull.call(server, asked);
  };
  assert.equal(await sync.run(), false);
  server.pull = pull;
  assert.equal(await sync.run(), true);
  assert.deepEqual(["p5", "p0"].map((id) => here(library, id).status.note), ["only on this phone", ""]);
});

test("where the listing ends because no more are kept, older ones are not said to be only here", async () => {
  const { server, library, sync } = await paired();
  for (let n = 0; n < 6; n++) server.change(ended(server, `p${n}`));
  await sync.run();
  server.restore([...server.prompts.values()].slice(0, 5));
  server.page = 2;
  await library.keep({ keep: 3 });
  await sync.run();
  const marked = [...library.mirror.values()].filter(({ isOnlyHere }) => isOnlyHere);
  assert.deepEqual(marked.map(({ id }) => id), ["p5"]);
});

test("a server that forgot the device keeps its history alike, once it is paired again", async () => {
  const { server, library, sync, calls, database } = await paired();
  server.change(ended(server, "p"));
  await sync.run();
  const { token, ...pairing } = library.fact("pairing");
  await library.keep({ pairing: { ...pairing, token: "dpd_forgotten" } });
  assert.equal(await sync.run(), false);
  server.restore([]);
  server.seen = 0;
  await calls.pair("CODE", "Phone", "phone");
  const { library: again, sync: later } = await paired(server, database, new Locks()); // the app was restarted
  await later.run();
  assert.equal(here(again, "p").status.note, "only on this phone");
  assert.ok(token && again.fact("restored"));
});

test("what is older than a listing that broke off may still be there, so it is not kept as lost", () => {
  const prompt = (id, day) => ({ id, state: "done", enqueued_at: `2026-01-0${day}T00:00:00Z` });
  const mirror = new Map([prompt("a", 1), prompt("b", 2), prompt("c", 3)].map((one) => [one.id, one]));
  const ids = (prompts) => prompts.map(({ id }) => id);
  const { gone, ended } = lostOnes(mirror, new Set(["b"]), false);
  assert.deepEqual([ids(gone), ids(ended)], [["a"], ["c"]]);
  assert.deepEqual(ids(lostOnes(mirror, new Set(["b"]), true).ended), ["a", "c"]);
});

test("without room, what the server has as well is given up first", () => {
  const prompt = (id, day, more) => ({ id, state: "done", enqueued_at: `2026-01-0${day}T00:00:00Z`, ...more });
  const mirror = new Map([prompt("a", 1, { isOnlyHere: true }), prompt("b", 2)].map((one) => [one.id, one]));
  assert.deepEqual(spare(mirror), ["b"]);
});
