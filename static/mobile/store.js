/** What this device keeps, encrypted with a key that the browser holds and gives to nobody.

    Tables: keys (two keys that cannot be exported), numbers (counters), and the encrypted ones: facts (by name), outbox
    (by position), mirror (by the prompt's id). Whoever reads the browser's files finds ids and nothing else. */

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The device has no room left, although old answers were given up for it. */
export class StorageFull extends Error {}

export class Store {
  constructor(database, key) {
    this.database = database;
    this.key = key;
  }

  static async open(database) {
    const made = await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
    return new Store(database, await database.claim("keys", "store", made));
  }

  async read(table, key) {
    const row = await this.database.get(table, key);
    return row && this.#reveal(table, key, row);
  }

  /** [[key, value], …] in the order of the keys. */
  async all(table) {
    const rows = await this.database.all(table);
    return Promise.all(rows.map(async ([key, row]) => [key, await this.#reveal(table, key, row)]));
  }

  /** All of `changes` or none: [table, key, value], where undefined deletes. `spare` is asked for mirror keys to give
      up when there is no room; the outbox is never given up. Throws StorageFull. */
  async write(changes, spare = () => []) {
    const hidden = await Promise.all(changes.map((change) => this.#hide(...change)));
    for (;;) {
      try {
        return await this.database.write(hidden);
      } catch (error) {
        if (error?.name !== "QuotaExceededError") throw error;
        const old = spare();
        const full = new StorageFull("There is no room left on this device.", { cause: error });
        if (!old.length) throw full;
        await this.database.write(old.map((key) => ["mirror", key, undefined])).catch(() => Promise.reject(full));
      }
    }
  }

  nextNumber(name, floor) {
    return this.database.next(name, floor);
  }

  sealingKey() {
    return this.database.get("keys", "seal");
  }

  keepSealingKey(key) {
    return this.database.write([["keys", "seal", key]]);
  }

  async #hide(table, key, value) {
    if (value === undefined) return [table, key, undefined];
    const iv = crypto.getRandomValues(new Uint8Array(12));
    const how = { name: "AES-GCM", iv, additionalData: place(table, key) };
    return [table, key, { iv, ct: await crypto.subtle.encrypt(how, this.key, encoder.encode(JSON.stringify(value))) }];
  }

  async #reveal(table, key, { iv, ct }) {
    const how = { name: "AES-GCM", iv, additionalData: place(table, key) };
    return JSON.parse(decoder.decode(await crypto.subtle.decrypt(how, this.key, ct)));
  }
}

/** A row is bound to where it lies, so that none can be put in another's place. */
function place(table, key) {
  return encoder.encode(`${table} ${key}`);
}
