/** What a browser has and Node lacks: a database, and locks. And waiting, however busy the machine. */

import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto; // Node 18

const WAIT_MS = 20_000;

/** Wait until isSo() is true, or a promise of it. */
export async function until(isSo) {
  for (const end = Date.now() + WAIT_MS; !(await isSo()); await new Promise((resolve) => setTimeout(resolve, 5)))
    assert.ok(Date.now() < end, `it did not become so: ${isSo}`);
}

/** The verbs of static/mobile/database.js over Maps. */
export class Memory {
  constructor() {
    this.tables = Object.fromEntries(["keys", "numbers", "facts", "outbox", "mirror"].map((name) => [name, new Map()]));
    this.isFull = () => false;
    this.isWiped = false;
  }

  async get(table, key) {
    return this.tables[table].get(key);
  }

  async all(table) {
    const rows = [...this.tables[table]];
    return rows.sort(([a], [b]) => (typeof a === "number" ? a - b : a < b ? -1 : 1));
  }

  async write(changes) {
    if (this.isFull(changes, this)) throw Object.assign(new Error("full"), { name: "QuotaExceededError" });
    for (const [table, key, value] of changes)
      value === undefined ? this.tables[table].delete(key) : this.tables[table].set(key, value);
  }

  async next(name, floor = 0) {
    const number = Math.max(this.tables.numbers.get(name) ?? 0, floor) + 1;
    this.tables.numbers.set(name, number);
    return number;
  }

  async claim(table, key, value) {
    if (!this.tables[table].has(key)) this.tables[table].set(key, value);
    return this.tables[table].get(key);
  }

  async wipe() {
    Object.values(this.tables).forEach((table) => table.clear());
    this.isWiped = true;
  }

  /** Everything as bytes, for a search. */
  dump() {
    const bytes = (value) =>
      value instanceof ArrayBuffer || ArrayBuffer.isView(value) ? Buffer.from(value).toString("latin1") : value;
    return Object.values(this.tables)
      .flatMap((table) => [...table].map(([key, value]) => JSON.stringify([key, value], (_, it) => bytes(it))))
      .join("\n");
  }
}

/** navigator.locks of one browser. */
export class Locks {
  turns = new Map();

  request(name, work) {
    const turn = (this.turns.get(name) ?? Promise.resolve()).catch(() => {}).then(work);
    this.turns.set(name, turn);
    return turn;
  }
}
