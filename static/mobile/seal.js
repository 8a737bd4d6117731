/** Bodies that only this device and its server can read: compact JWE, `dir` with `A256GCM` (docs/sync.md, Sealing). */

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
const PURPOSE = encoder.encode("daemonpulse sync 1");
const POINT_BYTES = 65; // an uncompressed point of P-256
const IV_BYTES = 12;
const TAG_BYTES = 16;

/** It was sealed with another key, altered on its way, or never sealed at all. */
export class CannotOpen extends Error {}

/** base64url without padding. Long texts are taken in slices: a call has a limit on its arguments. */
export function toText(bytes) {
  let raw = "";
  for (let at = 0; at < bytes.length; at += 8192) raw += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(raw).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

export function fromText(text) {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));
}

function join(...parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** One JSON value, sealed; everybody can read the header, nobody can alter it. */
export async function seal(key, header, value) {
  const head = toText(encoder.encode(JSON.stringify({ alg: "dir", enc: "A256GCM", ...header })));
  const iv = crypto.getRandomValues(new Uint8Array(IV_BYTES));
  const how = { name: "AES-GCM", iv, additionalData: encoder.encode(head) };
  const out = new Uint8Array(await crypto.subtle.encrypt(how, key, encoder.encode(JSON.stringify(value))));
  return [head, "", toText(iv), toText(out.subarray(0, -TAG_BYTES)), toText(out.subarray(-TAG_BYTES))].join(".");
}

/** {header, value}. Throws CannotOpen. */
export async function open(key, sealed) {
  try {
    const [head, none, iv, body, tag, ...rest] = sealed.trim().split(".");
    const header = JSON.parse(decoder.decode(fromText(head)));
    if (none !== "" || rest.length || header.alg !== "dir" || header.enc !== "A256GCM") throw new Error("another form");
    const how = { name: "AES-GCM", iv: fromText(iv), additionalData: encoder.encode(head) };
    const plain = await crypto.subtle.decrypt(how, key, join(fromText(body), fromText(tag)));
    return { header, value: JSON.parse(decoder.decode(plain)) };
  } catch (error) {
    throw new CannotOpen("sealed with another key, or altered", { cause: error });
  }
}

/** Our side of the agreement on a key: {point, key(theirPoint)}. Neither the pair nor the key can be exported. */
export async function agree() {
  const pair = await crypto.subtle.generateKey({ name: "ECDH", namedCurve: "P-256" }, false, ["deriveBits"]);
  const point = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  return { point: toText(point), key: (theirs) => derive(pair.privateKey, point, fromText(theirs)) };
}

async function derive(privateKey, ours, theirs) {
  if (theirs.length !== POINT_BYTES) throw new CannotOpen("the server's public key is no point of P-256");
  const publicKey = await crypto.subtle.importKey("raw", theirs, { name: "ECDH", namedCurve: "P-256" }, false, []);
  const shared = new Uint8Array(await crypto.subtle.deriveBits({ name: "ECDH", public: publicKey }, privateKey, 256));
  const material = await crypto.subtle.importKey("raw", shared, "HKDF", false, ["deriveKey"]);
  shared.fill(0);
  const salt = await crypto.subtle.digest("SHA-256", join(ours, theirs));
  const how = { name: "HKDF", hash: "SHA-256", salt, info: PURPOSE };
  return crypto.subtle.deriveKey(how, material, { name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
}
