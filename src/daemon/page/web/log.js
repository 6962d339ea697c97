// The last events of the daemon.

import { fill, h, isolated, select } from "./dom.js";
import { bytes, clean } from "./format.js";
import { listen, recentEvents } from "./live.js";

const SHOWN = 200;
const MIN_DELAY = 250;

/** An event as [kind, name, text, hint]. The name is foreign text. */
function describe(event) {
  switch (event.event) {
    case "download":
      if (!event.previous && event.state !== "removed") return ["change", event.name, "added"];
      return event.error ? ["error", event.name, `${event.state}: ${event.error}`] : ["change", event.name, event.state];
    case "started":
      return ["change", event.name, `${event.state}, ${bytes(event.stored)} of ${bytes(event.bytes)} stored`];
    case "imported":
      return ["change", event.name, `imported, ${bytes(event.bytes)}`];
    case "paused":
      return ["error", null, `storage refuses writes: ${event.error}`, event.hint];
    case "resumed":
      return ["change", null, "storage accepts writes again"];
    case "notice":
      return ["notice", null, event.text, event.hint];
    case "error":
      return ["error", null, event.error, event.hint];
    case "connected":
      return ["change", null, "connected to the daemon"];
    case "disconnected":
      return ["error", null, "the connection to the daemon broke"];
    case "lagged":
      return ["notice", null, `${event.missed} older events are not kept`];
    default:
      return null;
  }
}

const hintText = (hint) => (typeof hint === "string" ? hint : null);

/** The log in `main`. */
export function showLog(main) {
  let shown = "all";
  let pending = null;
  const list = h("ol", { class: "log" });
  const show = () => {
    pending = null;
    const lines = recentEvents().map((event) => [event, describe(event)]).filter(([, line]) => line && (shown === "all" || line[0] === shown));
    const rows = lines.slice(-SHOWN).reverse().map(([event, [kind, name, text, hint]]) =>
      h("li", { class: kind }, h("time", null, new Date(event.time * 1000).toLocaleTimeString()), h("span", null, name === null ? null : [isolated(clean(name)), ": "], isolated(clean(text)), hintText(hint) ? h("small", null, isolated(clean(hintText(hint)))) : null)));
    fill(list, rows.length > 0 ? rows : h("li", null, "Nothing yet."));
  };
  const filter = select([["all", "All events"], ["error", "Errors"], ["notice", "Notices"], ["change", "Changes"]], shown, (value) => {
    shown = value;
    show();
  });
  filter.setAttribute("aria-label", "Events");
  const stop = listen((event) => {
    if (event.event !== "progress" && pending === null) pending = setTimeout(show, MIN_DELAY);
  });
  fill(main, h("div", { class: "head" }, h("h1", null, "Log"), filter), h("section", { class: "card", "aria-label": "Events, the last first" }, list));
  show();
  return {
    leave() {
      stop();
      clearTimeout(pending);
    },
  };
}
