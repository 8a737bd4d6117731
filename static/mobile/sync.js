/** Push, then pull, until both sides have the same; one at a time over all tabs (docs/sync.md, push and pull). */

import { delay, wire } from "./outbox.js";
import { lengthOf } from "./mirror.js";
import { Refusal } from "./server.js";

const SYNC_LOCK = "lmrmq sync";
const MODELS_MS = 30_000; // how long the list of models counts as new

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
  /** `report({phase, error?, refused?})` with phase syncing, synced or failed. `later(call, ms)`: setTimeout, or null
      where nobody waits. */
  constructor(library, server, locks, report = () => {}, later = (call, ms) => setTimeout(call, ms)) {
    Object.assign(this, { library, server, locks, report, later, failures: 0, modelsAt: 0, most: Infinity });
  }

  /** Sync now; a call during a run makes one more. Returns whether it succeeded. */
  run() {
    this.isWanted = true;
    this.running ??= this.#work();
    return this.running;
  }

  async #work() {
    let isDone = true;
    while (this.isWanted && isDone) {
      this.isWanted = false;
      isDone = await this.#try();
    }
    this.running = null;
    return isDone;
  }

  async #try() {
    clearTimeout(this.timer);
    this.report({ phase: "syncing" });
    try {
      const refused = await this.locks.request(SYNC_LOCK, () => this.#once());
      this.failures = 0;
      this.report({ phase: "synced", refused });
      return true;
    } catch (error) {
      this.#failed(error);
      return false;
    }
  }

  #failed(error) {
    this.failures += 1;
    const wait = error.told?.retry_after ? error.told.retry_after * 1000 : delay(this.failures);
    if (this.later && !FINAL.has(error.code)) this.timer = this.later(() => this.run(), wait);
    this.report({ phase: "failed", error });
  }

  async #once() {
    if (!this.library.isPaired) return [];
    if (!this.library.fact("limits")) await this.ping();
    const refused = await this.#push();
    await this.#models();
    await this.#pull();
    await this.library.prune();
    await this.library.keep({ syncedAt: Date.now() });
    return refused;
  }

  async ping(milliseconds) {
    const told = await this.server.call("ping", { pending: this.library.waiting }, milliseconds);
    await this.library.keep({ limits: told.limits, pairing: { ...this.library.fact("pairing"), server: told.server } });
    return told;
  }

  /** Everything that waits, in its order. Returns the refused changes. */
  async #push() {
    const refused = [];
    for (;;) {
      const limits = this.library.fact("limits");
      const batch = await this.library.takePush({ ...limits, mutations: Math.min(limits.mutations, this.most) });
      if (!batch.length) return refused;
      const { results } = await this.#pushed(batch);
      if (!results.length) continue;
      refused.push(...(await this.library.settle(results)));
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
    let listed = null;
    let live = "";
    for (;;) {
      const answer = await this.server.call("pull", { cursor });
      if (answer.reset) [listed, live] = [new Set(), answer.live];
      await this.library.takeIn(answer, listed);
      cursor = answer.cursor;
      const isEnd = !answer.more || listed?.size >= this.library.fact("keep");
      if (isEnd && !listed) return;
      if (!isEnd) continue;
      cursor = live || cursor;
      await this.library.endListing(listed, cursor);
      listed = null;
    }
  }

  async #models() {
    if (Date.now() - this.modelsAt < MODELS_MS) return;
    const { models } = await this.server.call("models");
    this.modelsAt = Date.now();
    await this.library.keep({ models });
  }

  /** The prompt with the whole of one text, which a change cuts. Throws as a call does. */
  async whole(prompt, field) {
    let text = prompt[field] ?? "";
    let attempt = prompt.attempts;
    for (let isWhole = false; !isWhole;) {
      const told = await this.server.call("text", { prompt: prompt.id, field, attempt, offset: lengthOf(text) });
      const isSame = told.attempt === attempt;
      [text, attempt] = isSame ? [text + told.text, attempt] : ["", told.attempt];
      isWhole = isSame && (!told.text || lengthOf(text) >= told.length);
    }
    const longer = { ...prompt, [field]: text };
    await this.library.extend(longer, true);
    return longer;
  }
}
