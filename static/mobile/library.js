/** What this device has, in memory and in its store: the pairing, the outbox, the mirror and a few facts.

    Several tabs and the service worker have one each. The outbox is changed under a lock, read anew each time; the
    mirror is changed by whoever syncs, one at a time. Each tells the others what changed, and they read that again. */

import { add, discard, markSent, nextPush, settle, waiting } from "./outbox.js";
import { afterPush, changesOf, notListed, spare, tooOld } from "./mirror.js";

const FACTS = ["pairing", "cursor", "limits", "models", "draft", "keep", "syncedAt"];
const DEFAULTS = { cursor: "", keep: 500, models: [], limits: null };
const OUTBOX_LOCK = "lmrmq outbox";

export class Library {
  /** `locks`: navigator.locks. `channel`: a BroadcastChannel, or null where nobody else listens. */
  constructor(store, locks, channel = null) {
    Object.assign(this, { store, locks, channel, outbox: [], mirror: new Map(), facts: {}, listeners: new Set() });
    if (channel) channel.onmessage = ({ data }) => this.#hear(data);
  }

  async load() {
    await Promise.all([this.#readFacts(FACTS), this.#readOutbox(), this.#readMirror()]);
    return this;
  }

  fact(name) {
    return this.facts[name] ?? DEFAULTS[name];
  }

  get waiting() {
    return waiting(this.outbox).length;
  }

  get isPaired() {
    return Boolean(this.fact("pairing"));
  }

  /** Facts to keep, by name; undefined forgets one. */
  keep(facts) {
    return this.#write({ facts });
  }

  /** One more mutation, on disk when this returns. */
  async enqueue(kind, prompt, fields) {
    const mutation = { id: crypto.randomUUID(), kind, prompt, at: Date.now(), ...(fields ? { fields } : {}) };
    await this.#change((outbox) => ({ outbox: add(outbox, mutation) }));
  }

  /** A prompt that was not accepted: forget it, or put it at the end as a new one. Returns the new one's id. */
  async replaceRefused(prompt, fields) {
    const id = crypto.randomUUID();
    const entry = fields && { id: crypto.randomUUID(), kind: "submit", prompt: id, fields, at: Date.now() };
    await this.#change((outbox) => ({ outbox: [...discard(outbox, prompt), ...(entry ? [entry] : [])] }));
    return id;
  }

  /** The next push, marked as sent before anybody sends it. */
  async takePush(limits) {
    let taken = [];
    await this.#change((outbox) => {
      taken = nextPush(outbox, limits);
      return { outbox: markSent(outbox, new Set(taken.map((entry) => entry.id))) };
    });
    return taken;
  }

  /** Take in the results of a push. Returns the refused changes, which leave no other trace. */
  async settle(results) {
    const refused = [];
    await this.#change((outbox) => {
      const byId = new Map(outbox.map((entry) => [entry.id, entry]));
      const mirror = new Map();
      for (const result of results) {
        const entry = byId.get(result.id);
        if (!entry) continue;
        const old = mirror.has(entry.prompt) ? mirror.get(entry.prompt) : this.mirror.get(entry.prompt);
        mirror.set(entry.prompt, afterPush(old, entry, result));
        if (result.status === "refused" && entry.kind !== "submit") refused.push({ ...entry, error: result.error });
      }
      return { outbox: settle(outbox, results), mirror };
    });
    return refused;
  }

  /** One answer of pull, and the cursor behind it. `listed`: the ids of the listing that it belongs to, or null. */
  async takeIn(answer, listed) {
    const { put, gone } = changesOf(this.mirror, answer);
    const mirror = new Map([...put.map((change) => [change.id, change]), ...gone.map((id) => [id, undefined])]);
    put.forEach((change) => listed?.add(change.id));
    await this.#write({ mirror, facts: listed ? {} : { cursor: answer.cursor } });
  }

  /** A listing came to its end, or to as many as we keep. */
  async endListing(listed, cursor) {
    const gone = notListed(this.mirror, listed);
    await this.#write({ mirror: new Map(gone.map((id) => [id, undefined])), facts: { cursor } });
  }

  async prune() {
    const old = tooOld(this.mirror, this.fact("keep"));
    if (old.length) await this.#write({ mirror: new Map(old.map((id) => [id, undefined])) });
  }

  /** More of a prompt's text, from pieces (kept in memory: the end of the prompt brings the whole) or read in full. */
  async extend(prompt, isLasting) {
    this.mirror.set(prompt.id, prompt);
    if (isLasting) await this.#write({ mirror: new Map([[prompt.id, prompt]]) });
    else this.#tell({ mirror: [prompt.id] }, false);
  }

  /** Forget everything, here and in the other tabs. */
  async wipe() {
    this.channel?.postMessage({ wiped: true });
    await this.store.database.wipe();
  }

  #change(edit) {
    return this.locks.request(OUTBOX_LOCK, async () => {
      const rows = await this.store.all("outbox");
      const { outbox, mirror = new Map() } = edit(rows.map(([, entry]) => entry));
      await this.#write({ outboxRows: difference(rows, outbox), mirror });
      this.outbox = outbox;
      this.#tell({ outbox: true });
    });
  }

  async #write({ outboxRows = [], mirror = new Map(), facts = {} }) {
    const changes = [
      ...outboxRows,
      ...[...mirror].map(([id, value]) => ["mirror", id, value]),
      ...Object.entries(facts).map(([name, value]) => ["facts", name, value]),
    ];
    if (!changes.length) return;
    await this.store.write(changes, () => this.#spare());
    for (const [id, value] of mirror) value === undefined ? this.mirror.delete(id) : this.mirror.set(id, value);
    Object.assign(this.facts, facts);
    this.#tell({ mirror: [...mirror.keys()], facts: Object.keys(facts) });
  }

  #spare() {
    const ids = spare(this.mirror);
    ids.forEach((id) => this.mirror.delete(id));
    return ids;
  }

  #tell(news, isForOthers = true) {
    if (isForOthers) this.channel?.postMessage(news);
    for (const listener of this.listeners) listener(news);
  }

  async #hear(news) {
    if (!news.wiped) {
      if (news.outbox) await this.#readOutbox();
      if (news.facts?.length) await this.#readFacts(news.facts);
      await Promise.all((news.mirror ?? []).map((id) => this.#readPrompt(id)));
    }
    this.#tell(news, false);
  }

  async #readOutbox() {
    this.outbox = (await this.store.all("outbox")).map(([, entry]) => entry);
  }

  async #readMirror() {
    this.mirror = new Map(await this.store.all("mirror"));
  }

  async #readPrompt(id) {
    const prompt = await this.store.read("mirror", id);
    prompt ? this.mirror.set(id, prompt) : this.mirror.delete(id);
  }

  async #readFacts(names) {
    await Promise.all(names.map(async (name) => (this.facts[name] = await this.store.read("facts", name))));
  }
}

/** The changes of the outbox's table that make `rows` ([position, entry]) hold `outbox`; new ones go to the end. */
function difference(rows, outbox) {
  const positions = new Map(rows.map(([position, entry]) => [entry.id, [position, entry]]));
  const kept = new Set(outbox.map((entry) => entry.id));
  const gone = rows.filter(([, entry]) => !kept.has(entry.id)).map(([position]) => ["outbox", position, undefined]);
  let end = rows.at(-1)?.[0] ?? 0;
  const changed = outbox.flatMap((entry) => {
    const [position, old] = positions.get(entry.id) ?? [++end];
    return entry === old ? [] : [["outbox", position, entry]];
  });
  return [...gone, ...changed];
}
