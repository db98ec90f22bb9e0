// Elements from data: text is always text, never HTML.

/** An element with attributes, listeners (`onclick`) and children; children that are null or false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes, children);
  return element;
}

/** The same in SVG. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes, children);
  return element;
}

function set(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
}

/** A labelled select; `options` are [value, text]. */
export function select(label, options, value, change) {
  const list = h("select", { onchange: (e) => change(e.target.value) },
    options.map(([v, text]) => h("option", { value: v, selected: String(v) === String(value) }, text)));
  return h("label", { class: "field" }, h("span", {}, label), list);
}

/** A labelled checkbox. */
export function check(label, checked, change, extra = null) {
  return h("label", { class: "check" },
    h("input", { type: "checkbox", checked, onchange: (e) => change(e.target.checked) }), extra, h("span", {}, label));
}

/** Radio buttons that look like one control; `options` are [value, text]. */
let groups = 0;
export function radios(label, options, value, change) {
  const name = `group-${groups++}`;
  return h("fieldset", { class: "radios" }, h("legend", {}, label),
    options.map(([v, text]) => h("label", {},
      h("input", { type: "radio", name, value: v, checked: String(v) === String(value), onchange: () => change(v) }),
      h("span", {}, text))));
}
