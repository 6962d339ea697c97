// One download: its progress, errors, bytes, files, settings and cost.

import { get, patch, withQuery } from "./api.js";
import { BytesMap, CELLS } from "./bytes_map.js";
import { attempt, showProblem, toast } from "./dialog.js";
import { field, fill, h, isolated, select, setText } from "./dom.js";
import { bytes, clean, dollars, duration, figures, isStored, parseRate, percent, plural, rateInput, status, time } from "./format.js";
import { icon } from "./icons.js";
import { listen } from "./live.js";
import { isPlayable, playLink, fileLink } from "./player.js";
import { act, actionsFor, move, removeAfterQuestion, troubleOf } from "./row.js";
import { isAdmin, state } from "./state.js";

const REFRESH = 1000;
/** The map and the files are read from the catalog. */
const MAP_REFRESH = 3000;
/** Files that are shown at first. */
const MAX_FILES = 200;

/** The details in `main`. */
export function showDetails(main, id) {
  const view = new Details(main, id);
  view.start();
  return view;
}

class Details {
  constructor(main, id) {
    this.main = main;
    this.path = `downloads/${encodeURIComponent(id)}`;
    this.title = h("h1");
    this.badge = h("span", { class: "badge" });
    this.bar = h("progress", { max: "1", "aria-label": "Stored" });
    this.share = h("span", { class: "share" });
    this.figures = h("p", { class: "figures" });
    this.slowest = h("p", { class: "slowest" });
    this.error = h("div", { class: "problem", role: "alert", hidden: true });
    this.actions = h("div", { class: "buttons wrap" });
    this.map = new BytesMap();
    this.mapSection = h("section", { class: "card", hidden: true, "aria-label": "Stored bytes" }, h("h2", null, "Stored bytes"), this.map.element);
    this.files = h("section", { class: "card", hidden: true, "aria-label": "Files" });
    this.facts = h("section", { class: "card", "aria-label": "Facts" });
    this.settings = h("section", { class: "card", hidden: true, "aria-label": "Settings" });
    this.keys = { p: () => this.toggle(), Escape: () => (location.hash = "#/"), Delete: () => this.remove() };
  }

  start() {
    fill(
      this.main,
      h("p", null, h("a", { class: "back", href: "#/" }, icon("back"), " All downloads")),
      h("section", { class: "card", "aria-label": "Progress" }, this.title, h("p", { class: "sub" }, this.badge), h("p", { class: "bar" }, this.bar, this.share), this.figures, this.slowest, this.error, this.actions),
      this.mapSection,
      this.files,
      this.facts,
      this.settings,
    );
    this.stopListening = listen((event) => this.onEvent(event));
    this.refresh();
  }

  leave() {
    this.left = true;
    this.stopListening();
    clearTimeout(this.timer);
  }

  onEvent(event) {
    const isOwn = event.download === this.download?.id || (this.download?.import && (event.id === this.download.import || event.import === this.download.import));
    if (!isOwn) return;
    if (event.event === "progress") this.held = event.held - event.cached;
    else this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    const number = (this.requests = (this.requests ?? 0) + 1);
    try {
      const download = await get(this.path);
      if (this.left || number !== this.requests) return;
      this.update(download);
      await this.refreshImport();
    } catch (problem) {
      if (this.left || number !== this.requests) return;
      if (problem.status === 404) return this.showGone();
      setText(this.slowest, `Not up to date: ${problem.message}.`);
    }
    if (!this.left && number === this.requests) this.timer = setTimeout(() => this.refresh(), REFRESH);
  }

  showGone() {
    fill(this.main, h("div", { class: "empty" }, h("h1", null, "No such download"), h("p", null, "It was removed."), h("p", null, h("a", { href: "#/" }, "All downloads"))));
  }

  /** What is known of the import: at first, then every few seconds while it changes. */
  async refreshImport() {
    const { import: importId } = this.download;
    if (!importId) return;
    const isDue = performance.now() - (this.mapAt ?? -MAP_REFRESH) >= MAP_REFRESH;
    const key = `${importId} ${this.download.state}`;
    if (this.importKey === key && (isStored(this.download) || !isDue)) return;
    this.mapAt = performance.now();
    try {
      const path = `imports/${encodeURIComponent(importId)}`;
      const [info, map] = await Promise.all([get(path), get(withQuery(`${path}/map`, { cells: CELLS }))]);
      if (this.left) return;
      this.importKey = key;
      this.info = info;
      this.mapSection.hidden = false;
      this.map.update(map);
      this.updateFiles(info, map);
      this.updateFacts();
    } catch (problem) {
      // The import appears a moment after its download has started.
      if (problem.status !== 404) throw problem;
    }
  }

