/** Push, then pull, until both sides have the same; one at a time over all tabs (docs/sync.md, push and pull). */

import { delay, wire } from "./outbox.js";
import { lengthOf } from "./mirror.js";
import { Refusal } from "./server.js";
import { StorageFull } from "./store.js";

const SYNC_LOCK = "lmrmq sync";
const MODELS_MS = 30_000; // how long the list of models counts as new
const SURE_MS = 30_000; // how long after its last ping a server is believed to be there, and the same one
const PULL_MS = 60_000; // an answer of 1 MB over a slow line

const ANOTHER =
  "Another server answers at this address. What waits here was not sent to it. If that is your server now, pair again.";

/** Codes after which trying again by itself would not help. */
const FINAL = new Set([
  "no_token",
  "unknown_token",
  "expired",
  "revoked",
  "version",
  "unopened",
  "malformed",
  "sealed_only",
]);

export class Sync {
  /** `report({phase, error?})` with phase syncing, synced or failed. `later(call, ms)`: setTimeout, or null where
      nobody waits. */
  constructor(library, server, locks, report = () => {}, later = (call, ms) => setTimeout(call, ms)) {
    Object.assign(this, { library, server, locks, report, later, failures: 0, modelsAt: -Infinity, most: Infinity });
    this.reading = new Set();
    this.isOnline = () => globalThis.navigator?.onLine !== false;
    this.forgetServer();
  }

  /** Who knows whether it is there still, or another one: ask before anything is sent. What was never sent can still
      be changed (rule 3). */
  forgetServer() {
    this.sureUntil = -Infinity;
  }

  /** Sync now; a call during a run makes one more. Returns whether it succeeded. */
  run() {
    this.isWanted = true;
    this.running ??= this.#work();
    return this.running;
  }

  /** There may be a way again: also a try that is about to fail is not followed by a wait. */
  wake() {
    this.isAwake = Boolean(this.running);
    return this.run();
  }

  /** Nothing more by itself: the device signs out. */
  stop() {
    clearTimeout(this.timer);
    this.isStopped = true;
  }

