/** The thin line that says in words where we are. */

/** {words, tone} of a connection; tone is ok, warn or danger. */
export function statusWords(library, { isOut, isOther, trouble, goneSince, isSyncing, socket }, isOnline) {
  const count = library.waitingPrompts;
  const wait = count ? ` · ${waits(count)}` : "";
  if (!library.isPaired) return isOnline ? { words: "", tone: "ok" } : { words: "Offline", tone: "warn" };
  if (isOut) return { words: `The server does not let this device in${wait}. `, tone: "danger" };
  if (!isOnline) return { words: `Offline${wait}`, tone: "warn" };
  if (isOther) return { words: `${trouble}${wait} `, tone: "danger" };
  if (goneSince) return { words: `The server is gone since ${clock(goneSince)}${wait}`, tone: "warn" };
  if (trouble) return { words: `${trouble}${wait}`, tone: "danger" };
  if (isSyncing) return { words: `Syncing…${wait}`, tone: "ok" };
  if (!socket.isOpen) return { words: `Connecting…${wait}`, tone: "ok" };
  if (library.fact("isWorking") === false) return { words: `Online · nothing executes there${wait}`, tone: "warn" };
  return { words: `Online${wait}`, tone: "ok" };
}

/** "4 wait here". */
export function waits(count) {
  return `${count.toLocaleString()} ${count === 1 ? "waits" : "wait"} here`;
}

function clock(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}
