// The list of downloads: one page of it, kept up to date by events.

import { get, withQuery } from "./api.js";
import { openAdd } from "./add.js";
import { fill, h, setText } from "./dom.js";
import { Filters } from "./filters.js";
import { rate } from "./format.js";
import { listen } from "./live.js";
import { Row } from "./row.js";
import { isAdmin } from "./state.js";

const PAGE = 50;
/** Shortest time between two requests of the list after events. */
const MIN_DELAY = 250;
/** Time between two requests of the list without any event: ratios and times change too. */
const IDLE_DELAY = 5000;

/** The list in `main`. Returns an object with `leave` and the keys of the list. */
export function showList(main, header) {
  const rows = new Map();
  let offset = 0;
  let total = 0;
  let pending = null;
  let last = 0;
  let request = null;

  const list = h("ul", { class: "rows", "aria-label": "Downloads" });
  const empty = h("div", { class: "empty", hidden: true });
  const summary = h("p", { class: "summary", role: "status" });
  const earlier = h("button", { type: "button", class: "secondary", onclick: () => showPage(-1) }, "Earlier");
  const later = h("button", { type: "button", class: "secondary", onclick: () => showPage(1) }, "Later");
  const pager = h("nav", { class: "pager", "aria-label": "Pages" }, earlier, later);
  const filters = new Filters(() => {
    offset = 0;
    refresh();
  });

  function showPage(step) {
    offset = Math.max(0, offset + step * PAGE);
    refresh();
    list.scrollIntoView({ block: "start" });
  }

  async function refresh() {
    clearTimeout(pending);
    pending = null;
    request?.abort();
    request = new AbortController();
    last = performance.now();
    const { signal } = request;
    try {
      const [answer, counts] = await Promise.all([
        get(withQuery("downloads", { ...filters.query(), offset, limit: PAGE }), { signal }),
        get("downloads/counts", { signal }),
      ]);
      show(answer);
      filters.update(counts);
      header.showRates(counts);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      setText(summary, `The list is not up to date: ${problem.message}.`);
    }
    if (!signal.aborted) schedule(IDLE_DELAY);
  }

  function schedule(delay) {
    if (pending !== null && delay === IDLE_DELAY) return;
    clearTimeout(pending);
    pending = setTimeout(refresh, Math.max(delay, last + MIN_DELAY - performance.now()));
  }

  function show(answer) {
    total = answer.total;
    if (offset > 0 && answer.downloads.length === 0) {
      offset = 0;
      refresh();
      return;
    }
    const shown = new Set(answer.downloads.map(({ id }) => id));
    for (const [id, row] of rows) {
      if (shown.has(id)) continue;
      row.element.remove();
      rows.delete(id);
    }
    answer.downloads.forEach((download, index) => {
      let row = rows.get(download.id);
      if (row) row.update(download);
      else rows.set(download.id, (row = new Row(download, refresh)));
      if (list.children[index] !== row.element) list.insertBefore(row.element, list.children[index] ?? null);
    });
    showEmpty(answer);
    const end = offset + answer.downloads.length;
    setText(summary, total > PAGE ? `${offset + 1} to ${end} of ${total.toLocaleString()} downloads` : "");
    pager.hidden = total <= PAGE;
    earlier.disabled = offset === 0;
    later.disabled = end >= total;
  }

  function showEmpty(answer) {
    empty.hidden = answer.total > 0;
    list.hidden = answer.total === 0;
    if (empty.hidden) return;
    const key = String(filters.isNarrow());
    if (empty.dataset.key === key) return;
    empty.dataset.key = key;
    if (filters.isNarrow()) fill(empty, h("p", null, "No download matches the filters."));
    else {
      const text = "Add a URL, a magnet link or a torrent file. Its bytes go straight into storage.";
      fill(empty, h("h2", null, "The queue is empty"), h("p", null, text), isAdmin() ? h("button", { type: "button", onclick: () => openAdd(refresh) }, "Add a download") : null);
    }
  }

  const imports = () => new Map([...rows.values()].map((row) => [row.download.import, row]));

  /** Progress changes its row at once; any other event asks for the list. */
  function onEvent(event) {
    if (event.event === "progress") {
      const row = imports().get(event.id);
      if (!row || row.download.state !== "downloading") return;
      const { bytes, stored, download_rate, upload_rate, store_rate, peers, seeds, state: activity } = event;
      const eta_seconds = event.eta_seconds ?? null;
      const share = bytes > 0 ? Math.min(1, stored / bytes) : row.download.progress.share;
      const progress = { ...row.download.progress, bytes, stored, share, download_rate, upload_rate, store_rate, peers, seeds, activity, eta_seconds };
      row.update({ ...row.download, progress });
      if (total <= PAGE && !filters.isNarrow()) header.showRates(sums(rows));
    } else if (["download", "paused", "resumed", "connected", "lagged", "started", "imported", "error"].includes(event.event)) schedule(0);
  }

  const stopListening = listen(onEvent);
  fill(main, h("h1", { class: "hidden" }, "Downloads"), filters.element, summary, empty, list, pager);
  refresh();

  const current = () => list.querySelector(":focus-within");
  const step = (direction) => {
    const all = [...list.children];
    const at = all.indexOf(current());
    const next = all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + direction))];
    next?.querySelector(".name").focus();
  };
  const focused = () => [...rows.values()].find((row) => row.element === current());
  return {
    refresh,
    keys: {
      "/": () => filters.search.focus(),
      j: () => step(1),
      k: () => step(-1),
      p: () => focused()?.toggle(),
      Delete: () => focused()?.removeIt(),
    },
    leave() {
      stopListening();
      clearTimeout(pending);
      request?.abort();
    },
  };
}

/** Rates of the rows, which are all downloads, between two requests. */
function sums(rows) {
  let download_rate = 0;
  let upload_rate = 0;
  for (const { download } of rows.values()) {
    download_rate += download.progress.download_rate;
    upload_rate += download.progress.upload_rate;
  }
  return { download_rate, upload_rate };
}

export const rateText = ({ download_rate, upload_rate }) => `↓ ${rate(download_rate)}  ↑ ${rate(upload_rate)}`;
