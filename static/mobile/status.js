/** The thin line that says in words where we are. */

/** {words, tone} of a connection; tone is ok, warn or danger. */
export function statusWords(library, { isOut, trouble, goneSince, isSyncing, socket }, isOnline) {
  const wait = library.waiting ? ` · ${library.waiting} ${library.waiting === 1 ? "waits" : "wait"} here` : "";
  if (!library.isPaired) return isOnline ? { words: "", tone: "ok" } : { words: "Offline", tone: "warn" };
  if (isOut) return { words: `The server does not let this device in${wait}. `, tone: "danger" };
  if (!isOnline) return { words: `Offline${wait}`, tone: "warn" };
  if (goneSince) return { words: `The server is gone since ${clock(goneSince)}${wait}`, tone: "warn" };
  if (trouble) return { words: `${trouble}${wait}`, tone: "danger" };
  if (isSyncing) return { words: `Syncing…${wait}`, tone: "ok" };
  return { words: `${socket.isOpen ? "Online" : "Connecting…"}${wait}`, tone: "ok" };
}

function clock(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}
