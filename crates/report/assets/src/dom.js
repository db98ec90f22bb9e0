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

/** A table whose rows are sorted by a press on a column's head: the greatest first, then the least; words by the alphabet. */
export function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, at) => {
    const text = row.cells[at]?.textContent.trim() ?? "";
    const number = parseFloat(text.replace(/^<\s*/, "").replace("−", "-").replace("∞", "Infinity"));
    return { text, number };
  };
  heads.forEach((head, at) => {
    const arrow = h("span", { class: "arrow", "aria-hidden": "true" }, "↕");
    head.setAttribute("aria-sort", "none");
    head.replaceChildren(h("button", { type: "button", onclick: () => {
      const rows = [...table.tBodies[0].rows];
      const words = rows.some((row) => { const { text, number } = value(row, at); return text && !/^[–·]$/.test(text) && Number.isNaN(number); });
      const now = head.getAttribute("aria-sort");
      const down = now === "none" ? !words : now === "ascending";
      for (const other of heads) {
        other.setAttribute("aria-sort", other === head ? (down ? "descending" : "ascending") : "none");
        other.querySelector(".arrow").textContent = other === head ? (down ? "▼" : "▲") : "↕";
      }
      const keyed = rows.map((row) => ({ row, ...value(row, at) }));
      keyed.sort((a, b) => {
        if (words) return a.text.localeCompare(b.text, undefined, { numeric: true }) * (down ? -1 : 1);
        // What has no value comes last either way.
        if (Number.isNaN(a.number) || Number.isNaN(b.number)) return Number.isNaN(a.number) - Number.isNaN(b.number);
        return (a.number - b.number) * (down ? -1 : 1);
      });
      // Lines that part groups mean nothing in another order.
      rows.forEach((row) => row.classList.remove("first"));
      table.tBodies[0].append(...keyed.map((k) => k.row));
    } }, ...head.childNodes, arrow));
  });
  table.classList.add("sortable");
  return table;
}

/** Radio buttons that look like one control; `options` are [value, text]. */
export function radios(label, options, value, change) {
  // The page and the viewer are two programs: a number counted here would name a group of each.
  const name = `group-${Math.random().toString(36).slice(2)}`;
  return h("fieldset", { class: "radios" }, h("legend", {}, label),
    options.map(([v, text]) => h("label", {},
      h("input", { type: "radio", name, value: v, checked: String(v) === String(value), onchange: () => change(v) }),
      h("span", {}, text))));
}
