/** What this device has, in memory and in its store: the pairing, the outbox, the mirror and a few facts.

    Several tabs and the service worker have one each. The outbox is changed under a lock, read anew each time; the
    mirror is changed by whoever syncs, one at a time. Each tells the others what changed, and they read that again. */

import { add, discard, markSent, nextPush, settle, waiting } from "./outbox.js";
import { afterPush, changesOf, lostEntry, lostOnes, merge, notListed, spare, tooOld } from "./mirror.js";
import { StorageFull } from "./store.js";

/** isWorking: whether something executes prompts there. isForgotten: the server does not know this device any more;
    isRewound: it was paired again after that. restored: the person is to be told that the server was put back. */
const FACTS = (
  "pairing cursor limits models draft unsaved refusals keep syncedAt " + "isWorking isForgotten isRewound restored"
).split(" ");
const DEFAULTS = { cursor: "", keep: 500, models: [], limits: null, refusals: [] };
const OUTBOX_LOCK = "lmrmq outbox";

export class Library {
  /** `locks`: navigator.locks. `channel`: a BroadcastChannel, or null where nobody else listens. */
  constructor(store, locks, channel = null) {
    Object.assign(this, { store, locks, channel, listeners: new Set(), outboxTurn: 0 });
    this.#forget();
    if (channel) channel.onmessage = ({ data }) => this.#hear(data).catch(() => {}); // all was erased meanwhile
    store.database.onlost = () => this.#lose();
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

  /** How many prompts something waits to be sent of. */
  get waitingPrompts() {
    return new Set(waiting(this.outbox).map(({ prompt }) => prompt)).size;
  }

  get isPaired() {
    return Boolean(this.fact("pairing"));
  }

  /** Facts to keep, by name; undefined forgets one. */
  keep(facts) {
    return this.#write({ facts });
  }

  /** One more mutation, on disk when this returns, with the `facts` that change with it. */
  async enqueue(kind, prompt, fields, facts) {
    const mutation = { id: crypto.randomUUID(), kind, prompt, at: Date.now(), ...(fields ? { fields } : {}) };
    await this.#change((outbox) => ({ outbox: add(outbox, mutation), facts }));
  }

  /** A prompt that was not accepted: forget it, or put it at the end as a new one. Returns the new one's id. */
  async replaceRefused(prompt, fields, facts) {
    const id = crypto.randomUUID();
    const entry = fields && { id: crypto.randomUUID(), kind: "submit", prompt: id, fields, at: Date.now() };
    await this.#change((outbox) => ({ outbox: [...discard(outbox, prompt), ...(entry ? [entry] : [])], facts }));
    return id;
  }

  /** What the server lost is wanted once more: with the same id, so that there is never a second one. */
  async sendAgain(prompt) {
    const isIt = (entry) => entry.prompt === prompt && entry.error?.code === "lost";
    const anew = ({ fields }) => ({ id: crypto.randomUUID(), kind: "submit", prompt, fields, at: Date.now() });
    await this.#change((outbox) => ({
      outbox: [...outbox.filter((entry) => !isIt(entry)), ...outbox.filter(isIt).map(anew)],
    }));
  }

  /** A prompt that is only here. */
  async forget(prompt) {
    await this.#write({ mirror: new Map([[prompt, undefined]]) });
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

  /** Take in the results of a push. Refused changes leave no other trace than the fact `refusals`, until somebody has
      read them: it may be the worker that hears of them. Without room, what they changed comes with the next pull. */
  async settle(results) {
    const refusals = (await this.store.read("facts", "refusals")) ?? [];
    try {
      await this.#change((outbox) => settled(outbox, results, this.mirror, refusals));
    } catch (error) {
      if (!(error instanceof StorageFull)) throw error;
      await this.#change((outbox) => ({ outbox: settle(outbox, results) }));
    }
  }

  /** One answer of pull, and the cursor behind it. `listed`: the ids of the listing that it belongs to, or null; they
      are not given up for what stands behind them. What another device has sent again is not asked about any more. */
  async takeIn(answer, listed) {
    const { put, gone, beside } = changesOf(this.mirror, answer);
    const told = [...beside, ...put].map((prompt) => [prompt.id, prompt]);
    const mirror = new Map([...told, ...gone.map((id) => [id, undefined])]);
    const facts = { ...(listed ? {} : { cursor: answer.cursor }), ...(beside.length ? { restored: true } : {}) };
    await this.#write({ mirror, facts, isDear: (id) => listed?.has(id) });
    put.forEach((change) => listed?.add(change.id));
    const isBack = ({ prompt, error }) => error?.code === "lost" && put.some(({ id }) => id === prompt);
    if (this.outbox.some(isBack)) await this.#change((outbox) => ({ outbox: outbox.filter((one) => !isBack(one)) }));
  }

  /** A listing came to its end, or to as many as we keep. */
  async endListing(listed, cursor, isRewound, isToItsEnd) {
    if (isRewound) return this.#setAside(lostOnes(this.mirror, listed, isToItsEnd), cursor);
    const gone = notListed(this.mirror, listed);
    await this.#write({ mirror: new Map(gone.map((id) => [id, undefined])), facts: { cursor } });
  }

  /** The server was put back: history stays, and what waited there is asked about. */
  #setAside({ gone, ended, open }, cursor) {
    const kept = ended.map((prompt) => [prompt.id, { ...prompt, isOnlyHere: true }]);
    const left = [...gone, ...open].map(({ id }) => [id, undefined]);
    const facts = { cursor, restored: true, isRewound: undefined };
    return this.#change((outbox) => {
      const isKnown = ({ id }) => outbox.some(({ prompt, kind }) => prompt === id && kind === "submit");
      const asked = open.filter((prompt) => !isKnown(prompt)).map(lostEntry);
      return { outbox: [...outbox, ...asked], mirror: new Map([...kept, ...left]), facts };
    });
  }

  async prune() {
    const old = tooOld(this.mirror, this.fact("keep"));
    if (old.length) await this.#write({ mirror: new Map(old.map((id) => [id, undefined])) });
  }

  /** More of a prompt's text while it comes: in memory, as the end of the prompt brings the whole. */
  extend(prompt) {
    this.mirror.set(prompt.id, prompt);
    this.#tell({ mirror: [prompt.id] }, false);
  }

  /** A text that was read in full, beside whatever a sync has kept by now; none may be running. */
  async keepText(id, attempts, field, text) {
    const now = await this.store.read("mirror", id);
    if (now?.attempts !== attempts) return;
    await this.#write({ mirror: new Map([[id, merge(this.mirror.get(id), { ...now, [field]: text })]]) });
  }

  /** Forget everything, here and in the other tabs. */
  async wipe() {
    this.channel?.postMessage({ wiped: true });
    this.#forget();
    await this.store.database.wipe();
  }

  /** What the browser holds for somebody who was only here for a moment, such as the worker. */
  close() {
    this.channel?.close();
    this.store.database.close();
  }

  /** The browser was told to clear what it keeps of this site, and has; nobody but the server has any of it now. */
  #lose() {
    this.#forget();
    this.#tell({ wiped: true }, false);
  }

  #forget() {
    Object.assign(this, { outbox: [], mirror: new Map(), facts: {} });
  }

  #change(edit) {
    return this.locks.request(OUTBOX_LOCK, async () => {
      const rows = await this.store.all("outbox");
      const { outbox, ...more } = edit(rows.map(([, entry]) => entry));
      await this.#write({ outboxRows: difference(rows, outbox), ...more });
      this.outboxTurn += 1;
      this.outbox = outbox;
      this.#tell({ outbox: true });
    });
  }

  async #write({ outboxRows = [], mirror = new Map(), facts = {}, isDear = () => false }) {
    const changes = [
      ...outboxRows,
      ...[...mirror].map(([id, value]) => ["mirror", id, value]),
      ...Object.entries(facts).map(([name, value]) => ["facts", name, value]),
    ];
    if (!changes.length) return;
    await this.store.write(changes, () => this.#spare(isDear));
    for (const [id, value] of mirror) value === undefined ? this.mirror.delete(id) : this.mirror.set(id, value);
    Object.assign(this.facts, facts);
    this.#tell({ mirror: [...mirror.keys()], facts: Object.keys(facts) });
  }

  #spare(isDear) {
    const ids = spare(new Map([...this.mirror].filter(([id]) => !isDear(id))));
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

  /** What was read while something newer came is too old to be shown. */
  async #readOutbox() {
    const turn = (this.outboxTurn += 1);
    const rows = await this.store.all("outbox");
    if (turn === this.outboxTurn) this.outbox = rows.map(([, entry]) => entry);
  }

  async #readMirror() {
    this.mirror = new Map(await this.store.all("mirror"));
  }

  async #readPrompt(id) {
    const before = this.mirror.get(id);
    const prompt = await this.store.read("mirror", id);
    const now = this.mirror.get(id);
    if (now !== before) return this.#readPrompt(id); // a piece came, or a newer change
    prompt ? this.mirror.set(id, merge(now, prompt)) : this.mirror.delete(id);
  }

  async #readFacts(names) {
    await Promise.all(names.map(async (name) => (this.facts[name] = await this.store.read("facts", name))));
  }
}

/** {outbox, mirror, facts} after a push: what is to be written of its results. */
function settled(outbox, results, known, refusals) {
  const byId = new Map(outbox.map((entry) => [entry.id, entry]));
  const mirror = new Map();
  const refused = [];
  for (const result of results) {
    const entry = byId.get(result.id);
    if (!entry) continue;
    const old = mirror.has(entry.prompt) ? mirror.get(entry.prompt) : known.get(entry.prompt);
    mirror.set(entry.prompt, afterPush(old, entry, result));
    if (result.status === "refused" && entry.kind !== "submit") refused.push(refusalOf(entry, result));
  }
  const facts = refused.length ? { refusals: [...refusals, ...refused] } : {};
  return { outbox: settle(outbox, results), mirror, facts };
}

const refusalOf = ({ kind, prompt, fields }, { error }) => ({ kind, prompt, fields, message: error?.message ?? "" });

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
