import "./setup.mjs";

import assert from "node:assert/strict";
import test from "node:test";

import { agree, CannotOpen, fromText, open, seal, toText } from "../../static/mobile/seal.js";

const newKey = () => crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
const HEADER = { kid: "device", seq: 7, use: "push" };

test("it opens what it sealed, header and all, whatever the characters", async () => {
  const key = await newKey();
  const value = { text: "Grüße 🦦 \u0000 " + "x".repeat(200_000) };
  const { header, value: opened } = await open(key, await seal(key, HEADER, value));
  assert.deepEqual(opened, value);
  assert.deepEqual(header, { alg: "dir", enc: "A256GCM", ...HEADER });
});

test("it refuses another key, and every altered part", async () => {
  const key = await newKey();
  const sealed = await seal(key, HEADER, { text: "hello" });
  await assert.rejects(open(await newKey(), sealed), CannotOpen);
  const parts = sealed.split(".");
  const otherHeader = [
    toText(new TextEncoder().encode('{"alg":"dir","enc":"A256GCM","kid":"device","seq":8,"use":"push"}')),
    ...parts.slice(1),
  ];
  await assert.rejects(open(key, otherHeader.join(".")), CannotOpen);
  for (const at of [2, 3, 4]) {
    const bytes = fromText(parts[at]);
    bytes[0] ^= 1;
    await assert.rejects(
      open(key, parts.map((part, index) => (index === at ? toText(bytes) : part)).join(".")),
      CannotOpen,
    );
  }
  for (const none of ["", "a.b", "....", "{}", sealed + ".x"]) await assert.rejects(open(key, none), CannotOpen);
});

test("it never seals two bodies alike, and its key cannot be taken out", async () => {
  const key = await (await agree()).key((await agree()).point);
  assert.notEqual(await seal(key, HEADER, 1), await seal(key, HEADER, 1));
  await assert.rejects(crypto.subtle.exportKey("raw", key));
  assert.deepEqual(key.usages.sort(), ["decrypt", "encrypt"]);
});

test("it refuses a public key that is no point of the curve", async () => {
  const { key } = await agree();
  await assert.rejects(key(toText(new Uint8Array(64))), CannotOpen);
  await assert.rejects(key(toText(new Uint8Array(65).fill(4))));
});
