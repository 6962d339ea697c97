// Adding downloads: links, or torrent files that are dropped or chosen; with their price before.

import { post } from "./api.js";
import { openDialog, showProblem, toast } from "./dialog.js";
import { field, fill, h, isolated, newId, select } from "./dom.js";
import { bytes, clean, dollars, duration, plural } from "./format.js";
import { icon } from "./icons.js";
import { isAdmin, state } from "./state.js";

/** Longest torrent file that the daemon accepts, before base64. */
const MAX_FILE = 40 << 20;

/** Opens the dialog. `files` are torrent files that were dropped on the page. */
export function openAdd(changed, files = []) {
  if (!isAdmin() || document.querySelector("dialog[open]")) return;
  new AddDialog(changed).addFiles(files);
}

class AddDialog {
  constructor(changed) {
    this.changed = changed;
    this.torrents = [];
    this.links = h("textarea", { rows: "3", spellcheck: "false", autocapitalize: "none", oninput: () => this.forgetEstimates() });
    this.fileList = h("ul", { class: "files", "aria-label": "Torrent files" });
    this.input = h("input", { type: "file", accept: ".torrent,application/x-bittorrent", multiple: true, class: "hidden", onchange: () => this.addFiles([...this.input.files]) });
    this.input.id = newId("torrents");
    this.drop = h("label", { class: "drop", for: this.input.id }, icon("file"), " Drop torrent files here, or choose them");
    const names = state.storages.map(({ name }) => [name, clean(name)]);
    const forget = () => this.forgetEstimates();
    this.storage = select([["", "Default"], ...names], "", forget);
    const categories = Object.keys(state.categories).map((name) => [name, clean(name)]);
    this.category = select([["", "None"], ...categories], "", forget);
    this.priority = select([["high", "High"], ["normal", "Normal"], ["low", "Low"]], "normal");
    this.layout = select([["", "Default"], ["chunks", "Chunks"], ["files", "Whole files"]], "", forget);
    this.selection = h("input", { type: "text", placeholder: "all", oninput: forget });
    this.tags = h("input", { type: "text" });
    this.paused = h("input", { type: "checkbox", id: newId("paused") });
    this.sequential = h("input", { type: "checkbox", id: newId("sequential") });
    this.estimates = h("section", { class: "estimates", "aria-label": "Estimate", "aria-live": "polite" });
    this.check = h("button", { type: "button", class: "secondary", onclick: () => this.estimate() }, "Show size and price");
    this.submit = h("button", { type: "submit" }, "Add");
    this.dialog = openDialog("Add downloads", this.form());
    this.listenToDrops();
    this.links.focus();
  }

  form() {
    const box = (control, label) => h("div", { class: "check" }, control, h("label", { for: control.id }, label));
    const onsubmit = (event) => {
      event.preventDefault();
      this.add();
    };
    return h(
      "form",
      { onsubmit },
      field("Links, one a line", this.links, "URLs, magnet links or info-hashes."),
      this.drop,
      this.input,
      this.fileList,
      h("div", { class: "grid narrow" }, field("Storage", this.storage), field("Category", this.category), field("Priority", this.priority)),
      h(
        "details",
        null,
        h("summary", null, "More settings"),
        h("div", { class: "grid" }, field("Layout in storage", this.layout), field("Files", this.selection, "By number or pattern: 1,3-5 or *.flac"), field("Tags", this.tags, "Separated by commas.")),
        box(this.sequential, "Fetch the pieces in order, for a player"),
        box(this.paused, "Add paused"),
      ),
      this.estimates,
      h("div", { class: "buttons sticky" }, this.check, this.submit),
    );
  }

