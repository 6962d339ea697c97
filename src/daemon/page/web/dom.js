// Makes elements. Text always becomes a text node, whatever it contains.

/** An element with attributes, listeners (`onclick`) and children: elements, texts, or nothing. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat()) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Replaces the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** Sets the text of an element, if it is another one: assistive software does not read it again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Foreign text in isolation: its direction does not change that of the text around it. */
export function isolated(text, attributes) {
  return h("bdi", attributes, text);
}

let ids = 0;

/** An id that no other element has. */
export function newId(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

/** A labelled control; `hint` is read after the label. */
export function field(label, control, hint) {
  control.id ||= newId("field");
  const note = hint ? h("small", { id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
}

/** A select control with options as [value, text]. */
export function select(options, value, onchange) {
  const control = h("select", { onchange: () => onchange?.(control.value) });
  setOptions(control, options, value);
  return control;
}

/** Replaces the options of a select control, if they are others. */
export function setOptions(control, options, value) {
  const key = JSON.stringify(options);
  if (control.dataset.options !== key) {
    control.dataset.options = key;
    fill(control, options.map(([option, text]) => h("option", { value: option }, text)));
  }
  control.value = value;
}