  async #work() {
    let isDone = true;
    while (this.isWanted && (isDone || this.isAwake) && !this.isStopped) {
      this.isWanted = this.isAwake = false;
      isDone = await this.#try();
    }
    this.running = null;
    return isDone;
  }

  async #try() {
    clearTimeout(this.timer);
    if (!this.isOnline()) return false; // there will be a wake()
    this.report({ phase: "syncing" });
    try {
      await this.locks.request(SYNC_LOCK, () => this.#once());
      this.failures = 0;
      this.report({ phase: "synced" });
      return true;
    } catch (error) {
      this.#failed(error);
      return false;
    }
  }

  #failed(error) {
    if (this.isStopped) return;
    this.failures += 1;
    this.forgetServer();
    if (error.code === "unknown_token") this.library.keep({ isForgotten: true }).catch(() => {}); // it is full, or gone
    const wait = error.told?.retry_after ? error.told.retry_after * 1000 : delay(this.failures);
    if (this.later && !FINAL.has(error.code)) this.timer = this.later(() => this.run(), wait);
    this.report({ phase: "failed", error });
  }

  async #once() {
    if (!this.library.isPaired) return;
    if (!this.library.fact("limits") || performance.now() > this.sureUntil) await this.ping();
    await this.#push();
    await this.#models();
    await this.#pull();
    await this.library.prune();
    await this.library.keep({ syncedAt: Date.now() });
  }

  async ping(milliseconds) {
    const told = await this.server.call("ping", { pending: this.library.waiting }, milliseconds);
    const pairing = this.library.fact("pairing");
    if (!this.isOurs(told.server)) throw new Refusal(409, { code: "other_server", message: ANOTHER });
    this.sureUntil = performance.now() + SURE_MS;
    await this.#note({
      limits: told.limits,
      isWorking: told.is_working,
      isForgotten: undefined,
      pairing: { ...pairing, name: told.device?.name ?? pairing.name, server: told.server },
    });
    return told;
  }

  isOurs(server) {
    return this.library.fact("pairing")?.server?.id === server?.id;
  }

  /** Keep what is new of these facts. */
  #note(facts) {
    const isNews = ([name, value]) => JSON.stringify(value) !== JSON.stringify(this.library.fact(name));
    return this.library.keep(Object.fromEntries(Object.entries(facts).filter(isNews)));
  }

  /** Everything that waits, in its order. */
  async #push() {
    for (;;) {
      const limits = this.library.fact("limits");
      const batch = await this.library.takePush({ ...limits, mutations: Math.min(limits.mutations, this.most) });
      if (!batch.length) return;
      const { results } = await this.#pushed(batch);
      if (!results.length) continue;
      await this.library.settle(results);
      this.most = Infinity;
    }
  }

  /** A push that is too large, or of which something is malformed, is sent in parts; one alone is not accepted. */
  async #pushed(batch) {
    try {
      const told = await this.server.call("push", { mutations: batch.map(wire) });
      const isOfBatch = ({ id }) => batch.some((entry) => entry.id === id);
      if (!told.results?.some(isOfBatch)) throw new Refusal(500, { message: "The server gave no results." });
      return told;
    } catch (error) {
      if (![413, 422].includes(error.status)) throw error;
      this.most = Math.ceil(batch.length / 2);
      if (batch.length > 1) return { results: [] };
      return { results: [{ id: batch[0].id, status: "refused", error: { code: error.code, message: error.message } }] };
    }
  }

  async #pull() {
    let cursor = this.library.fact("cursor");
    let [listed, live, isRewound] = [null, "", false];
    for (;;) {
      const answer = await this.server.call("pull", { cursor }, PULL_MS);
      if (answer.reset) {
        [listed, live] = [new Set(), answer.live];
        isRewound = Boolean(answer.rewound || this.library.fact("isRewound"));
      }
      const isFull = await this.#takenIn(answer, listed);
      cursor = answer.cursor;
      const isEnd = isFull || !answer.more || listed?.size >= this.library.fact("keep");
      if (isEnd && !listed) return;
      if (!isEnd) continue;
      cursor = live || cursor;
      await this.library.endListing(listed, cursor, isRewound, !isFull && !answer.more);
      listed = null;
    }
  }

  /** Returns whether there is no more room for a listing: what follows is older, so it ends there. */
  async #takenIn(answer, listed) {
    try {
      await this.library.takeIn(answer, listed);
      return false;
    } catch (error) {
      if (!listed?.size || !(error instanceof StorageFull)) throw error;
      return true;
    }
  }

  async #models() {
    if (performance.now() - this.modelsAt < MODELS_MS) return;
    const { models } = await this.server.call("models");
    this.modelsAt = performance.now();
    await this.library.keep({ models });
  }

  /** The prompt with the whole of one text, which a change cuts. Throws as a call does. */
  async whole(prompt, field) {
    const [text, attempts] = await this.#read(prompt, field);
    await this.locks.request(SYNC_LOCK, () => this.library.keepText(prompt.id, attempts, field, text));
    return { ...prompt, [field]: text };
  }

  /** [text, attempts] from what we have of it on. */
  async #read(prompt, field) {
    let text = prompt[field] ?? "";
    let attempt = prompt.attempts;
    for (let isWhole = false; !isWhole;) {
      const told = await this.server.call("text", { prompt: prompt.id, field, attempt, offset: lengthOf(text) });
      const isSame = told.attempt === attempt;
      [text, attempt] = isSame ? [text + told.text, attempt] : ["", told.attempt];
      isWhole = isSame && (!told.text || lengthOf(text) >= told.length);
    }
    return [text, attempt];
  }

  /** A piece of the live output is missing: read on from what we have, once at a time. */
  async catchUp(prompt, field) {
    const reading = `${prompt.id} ${field}`;
    if (this.reading.has(reading)) return;
    this.reading.add(reading);
    try {
      const [text, attempts] = await this.#read(prompt, field);
      const now = this.library.mirror.get(prompt.id); // it may have moved on while we read
      if (now?.attempts === attempts) this.library.extend({ ...now, [field]: text });
    } finally {
      this.reading.delete(reading);
    }
  }
}
