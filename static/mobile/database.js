/** IndexedDB behind four verbs. What is in the tables is store.js's affair; tests put a Map in this place. */

export const NAME = "lmrmq";
const TABLES = ["keys", "numbers", "facts", "outbox", "mirror"];

const answer = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const STRICT = { durability: "strict" };

async function connect() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => TABLES.forEach((table) => request.result.createObjectStore(table));
  const connection = await answer(request);
  connection.onversionchange = () => connection.close(); // another tab signs out and deletes it
  return connection;
}

export class Database {
  /** Called when all that was kept is gone, though nobody here took it away. */
  onlost = () => {};

  constructor(connection) {
    this.#use(connection);
  }

  static async open() {
    return new Database(await connect());
  }

  async get(table, key) {
    const turn = await this.#turn(table);
    return answer(turn.objectStore(table).get(key));
  }

  /** [[key, value], …] in the order of the keys. */
  async all(table) {
    const rows = (await this.#turn(table)).objectStore(table);
    const [keys, values] = await Promise.all([answer(rows.getAllKeys()), answer(rows.getAll())]);
    return keys.map((key, index) => [key, values[index]]);
  }

  /** All of `changes` or none: [table, key, value], where undefined deletes. On disk when it returns. */
  async write(changes) {
    if (!changes.length) return undefined;
    const turn = await this.#turn([...new Set(changes.map(([table]) => table))], "readwrite", STRICT);
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
    const turn = await this.#turn(table, "readwrite", STRICT);
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
    const turn = await this.#turn(TABLES, "readwrite", STRICT);
    await Promise.all(TABLES.map((table) => answer(turn.objectStore(table).clear())));
    this.close();
    await erase();
  }

  close() {
    this.isClosed = true;
    this.connection.close();
  }

  #use(connection) {
    this.connection = connection;
    connection.onclose = () => this.#reopen().catch(() => {}); // the next turn tells whoever wants one
  }

  /** A transaction. Browsers close connections by themselves: a phone's, of an app that was in the background. */
  async #turn(...how) {
    try {
      return this.connection.transaction(...how);
    } catch (error) {
      if (error.name !== "InvalidStateError" || this.isClosed) throw error;
      await this.#reopen();
      return this.connection.transaction(...how);
    }
  }

  #reopen() {
    this.opening ??= this.#openAgain().finally(() => (this.opening = null));
    return this.opening;
  }

  async #openAgain() {
    if (this.isClosed) return;
    const connection = await connect();
    const key = await answer(connection.transaction("keys").objectStore("keys").get("store"));
    this.#use(connection);
    if (key) return;
    this.close();
    this.onlost();
  }
}

/** Delete all of it; what cannot be read can be deleted still. */
export function erase() {
  return new Promise((resolve) => {
    const request = indexedDB.deleteDatabase(NAME);
    request.onsuccess = request.onerror = request.onblocked = () => resolve();
  });
}
