// The filters of the list, with the number of downloads that each would show.

import { fill, h, setOptions, setText } from "./dom.js";
import { clean } from "./format.js";
import { state } from "./state.js";

const GROUPS = [
  ["", "All", null],
  ["active", "Active", ["starting", "downloading", "exporting"]],
  ["waiting", "Waiting", ["queued", "retrying"]],
  ["paused", "Paused", ["paused"]],
  ["failed", "Failed", ["failed"]],
  ["done", "Done", ["done"]],
];

const ORDERS = [["newest", "Newest first"], ["added", "Oldest first"], ["queue", "In the order of the queue"]];
/** The value of an option that stands for no filter. A category may have an empty name: none. */
const ANY = "*";
const TYPING_DELAY = 200;

/** Filters; `changed` is called when one is chosen. */
export class Filters {
  constructor(changed) {
    this.group = "";
    this.changed = changed;
    this.tabs = GROUPS.map(([group, label]) => {
      const count = h("span", { class: "count" });
      const button = h("button", { type: "button", class: "tab", "aria-pressed": String(group === ""), onclick: () => this.choose(group) }, label, " ", count);
      return { group, button, count };
    });
    let typing = null;
    const typed = () => {
      clearTimeout(typing);
      typing = setTimeout(changed, TYPING_DELAY);
    };
    this.search = h("input", { type: "search", placeholder: "Part of a name", "aria-label": "Search by name", oninput: typed });
    const control = (label) => h("select", { "aria-label": label, onchange: changed });
    this.category = control("Category");
    this.storage = control("Storage");
    this.order = control("Order");
    setOptions(this.order, ORDERS, "newest");
    this.update({ total: 0, states: {}, categories: {}, storages: {} });
    this.element = h(
      "section",
      { class: "filters", "aria-label": "Filters" },
      h("div", { class: "tabs", role: "group", "aria-label": "State" }, this.tabs.map((tab) => tab.button)),
      h("div", { class: "selects" }, this.search, this.category, this.storage, this.order),
    );
  }

  choose(group) {
    this.group = group;
    for (const tab of this.tabs) tab.button.setAttribute("aria-pressed", String(tab.group === group));
    this.changed();
  }

  /** Shows other counts. */
  update(counts) {
    for (const { group, count } of this.tabs) {
      const states = GROUPS.find(([name]) => name === group)[2];
      const number = states ? states.reduce((sum, name) => sum + (counts.states[name] ?? 0), 0) : counts.total;
      setText(count, number.toLocaleString());
    }
    const named = (names, counted) => names.map((name) => [name, `${clean(name)} (${(counted[name] ?? 0).toLocaleString()})`]);
    const categories = [...new Set([...Object.keys(state.categories), ...Object.keys(counts.categories)])].filter(Boolean).sort();
    const without = counts.categories[""] ? [["", `No category (${counts.categories[""].toLocaleString()})`]] : [];
    const storages = [...new Set([...state.storages.map(({ name }) => name), ...Object.keys(counts.storages)])].sort();
    this.keep(this.category, [[ANY, "All categories"], ...named(categories, counts.categories), ...without]);
    this.keep(this.storage, [[ANY, "All storages"], ...named(storages, counts.storages)]);
  }

  keep(control, options) {
    const chosen = control.value || (control.selectedIndex < 0 ? ANY : control.value);
    setOptions(control, options, options.some(([value]) => value === chosen) ? chosen : ANY);
  }

  /** The query of the list. */
  query() {
    const states = GROUPS.find(([group]) => group === this.group)[2];
    const chosen = (control) => (control.value === ANY ? undefined : control.value);
    return {
      state: states?.join(","),
      name: this.search.value.trim() || undefined,
      category: chosen(this.category),
      storage: chosen(this.storage),
      order: this.order.value,
    };
  }

  isNarrow() {
    const { state: states, name, category, storage } = this.query();
    return [states, name, category, storage].some((value) => value !== undefined);
  }
}
