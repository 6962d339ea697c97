// What a download can be asked to do, and its row in the list.

import { post, remove, withQuery } from "./api.js";
import { ask, attempt, toast } from "./dialog.js";
import { fill, h, isolated, newId, setText } from "./dom.js";
import { bytes, clean, figures, isStored, percent, status } from "./format.js";
import { icon } from "./icons.js";
import { isAdmin } from "./state.js";

const path = (download, action = "") => `downloads/${encodeURIComponent(download.id)}${action}`;

/** Asks the daemon for an action on a download. Returns whether it succeeded. */
export const act = (download, action) => attempt(() => post(path(download, `/${action}`)));

export const move = (download, to) => attempt(() => post(path(download, "/move"), { to }));

/** Removes a download after a question. */
export async function removeAfterQuestion(download) {
  const name = isolated(clean(download.name));
  const stored = download.progress.stored > 0 || isStored(download);
  const choices = [{ label: "Remove from the queue", value: "entry", danger: !stored }];
  if (download.import) choices.push({ label: `Also delete ${bytes(download.progress.stored)} from storage`, value: "data", danger: true });
  const text = stored ? " What is stored can stay in storage." : "";
  const chosen = await ask("Remove the download", [h("strong", null, name), h("br"), text], choices);
  if (chosen === null) return false;
  const removed = await attempt(() => remove(withQuery(path(download), { data: chosen === "data" })));
  if (removed) toast(`Removed: ${download.name}`);
  return removed;
}

/** The actions that make sense in the state of a download, as [action, label, icon]. */
export function actionsFor(download) {
  const { state, seeding } = download;
  if (state === "paused" || seeding === "paused") return ["resume", "Resume", "resume"];
  if (state === "failed" || state === "retrying") return ["retry", "Try again", "retry"];
  if (state === "done" && seeding !== "active" && seeding !== "waiting") return null;
  return ["pause", state === "done" ? "Pause seeding" : "Pause", "pause"];
}

/** The error of a download with its hint, or what it waits for. */
export function troubleOf(download) {
  if (download.error) return [download.error.message, download.error.hint];
  if (download.progress.trouble) return [download.progress.trouble, null];
  return [null, null];
}

/** A row, which is changed in place: focus and selection stay. */
export class Row {
  constructor(download, changed) {
    const name = h("a", { class: "name", href: `#/downloads/${download.id}` });
    const badge = h("span", { class: "badge" });
    const chips = h("span", { class: "chips" });
    const bar = h("progress", { max: "1" });
    const share = h("span", { class: "share" });
    const numbers = h("p", { class: "figures" });
    const error = h("p", { class: "error-text" });
    const buttons = h("div", { class: "actions" });
    name.id = newId("name");
    this.parts = { name, badge, chips, bar, share, numbers, error, buttons };
    this.changed = changed;
    this.element = h(
      "li",
      { class: "row card", "aria-labelledby": name.id },
      h("div", { class: "row-body" }, h("p", { class: "title" }, name), h("p", { class: "sub" }, badge, chips), h("p", { class: "bar" }, bar, share), numbers, error),
      buttons,
    );
    this.update(download);
  }

  update(download) {
    this.download = download;
    const { name, badge, chips, bar, share, numbers, error } = this.parts;
    const shownName = clean(download.name);
    if (name.textContent !== shownName) fill(name, isolated(shownName));
    const [word, kind] = status(download);
    setText(badge, word);
    badge.className = `badge ${kind}`;
    this.updateChips(chips, download);
    this.updateBar(bar, share, download, kind, shownName);
    setText(numbers, figures(download));
    this.updateError(error, download);
    this.updateButtons(download, shownName);
  }

  updateChips(chips, download) {
    const shown = [download.storage, download.category, ...download.tags].filter(Boolean);
    if (download.priority !== "normal") shown.push(`${download.priority} priority`);
    const key = JSON.stringify(shown);
    if (chips.dataset.key === key) return;
    chips.dataset.key = key;
    fill(chips, shown.map((text) => h("span", { class: "chip" }, isolated(clean(text)))));
  }

  updateBar(bar, share, download, kind, name) {
    const { progress } = download;
    const stored = isStored(download) ? 1 : progress.share;
    const isUnknown = progress.bytes === null && !isStored(download);
    bar.value = stored;
    bar.className = kind;
    bar.setAttribute("aria-label", `Stored part of ${name}`);
    setText(share, isUnknown ? "" : percent(stored));
    bar.parentElement.hidden = download.state === "done" || (download.state === "failed" && isUnknown);
  }

  updateError(error, download) {
    const [text, hint] = troubleOf(download);
    const key = `${text}\n${hint}`;
    if (error.dataset.key === key) return;
    error.dataset.key = key;
    error.hidden = text === null;
    error.classList.toggle("warn", download.state !== "failed");
    fill(error, text === null ? null : isolated(clean(text)), hint ? h("small", null, isolated(clean(hint))) : null);
  }

  updateButtons(download, name) {
    if (!isAdmin()) return;
    const { buttons } = this.parts;
    const action = actionsFor(download);
    if (buttons.dataset.action === String(action?.[0])) return;
    const hadFocus = buttons.contains(document.activeElement);
    buttons.dataset.action = String(action?.[0]);
    const button = (label, image, onclick) =>
      h("button", { class: "plain", type: "button", "aria-label": `${label}: ${name}`, title: label, onclick }, icon(image));
    fill(
      buttons,
      action ? button(action[1], action[2], () => this.toggle()) : null,
      button("Remove", "remove", () => this.removeIt()),
    );
    if (hadFocus) buttons.firstElementChild.focus();
  }

  async toggle() {
    const action = actionsFor(this.download);
    if (action && isAdmin() && (await act(this.download, action[0]))) this.changed();
  }

  async removeIt() {
    if (isAdmin() && (await removeAfterQuestion(this.download))) this.changed();
  }
}
