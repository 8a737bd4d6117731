/** A server by docs/sync.md, as small as can be: sealed calls, receipts, a log; and switches for what can go wrong. */

import { createECDH, createHash, hkdfSync } from "node:crypto";

import { open, seal } from "../../static/mobile/seal.js";

const DEVICE = "6f1c8f8e-0000-4000-8000-000000000001";

export class ScriptedServer {
  prompts = new Map();
  receipts = new Map();
  log = [];
  pushes = [];
  pulls = 0;
  seen = 0;
  limits = { body_bytes: 100_000, mutations: 20, text_characters: 10, watched: 20 };
  id = "s";
  deviceName = "Phone";
  isWorking = true;
  isDown = false;
  losesAnswers = 0;
  page = 200;

  fetch = async (address, { body, headers }) => {
    if (this.isDown) throw new TypeError("Failed to fetch");
    const call = address.split("/").at(-1);
    if (call === "pair") return reply(200, JSON.stringify(await this.pair(JSON.parse(body))), "application/json");
    if (headers.Authorization !== "Bearer dpd_secret")
      return reply(401, JSON.stringify({ error: { code: "unknown_token", message: "?" } }), "application/json");
    const { header, value } = await open(this.key, body);
    if (header.use !== call || header.kid !== DEVICE) throw new Error("sealed for another call");
    const [status, told] = this.answer(header.seq, call, value);
    const answer = this.alter?.(call) ?? { kid: DEVICE, re: header.seq, status };
    if (this.losesAnswers-- > 0) throw new TypeError("Failed to fetch");
    return reply(status, await seal(this.key, answer, told), "application/jose");
  };

  /** The server's side of the agreement, by Node's own functions. */
  async pair({ public_key }) {
    const [ours, theirs] = [createECDH("prime256v1"), Buffer.from(public_key, "base64url")];
    const point = ours.generateKeys();
    const salt = createHash("sha256").update(theirs).update(point).digest();
    const raw = hkdfSync("sha256", ours.computeSecret(theirs), salt, "daemonpulse sync 1", 32);
    this.key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt", "decrypt"]);
    const box = await seal(this.key, { kid: DEVICE, re: 0, status: 200 }, { token: "dpd_secret" });
    const server = { id: this.id, name: "box", version: "1", protocol: 1 };
    return { device: DEVICE, name: "Phone", sealed: true, public_key: point.toString("base64url"), box, server };
  }

  answer(seq, call, body) {
    if (seq <= this.seen) return [409, { error: { code: "replayed", message: "again", seen: this.seen } }];
    this.seen = seq;
    if (call === "push" && body.mutations.length > this.limits.mutations)
      return [422, { error: { code: "invalid", message: "too many" } }];
    return [200, this[call](body)];
  }

  ping = () => ({
    server: { id: this.id, name: "box", version: "1" },
    device: { name: this.deviceName },
    is_working: this.isWorking,
    limits: this.limits,
    cursor: this.cursor,
  });
  models = () => ({ models: [{ key: "otter", name: "Otter", is_usable: true }] });

  push({ mutations }) {
    this.pushes.push(mutations);
    const results = mutations.map((mutation) => {
      if (!this.receipts.has(mutation.id)) this.receipts.set(mutation.id, this.apply(mutation));
      return { id: mutation.id, ...this.receipts.get(mutation.id) };
    });
    return { results, cursor: this.cursor };
  }

  apply({ kind, prompt, fields }) {
    if (kind === "submit" && fields.model !== "otter")
      return { status: "refused", error: { code: "invalid", message: "No such model." } };
    if (kind === "delete") this.remove(prompt);
    else if (kind === "submit") this.change({ ...this.blank(prompt), ...fields });
    else if (!this.prompts.has(prompt))
      return { status: "refused", error: { code: "not_found", message: "Not there." } };
    else this.change({ ...this.prompts.get(prompt), ...(kind === "cancel" ? { state: "cancelled" } : fields) });
    return { status: "applied", state: this.prompts.get(prompt)?.state };
  }

  blank(id) {
    return {
      id,
      state: "queued",
      attempts: 0,
      priority: "normal",
      system_prompt: "",
      settings: {},
      answer: "",
      reasoning: "",
      lengths: {},
      stats: {},
      enqueued_at: new Date(Date.UTC(2026, 0, 1) + this.log.length * 1000).toISOString(),
    };
  }

  change(prompt) {
    this.prompts.set(prompt.id, prompt);
    this.log.push(prompt.id);
  }

  remove(id) {
    this.prompts.delete(id);
    this.log.push(id);
  }

  /** As it was when it had these prompts only: without their receipts, and with a shorter log. */
  restore(prompts) {
    this.prompts = new Map(prompts.map((prompt) => [prompt.id, prompt]));
    this.receipts.clear();
    this.log = prompts.map(({ id }) => id);
  }

  get cursor() {
    return `e.${this.log.length}`;
  }

  pull({ cursor }) {
    this.pulls += 1;
    const [kind, number] = cursor.split(".");
    const isAhead = kind === "e" && Number(number) > this.log.length;
    if (kind === "e" && !isAhead) {
      const end = Math.min(Number(number) + this.page, this.log.length);
      const ids = [...new Set(this.log.slice(Number(number), end))];
      return {
        changes: ids.flatMap((id) => this.prompts.get(id) ?? []),
        removed: ids.filter((id) => !this.prompts.has(id)),
        cursor: `e.${end}`,
        more: end < this.log.length,
        reset: false,
      };
    }
    const at = isAhead ? 0 : Number(number ?? 0);
    const all = [...this.prompts.values()].reverse();
    const more = at + this.page < all.length;
    return {
      changes: all.slice(at, at + this.page),
      removed: [],
      cursor: more ? `l.${at + this.page}` : this.cursor,
      live: this.cursor,
      more,
      reset: at === 0,
      ...(isAhead ? { rewound: true } : {}),
    };
  }

  text({ prompt, field, offset }) {
    this.reads = (this.reads ?? 0) + 1;
    const whole = [...this.whole[prompt][field]];
    return {
      text: whole.slice(offset, offset + this.limits.text_characters).join(""),
      offset,
      length: whole.length,
      attempt: this.prompts.get(prompt).attempts,
    };
  }
}

function reply(status, text, type) {
  return new Response(text, { status, headers: { "Content-Type": type } });
}
