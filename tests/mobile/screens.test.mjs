/** The screens, over a document that has no more than they use. */

import { paired } from "./device.mjs";
import { blankScreen, shown } from "./screen.mjs";
import { Locks, Memory, until } from "./setup.mjs";

import assert from "node:assert/strict";
import test, { afterEach, beforeEach } from "node:test";

import { ComposeView } from "../../static/mobile/compose.js";
import { Latest } from "../../static/mobile/draft.js";
import { Library } from "../../static/mobile/library.js";
import { pairView, workerState } from "../../static/mobile/pair.js";
import { PromptView } from "../../static/mobile/prompt.js";
import { settingsView } from "../../static/mobile/settings.js";
import { statusWords } from "../../static/mobile/status.js";
import { Store } from "../../static/mobile/store.js";

const navigator = (more) =>
  Object.defineProperty(globalThis, "navigator", {
    value: { onLine: true, userAgent: "Android Mobile", ...more },
    configurable: true,
  });

let channels = [];
afterEach(() => channels.splice(0).forEach((channel) => channel.close()));
beforeEach(() => {
  blankScreen();
  navigator({});
  globalThis.matchMedia = () => ({ matches: false });
});

/** As the app has it, without a window. */
function appOf(library, more = {}) {
  const told = [];
  const enqueue = (...how) => library.enqueue(...how);
  return {
    library,
    told,
    connection: { watch() {} },
    enqueue,
    submit: async (fields, facts) => {
      await enqueue("submit", "new", fields, facts);
      return "new";
    },
    attempt: (work) => Promise.resolve(work()).catch((error) => told.push(error.message) && null),
    replace: () => {},
    done: () => {},
    ...more,
  };
}
const opened = async (database = new Memory(), channel = null) =>
  new Library(await Store.open(database), new Locks(), channel).load();
const idle = () => new Promise((resolve) => setTimeout(resolve, 10));
const sending = (more) => ({
  id: "p",
  model: "otter",
  text: "t",
  state: "sending",
  attempts: 1,
  enqueued_at: "2026-01-01T00:00:00Z",
  lengths: {},
  ...more,
});
const typed = (view, frame, text) => {
  view.inputs.text.value = text;
  return frame.querySelector("form").fire("input");
};

test("what is typed is kept at once; while that is under way, only the newest follows", async () => {
  const kept = [];
  const latest = new Latest(async (value) => {
    kept.push(value);
    await idle();
  });
  latest.put(1);
  latest.put(2);
  await latest.put(3);
  assert.deepEqual(kept, [1, 3]);
  await latest.put(4);
  assert.deepEqual(kept, [1, 3, 4]);
});

test("a form that is closed while one types comes back with the text: new, follow-up and edit", async () => {
  for (const how of [{}, { follows: "p" }, { edits: "p" }]) {
    const database = new Memory();
    const library = await opened(database);
    await library.takeIn({ changes: [sending({ state: how.edits ? "queued" : "done" })], cursor: "e.1" }, null);
    const view = new ComposeView(appOf(library), how);
    typed(view, shown(view), "dear words");
    // and no more: the page is gone
    await until(async () => new ComposeView(appOf(await opened(database)), how).inputs.text.value === "dear words");
  }
});

test("whenever the page goes while a prompt is queued, it is a draft or in the outbox", async () => {
  const database = new Memory();
  const library = await opened(database);
  const view = new ComposeView(appOf(library), {});
  const frame = shown(view);
  view.inputs.model.value = "otter";
  const write = database.write.bind(database);
  const states = [];
  database.write = async (changes) => {
    await write(changes);
    const { facts, outbox } = await opened({ ...database, write, __proto__: Memory.prototype });
    states.push([facts.draft?.text ?? "", outbox.length]);
  };
  typed(view, frame, "dear words");
  await frame.querySelector("form").fire("submit");
  assert.deepEqual(states, [["dear words", 0], ["", 1]]);
});

test("what another tab has queued is no draft here, but what is typed here stays", async () => {
  const [database, name] = [new Memory(), `test ${Math.random()}`];
  channels = [new BroadcastChannel(name), new BroadcastChannel(name)];
  const [one, other] = await Promise.all(channels.map((channel) => opened(database, channel)));
  await one.keep({ draft: { model: "otter", text: "dear words" } });
  await until(() => other.fact("draft"));
  const [untouched, touched] = [new ComposeView(appOf(other), {}), new ComposeView(appOf(other), {})];
  [untouched, touched].forEach((view) => other.listeners.add(() => view.update()));
  shown(untouched);
  touched.inputs.text.value = "dear words, and more";
  touched.isTouched = true;
  assert.equal(untouched.inputs.text.value, "dear words");
  await one.enqueue("submit", "p", { model: "otter", text: "dear words" }, { draft: { model: "otter" } });
  await until(() => !untouched.inputs.text.value);
  assert.equal(untouched.inputs.model.value, "otter");
  assert.equal(touched.inputs.text.value, "dear words, and more");
});

test("a deletion says what it does in each case", async () => {
  const { library, server, sync } = await paired();
  const asks = async (id) => {
    const view = new PromptView(appOf(library), id);
    const button = shown(view).all("button").find((one) => one.textContent === "Delete");
    const done = button.fire("click");
    await until(() => document.querySelector("dialog"));
    const words = document.querySelector("dialog").querySelector("p").textContent;
    document.querySelector("dialog").fire("close");
    document.body.replaceChildren();
    await done;
    return words;
  };
  await library.enqueue("submit", "p", { model: "otter", text: "t" });
  assert.equal(await asks("p"), "It has not been sent yet.");
  await library.takePush({ mutations: 9, body_bytes: 9999 });
  assert.match(await asks("p"), /has not answered yet. If it arrived, it is deleted there too/);
  await sync.run();
  assert.match(await asks("p"), /here and on the server/);
  server.restore([]);
  library.mirror.set("p", { ...library.mirror.get("p"), state: "done", isOnlyHere: true });
  assert.match(await asks("p"), /only on this phone/);
});

