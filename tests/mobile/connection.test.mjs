import { Locks, Memory, until } from "./setup.mjs";
import { ScriptedServer } from "./server.mjs";

import assert from "node:assert/strict";
import test, { afterEach, beforeEach } from "node:test";

import { Connection } from "../../static/mobile/connection.js";
import { Library } from "../../static/mobile/library.js";
import { seal } from "../../static/mobile/seal.js";
import { reconnectDelay } from "../../static/mobile/socket.js";
import { Store } from "../../static/mobile/store.js";

const DEVICE = "6f1c8f8e-0000-4000-8000-000000000001";

/** A browser's socket, of which the test is the other end. */
class Link {
  static OPEN = 1;
  static all = [];
  readyState = 1;
  sent = [];

  constructor() {
    Link.all.push(this);
    if (Link.isBlocked) queueMicrotask(() => this.onclose?.({ code: 1006, reason: "" }));
  }

  send(text) {
    this.sent.push(JSON.parse(Buffer.from(text.split(".")[0], "base64url")));
  }

  close() {
    this.readyState = 3;
  }

  /** Admitted, as the server does it. */
  async welcome(server, more = {}) {
    this.onopen();
    await until(() => this.sent.length);
    this.n = 0;
    await this.say(server, { type: "welcome", cursor: server.cursor, ...more });
  }

  async say(server, frame) {
    const header = { kid: DEVICE, re: this.sent[0].seq, n: (this.n += 1) };
    await this.onmessage({ data: await seal(server.key, header, frame) });
  }
}

let open;
beforeEach(() => {
  open = [];
  Link.all = [];
  Link.isBlocked = false;
  const navigator = { locks: new Locks(), onLine: true };
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  Object.assign(globalThis, {
    location: { origin: "http://here" },
    document: { visibilityState: "visible" },
    WebSocket: Link,
  });
});
afterEach(() => open.forEach((connection) => connection.stop()));

async function connected({ server = new ScriptedServer(), database = new Memory(), channel = null } = {}) {
  const library = await new Library(await Store.open(database), navigator.locks, channel).load();
  const told = { paired: 0, progressed: 0 };
  const on = { changed() {}, paired: () => (told.paired += 1), progressed: () => (told.progressed += 1) };
  const connection = new Connection(library, on);
  connection.server.fetch = (...how) => server.fetch(...how);
  open.push(connection);
  if (!library.isPaired) await connection.server.pair("CODE", "Phone", "phone");
  await connection.sync.run();
  return { server, database, library, connection, told };
}

test("a piece after a gap is caught up with by reading, once, and not by a pull for each", async () => {
  const { server, library, connection } = await connected();
  const whole = "a".repeat(60);
  server.whole = { p: { answer: whole } };
  server.change({ ...server.blank("p"), state: "sending", attempts: 1 });
  await connection.sync.run();
  const pulls = server.pulls;
  connection.wake();
  await Link.all.at(-1).welcome(server);
  await connection.sync.run();
  const before = server.pulls;
  for (let offset = 40; offset < 60; offset += 2)
    await Link.all.at(-1).say(server, { type: "piece", prompt: "p", attempt: 1, kind: "answer", offset, text: "aa" });
  await until(() => library.mirror.get("p").answer === whole);
  assert.ok(before >= pulls && server.pulls - before <= 1, `${server.pulls - before} pulls`);
  assert.ok(server.reads <= 12, `${server.reads} reads`);
});

test("a server that refuses this device is not said to be gone", async () => {
  const { server, library, connection } = await connected();
  connection.wake();
  await Link.all.at(-1).welcome(server);
  await connection.sync.run();
  const { token, ...pairing } = library.fact("pairing");
  server.fetch = async () =>
    new Response(JSON.stringify({ error: { code: "revoked", message: "Shut out." } }), { status: 401 });
  Link.all.at(-1).onclose({ code: 1006, reason: "" });
  await until(() => connection.isOut);
  assert.equal(connection.goneSince, null);
  assert.ok(token && pairing.device);
});

