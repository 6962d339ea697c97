// The page: session, header, and which view is shown. Views are chosen by the fragment of the address.

import { openAdd } from "./add.js";
import { get, onSignedOut } from "./api.js";
import { showDetails } from "./details.js";
import { showProblem } from "./dialog.js";
import { fill, h, setText } from "./dom.js";
import { icon } from "./icons.js";
import { listenToKeys, showKeys } from "./keys.js";
import { rateText, showList } from "./list.js";
import { connect, forget, listen } from "./live.js";
import { showLog } from "./log.js";
import { showLogin } from "./login.js";
import { showPlayer } from "./player.js";
import { showSettings } from "./settings.js";
import { isAdmin, refreshSettings, state } from "./state.js";

const main = document.getElementById("main");
const top = document.getElementById("top");
let view = null;

const rates = h("span", { class: "rates", title: "Rates of all downloads" });
const away = h("span", { class: "away", role: "status", hidden: true }, "No connection to the daemon");
const header = { showRates: (counts) => setText(rates, rateText(counts)) };

const actions = {
  signedOut() {
    if (state.role === "none") return;
    state.role = "none";
    forget();
    document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
    start();
  },
  reconnect: connect,
};

function leaveView() {
  view?.leave?.();
  view = null;
}

function showHeader() {
  const link = (href, text) => h("a", { href, "data-view": href }, text);
  const add = isAdmin() ? h("button", { type: "button", class: "add", onclick: () => openAdd(() => view?.refresh?.()) }, icon("add"), h("span", null, " Add")) : null;
  fill(
    top,
    h("a", { class: "brand", href: "#/" }, h("img", { src: "page/icon.svg", alt: "", width: "24", height: "24" }), "bae"),
    h("nav", { "aria-label": "Views" }, link("#/", "Downloads"), link("#/log", "Log"), link("#/settings", "Settings"), h("button", { type: "button", class: "link help", "aria-label": "Keys", onclick: showKeys }, "?")),
    away,
    rates,
    add,
  );
  top.hidden = false;
}

/** Shows the view that the fragment names. */
function route() {
  leaveView();
  document.title = "bae";
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  for (const link of top.querySelectorAll("nav a")) {
    const isCurrent = link.dataset.view === `#/${["log", "settings"].includes(name) ? name : ""}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name === "downloads" && rest.length === 1) view = showDetails(main, rest[0]);
  else if (name === "play" && rest.length === 2) view = showPlayer(main, rest[0], Number(rest[1]));
  else if (name === "settings") view = showSettings(main, actions);
  else if (name === "log") view = showLog(main);
  else view = showList(main, header);
  window.scrollTo(0, 0);
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

async function begin(role) {
  state.role = role;
  try {
    await refreshSettings();
  } catch (problem) {
    showProblem(problem);
    return;
  }
  showHeader();
  connect();
  route();
}

async function start() {
  leaveView();
  top.hidden = true;
  document.title = "bae";
  try {
    const { role } = await get("session");
    if (role === "none") showLogin(main, begin);
    else await begin(role);
  } catch (problem) {
    showProblem(problem);
    fill(main, h("div", { class: "empty" }, h("h1", null, "The daemon does not answer"), h("button", { type: "button", onclick: start }, "Try again")));
  }
}

const keys = { a: () => openAdd(() => view?.refresh?.()), g: () => (location.hash = "#/"), "?": showKeys };
listenToKeys((key) => (state.role === "none" ? null : (view?.keys?.[key] ?? keys[key])));
onSignedOut(() => actions.signedOut());
listen((event) => {
  if (event.event === "connected") away.hidden = true;
  else if (event.event === "disconnected") away.hidden = false;
});
window.addEventListener("hashchange", () => state.role !== "none" && route());
window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  if (state.role === "admin" && files.length > 0) openAdd(() => view?.refresh?.(), files);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
start();
