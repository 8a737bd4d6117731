import { paired } from "./device.mjs";

import assert from "node:assert/strict";
import test from "node:test";

import { Unreachable } from "../../static/mobile/server.js";
import { StorageFull } from "../../static/mobile/store.js";

const write = async (library, count) => {
  for (let n = 0; n < count; n++) await library.enqueue("submit", `p${n}`, { model: "otter", text: `number ${n}` });
};
const texts = (prompts) => [...prompts].map((prompt) => prompt.text);
const expected = (count) => Array.from({ length: count }, (_, n) => `number ${n}`);

test("50 prompts written offline arrive once, in order, and come back", async () => {
  const { server, library, sync } = await paired();
  server.isDown = true;
  await write(library, 50);
  assert.equal(await sync.run(), false);
  assert.equal(library.waiting, 50);
  server.isDown = false;
  assert.equal(await sync.run(), true);
  assert.deepEqual(texts(server.prompts.values()), expected(50));
  assert.deepEqual([library.waiting, library.mirror.size], [0, 50]);
  assert.ok(server.pushes.every((push) => push.length <= 20));
});

test("a lost answer, or a device that was restarted in between, doubles nothing", async () => {
  const first = await paired();
  await write(first.library, 5);
  await first.sync.ping();
  first.server.losesAnswers = 1;
  assert.equal(await first.sync.run(), false);
  assert.equal(first.server.prompts.size, 5); // it arrived, and we do not know
  const { library, sync } = await paired(first.server, first.database);
  await library.enqueue("edit", "p4", { model: "otter", text: "later" });
  assert.equal(await sync.run(), true);
  assert.deepEqual(texts(first.server.prompts.values()), [...expected(4), "later"]);
  const [lost, again] = first.server.pushes;
  assert.deepEqual(again.slice(0, 5), lost); // a mutation is never altered, and the edit goes behind
});

test("two tabs that sync at once send everything once", async () => {
  const one = await paired();
  const other = await paired(one.server, one.database, one.locks);
  await write(one.library, 10);
  await Promise.all([one.sync.run(), other.sync.run()]);
  assert.equal(one.server.pushes.flat().length, 10);
});

test("a refused prompt is shown with its reason and stops nothing behind it", async () => {
  const { library, sync, server } = await paired();
  await library.enqueue("submit", "bad", { model: "no-such", text: "t" });
  await library.enqueue("cancel", "unknown");
  await write(library, 1);
  await sync.run();
  assert.deepEqual(
    library.outbox.map((entry) => [entry.prompt, entry.error.message]),
    [["bad", "No such model."]],
  );
  assert.equal(server.prompts.size, 1);
  const id = await library.replaceRefused("bad", { model: "otter", text: "t" });
  await sync.run();
  assert.equal(server.prompts.get(id).text, "t");
  assert.equal(library.outbox.length, 0);
});

test("refused changes are told until they were read, with their texts", async () => {
  const { library, sync, reports, server, database } = await paired();
  await library.enqueue("edit", "unknown", { text: "dear words" });
  await sync.run();
  assert.equal(reports.at(-1).phase, "synced");
  const told = { kind: "edit", prompt: "unknown", fields: { text: "dear words" }, message: "Not there." };
  assert.deepEqual(library.fact("refusals"), [told]);
  const { library: afterRestart } = await paired(server, database); // the worker synced, or the app was closed since
  assert.deepEqual(afterRestart.fact("refusals"), [told]);
});

test("what was deleted there disappears here, and a reset forgets what it does not list", async () => {
  const { server, library, sync } = await paired();
  await write(library, 3);
  await sync.run();
  server.remove("p1");
  await sync.run();
  assert.deepEqual([...library.mirror.keys()].sort(), ["p0", "p2"]);
  server.prompts.delete("p0"); // the log no longer says it
  await library.keep({ cursor: "" });
  await sync.run();
  assert.deepEqual([...library.mirror.keys()], ["p2"]);
});

test("a listing stops at as many prompts as are kept, and goes on live", async () => {
  const { server, library, sync } = await paired();
  server.page = 2;
  for (let n = 0; n < 10; n++) server.change({ ...server.blank(`p${n}`), state: "done", text: `number ${n}` });
  await library.keep({ keep: 4 });
  await sync.run();
  assert.deepEqual([...library.mirror.keys()].sort(), ["p6", "p7", "p8", "p9"]);
  assert.equal(library.fact("cursor"), "e.10");
  assert.equal(server.pulls, 3); // two pages of the listing, and what changed meanwhile
});

test("its store came from a backup: it goes on from the server's number", async () => {
  const { server, library, sync } = await paired();
  server.seen = 1000;
  await write(library, 1);
  assert.equal(await sync.run(), true);
  assert.equal(server.prompts.size, 1);
  assert.ok(server.seen > 1000);
});

