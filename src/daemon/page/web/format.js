// Numbers and foreign text for display.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count) {
  if (count === null || count === undefined) return "unknown size";
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits).replace(/\.0+$/, "")} ${UNITS[unit]}`;
}

export const rate = (count) => `${bytes(count)}/s`;

export const percent = (share) => `${share >= 1 ? 100 : Math.min(99.9, Math.floor(share * 1000) / 10)} %`;

export function duration(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const whole = Math.max(0, Math.round(seconds));
  const first = units.findIndex(([length]) => whole >= length);
  if (first < 0) return "0 s";
  const [length, name] = units[first];
  const rest = Math.floor((whole % length) / (units[first + 1]?.[0] ?? 1));
  const more = first < 2 && rest > 0 ? ` ${rest} ${units[first + 1][1]}` : "";
  return `${Math.floor(whole / length)} ${name}${more}`;
}

export const time = (seconds) => new Date(seconds * 1000).toLocaleString();

export function dollars(amount) {
  if (amount === 0) return "$0";
  return amount < 0.01 ? "under $0.01" : `$${amount.toFixed(2)}`;
}

export const plural = (count, noun) => `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;

const MAX_TEXT = 400;

const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
const escaped = (c) => SHORT[c] ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;

/**
 * Foreign text in one line, without characters that move other text or act on a terminal: control characters, and those
 * that override the direction, are shown as escapes.
 */
export function clean(text) {
  const shown = String(text ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, escaped);
  return shown.length > MAX_TEXT ? `${shown.slice(0, MAX_TEXT)}…` : shown;
}

/** Bytes per second of a text in MiB/s; empty is no limit. `undefined` for anything else. */
export function parseRate(text) {
  const trimmed = text.trim().replace(",", ".");
  if (trimmed === "") return null;
  const value = Number(trimmed);
  return Number.isFinite(value) && value >= 0 ? Math.round(value * 1048576) : undefined;
}

export const rateInput = (limit) => (limit === null || limit === undefined ? "" : String(Math.round(limit / 10485.76) / 100));

const STATES = {
  queued: "Queued",
  starting: "Starting",
  downloading: "Downloading",
  paused: "Paused",
  retrying: "Will retry",
  failed: "Failed",
  exporting: "Exporting",
  done: "Done",
};

/** What a download does now: a word, and a class for its colour. */
export function status(download) {
  const { state, seeding, progress } = download;
  if (state === "downloading" && progress.trouble) return ["Waiting", "warn"];
  if (state === "downloading" && progress.activity === "metadata") return ["Looking for the torrent", "active"];
  if (state === "downloading" && progress.activity === "publishing") return ["Publishing", "active"];
  if (state === "done" && seeding === "active") return ["Seeding", "good"];
  if (state === "done" && seeding === "goal_reached") return ["Done, seed goal reached", "good"];
  const kind = { failed: "bad", retrying: "warn", done: "good", downloading: "active", starting: "active", exporting: "active" };
  return [STATES[state] ?? clean(state), kind[state] ?? "idle"];
}

export const isStored = (download) => download.state === "done" || download.state === "exporting";

/** The figures of a download in one line. */
export function figures(download) {
  const { progress, state } = download;
  const parts = [];
  if (isStored(download)) parts.push(bytes(progress.bytes));
  else if (progress.bytes !== null) parts.push(`${bytes(progress.stored)} of ${bytes(progress.bytes)}`);
  if (progress.download_rate > 0 && state === "downloading") parts.push(`↓ ${rate(progress.download_rate)}`);
  if (progress.upload_rate > 0) parts.push(`↑ ${rate(progress.upload_rate)}`);
  if (progress.activity && progress.peers > 0) parts.push(plural(progress.peers, download.kind === "url" ? "connection" : "peer"));
  if (progress.eta_seconds > 0 && progress.download_rate > 0 && state === "downloading") parts.push(`${duration(progress.eta_seconds)} left`);
  if (download.retry_at) parts.push(`next try ${time(download.retry_at)}`);
  return parts.join(" · ");
}
