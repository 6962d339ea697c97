// Icons as SVG elements. They are decoration: each button has a label of its own.

const NAMESPACE = "http://www.w3.org/2000/svg";
const PATHS = {
  add: "M12 5v14M5 12h14",
  pause: "M9 5v14M15 5v14",
  resume: "M8 5l11 7-11 7z",
  play: "M8 5l11 7-11 7z",
  retry: "M20 12a8 8 0 1 1-2.5-5.8M20 4v4h-4",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  close: "M6 6l12 12M18 6L6 18",
  back: "M14 6l-6 6 6 6",
  up: "M12 19V6M6 11l6-6 6 6",
  down: "M12 5v13M6 13l6 6 6-6",
  open: "M14 5h5v5M19 5l-8 8M18 14v5H5V6h5",
  file: "M7 3h7l4 4v14H7zM14 3v4h4",
};

export function icon(name) {
  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  const path = document.createElementNS(NAMESPACE, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