  listenToDrops() {
    const { dialog } = this;
    const mark = (isOver) => this.drop.classList.toggle("over", isOver);
    dialog.addEventListener("dragover", (event) => {
      event.preventDefault();
      mark(true);
    });
    dialog.addEventListener("dragleave", () => mark(false));
    dialog.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      mark(false);
      this.addFiles([...event.dataTransfer.files]);
      const link = event.dataTransfer.getData("text/uri-list") || event.dataTransfer.getData("text/plain");
      if (link) this.links.value = `${this.links.value.trim()}\n${link}`.trim();
    });
  }

  async addFiles(files) {
    for (const file of files) {
      if (file.size > MAX_FILE) {
        toast(`Not a torrent file: ${file.name}`, "a torrent file has at most 40 MiB", true);
        continue;
      }
      try {
        this.torrents.push({ name: file.name, torrent: await base64(file) });
      } catch {
        toast(`The file cannot be read: ${file.name}`, null, true);
      }
    }
    this.input.value = "";
    this.showFiles();
    if (files.length > 0) this.estimate();
  }

  showFiles() {
    const drop = (torrent) => () => {
      this.torrents = this.torrents.filter((other) => other !== torrent);
      this.showFiles();
      this.forgetEstimates();
    };
    fill(this.fileList, this.torrents.map((torrent) =>
      h("li", null, isolated(clean(torrent.name)), h("button", { type: "button", class: "plain", "aria-label": `Leave out ${clean(torrent.name)}`, onclick: drop(torrent) }, icon("close")))));
  }

  sources() {
    const links = this.links.value.split("\n").map((line) => line.trim()).filter(Boolean);
    return [...links.map((url) => ({ name: url, body: { url } })), ...this.torrents.map(({ name, torrent }) => ({ name, body: { torrent } }))];
  }

  settings() {
    const tags = this.tags.value.split(",").map((tag) => tag.trim()).filter(Boolean);
    return {
      storage: this.storage.value || undefined,
      category: this.category.value || undefined,
      layout: this.layout.value || undefined,
      select: this.selection.value.trim() || undefined,
      priority: this.priority.value,
      sequential: this.sequential.checked,
      paused: this.paused.checked,
      tags,
    };
  }

  forgetEstimates() {
    this.running?.abort();
    fill(this.estimates);
  }

  /** Asks for one estimate after the other: magnet links take a while. */
  async estimate() {
    this.forgetEstimates();
    const sources = this.sources();
    if (sources.length === 0) return this.showMissing();
    this.running = new AbortController();
    const { signal } = this.running;
    for (const { name, body } of sources) {
      const place = h("div", { class: "estimate" }, h("p", null, isolated(clean(name)), h("small", null, "Looking at the source…")));
      this.estimates.append(place);
      try {
        fill(place, estimateView(await post("estimate", { ...body, ...this.settings() }, { signal })));
      } catch (problem) {
        if (problem.name === "AbortError") return;
        fill(place, h("p", { class: "error-text" }, isolated(clean(name)), h("br"), isolated(clean(problem.message)), problem.hint ? h("small", null, isolated(clean(problem.hint))) : null));
      }
    }
  }

  showMissing() {
    fill(this.estimates, h("p", { class: "error-text" }, "Give a link or a torrent file."));
    this.links.focus();
  }

  async add() {
    const sources = this.sources();
    if (sources.length === 0) return this.showMissing();
    this.running?.abort();
    this.submit.disabled = true;
    const failed = [];
    for (const source of sources) {
      try {
        await post("downloads", { ...source.body, ...this.settings() });
      } catch (problem) {
        failed.push(source);
        showProblem(problem);
      }
    }
    this.submit.disabled = false;
    this.changed();
    const added = sources.length - failed.length;
    if (failed.length === 0) this.dialog.close();
    if (added > 0) toast(`Added: ${plural(added, "download")}`);
    this.links.value = failed.map(({ body }) => body.url).filter(Boolean).join("\n");
    this.torrents = failed.filter(({ body }) => body.torrent).map(({ name, body }) => ({ name, torrent: body.torrent }));
    this.showFiles();
  }
}

/** An estimate as a table. */
function estimateView(estimate) {
  const { requests, costs } = estimate;
  const puts = requests.put + requests.begin + requests.part + requests.finish;
  const facts = [
    ["Size", `${bytes(estimate.bytes)} in ${plural(estimate.files, "file")}`],
    estimate.stored > 0 ? ["Stored already", bytes(estimate.stored)] : null,
    ["In storage", `${plural(estimate.objects, "object")}, ${plural(puts, "write request")}`],
    ["Memory", `at most ${bytes(estimate.memory)}`],
    estimate.drive ? ["Time", `at least ${duration(estimate.drive.seconds_at_least)} by the limits of Drive`] : null,
  ].filter(Boolean);
  const table = costs.length === 0 ? null : h(
    "table",
    null,
    h("caption", null, costs.length === 1 ? `Price (${estimate.prices_as_of})` : `What it would cost at (${estimate.prices_as_of})`),
    h("thead", null, h("tr", null, ["Provider", "a month", "import", "read once"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", null, costs.map((cost) =>
      h("tr", null, h("th", { scope: "row" }, clean(cost.provider)), [cost.month, cost.import, cost.read_back].map((amount) => h("td", null, dollars(amount)))))),
  );
  return [
    h("h3", null, isolated(clean(estimate.name))),
    estimate.is_queued ? h("p", { class: "warn-text" }, "It is in the queue already.") : null,
    h("dl", { class: "facts" }, facts.map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value)))),
    costs.length > 1 ? h("details", null, h("summary", null, "Prices of cloud storage"), table) : table,
  ];
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
