/** The way to the server: when to sync, whether somebody is there, and what comes over the socket. */

import { withPiece } from "./mirror.js";
import { CannotOpen } from "./seal.js";
import { Server } from "./server.js";
import { Socket } from "./socket.js";
import { StorageFull } from "./store.js";
import { Sync } from "./sync.js";

const ASK_MS = 2500; // with 5 s between pings and 2 s of doubt, a server that is gone is known to be within 10 s
const LEAVE_MS = 5000;
const LOOK_MS = 10_000; // whether something executes there is told by a ping only
const SHOWN_SYNCING_MS = 400; // what is quicker is not worth a word

/** What went wrong, in words for people. */
export function explain(error) {
  if (error instanceof CannotOpen)
    return "The answer was sealed for somebody else, or altered. Pair this device again.";
  if (error instanceof StorageFull) return "This device is full. Free some room, or keep fewer prompts under Settings.";
  return error.message || "Something went wrong. Try again.";
}

/** `on` has changed(), paired() and progressed(). The fields isOut, isOther, goneSince, trouble and isSyncing say how
    things stand; `progress` is the last such frame, of a prompt of which nothing has come yet. */
export class Connection {
  constructor(library, on) {
    Object.assign(this, { library, on, isOut: false, goneSince: null, trouble: null, isSyncing: false });
    this.server = new Server(library, location.origin);
    this.sync = new Sync(library, this.server, navigator.locks, (report) => this.#reported(report));
    const address = `${location.origin.replace(/^http/, "ws")}/ws/sync/v1/`;
    this.socket = new Socket(library, address, this.#handlers(), this.#isLookedAt);
    this.token = library.fact("pairing")?.token;
    this.looking = setInterval(() => this.socket.isOpen && this.#isLookedAt() && this.#ask(), LOOK_MS);
    library.listeners.add(() => this.#checkPairing());
  }

  #isLookedAt = () => document.visibilityState === "visible";

  /** There may be a way again: use it now. */
  wake() {
    this.sync.forgetServer();
    if (!this.library.isPaired || this.isOut) return this.on.changed();
    this.socket.connect();
    this.socket.ping();
    this.sync.wake();
  }

  /** Was it paired anew, here or in another tab? */
  #checkPairing() {
    const token = this.library.fact("pairing")?.token;
    if (!token || token === this.token) return;
    Object.assign(this, { token, isOut: false, isOther: false, trouble: null });
    this.socket.close();
    this.wake();
    this.on.paired();
  }

  /** Nothing goes to the server any more, nor comes. */
  stop() {
    clearInterval(this.looking);
    this.socket.close();
    this.sync.stop();
  }

  /** Something new waits to be sent. */
  async send() {
    this.sync.run();
    const worker = await navigator.serviceWorker?.getRegistration("/m/");
    await worker?.sync?.register("outbox").catch(() => {}); // declined: we send when we are open
  }

  offline() {
    this.socket.close();
    this.on.changed();
  }

  watch(prompts) {
    this.socket.watch(prompts);
  }

  /** Tell the server that we go, if there is a way. Returns whether it knows. */
  leave() {
    this.stop();
    return this.server.call("leave", {}, LEAVE_MS).then(
      () => true,
      () => false,
    );
  }

  #handlers() {
    const isNews = (cursor) => cursor !== this.library.fact("cursor");
    return {
      opened: ({ cursor, server, is_working: isWorking }) => {
        this.progress = null;
        if (server && !this.sync.isOurs(server)) this.sync.forgetServer();
        else if (isWorking !== undefined && isWorking !== this.library.fact("isWorking"))
          this.library.keep({ isWorking }).catch(() => {}); // there is no room; the next one tells it again
        this.#reached();
        if (isNews(cursor) || this.library.waiting) this.sync.run();
      },
      lost: (isFinal) => {
        this.sync.forgetServer();
        isFinal ? this.sync.run() : this.#ask();
      },
      doubt: () => this.#ask(),
      poke: (cursor) => isNews(cursor) && this.sync.run(),
      piece: (frame) => this.#piece(frame),
      progress: (frame) => {
        this.progress = frame;
        this.on.progressed?.();
      },
      restart: (id) => this.#restarted(id),
    };
  }

  /** The socket is silent or lost: is the server gone, or only the socket? Where no socket gets through, this is how
      we hear of news. A refusal is an answer; a sync says what it means. */
  async #ask() {
    if (!this.sync.isOnline()) return this.on.changed();
    try {
      const { cursor } = await this.sync.ping(ASK_MS);
      this.#reached();
      if (cursor !== this.library.fact("cursor") || this.library.waiting) this.sync.run();
    } catch (error) {
      if (error.status < 500) return void this.sync.run();
      this.goneSince ??= new Date();
      this.socket.drop();
      this.on.changed();
    }
  }

  #reached() {
    this.goneSince = null;
    this.on.changed();
  }

  #piece(frame) {
    const prompt = this.library.mirror.get(frame.prompt);
    const longer = withPiece(prompt, frame);
    if (longer === null) this.#catchUp(prompt, frame);
    else if (longer !== prompt) this.library.extend(longer);
  }

  /** Pieces before this one are missing. A pull has them only when the prompt changes. */
  #catchUp(prompt, { attempt, kind }) {
    if (prompt?.attempts === attempt) this.sync.catchUp(prompt, kind).catch(() => {}); // the next piece asks again
    else this.sync.run();
  }

  #restarted(id) {
    const prompt = this.library.mirror.get(id);
    if (prompt) this.library.extend({ ...prompt, answer: "", reasoning: "" });
    this.sync.run();
  }

  #reported({ phase, error }) {
    clearTimeout(this.syncingTimer);
    this.isSyncing = false;
    if (phase === "syncing") this.syncingTimer = setTimeout(() => this.#stillSyncing(), SHOWN_SYNCING_MS);
    if (phase === "synced") Object.assign(this, { goneSince: null, trouble: null, isOther: false });
    if (phase === "failed") this.#failed(error);
    this.on.changed();
  }

  #stillSyncing() {
    this.isSyncing = true;
    this.on.changed();
  }

  #failed(error) {
    if (error.status === 401) {
      this.isOut = true;
      this.socket.close();
    }
    this.isOther = error.code === "other_server";
    const isOurs = error instanceof CannotOpen || error instanceof StorageFull;
    if (!isOurs && (!error.status || error.status >= 500)) this.goneSince ??= new Date();
    else this.trouble = explain(error);
  }
}
