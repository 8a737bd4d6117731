/** The socket of docs/sync.md: it says when to pull, and brings the output of prompts that are looked at. */

import { open, seal } from "./seal.js";

const LOOKED_AT_PING_MS = 5000;
const DOUBT_MS = 2000; // no pong for so long: somebody should ask by a call
const SILENCE_MS = 8000;
const FINAL = new Set([4400, 4401, 4403, 4426]);

/** Milliseconds until the next try: 0.5, 1, 2 … 30 s, shortened by up to half, so that a server that comes back does
    not get all of its devices at once. */
export function reconnectDelay(failures, random = Math.random) {
  return Math.min(500 * 2 ** failures, 30_000) * (1 - random() / 2);
}

export class Socket {
  /** `on` has opened(welcome), lost(isFinal, reason), doubt(), poke(cursor), piece(frame), progress(frame),
      restart(prompt). */
  constructor(library, url, on, isLookedAt = () => true) {
    Object.assign(this, { library, url, on, isLookedAt, failures: 0, watched: [], link: null, isOpen: false });
  }

  /** Open now, unless it is; forgets how long it was to wait. */
  connect() {
    clearTimeout(this.retry);
    if (!this.link && this.library.isPaired) this.#connect();
  }

  /** Closed on purpose: nothing is told of it, and nobody reconnects. */
  close() {
    clearTimeout(this.retry);
    this.#end()?.close();
  }

  /** The prompts whose output should come; kept over reconnects. */
  watch(prompts) {
    if (String(prompts) === String(this.watched)) return;
    this.watched = prompts;
    if (this.isOpen) this.#send({ type: "watch", prompts });
  }

  #connect() {
    const link = new WebSocket(this.url);
    Object.assign(this, { link, hello: 0, last: 0, turn: Promise.resolve() });
    link.onopen = () => {
      if (!this.library.isPaired) return link.close();
      const { token } = this.library.fact("pairing");
      const cursor = this.library.fact("cursor");
      this.#send({ type: "hello", token, ...(cursor ? { cursor } : {}), pending: this.library.waiting });
    };
    link.onmessage = ({ data }) =>
      (this.turn = this.turn.then(() => this.link === link && this.#take(data)).catch(() => link.close()));
    link.onclose = ({ code, reason }) => this.link === link && this.#lost(code, reason);
  }

  #end() {
    const { link } = this;
    [this.doubt, this.silence].forEach(clearTimeout);
    clearInterval(this.pings);
    Object.assign(this, { link: null, isOpen: false });
    return link;
  }

  #lost(code, reason) {
    this.#end();
    const isFinal = FINAL.has(code);
    if (!isFinal) this.retry = setTimeout(() => this.connect(), reconnectDelay(this.failures++));
    this.on.lost(isFinal, reason);
  }

  /** One frame after the other: their numbers must grow in the order in which they go. */
  #send(frame) {
    const { link } = this;
    const { device, sealed } = this.library.fact("pairing") ?? {};
    if (!device) return;
    this.sending = (this.sending ?? Promise.resolve())
      .then(async () => {
        let text = JSON.stringify(frame);
        if (sealed) {
          const seq = await this.library.store.nextNumber("seq");
          if (frame.type === "hello") this.hello = seq;
          text = await seal(await this.library.store.sealingKey(), { kid: device, seq, use: "socket" }, frame);
        }
        if (this.link === link && link.readyState === WebSocket.OPEN) link.send(text);
      })
      .catch(() => link?.close());
  }

  async #take(data) {
    const frame = await this.#opened(data);
    if (!frame) return;
    [this.doubt, this.silence].forEach(clearTimeout);
    if (frame.type === "welcome") this.#welcomed(frame);
    else if (frame.type === "ping") this.#send({ type: "pong" });
    else if (frame.type === "poke") this.on.poke(frame.cursor);
    else if (frame.type === "piece") this.on.piece(frame);
    else if (frame.type === "progress") this.on.progress(frame);
    else if (frame.type === "restart") this.on.restart(frame.prompt);
  }

  /** The frame, or null for one that is none of ours: it was here before, or nobody sealed it for us. */
  async #opened(data) {
    const { device, sealed } = this.library.fact("pairing");
    if (!sealed) return JSON.parse(data);
    if (data.startsWith("{")) return null; // an error from before we were admitted; the close says it again
    const { header, value } = await open(await this.library.store.sealingKey(), data);
    if (header.kid !== device || header.re !== this.hello || !(header.n > this.last)) return null;
    this.last = header.n;
    return value;
  }

  #welcomed(frame) {
    Object.assign(this, { failures: 0, isOpen: true });
    if (this.watched.length) this.#send({ type: "watch", prompts: this.watched });
    this.pings = setInterval(() => this.isLookedAt() && this.ping(), LOOKED_AT_PING_MS);
    this.on.opened(frame);
  }

  /** Is somebody there? Any frame that comes is an answer. */
  ping() {
    if (!this.isOpen) return;
    [this.doubt, this.silence].forEach(clearTimeout);
    this.#send({ type: "ping", pending: this.library.waiting });
    this.doubt = setTimeout(() => this.on.doubt(), DOUBT_MS);
    this.silence = setTimeout(() => this.drop(), SILENCE_MS);
  }

  /** Nobody is there, whatever the network stack believes. */
  drop() {
    const { link } = this;
    if (!link) return;
    link.onclose = null;
    link.close();
    this.#lost(1006, "");
  }
}
