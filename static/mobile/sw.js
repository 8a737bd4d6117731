/* The service worker: the app without a network, what other apps share, and delivery while no tab is open.
   The view that serves it puts `const SHELL = {version, page, files}` before this text. */

import { Database } from "/static/mobile/database.js";
import { sharedText, withText } from "/static/mobile/draft.js";
import { Library } from "/static/mobile/library.js";
import { Server } from "/static/mobile/server.js";
import { Store } from "/static/mobile/store.js";
import { Sync } from "/static/mobile/sync.js";

const CACHE = `lmrmq ${SHELL.version}`;
const FILES = new Set(SHELL.files);

addEventListener("install", (event) => event.waitUntil(keepShell()));
addEventListener("activate", (event) => event.waitUntil(takeOver()));
addEventListener("fetch", (event) => {
  const { pathname, origin } = new URL(event.request.url);
  if (origin !== location.origin) return;
  if (event.request.method === "POST" && pathname === "/m/share") event.respondWith(share(event.request));
  else if (event.request.method !== "GET") return;
  else if (event.request.mode === "navigate" && pathname === SHELL.page) event.respondWith(cached(SHELL.page));
  else if (FILES.has(pathname)) event.respondWith(cached(pathname));
});
addEventListener("sync", (event) => event.waitUntil(deliver()));

/** Past the browser's own cache, so that all files are of one version. */
async function keepShell() {
  const cache = await caches.open(CACHE);
  await cache.addAll([SHELL.page, ...SHELL.files].map((path) => new Request(path, { cache: "reload" })));
  await skipWaiting();
}

/** A page has loaded all of its files when it runs, so the old ones can go. */
async function takeOver() {
  const names = await caches.keys();
  await Promise.all(
    names.filter((name) => name.startsWith("lmrmq ") && name !== CACHE).map((name) => caches.delete(name)),
  );
  await clients.claim();
}

async function cached(path) {
  return (await (await caches.open(CACHE)).match(path)) ?? fetch(path);
}

/** What `work` returns of what this device has. */
async function withLibrary(work) {
  const store = await Store.open(await Database.open());
  const library = new Library(store, navigator.locks, new BroadcastChannel("lmrmq"));
  try {
    return await work(await library.load());
  } finally {
    library.close();
  }
}

/** What was shared becomes the draft of a new prompt. Where it cannot be kept, the app opens all the same. */
async function share(request) {
  const text = sharedText(await request.formData().catch(() => new FormData()));
  const keep = (library) => library.keep({ draft: withText(library.fact("draft"), text) });
  if (text) await withLibrary(keep).catch(() => {});
  return Response.redirect("/m/#new", 303);
}

/** Throws when it did not work, so that the browser tries again later. */
function deliver() {
  return withLibrary(async (library) => {
    if (!library.isPaired || !library.waiting) return;
    const sync = new Sync(library, new Server(library, location.origin), navigator.locks, () => {}, null);
    if (!(await sync.run())) throw new Error("The server could not be reached.");
  });
}