  update(download) {
    const isFirst = !this.download;
    this.download = download;
    const { progress } = download;
    const name = clean(download.name);
    if (this.title.textContent !== name) {
      fill(this.title, isolated(name));
      document.title = `${name} – bae`;
    }
    const [word, kind] = status(download);
    setText(this.badge, word);
    this.badge.className = `badge ${kind}`;
    const stored = isStored(download) ? 1 : progress.share;
    this.bar.value = stored;
    this.bar.className = kind;
    this.bar.parentElement.hidden = download.state === "done" || (download.state === "failed" && progress.bytes === null);
    setText(this.share, progress.bytes === null && !isStored(download) ? "" : percent(stored));
    setText(this.figures, figures(download));
    setText(this.slowest, this.bottleneck());
    this.updateError();
    this.updateActions();
    this.updateFacts();
    if (isFirst && isAdmin()) this.showSettings();
  }

  /** Which part is the slowest now. */
  bottleneck() {
    const { state: name, progress, kind } = this.download;
    if (name !== "downloading") return "";
    if (progress.trouble) return kind === "url" ? "Waits for the server." : "Waits for storage, which refuses writes. What is verified stays in memory.";
    if (progress.activity === "metadata") return "Waits for peers that know the torrent.";
    const source = kind === "url" ? "the server" : "peers";
    if (progress.peers === 0 && progress.download_rate === 0) return kind === "url" ? "Waits for the server." : "Waits for peers.";
    const isFull = this.held > state.settings.memory * 0.4;
    return isFull ? `Storage is the slowest now: ${bytes(this.held)} wait in memory.` : `The slowest now: ${source}. Storage keeps up.`;
  }

  updateError() {
    const [text, hint] = troubleOf(this.download);
    const key = `${text}\n${hint}`;
    if (this.error.dataset.key === key) return;
    this.error.dataset.key = key;
    this.error.hidden = text === null;
    fill(this.error, text === null ? null : h("p", null, isolated(clean(text))), hint ? h("p", null, h("strong", null, "What to do: "), isolated(clean(hint))) : null);
  }

  updateActions() {
    if (!isAdmin()) return;
    const action = actionsFor(this.download);
    const canMove = ["queued", "paused", "retrying"].includes(this.download.state);
    const key = `${action?.[0]} ${canMove} ${this.download.priority}`;
    if (this.actions.dataset.key === key) return;
    this.actions.dataset.key = key;
    const button = (label, image, onclick, kind = "secondary") => h("button", { type: "button", class: kind, onclick }, icon(image), ` ${label}`);
    const change = (work) => async () => {
      if (await work()) this.refresh();
    };
    const priority = select([["high", "High"], ["normal", "Normal"], ["low", "Low"]], this.download.priority, (value) => this.change({ priority: value }));
    priority.setAttribute("aria-label", "Priority");
    fill(
      this.actions,
      action ? button(action[1], action[2], () => this.toggle(), "") : null,
      h("label", { class: "inline" }, "Priority ", priority),
      canMove ? button("First", "up", change(() => move(this.download, "first"))) : null,
      canMove ? button("Last", "down", change(() => move(this.download, "last"))) : null,
      button("Remove", "remove", () => this.remove(), "secondary danger"),
    );
  }

  async toggle() {
    const action = this.download && actionsFor(this.download);
    if (action && isAdmin() && (await act(this.download, action[0]))) this.refresh();
  }

  async remove() {
    if (this.download && isAdmin() && (await removeAfterQuestion(this.download))) location.hash = "#/";
  }

  async change(values) {
    const done = await attempt(() => patch(this.path, values));
    if (done) toast("Changed.");
    this.refresh();
    return done;
  }

  updateFiles(info, map) {
    const shown = this.showAll ? info.file_list : info.file_list.slice(0, MAX_FILES);
    this.files.hidden = false;
    const key = JSON.stringify(shown.map((file) => [file.number, file.path, file.selected]));
    if (this.files.dataset.key !== key) {
      this.files.dataset.key = key;
      this.fileShares = [];
      const rest = info.file_list.length - shown.length;
      const showRest = () => {
        this.showAll = true;
        this.updateFiles(info, map);
      };
      fill(
        this.files,
        h("h2", null, plural(info.file_list.length, "file")),
        h("ul", { class: "file-list" }, shown.map((file) => this.fileRow(info, file))),
        rest > 0 ? h("button", { type: "button", class: "secondary", onclick: showRest }, `Show ${rest.toLocaleString()} more`) : null,
      );
    }
    shown.forEach((file, index) => {
      const stored = map.files[index] ?? 0;
      const text = !file.selected && stored === 0 ? "not selected" : stored >= file.bytes ? "stored" : percent(stored / file.bytes);
      setText(this.fileShares[index], text);
    });
  }