test("an answer that belongs to another question, or is not sealed, is refused", async () => {
  const { server, calls } = await paired();
  for (const header of [
    { kid: "x", re: 1, status: 200 },
    { kid: "6f1c8f8e-0000-4000-8000-000000000001", re: 99, status: 200 },
  ]) {
    server.alter = () => header;
    await assert.rejects(calls.call("ping"), Unreachable);
  }
  calls.fetch = async () => new Response("{}", { headers: { "Content-Type": "application/json" } });
  await assert.rejects(calls.call("ping"), Unreachable);
});

test("a device that was shut out keeps its outbox and does not knock again", async () => {
  const { library, sync, reports, later, server } = await paired();
  await write(library, 2);
  const { token, ...pairing } = library.fact("pairing");
  await library.keep({ pairing: { ...pairing, token: "dpd_old" } });
  await sync.run();
  assert.deepEqual([reports.at(-1).error.status, library.waiting, later], [401, 2, []]);
  assert.equal(server.prompts.size, 0);
});

test("it tries again later, and waits longer each time", async () => {
  const { server, sync, later } = await paired();
  server.isDown = true;
  for (let n = 0; n < 4; n++) await sync.run();
  const ranges = [
    [500, 1000],
    [1000, 2000],
    [2000, 4000],
    [4000, 8000],
  ];
  later.forEach((ms, n) => assert.ok(ms >= ranges[n][0] && ms <= ranges[n][1], `${ms}`));
  assert.equal(later.length, 4);
});

test("a push that is too large for the server is sent in parts", async () => {
  const { server, library, sync } = await paired();
  await sync.ping();
  server.limits = { ...server.limits, mutations: 3 }; // less than it told us
  await write(library, 10);
  assert.equal(await sync.run(), true);
  assert.deepEqual(texts(server.prompts.values()), expected(10));
});

test("the rest of a long text comes in parts", async () => {
  const { server, library, sync } = await paired();
  const whole = "🦦 and more of it, ".repeat(5);
  server.whole = { p: { answer: whole } };
  server.change({
    ...server.blank("p"),
    state: "done",
    text: "t",
    answer: [...whole].slice(0, 7).join(""),
    lengths: { answer: [...whole].length },
  });
  await sync.run();
  const longer = await sync.whole(library.mirror.get("p"), "answer");
  assert.equal(longer.answer, whole);
  await library.keep({ cursor: "e.0" });
  await sync.run(); // the same change again does not cut it
  assert.equal(library.mirror.get("p").answer, whole);
});

test("when the connection is back in the middle of a try that fails, the next one does not wait", async () => {
  const { server, library, sync, later } = await paired();
  await write(library, 1);
  server.isDown = true;
  const running = sync.run();
  server.isDown = false;
  const whole = sync.server.fetch;
  sync.server.fetch = async () => {
    sync.server.fetch = whole;
    sync.wake();
    throw new TypeError("Failed to fetch");
  };
  assert.equal(await running, true);
  assert.equal(server.prompts.size, 1);
  assert.equal(later.length, 1);
});

test("a clock that is set back by days does not keep the list of models old", async () => {
  const { server, sync } = await paired();
  await sync.run();
  let asked = 0;
  server.models = () => ({ models: [{ key: `n${(asked += 1)}` }] });
  const [now, then] = [Date.now, performance.now.bind(performance)];
  try {
    Date.now = () => now() - 3 * 86_400_000;
    performance.now = () => then() + 60_000;
    await sync.run();
  } finally {
    Date.now = now;
    performance.now = then;
  }
  assert.equal(asked, 1);
});

test("reading on does not bring back a state that is over", async () => {
  const { server, library, sync } = await paired();
  server.whole = { p: { answer: "a".repeat(25) } };
  server.change({ ...server.blank("p"), state: "sending", attempts: 1, answer: "aaa" });
  await sync.run();
  const text = server.text;
  server.text = (asked) => {
    library.mirror.set("p", { ...library.mirror.get("p"), state: "done" });
    return text.call(server, asked);
  };
  await Promise.all([sync.catchUp(library.mirror.get("p"), "answer"), sync.catchUp(library.mirror.get("p"), "answer")]);
  const { state, answer } = library.mirror.get("p");
  assert.deepEqual([state, answer], ["done", "a".repeat(25)]);
  assert.equal(server.reads, 3); // once at a time
});

