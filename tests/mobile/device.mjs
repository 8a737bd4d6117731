/** A paired device and its server. */

import { Locks, Memory } from "./setup.mjs";
import { ScriptedServer } from "./server.mjs";

import { Library } from "../../static/mobile/library.js";
import { Server } from "../../static/mobile/server.js";
import { Store } from "../../static/mobile/store.js";
import { Sync } from "../../static/mobile/sync.js";

/** `reports` are what the screen is told, `later` what is to be tried again, in ms. */
export async function paired(server = new ScriptedServer(), database = new Memory(), locks = new Locks()) {
  const library = await new Library(await Store.open(database), locks).load();
  const calls = new Server(library, "http://here", server.fetch);
  if (!library.isPaired) await calls.pair("CODE", "Phone", "phone");
  const [reports, later] = [[], []];
  const sync = new Sync(
    library,
    calls,
    locks,
    (report) => reports.push(report),
    (_, ms) => later.push(ms),
  );
  return { server, database, locks, library, calls, sync, reports, later };
}
