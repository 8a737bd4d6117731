/** Getting in: the one-time code, and what stands in the way where it cannot work. */

import { explain } from "./connection.js";
import { h } from "./dom.js";
import { waits } from "./status.js";

const WORKER_MS = 10_000;

/** What this browser lacks, in words; empty when all is there. */
export function lacks(scope = globalThis) {
  if (!scope.isSecureContext || !scope.crypto?.subtle) return "secure";
  const needed = { indexedDB: scope.indexedDB, locks: scope.navigator?.locks, WebSocket: scope.WebSocket };
  return Object.entries(needed)
    .filter(([, it]) => !it)
    .map(([name]) => name)
    .join(", ");
}

const SECURE = [
  "A browser lets an app encrypt and work offline only over a secure connection: an https address with a certificate " +
    "that this device trusts.",
  "Let this device trust the server once, then open the app by its https address.",
];

export function lackingView(missing) {
  const other = [
    `This browser lacks ${missing}, which the app needs. A current Chrome, Firefox, Edge or Safari has it.`,
  ];
  const words = (missing === "secure" ? SECURE : other).map((text) => h("p", {}, text));
  const trust = missing === "secure" && h("a", { class: "btn btn-primary", href: "/ca/" }, "Trust this server");
  const plain = h("a", { class: "btn", href: "/" }, "Use the plain pages");
  const card = h("div", { class: "card" }, words, h("div", { class: "cluster" }, trust, plain));
  return { title: "Not here", node: [h("h1", { tabindex: "-1" }, "This needs one more step"), card] };
}

export function pairView(app, code) {
  const problem = h("div", { role: "alert" });
  const waiting = app.library.waitingPrompts;
  const trust = h("div", {});
  const field = h("input", {
    id: "code",
    autocomplete: "one-time-code",
    autocapitalize: "characters",
    spellcheck: "false",
    value: code ?? "",
    placeholder: "K7QM-2XPA",
    required: true,
  });
  const name = h("input", {
    id: "name",
    maxlength: "80",
    autocomplete: "off",
    value: app.library.fact("pairing")?.name ?? deviceName(navigator.userAgent),
    required: true,
  });
  const button = h("button", { class: "btn btn-primary" }, "Pair this device");
  const form = h(
    "form",
    { class: "card form", onsubmit: pair },
    h(
      "div",
      { class: "field" },
      h("label", { for: "code" }, "Code"),
      field,
      h(
        "p",
        { class: "hint" },
        "On a computer that is signed in: Settings → Your devices → Pair a device. It is good for five minutes, once.",
      ),
    ),
    h("div", { class: "field" }, h("label", { for: "name" }, "Name of this device"), name),
    waiting > 0 &&
      h(
        "p",
        { class: "notice" },
        `${waits(waiting)} for the account that gave the code.`,
      ),
    h("div", { class: "form-actions" }, button),
  );

  async function pair(event) {
    event.preventDefault();
    button.disabled = true;
    problem.replaceChildren();
    try {
      const kind = matchMedia("(pointer: coarse)").matches ? "phone" : "browser";
      await app.pair(field.value, name.value.trim() || "Phone", kind);
    } catch (error) {
      problem.replaceChildren(h("p", { class: "field-error" }, explain(error)));
      field.focus();
    } finally {
      button.disabled = false;
    }
  }

  function update() {
    const trouble = offlineTrouble(app.offline);
    if (trouble && !trust.firstElementChild)
      trust.append(h("p", { class: "notice notice-warning" }, h("span", {}, "Works offline: ", trouble)));
  }

  return {
    title: "Pair",
    update,
    isPairing: true,
    node: [
      h("h1", { tabindex: "-1" }, "Pair this device"),
      h(
        "p",
        { class: "muted" },
        "Then you can queue prompts from here, offline too. They are kept encrypted and go out by themselves.",
      ),
      trust,
      problem,
      form,
    ],
  };
}

/** Whether the service worker can be had, without which nothing works offline: "yes", "none" (a private window),
    "untrusted" (browsers load a page whose certificate somebody let pass, but no worker) or "no". */
export async function workerState(container, milliseconds = WORKER_MS) {
  if (!container) return "none";
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, milliseconds, "no")));
  const isUntrusted = ({ name }) => name === "SecurityError" && location.protocol === "https:";
  const made = container.register("/m/sw.js", { scope: "/m/", type: "module", updateViaCache: "none" }).then(
    () => "yes",
    (error) => (isUntrusted(error) ? "untrusted" : "no"),
  );
  return Promise.race([made, late]).finally(() => clearTimeout(timer));
}

/** What stands in the way of working offline, with the way out; null where nothing does, or it is not known. */
export function offlineTrouble(state) {
  const words = {
    none: "no, this browser keeps no apps",
    untrusted: "no, this phone does not trust the server’s certificate yet. ",
    no: "no, the browser could not get what it needs. Perhaps it does not trust the server’s certificate. ",
  }[state];
  if (!words) return null;
  return h("span", {}, words, state !== "none" && h("a", { href: "/ca/" }, "Trust this server"));
}

/** "Android phone", "iPhone" … for people to tell their devices apart. */
export function deviceName(agent) {
  const names = [
    ["iPhone", "iPhone"],
    ["iPad", "iPad"],
    ["Android", /Mobile/.test(agent) ? "Android phone" : "Android tablet"],
    ["Windows", "Windows browser"],
    ["Mac OS", "Mac browser"],
    ["Linux", "Linux browser"],
  ];
  return names.find(([word]) => agent.includes(word))?.[1] ?? "Browser";
}
