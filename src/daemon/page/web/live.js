// The event stream: what changes is shown at once. After a break it goes on from the last number.

import { get, root } from "./api.js";

const MAX_ENTRIES = 500;
const RETRY_DELAY = 3000;

const listeners = new Set();
const entries = [];
let source = null;
let last = 0;
let retry = null;

/** Calls `listener` with each event. Returns what ends that. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The last events that are no progress, oldest first. */
export const recentEvents = () => entries;

function emit(event) {
  if (event.event !== "progress" && event.event !== "fetching") {
    entries.push(event);
    if (entries.length > MAX_ENTRIES) entries.splice(0, entries.length - MAX_ENTRIES);
  }
  for (const listener of listeners) listener(event);
}

/** Connects to the stream, until `disconnect`. */
export function connect() {
  disconnect();
  const url = new URL("events", root);
  url.searchParams.set("since", last);
  source = new EventSource(url);
  source.onopen = () => emit({ event: "connected", time: Date.now() / 1000 });
  source.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.seq) last = event.seq;
    else if (event.event === "lagged") last = event.next - 1;
    emit(event);
  };
  source.onerror = () => {
    emit({ event: "disconnected", time: Date.now() / 1000 });
    if (source?.readyState !== EventSource.CLOSED) return;
    // The browser gave up: the session may have ended, or the daemon started again with new numbers.
    forget();
    retry = setTimeout(() => get("version").then(connect, () => (retry = setTimeout(connect, RETRY_DELAY))), RETRY_DELAY);
  };
}

export function disconnect() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

/** Forgets everything, after a logout. */
export function forget() {
  disconnect();
  entries.length = 0;
  last = 0;
}
