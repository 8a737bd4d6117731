import assert from "node:assert/strict";
import test, { beforeEach } from "node:test";

import { Database } from "../../static/mobile/database.js";

/** So much of a browser's IndexedDB as reads and writes rows; `tables` are what is on the disk. */
class Browser {
  tables = null;
  connections = [];

  open() {
    const request = {};
    queueMicrotask(() => {
      const connection = new Connection(this);
      this.connections.push(connection);
      request.result = connection;
      if (!this.tables) {
        this.tables = {};
        request.onupgradeneeded();
      }
      request.onsuccess();
    });
    return request;
  }

  /** As a phone does to an app that was in the background. */
  closeAll() {
    this.connections.forEach((connection) => connection.close());
    this.connections.at(-1).onclose?.();
  }
}

class Connection {
  constructor(browser) {
    this.browser = browser;
  }

  createObjectStore(name) {
    this.browser.tables[name] = new Map();
  }

  close() {
    this.isClosed = true;
  }

  transaction() {
    if (this.isClosed) throw new DOMException("The database connection is closing.", "InvalidStateError");
    const turn = { objectStore: (name) => new Rows(this.browser.tables[name]) };
    setTimeout(() => turn.oncomplete?.());
    return turn;
  }
}

class Rows {
  constructor(rows) {
    this.rows = rows;
  }

  get(key) {
    const request = {};
    queueMicrotask(() => request.onsuccess(Object.assign(request, { result: this.rows.get(key) })));
    return request;
  }

  put(value, key) {
    this.rows.set(key, value);
  }
}

let browser;
beforeEach(() => {
  browser = globalThis.indexedDB = new Browser();
});

test("a connection that the browser closed is opened again, and nobody notices", async () => {
  const database = await Database.open();
  let isLost = false;
  database.onlost = () => (isLost = true);
  await database.claim("keys", "store", "the key");
  await database.write([["outbox", 1, "waits"]]);
  browser.closeAll();
  assert.equal(await database.get("outbox", 1), "waits");
  browser.closeAll();
  await database.write([["outbox", 2, "waits too"]]);
  assert.equal(await database.next("seq"), 1);
  assert.deepEqual([browser.tables.outbox.size, isLost], [2, false]);
});

test("where all was cleared it says so, and begins nothing new", async () => {
  const database = await Database.open();
  const lost = new Promise((resolve) => (database.onlost = resolve));
  await database.claim("keys", "store", "the key");
  browser.tables = null;
  browser.closeAll();
  await lost;
  await assert.rejects(database.write([["outbox", 1, "waits"]]), { name: "InvalidStateError" });
  assert.equal(browser.tables.outbox.size, 0);
});

test("what was closed on purpose stays closed", async () => {
  const database = await Database.open();
  await database.claim("keys", "store", "the key");
  database.close();
  await assert.rejects(database.get("keys", "store"), { name: "InvalidStateError" });
  assert.equal(browser.connections.length, 1);
});
