/** The calls of docs/sync.md: sealed and opened here, errors told apart. */

import { agree, CannotOpen, open, seal } from "./seal.js";

const APP = "lmrmq/1";
const CALL_MS = 20_000;
const SLOWEST = 8; // bytes in a millisecond: a body gets as long as it takes at that
const MAX_REPLAYS = 2;

/** The server answered with an error: status, code, its sentence as the message, and what else it told. */
export class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered with status ${status}.`);
    Object.assign(this, { status, code: error?.code ?? "", told: error ?? {} });
  }
}

/** No answer, or none that is this server's: it is away, the way to it is, or something stands in between. */
export class Unreachable extends Error {}

export class Server {
  /** `library` has the pairing; `origin` is "https://host:port". */
  constructor(library, origin, fetch_ = (...how) => fetch(...how)) {
    Object.assign(this, { library, origin, fetch: fetch_ });
  }

  /** One call's answer. Throws Refusal or Unreachable. */
  async call(name, body = {}, milliseconds = CALL_MS) {
    const pairing = this.library.fact("pairing");
    if (!pairing) throw new Unreachable("This device is not paired.");
    if (!pairing.sealed) return this.#plain(name, body, milliseconds, pairing.token);
    let floor = 0;
    for (let replays = 0; ; replays++) {
      try {
        return await this.#sealed(name, body, milliseconds, pairing, floor);
      } catch (error) {
        if (error.code !== "replayed" || replays === MAX_REPLAYS) throw error;
        floor = error.told.seen;
      }
    }
  }

  /** Pair sealed by the one-time code; what to keep is in the library when this returns. */
  async pair(code, name, kind) {
    const agreement = await agree();
    const told = await this.#plain("pair", { code, name, kind, app: APP, public_key: agreement.point }, CALL_MS);
    const key = await agreement.key(told.public_key);
    const { header, value } = await open(key, told.box);
    if (header.kid !== told.device || header.re !== 0) throw new CannotOpen("the token is not for this device");
    const { device, sealed, server } = told;
    await this.library.store.keepSealingKey(key);
    const pairing = { device, name: told.name, sealed, token: value.token, server };
    // The same server, and it had forgotten us: it was put back to a state from before the pairing.
    const isForgotten = this.library.fact("isForgotten") && this.library.fact("pairing")?.server?.id === server.id;
    const fresh = { cursor: "", limits: undefined, isForgotten: undefined };
    await this.library.keep({ ...fresh, pairing, ...(isForgotten ? { isRewound: true } : {}) });
  }

  async #plain(name, body, milliseconds, token) {
    const response = await this.#post(name, JSON.stringify(body), "application/json", milliseconds, token);
    const told = await json(response);
    if (!response.ok) throw new Refusal(response.status, told.error);
    return told;
  }

  async #sealed(name, body, milliseconds, pairing, floor) {
    const key = await this.library.store.sealingKey();
    const seq = await this.library.store.nextNumber("seq", floor);
    const sealed = await seal(key, { kid: pairing.device, seq, use: name }, body);
    const response = await this.#post(name, sealed, "application/jose", milliseconds, pairing.token);
    if (!response.headers.get("Content-Type")?.startsWith("application/jose")) {
      if (response.ok) throw new Unreachable("The answer was not sealed, so it is not our server's.");
      throw new Refusal(response.status, (await json(response)).error);
    }
    const { header, value } = await open(key, await whole(response));
    if (header.kid !== pairing.device || header.re !== seq || header.status !== response.status) {
      throw new Unreachable("The answer belongs to another question.");
    }
    if (!response.ok) throw new Refusal(response.status, value.error);
    return value;
  }

  async #post(name, body, type, milliseconds, token) {
    const headers = { "Content-Type": type, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const how = { method: "POST", body, headers, credentials: "omit", cache: "no-store", redirect: "error" };
    try {
      const signal = AbortSignal.timeout(milliseconds + Math.ceil(body.length / SLOWEST));
      return await this.fetch(`${this.origin}/api/sync/v1/${name}`, { ...how, signal });
    } catch (error) {
      throw new Unreachable("The server cannot be reached.", { cause: error });
    }
  }
}

async function whole(response) {
  try {
    return await response.text();
  } catch (error) {
    throw new Unreachable("The answer broke off.", { cause: error });
  }
}

/** The body as JSON; an error page of a proxy has none. */
async function json(response) {
  const text = await whole(response);
  try {
    return JSON.parse(text);
  } catch (error) {
    if (response.ok) throw new Unreachable("The answer is not our server's.", { cause: error });
    return {};
  }
}
