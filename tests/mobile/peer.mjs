/** The app's side of the seal, for tests/queue/test_mobile_js.py to try Python's on: a JSON line in, one out.

    {point} → {point}: agree on a key. {seal: [header, value]} → {sealed}. {open: sealed} → {header, value}. */

import "./setup.mjs";

import { createInterface } from "node:readline";

import { agree, open, seal } from "../../static/mobile/seal.js";

const agreement = await agree();
let key;

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (asked.point) key = await agreement.key(asked.point);
  const told = asked.point
    ? { point: agreement.point }
    : asked.seal
      ? { sealed: await seal(key, ...asked.seal) }
      : await open(key, asked.open);
  console.log(JSON.stringify(told));
}