  fileRow(info, file) {
    const share = h("span", { class: "share" });
    this.fileShares.push(share);
    const name = clean(file.path.startsWith(`${info.name}/`) ? file.path.slice(info.name.length + 1) : file.path);
    const link = file.selected
      ? isPlayable(file.path)
        ? h("a", { class: "button plain", href: playLink(info.id, file.number), "aria-label": `Play ${name}`, title: "Play" }, icon("play"))
        : h("a", { class: "button plain", href: fileLink(info.id, file.path), target: "_blank", rel: "noopener", "aria-label": `Open ${name}`, title: "Open" }, icon("open"))
      : h("span");
    return h("li", null, h("span", { class: "path" }, isolated(name)), h("span", { class: "size" }, bytes(file.bytes)), share, link);
  }

  updateFacts() {
    const { download, info } = this;
    const { progress } = download;
    const facts = [
      ["Source", download.source],
      ["Storage", `${download.storage}, as ${download.layout === "files" ? "whole files" : "chunks"}`],
      ["Category", download.category],
      ["Tags", [...download.tags].join(", ")],
      ["Info-hash", download.info_hash_v1],
      ["Info-hash v2", download.info_hash_v2],
      ["Added", time(download.added_at)],
      ["Started", download.started_at && time(download.started_at)],
      ["Finished", download.finished_at && time(download.finished_at)],
      ["Starts after", download.start_after && time(download.start_after)],
      ["Failed tries", download.tries > 0 ? download.tries : null],
      ["Exported to", download.exported],
      ["Received", progress.downloaded > 0 ? `${bytes(progress.downloaded)} in ${duration(progress.active_seconds)}` : null],
      ["Sent", progress.uploaded > 0 ? `${bytes(progress.uploaded)}, ratio ${download.ratio.toFixed(2)}` : null],
      ["Peers", progress.activity && download.kind !== "url" ? `${progress.peers} connected, ${progress.seeds} of them have everything` : null],
      ["Seeded for", progress.seeding_seconds > 0 ? duration(progress.seeding_seconds) : null],
      ...(info ? importFacts(info) : []),
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    const key = JSON.stringify(facts);
    if (this.facts.dataset.key === key) return;
    this.facts.dataset.key = key;
    fill(this.facts, h("h2", null, "Facts"), h("dl", { class: "facts" }, facts.map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, isolated(clean(value)))))));
  }

  /** The form of what can change. It is made once: progress must not change what somebody types. */
  showSettings() {
    const { download } = this;
    const categories = Object.keys(state.categories).map((name) => [name, clean(name)]);
    const category = select([["", "None"], ...categories], download.category ?? "");
    const tags = h("input", { type: "text", value: [...download.tags].join(", ") });
    const number = (value) => h("input", { type: "text", inputmode: "decimal", placeholder: "no limit", value });
    const down = number(rateInput(download.limits.download));
    const up = number(rateInput(download.limits.upload));
    const ratio = h("input", { type: "text", inputmode: "decimal", placeholder: "as configured", value: download.seed_limits.ratio ?? "" });
    const onsubmit = (event) => {
      event.preventDefault();
      const limits = { download: parseRate(down.value), upload: parseRate(up.value) };
      const goal = ratio.value.trim() === "" ? null : Number(ratio.value.replace(",", "."));
      if (limits.download === undefined || limits.upload === undefined || Number.isNaN(goal)) {
        return showProblem({ message: "a rate or ratio is not a number" });
      }
      const values = { limits, seed_limits: { ...this.download.seed_limits, ratio: goal }, tags: tags.value.split(",").map((tag) => tag.trim()).filter(Boolean) };
      if ((category.value || null) !== this.download.category) values.category = category.value || null;
      return this.change(values);
    };
    this.settings.hidden = false;
    const isTorrent = download.kind !== "url";
    fill(
      this.settings,
      h("h2", null, "Settings"),
      h(
        "form",
        { onsubmit },
        h(
          "div",
          { class: "grid" },
          field("Download limit, MiB/s", down),
          isTorrent ? field("Upload limit, MiB/s", up) : null,
          isTorrent ? field("Seed ratio", ratio) : null,
          field("Category", category),
          field("Tags", tags, "Separated by commas."),
        ),
        h("div", { class: "buttons" }, h("button", { type: "submit" }, "Save")),
      ),
    );
  }
}

function importFacts(info) {
  const reads = (usage) => (usage.gets > 0 ? `${plural(usage.gets, "request")}, ${bytes(usage.fetched)}${usage.dollars === undefined ? "" : `, ${dollars(usage.dollars)}`}` : null);
  return [
    ["Import", info.id],
    ["Objects", `${plural(info.objects, "object")}, chunks of ${bytes(info.chunk_len)}`],
    ["Packed", info.packed > 0 ? `${bytes(info.packed)} (${percent(info.packed_share)})` : null],
    ["Pieces", info.pieces > 0 ? `${info.pieces.toLocaleString()} of ${bytes(info.piece_length)}` : null],
    ["Trackers", info.trackers.join(", ")],
    ["Web seeds", info.web_seeds.join(", ")],
    ["Private", info.private ? "yes" : null],
    ["Read for players and exports", reads(info.read)],
    ["Read for seeding", reads(info.seeded)],
  ];
}