for (const reads of ["catchUp", "whole"])
  test(`an end that is pulled while ${reads} keeps what it read is not undone`, async () => {
    const { server, database, library, sync } = await paired();
    server.whole = { p: { answer: "a".repeat(25) } };
    server.change({ ...server.blank("p"), state: "sending", attempts: 1, answer: "aaa" });
    await sync.run();
    const end = () => server.change({ ...server.prompts.get("p"), state: "done", answer: "a".repeat(25) });
    const write = database.write.bind(database);
    database.write = async (changes) => {
      if (changes.some(([table]) => table === "mirror")) {
        database.write = write;
        end();
        sync.run();
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
      return write(changes);
    };
    await sync[reads](library.mirror.get("p"), "answer");
    if (database.write !== write) end(); // it keeps nothing
    await sync.run();
    assert.equal(library.mirror.get("p").state, "done");
    assert.equal((await library.store.read("mirror", "p")).state, "done");
    assert.equal(library.mirror.get("p").answer, "a".repeat(25));
  });

test("a full device keeps the newest of a listing and gives up none of them for older ones", async () => {
  const { server, database, library, sync } = await paired();
  server.page = 2;
  for (let n = 0; n < 10; n++) server.change({ ...server.blank(`p${n}`), state: "done", text: `number ${n}` });
  const puts = (changes) => changes.filter(([table, , value]) => table === "mirror" && value !== undefined).length;
  database.isFull = (changes, { tables }) => puts(changes) && tables.mirror.size + puts(changes) > 4;
  assert.equal(await sync.run(), true);
  assert.deepEqual([...library.mirror.keys()].sort(), ["p6", "p7", "p8", "p9"]);
  assert.equal(library.fact("cursor"), "e.10");
});

test("a device that is full is still rid of what has arrived", async () => {
  const { server, database, library, sync } = await paired();
  await write(library, 3);
  await sync.ping();
  database.isFull = (changes) => changes.some(([table, , value]) => table === "mirror" && value !== undefined);
  assert.equal(await sync.run(), false);
  assert.ok(sync.running === null && library.waiting === 0);
  assert.deepEqual(texts(server.prompts.values()), expected(3));
  await assert.rejects(library.takeIn({ changes: [{ id: "x", state: "done" }], cursor: "e.9" }, null), StorageFull);
});

test("a body gets as long as a slow line needs for it", async (t) => {
  const { calls } = await paired();
  const given = [];
  t.mock.method(AbortSignal, "timeout", (ms) => given.push(ms) && new AbortController().signal);
  await calls.call("push", { mutations: [] });
  await calls.call("push", { mutations: [], filler: "x".repeat(50_000) });
  assert.ok(given[0] < 21_000 && given[1] > 26_000, `${given}`);
});

test("after it signed out nothing is tried any more", async () => {
  const { server, library, sync, reports, later } = await paired();
  await write(library, 1);
  server.fetch = sync.server.fetch = async () => {
    sync.stop();
    await library.wipe();
    throw new TypeError("Failed to fetch");
  };
  assert.equal(await sync.run(), false);
  assert.deepEqual([later, reports.at(-1).phase, library.isPaired, library.waiting], [[], "syncing", false, 0]);
});

test("a server that cannot be reached gets nothing, so what waits can still be changed", async () => {
  const { server, library, sync } = await paired();
  await sync.run();
  await write(library, 1);
  server.isDown = true; // it was there a moment ago
  sync.forgetServer(); // the socket was lost
  await sync.run();
  assert.equal(library.outbox[0].wasSent, undefined);
  await library.enqueue("delete", "p0");
  assert.equal(library.outbox.length, 0);
});

test("while the phone is offline nothing is tried", async () => {
  const { server, library, sync, later } = await paired();
  await sync.run();
  await write(library, 1);
  const before = server.seen;
  sync.isOnline = () => false;
  assert.equal(await sync.run(), false);
  assert.deepEqual([server.seen, library.outbox[0].wasSent, later], [before, undefined, []]);
  sync.isOnline = () => true;
  assert.equal(await sync.run(), true);
  assert.equal(server.prompts.size, 1);
});

test("another server that answers in its place gets nothing", async () => {
  const { server, library, sync, reports } = await paired();
  await sync.run();
  await write(library, 2);
  sync.forgetServer();
  server.id = "another";
  assert.equal(await sync.run(), false);
  assert.match(reports.at(-1).error.message, /^Another server answers/);
  assert.deepEqual([server.pushes.length, library.waiting, library.fact("pairing").server.id], [0, 2, "s"]);
  server.id = "s";
  assert.equal(await sync.run(), true);
  assert.equal(server.prompts.size, 2);
});

test("a server that the app itself finds changed gets nothing either, after a restart", async () => {
  const first = await paired();
  await first.sync.run();
  await write(first.library, 1);
  first.server.id = "another";
  const { sync } = await paired(first.server, first.database); // such as the worker
  assert.equal(await sync.run(), false);
  assert.equal(first.server.pushes.length, 0);
});

test("it learns what the server calls it, and whether anything executes there", async () => {
  const { server, library, sync } = await paired();
  Object.assign(server, { deviceName: "Anna's phone", isWorking: false });
  await sync.run();
  assert.deepEqual([library.fact("pairing").name, library.fact("isWorking")], ["Anna's phone", false]);
  const told = [];
  library.listeners.add((news) => told.push(news));
  await sync.ping();
  assert.deepEqual(told, []); // nothing new, nothing written
});

test("changes are counted by their prompts", async () => {
  const { library } = await paired();
  await library.enqueue("submit", "p", { model: "otter", text: "t" });
  await library.enqueue("cancel", "p");
  await library.enqueue("retry", "q");
  assert.deepEqual([library.waiting, library.waitingPrompts], [3, 2]);
});
