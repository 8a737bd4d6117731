/** IndexedDB behind four verbs. What is in the tables is store.js's affair; tests put a Map in this place. */

export const NAME = "lmrmq";
const TABLES = ["keys", "numbers", "facts", "outbox", "mirror"];

const answer = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

export class Database {
  constructor(connection) {
    this.connection = connection;
    connection.onversionchange = () => connection.close(); // another tab signs out and deletes it
  }

  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => TABLES.forEach((table) => request.result.createObjectStore(table));
    return new Database(await answer(request));
  }

  get(table, key) {
    return answer(this.connection.transaction(table).objectStore(table).get(key));
  }

  /** [[key, value], …] in the order of the keys. */
  async all(table) {
    const rows = this.connection.transaction(table).objectStore(table);
    const [keys, values] = await Promise.all([answer(rows.getAllKeys()), answer(rows.getAll())]);
    return keys.map((key, index) => [key, values[index]]);
  }

  /** All of `changes` or none: [table, key, value], where undefined deletes. On disk when it returns. */
  write(changes) {
    if (!changes.length) return Promise.resolve();
    const tables = [...new Set(changes.map(([table]) => table))];
    const turn = this.connection.transaction(tables, "readwrite", { durability: "strict" });
    return new Promise((resolve, reject) => {
      turn.oncomplete = () => resolve();
      turn.onabort = () => reject(turn.error ?? new Error("the browser gave up writing"));
      for (const [table, key, value] of changes) {
        const rows = turn.objectStore(table);
        value === undefined ? rows.delete(key) : rows.put(value, key);
      }
    });
  }

  /** The number after the last one, or after `floor`; nobody ever gets it again, in no tab. */
  next(name, floor = 0) {
    return this.#replace("numbers", name, (last = 0) => Math.max(last, floor) + 1);
  }

  /** What lies there, or else `value`, which then does; one of two tabs wins. */
  claim(table, key, value) {
    return this.#replace(table, key, (old) => old ?? value);
  }

  async #replace(table, key, change) {
    const turn = this.connection.transaction(table, "readwrite", { durability: "strict" });
    const stored = new Promise((resolve, reject) => {
      turn.oncomplete = () => resolve();
      turn.onabort = () => reject(turn.error);
    });
    const value = change(await answer(turn.objectStore(table).get(key)));
    turn.objectStore(table).put(value, key);
    await stored;
    return value;
  }

  /** Empty at once; gone as soon as no other tab holds it. */
  async wipe() {
    const turn = this.connection.transaction(TABLES, "readwrite", { durability: "strict" });
    await Promise.all(TABLES.map((table) => answer(turn.objectStore(table).clear())));
    this.connection.close();
    await new Promise((resolve) => {
      const request = indexedDB.deleteDatabase(NAME);
      request.onsuccess = request.onerror = request.onblocked = () => resolve();
    });
  }
}