test("what a restored server lost can be sent again, by the person", async () => {
  const { library, server, sync } = await paired();
  server.change({ ...server.blank("p"), model: "otter", text: "dear words" });
  await sync.run();
  server.restore([]);
  await sync.run();
  const app = appOf(library, { sendAgain: (id) => library.sendAgain(id) });
  const frame = shown(new PromptView(app, "p"));
  assert.match(frame.textContent, /put back to an earlier state/);
  assert.doesNotMatch(frame.textContent, /did not accept/);
  await frame.named("Send it again").fire("click");
  await sync.run();
  assert.equal(server.prompts.get("p").text, "dear words");
});

test("what a node said of a failure stands there as text, also without an explanation", async () => {
  const library = await opened();
  const detail = "<img src=x onerror=alert(1)>\nCUDA out of memory";
  for (const explanation of ["The node failed.", ""]) {
    library.mirror.set("p", sending({ state: "failed", explanation, detail, lengths: { detail: 100 } }));
    const frame = shown(new PromptView(appOf(library), "p"));
    assert.ok(frame.all("p").some((one) => one.textContent === detail));
    assert.equal(frame.all("img").length, 0);
    assert.ok(frame.textContent.indexOf(explanation) <= frame.textContent.indexOf(detail));
    assert.ok(frame.all("button").some((one) => /^Get the other/.test(one.textContent)));
  }
});

test("while nothing has come yet it says what is done there", async () => {
  const library = await opened();
  library.mirror.set("p", sending());
  const app = appOf(library);
  const view = new PromptView(app, "p");
  const frame = shown(view);
  const [words, meter] = ["#waits", "progress"].map((name) => frame.querySelector(name));
  assert.deepEqual([words.textContent, meter.hidden], ["Nothing has come yet.", true]);
  const progress = (phase, fraction, prompt = "p") => {
    app.connection.progress = { prompt, phase, fraction };
    view.update();
    return [words.textContent, meter.hidden, meter.attributes.get("value")];
  };
  assert.deepEqual(progress("load", 0.25), ["The model is being loaded.", false, 0.25]);
  assert.deepEqual(progress("prompt", null), ["The prompt is being read.", false, undefined]);
  assert.deepEqual(progress("else", "x"), ["Nothing has come yet.", true, undefined]);
  assert.deepEqual(progress("load", 1, "another"), ["Nothing has come yet.", true, undefined]);
  progress("load", 1);
  library.mirror.set("p", sending({ answer: "A" }));
  view.update();
  assert.ok(frame.querySelector("[data-waits]").hidden);
});

test("where nothing executes prompts, that is said", async () => {
  const { library, server, sync } = await paired();
  server.isWorking = false;
  server.change({ ...server.blank("p"), model: "otter", text: "t" });
  await sync.run();
  const view = new PromptView(appOf(library), "p");
  const frame = shown(view);
  assert.match(frame.textContent, /Nothing executes prompts on the server at the moment/);
  const connection = { socket: { isOpen: true } };
  assert.equal(statusWords(library, connection, true).words, "Online · nothing executes there");
  server.isWorking = true;
  await sync.ping();
  view.update();
  assert.doesNotMatch(frame.textContent, /Nothing executes/);
  assert.equal(statusWords(library, connection, true).words, "Online");
});

test("the line at the top counts prompts", async () => {
  const { library } = await paired();
  for (const id of ["p", "q"]) await library.enqueue("submit", id, { model: "otter", text: "t" });
  await library.takePush({ mutations: 9, body_bytes: 9999 });
  await library.enqueue("cancel", "p");
  assert.equal(statusWords(library, { socket: {} }, false).words, "Offline · 2 wait here");
  assert.match(shown(settingsView(appOf(library))).textContent, /Waiting here2/);
  assert.match(shown(pairView(appOf(library))).textContent, /2 wait here for the account/);
});

test("another server is said to be one, with a way to pair", async () => {
  const { library } = await paired();
  const words = statusWords(library, { isOther: true, trouble: "Another server.", socket: {} }, true);
  assert.deepEqual([words.words, words.tone], ["Another server. ", "danger"]);
});

test("where the certificate is not trusted, settings and pairing say so and lead to it", async () => {
  const { library } = await paired();
  const failing = (name) => ({ register: async () => Promise.reject(new DOMException("no", name)) });
  assert.equal(await workerState(failing("SecurityError")), "untrusted");
  assert.equal(await workerState(failing("TypeError")), "no");
  assert.equal(await workerState({ register: () => new Promise(() => {}) }, 5), "no");
  assert.equal(await workerState(undefined), "none");
  assert.equal(await workerState({ register: async () => {} }), "yes");
  const app = appOf(library, { offline: "untrusted" });
  for (const view of [settingsView(app), pairView(app)]) {
    const frame = shown(view);
    assert.match(frame.textContent, /Works offline:? ?no, this phone does not trust the server’s certificate yet/);
    assert.equal(frame.named("Trust this server").attributes.get("href"), "/ca/");
  }
  app.offline = "yes";
  assert.equal(shown(pairView(app)).named("Trust this server"), undefined);
});

test("it is called what the server calls it, also when it is paired again", async () => {
  const { library, server, sync } = await paired();
  server.deviceName = "Anna's phone";
  await sync.run();
  assert.match(shown(settingsView(appOf(library))).textContent, /This deviceAnna's phone/);
  assert.equal(shown(pairView(appOf(library))).querySelector("#name").value, "Anna's phone");
});
