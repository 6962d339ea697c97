// Which bytes of an import are stored, as a row of cells.

import { fill, h, setText } from "./dom.js";
import { bytes, percent } from "./format.js";

/** Cells of the map. */
export const CELLS = 120;
const SHADES = 5;

export class BytesMap {
  constructor() {
    this.cells = h("div", { class: "map", role: "img" });
    this.caption = h("figcaption");
    this.element = h("figure", { class: "bytes-map" }, this.cells, this.caption);
  }

  update(map) {
    if (this.cells.children.length !== map.cells.length) fill(this.cells, map.cells.map(() => h("span")));
    map.cells.forEach((share, index) => {
      const shade = share >= 1 ? SHADES : Math.min(SHADES - 1, Math.ceil(share * (SHADES - 1)));
      const name = `s${shade}`;
      const cell = this.cells.children[index];
      if (cell.className !== name) cell.className = name;
    });
    const share = map.bytes > 0 ? map.stored / map.bytes : 1;
    const text = `${bytes(map.stored)} of ${bytes(map.bytes)} stored (${percent(share)}), from the first byte to the last`;
    this.cells.setAttribute("aria-label", text);
    setText(this.caption, text);
  }
}
