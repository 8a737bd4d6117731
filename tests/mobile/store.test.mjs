import { Locks, Memory } from "./setup.mjs";

import assert from "node:assert/strict";
import test from "node:test";

import { Library } from "../../static/mobile/library.js";
import { StorageFull, Store } from "../../static/mobile/store.js";

const MARKER = "otterly-secret";
const done = (id, day) => ({
  id,
  model: MARKER,
  text: MARKER,
  state: "done",
  attempts: 1,
  enqueued_at: `2026-01-${day}T00:00:00Z`,
  answer: MARKER,
});
const page = (changes) => ({ changes, removed: [], cursor: "e.1" });

async function opened(database = new Memory(), locks = new Locks()) {
  return new Library(await Store.open(database), locks).load();
}

test("nothing that people or servers wrote is readable in the database", async () => {
  const database = new Memory();
  const library = await opened(database);
  await library.keep({ pairing: { token: MARKER, device: "d" }, draft: { text: MARKER } });
  await library.enqueue("submit", crypto.randomUUID(), { model: MARKER, text: MARKER });
  await library.takeIn(page([done("p", "01")]), null);
  assert.ok(!database.dump().includes(MARKER));
  assert.ok(JSON.stringify((await opened(database)).outbox).includes(MARKER)); // so it is there
});

test("a row that was put in another's place is not believed", async () => {
  const database = new Memory();
  const store = await Store.open(database);
  await store.write([
    ["mirror", "a", { text: "a" }],
    ["mirror", "b", { text: "b" }],
  ]);
  database.tables.mirror.set("a", database.tables.mirror.get("b"));
  await assert.rejects(store.read("mirror", "a"));
});

test("the outbox keeps its order over restarts, and two tabs lose nothing to each other", async () => {
  const [database, locks] = [new Memory(), new Locks()];
  const tabs = await Promise.all([opened(database, locks), opened(database, locks)]);
  await Promise.all(
    Array.from({ length: 20 }, (_, n) => tabs[n % 2].enqueue("submit", `p${n}`, { model: "m", text: `${n}` })),
  );
  const { outbox } = await opened(database);
  assert.deepEqual(
    outbox.map((entry) => entry.fields.text),
    Array.from({ length: 20 }, (_, n) => `${n}`),
  );
});

test("both tabs of a first visit encrypt with one key", async () => {
  const database = new Memory();
  const [one, other] = await Promise.all([Store.open(database), Store.open(database)]);
  await one.write([["facts", "draft", "hello"]]);
  assert.equal(await other.read("facts", "draft"), "hello");
});

test("without room the oldest answers are given up, never the outbox", async () => {
  const database = new Memory();
  const library = await opened(database);
  await library.takeIn(
    page([done("old", "01"), done("newer", "02"), { ...done("open", "01"), state: "queued" }]),
    null,
  );
  database.isFull = (changes, { tables }) =>
    tables.mirror.size > 2 && changes.some(([, , value]) => value !== undefined);
  await library.enqueue("submit", "p", { model: "m", text: "t" });
  assert.deepEqual([...library.mirror.keys()], ["newer", "open"]);
  assert.deepEqual([...database.tables.mirror.keys()], ["newer", "open"]);
  database.isFull = (changes) => changes.some(([, , value]) => value !== undefined);
  await assert.rejects(library.enqueue("submit", "q", { model: "m", text: "t" }), StorageFull);
  assert.deepEqual(
    library.outbox.map((entry) => entry.prompt),
    ["p"],
  );
});

test("a tab hears what another one wrote", async () => {
  const [database, locks, name] = [new Memory(), new Locks(), `test ${Math.random()}`];
  const channels = [new BroadcastChannel(name), new BroadcastChannel(name)];
  const libraries = await Promise.all(
    channels.map(async (channel) => new Library(await Store.open(database), locks, channel).load()),
  );
  const heard = new Promise((resolve) =>
    libraries[1].listeners.add(() => libraries[1].outbox.length && libraries[1].mirror.size && resolve()),
  );
  await libraries[0].takeIn(page([done("p", "01")]), null);
  await libraries[0].enqueue("submit", "q", { model: "m", text: "t" });
  await heard;
  channels.forEach((channel) => channel.close());
});

test("what was read while something newer came does not take its place", async () => {
  const [database, locks, name] = [new Memory(), new Locks(), `test ${Math.random()}`];
  const channels = [new BroadcastChannel(name), new BroadcastChannel(name)];
  const [one, other] = await Promise.all(
    channels.map(async (channel) => new Library(await Store.open(database), locks, channel).load()),
  );
  const all = database.all.bind(database);
  let release;
  const wait = new Promise((resolve) => (release = resolve));
  let isFirst = true;
  const started = new Promise((resolve) => {
    database.all = async (table) => {
      const rows = await all(table);
      if (table !== "outbox" || !isFirst) return rows;
      isFirst = false;
      resolve();
      await wait; // the rows as they were
      return rows;
    };
  });
  const heard = new Promise((resolve) => other.listeners.add((news) => news.outbox && resolve()));
  channels[0].postMessage({ outbox: true });
  await started;
  await other.enqueue("submit", "p", { model: "m", text: "t" });
  release();
  await heard;
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(other.outbox.length, 1);
  channels.forEach((channel) => channel.close());
  assert.equal((await one.load()).outbox.length, 1);
});

test("what another tab stored does not shorten the answer that comes here", async () => {
  const [database, name] = [new Memory(), `test ${Math.random()}`];
  const channels = [new BroadcastChannel(name), new BroadcastChannel(name)];
  const [one, other] = await Promise.all(
    channels.map(async (channel) => new Library(await Store.open(database), new Locks(), channel).load()),
  );
  const prompt = { ...done("p", "01"), state: "sending", answer: "One, two" };
  await other.extend({ ...prompt, answer: "One, two, three" });
  const heard = new Promise((resolve) => other.listeners.add((news) => news.mirror && resolve()));
  await one.takeIn(page([prompt]), null);
  await heard;
  assert.equal(other.mirror.get("p").answer, "One, two, three");
  channels.forEach((channel) => channel.close());
});

test("a draft goes in the moment in which the outbox has it", async () => {
  const database = new Memory();
  const library = await opened(database);
  await library.keep({ draft: { text: "dear words" } });
  const writes = [];
  const write = database.write.bind(database);
  database.write = async (changes) => {
    writes.push(changes.map(([table]) => table).sort());
    return write(changes);
  };
  await library.enqueue("submit", "p", { model: "m", text: "dear words" }, { draft: { model: "m" } });
  await library.replaceRefused("p", { model: "m", text: "other" }, { unsaved: undefined });
  assert.deepEqual(writes[0], ["facts", "outbox"]);
  assert.equal(writes.length, 2);
  const { outbox, facts } = await opened(database);
  assert.deepEqual([outbox.map(({ fields }) => fields.text), facts.draft], [["other"], { model: "m" }]);
});
