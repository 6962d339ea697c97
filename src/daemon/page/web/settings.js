// Settings of the queue, and what the daemon is made of.

import { categoryPath, get, patch, post, put, remove, request } from "./api.js";
import { ask, attempt, openDialog, showProblem, toast } from "./dialog.js";
import { field, fill, h, isolated, select } from "./dom.js";
import { bytes, clean, duration, parseRate, rateInput } from "./format.js";
import { icon } from "./icons.js";
import { isAdmin, refreshSettings, state } from "./state.js";

/** The settings in `main`. */
export function showSettings(main, actions) {
  let left = false;
  const show = async () => {
    try {
      const [version] = await Promise.all([get("version"), refreshSettings()]);
      if (!left) fill(main, h("h1", null, "Settings"), queueForm(), categoriesView(show), storagesView(), accessView(actions), aboutView(version));
    } catch (problem) {
      showProblem(problem);
    }
  };
  show();
  return { leave: () => (left = true) };
}

function card(title, ...content) {
  return h("section", { class: "card", "aria-label": title }, h("h2", null, title), content);
}

function queueForm() {
  const { rates, active } = state.settings;
  const disabled = !isAdmin();
  const rateField = (value) => h("input", { type: "text", inputmode: "decimal", placeholder: "no limit", value: rateInput(value), disabled });
  const countField = (value) => h("input", { type: "number", min: "0", max: "1000000", step: "1", value: value === 0 ? "" : String(value), placeholder: "no limit", disabled });
  const [down, up] = [rateField(rates.download), rateField(rates.upload)];
  const [overall, perStorage, perHost] = [countField(active.overall), countField(active.per_storage), countField(active.per_host)];
  const count = (control) => Math.max(0, Math.floor(Number(control.value) || 0));
  const onsubmit = async (event) => {
    event.preventDefault();
    const limits = { download: parseRate(down.value), upload: parseRate(up.value) };
    if (limits.download === undefined || limits.upload === undefined) return showProblem({ message: "a rate is not a number" });
    const change = { rates: limits, active: { overall: count(overall), per_storage: count(perStorage), per_host: count(perHost) } };
    if (await attempt(async () => (state.settings = await patch("settings", change)))) toast("Saved.");
  };
  return card(
    "Limits",
    h(
      "form",
      { onsubmit },
      h(
        "div",
        { class: "grid" },
        field("Download, MiB/s", down),
        field("Upload, MiB/s", up),
        field("Active downloads", overall),
        field("Active in one storage", perStorage),
        field("Active from one host", perHost),
      ),
      disabled ? null : h("div", { class: "buttons" }, h("button", { type: "submit" }, "Save")),
    ),
  );
}

function categoriesView(changed) {
  const entries = Object.entries(state.categories);
  const drop = (name) => async () => {
    const chosen = await ask("Remove the category", isolated(clean(name)), [{ label: "Remove", value: true, danger: true }]);
    if (chosen && (await attempt(() => remove(categoryPath(name))))) changed();
  };
  const row = ([name, category]) =>
    h(
      "li",
      null,
      h("span", { class: "path" }, isolated(clean(name)), h("small", null, categoryText(category))),
      isAdmin() ? h("button", { type: "button", class: "plain", "aria-label": `Remove the category ${clean(name)}`, onclick: drop(name) }, icon("remove")) : null,
    );
  const name = h("input", { type: "text", required: true });
  const storage = select([["", "Default"], ...state.storages.map((known) => [known.name, clean(known.name)])], "");
  const onsubmit = async (event) => {
    event.preventDefault();
    if (await attempt(() => put(categoryPath(name.value.trim()), { storage: storage.value || null }))) changed();
  };
  return card(
    "Categories",
    entries.length > 0 ? h("ul", { class: "file-list" }, entries.map(row)) : h("p", null, "None. A category gives downloads a storage, tags and a seed goal."),
    isAdmin() ? h("form", { onsubmit, class: "inline-form" }, field("New category", name), field("Storage", storage), h("button", { type: "submit" }, "Add")) : null,
  );
}

function categoryText({ storage, export: folder, seed_ratio, seed_seconds, tags }) {
  const parts = [storage ? `storage ${storage}` : "default storage"];
  if (folder) parts.push(`exported to ${folder}`);
  if (seed_ratio !== null) parts.push(`seed ratio ${seed_ratio}`);
  if (seed_seconds !== null) parts.push(`seeded for ${duration(seed_seconds)}`);
  if (tags.length > 0) parts.push(`tags ${tags.join(", ")}`);
  return clean(parts.join(" · "));
}

function storagesView() {
  const isDefault = (name) => name === state.settings.default_storage;
  const row = (storage) => {
    const { name, type, place, chunk } = storage;
    const text = [type, place, chunk ? `chunks of ${bytes(chunk)}` : null].filter(Boolean).join(" · ");
    return h("li", null, h("span", { class: "path" }, isolated(clean(name)), isDefault(name) ? h("span", { class: "chip" }, "default") : null, h("small", null, isolated(clean(text)))));
  };
  return card("Storages", h("ul", { class: "file-list" }, state.storages.map(row)), h("p", { class: "note" }, "Storages are configured in the config file: no request can name another."));
}

function accessView(actions) {
  const token = h("input", { type: "password", required: true, autocomplete: "off", spellcheck: "false" });
  const onsubmit = async (event) => {
    event.preventDefault();
    let answer = null;
    if (!(await attempt(async () => (answer = await post("tokens", { token: token.value }))))) return;
    token.value = "";
    const shown = (label, value) => field(label, h("input", { type: "text", readonly: true, value, class: "token", onfocus: (focus) => focus.target.select() }));
    openDialog("New tokens", h("p", null, "All other sessions have ended. These tokens are shown once; they are also in the data folder."), shown("Everything", answer.token), shown("Reading only", answer.read_only_token));
    actions.reconnect();
  };
  const logOut = () => attempt(async () => {
    await request("DELETE", "session");
    actions.signedOut();
  });
  return card(
    "Access",
    h("p", null, `This session may ${isAdmin() ? "do everything" : "only read"}.`),
    h("div", { class: "buttons wrap" }, h("button", { type: "button", class: "secondary", onclick: logOut }, "Log out")),
    isAdmin()
      ? h("details", null, h("summary", null, "Replace the tokens"), h("form", { onsubmit }, h("p", null, "All sessions and all clients of the API need the new token then."), field("The present token", token), h("div", { class: "buttons" }, h("button", { type: "submit", class: "danger" }, "Replace"))))
      : null,
  );
}

function aboutView(version) {
  const { settings } = state;
  const facts = [
    ["Version", version.version],
    ["Running for", duration(version.uptime_seconds)],
    ["Memory for payload", bytes(settings.memory)],
    ["Hosts outside the public network", settings.private_hosts ? "allowed" : "refused"],
    ["Drop-in APIs", settings.dialects.join(", ") || "none"],
  ];
  return card("This daemon", h("dl", { class: "facts" }, facts.map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, clean(value))))));
}
