// Messages, questions and dialogs.

import { h, isolated } from "./dom.js";
import { clean } from "./format.js";
import { icon } from "./icons.js";

const MESSAGE_TIME = 4000;
/** Errors that are shown at once. */
const MAX_ERRORS = 3;

/** Shows a message for a while; errors stay until they are closed. */
export function toast(text, hint, isError = false) {
  const close = () => message.remove();
  const message = h(
    "div",
    { class: isError ? "toast bad" : "toast", role: isError ? "alert" : null },
    h("p", null, isolated(clean(text)), hint ? h("small", null, isolated(clean(hint))) : null),
    h("button", { class: "plain", type: "button", "aria-label": "Close the message", onclick: close }, icon("close")),
  );
  const shown = document.querySelector("dialog[open] .toasts") ?? document.getElementById("toasts");
  // A message replaces the one before; errors stay.
  if (!isError) shown.querySelectorAll(".toast:not(.bad)").forEach((older) => older.remove());
  shown.append(message);
  while (shown.children.length > MAX_ERRORS) shown.firstChild.remove();
  if (!isError) setTimeout(close, MESSAGE_TIME);
}

/** Shows an error of a request. */
export function showProblem(problem) {
  if (problem.name === "AbortError") return;
  toast(problem.message, problem.hint, true);
}

/** Runs a request, and shows its error. Returns whether it succeeded. */
export async function attempt(work) {
  try {
    await work();
    return true;
  } catch (problem) {
    showProblem(problem);
    return false;
  }
}

/** Opens a dialog of the browser, which keeps the focus and closes with Escape. */
export function openDialog(title, ...content) {
  const close = () => dialog.close();
  const dialog = h(
    "dialog",
    { "aria-label": title },
    h(
      "header",
      { class: "dialog-head" },
      h("h2", null, title),
      h("button", { class: "plain", type: "button", "aria-label": "Close", onclick: close }, icon("close")),
    ),
    content,
    h("div", { class: "toasts", role: "status", "aria-live": "polite" }),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks before something that cannot be undone. Resolves with the chosen value, or `null`. */
export function ask(title, text, choices) {
  return new Promise((resolve) => {
    let chosen = null;
    const choose = (value) => () => {
      chosen = value;
      dialog.close();
    };
    const buttons = choices.map(({ label, value, danger }) =>
      h("button", { type: "button", class: danger ? "danger" : "", onclick: choose(value) }, label));
    const cancel = h("button", { type: "button", class: "secondary", onclick: choose(null) }, "Cancel");
    const dialog = openDialog(title, h("p", { class: "question" }, text), h("div", { class: "buttons" }, cancel, buttons));
    dialog.addEventListener("close", () => resolve(chosen));
    cancel.focus();
  });
}