test("where no socket gets through, it hears of news by asking", async () => {
  const { server, library } = await connected();
  Link.isBlocked = true;
  server.change({ ...server.blank("p"), state: "done", text: "news" });
  Link.all.at(-1).onclose({ code: 1006, reason: "" });
  await until(() => library.mirror.has("p"));
});

test("what was paired anew in another tab is used here at once", async () => {
  const name = `test ${Math.random()}`;
  const channels = [new BroadcastChannel(name), new BroadcastChannel(name)];
  open.push(...channels.map((channel) => ({ stop: () => channel.close() })));
  const one = await connected({ channel: channels[0] });
  const other = await connected({ server: one.server, database: one.database, channel: channels[1] });
  const asBefore = { Authorization: "Bearer dpd_secret" }; // our server knows this token only
  other.connection.server.fetch = (address, { headers, ...how }) =>
    other.server.fetch(address, { ...how, headers: { ...headers, ...asBefore } });
  other.connection.isOut = true;
  const before = other.told.paired;
  await one.library.keep({ pairing: { ...one.library.fact("pairing"), token: "dpd_another" } });
  await until(() => !other.connection.isOut);
  await until(() => other.told.paired > before);
});

test("a socket that is told it made a mistake does not come again by itself", async () => {
  const { server, connection } = await connected();
  connection.wake();
  await Link.all.at(-1).welcome(server);
  const pulls = server.pulls;
  Link.all.at(-1).onclose({ code: 4400, reason: "malformed" });
  await until(() => server.pulls > pulls); // a call says what is wrong
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.equal(Link.all.length, 1);
});

test("what is watched already is not said again with each change", async () => {
  const { server, connection } = await connected();
  connection.wake();
  await Link.all.at(-1).welcome(server);
  await until(() => connection.socket.isOpen);
  for (let n = 0; n < 20; n++) connection.watch(["p"]);
  await connection.socket.sending;
  assert.equal(Link.all.at(-1).sent.length, 2); // the hello, and one watch
});

test("devices do not all come back in the same moment", () => {
  assert.deepEqual([reconnectDelay(0, () => 0), reconnectDelay(9, () => 0)], [500, 30_000]);
  assert.ok(reconnectDelay(9, () => 0.99) >= 15_000 && reconnectDelay(9, () => 0.99) < 16_000);
});

test("the socket tells how far a prompt is, and whether anything executes there", async () => {
  const { server, library, connection, told } = await connected();
  connection.wake();
  await Link.all.at(-1).welcome(server, { server: { id: "s" }, is_working: false });
  await until(() => library.fact("isWorking") === false);
  const frame = { type: "progress", prompt: "p", phase: "load", fraction: 0.5 };
  await Link.all.at(-1).say(server, frame);
  assert.deepEqual([connection.progress, told.progressed], [frame, 1]);
});

test("another server at the other end of the socket gets nothing pushed", async () => {
  const { server, library, connection } = await connected();
  server.id = "another";
  connection.wake();
  await connection.sync.running;
  await Link.all.at(-1).welcome(server, { server: { id: "another" }, is_working: true });
  await library.enqueue("submit", "p", { model: "otter", text: "t" });
  await connection.send();
  await until(() => connection.isOther);
  await connection.sync.running;
  assert.deepEqual([server.pushes.length, library.waiting, connection.goneSince], [0, 1, null]);
});

test("a server that is away gets nothing, so that what waits can still be changed", async () => {
  const { server, library, connection } = await connected();
  connection.wake();
  await Link.all.at(-1).welcome(server);
  await connection.sync.running;
  server.isDown = true;
  Link.all.at(-1).onclose({ code: 1006, reason: "" });
  await library.enqueue("submit", "p", { model: "otter", text: "t" });
  await connection.send();
  await connection.sync.running;
  navigator.onLine = false;
  server.isDown = false;
  await connection.send();
  await connection.sync.running;
  assert.deepEqual([library.outbox[0].wasSent, server.pushes.length], [undefined, 0]);
});
