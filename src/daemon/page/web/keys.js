// Keys. They do nothing while a control or a dialog has the focus, and with modifiers.

import { openDialog } from "./dialog.js";
import { h } from "./dom.js";

const HELP = [
  ["a", "Add downloads"],
  ["/", "Search by name"],
  ["j, k", "Next and previous download"],
  ["Enter", "Details of the download"],
  ["p", "Pause, resume or try again"],
  ["Delete", "Remove the download"],
  ["g", "The list"],
  ["Space, ← →, m, f", "In the player: play, seek 10 s, mute, full screen"],
  ["Escape", "Back"],
  ["?", "This list"],
];

/** Calls the handler that `find` gives for a key. */
export function listenToKeys(find) {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (target.closest("textarea, select, [contenteditable], input:not([type=checkbox])")) {
      if (key === "Escape") target.blur();
      return;
    }
    // Space and arrows belong to a control that has the focus.
    if ((key === " " || key.startsWith("Arrow")) && target.closest("button, a, summary, input, video, audio")) return;
    const handler = find(key);
    if (!handler) return;
    event.preventDefault();
    handler();
  });
}

export function showKeys() {
  openDialog("Keys", h("dl", { class: "keys" }, HELP.map(([key, text]) => h("div", null, h("dt", null, h("kbd", null, key)), h("dd", null, text)))));
}
