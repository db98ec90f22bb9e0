// The table of cases: sorted, filtered, drawn piece by piece; a row opens to the case itself.
import { check, h, select } from "./dom.js";
import { detail, unpackCase } from "./detail.js";
import { count as counted, format } from "./numbers.js";

/** Rows drawn at a time: a table of a thousand rows is drawn as one scrolls. */
const STEP = 60;

export function caseTable(data) {
  let run = 0;
  let sort = { key: "id", down: false };
  let text = "";
  let flaggedOnly = false;
  let drawn = 0;
  let order = [];
  const opened = new Map();

  /** Columns of the table: a name, and what a case has there. */
  function columnsNow() {
    const columns = [{ key: "id", title: "Case", text: true, value: (c) => c.id }];
    const own = data.runs[run];
    if (data.runs.some((r) => r.columns.length) && data.cases.some((c) => c.status[run] && c.status[run] !== "scored")) {
      columns.push({ key: "status", title: "Status", text: true, value: (c) => c.status[run] ?? "not scored" });
    }
    if (own && own.rules.length) {
      const rule = own.rules[0];
      for (const metric of data.metrics(rule).slice(0, 2)) {
        for (const column of data.columns(own, rule, metric)) {
          columns.push({ key: `${column.region} ${metric}`, title: `${column.region} ${metric}`, value: (c, i) => column.values[i], good: column.more, share: column.share });
        }
      }
    }
    data.regions.forEach((region, i) => {
      if (data.cases.some((c) => c.volumes[run + 1])) {
        columns.push({ key: `mL ${region.name}`, title: `${region.name} mL`, value: (c) => c.volumes[run + 1]?.[i] ?? null, digits: 2 });
      }
    });
    if (data.cases.some((c) => c.uncertainty[run])) {
      columns.push({ key: "uncertainty", title: "Uncertainty", value: (c) => c.uncertainty[run]?.score ?? null, digits: 3 });
    }
    if (data.cases.some((c) => c.flags.some((f) => f.length) || c.errors.length || c.warnings.length)) {
      columns.push({ key: "flags", title: "Flags", value: (c) => c.flags[run]?.length + c.errors.length * 10 + c.warnings.length / 10 || 0, flags: true });
    }
    return columns;
  }

  let columns = columnsNow();
  const head = h("thead", {});
  const body = h("tbody", {});
  const table = h("table", { class: "cases" }, head, body);
  const box = h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Cases" }, table);
  const count = h("p", { class: "note", role: "status" });
  const more = h("button", { type: "button", class: "more", onclick: () => draw() }, "Show more cases");
  const filter = h("input", { type: "search", placeholder: "part of a name", oninput: (e) => { text = e.target.value.toLowerCase(); again(); } });
  const controls = h("div", { class: "controls" },
    h("label", { class: "field" }, h("span", {}, "Find"), filter),
    data.runs.length > 1 && select("Predictions", data.runs.map((r, i) => [i, r.name]), run, (v) => { run = Number(v); columns = columnsNow(); opened.clear(); again(); }),
    data.cases.some((c) => isFlagged(c)) && check("only cases with flags or errors", false, (v) => { flaggedOnly = v; again(); }));

  function isFlagged(c) {
    return c.flags.some((f) => f.length) || c.errors.length > 0;
  }

  function headNow() {
    head.replaceChildren(h("tr", {}, columns.map((column) => {
      const sorted = sort.key === column.key;
      return h("th", { scope: "col", class: column.text ? null : "number", "aria-sort": sorted ? (sort.down ? "descending" : "ascending") : "none" },
        h("button", { type: "button", onclick: () => { sort = { key: column.key, down: sorted ? !sort.down : column.good === true ? false : !column.text }; again(); } },
          column.title, h("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (sort.down ? "▼" : "▲") : "↕")));
    })));
  }

  function again() {
    headNow();
    const column = columns.find((c) => c.key === sort.key) ?? columns[0];
    const direction = sort.down ? -1 : 1;
    order = data.cases.map((c, i) => i).filter((i) => data.cases[i].id.toLowerCase().includes(text) && (!flaggedOnly || isFlagged(data.cases[i])));
    const keys = data.cases.map((c, i) => column.value(c, i));
    const none = (v) => v === null || v === undefined || Number.isNaN(v);
    order.sort((a, b) => {
      const [x, y] = [keys[a], keys[b]];
      // What has no value comes last either way.
      if (none(x) || none(y)) return none(x) - none(y) || a - b;
      return direction * (column.text ? String(x).localeCompare(String(y), undefined, { numeric: true }) : x - y) || a - b;
    });
    body.replaceChildren();
    drawn = 0;
    draw();
  }

  function draw(until = drawn + STEP) {
    for (; drawn < Math.min(until, order.length); drawn++) body.append(...row(order[drawn]));
    more.hidden = drawn >= order.length;
    count.textContent = order.length === data.cases.length ? `${counted(order.length, "case")}; choose one to see it.` : `${order.length} of ${counted(data.cases.length, "case")}.`;
  }

  function row(i) {
    const c = data.cases[i];
    const button = h("button", { type: "button", class: "case", "aria-expanded": opened.has(i) ? "true" : "false", onclick: () => toggle(i) },
      h("span", { class: "chevron", "aria-hidden": "true" }), c.id);
    const line = h("tr", { id: `row-${i}`, class: "row" }, columns.map((column) => {
      if (column.key === "id") return h("th", { scope: "row" }, button);
      if (column.flags) return h("td", {}, badges(c, run));
      const value = column.value(c, i);
      if (column.text) return h("td", {}, h("span", { class: `status ${value}` }, value));
      const inside = column.share && Number.isFinite(value);
      return h("td", { class: inside ? "number bar" : "number", style: inside ? { "--share": String(value) } : {} }, format(value, column.digits ?? 4));
    }));
    return opened.has(i) ? [line, opened.get(i)] : [line];
  }

  function toggle(i, open = !opened.has(i)) {
    const line = document.getElementById(`row-${i}`);
    if (open && !opened.has(i)) {
      const cell = h("td", { colspan: String(columns.length) }, h("div", { class: "detail" }, detail(data, i, run)));
      opened.set(i, h("tr", { class: "opened" }, cell));
      line.after(opened.get(i));
    } else if (!open && opened.has(i)) {
      opened.get(i).remove();
      opened.delete(i);
    }
    line.querySelector("button").setAttribute("aria-expanded", String(opened.has(i)));
  }

  /** Opens a case from elsewhere on the page. */
  data.open = (i, go) => {
    if (!order.includes(i)) {
      text = "";
      filter.value = "";
      flaggedOnly = false;
      again();
    }
    if (order.indexOf(i) >= drawn) draw(order.indexOf(i) + 10);
    toggle(i, true);
    if (go) {
      const line = document.getElementById(`row-${i}`);
      line.scrollIntoView({ block: "start" });
      line.querySelector("button").focus({ preventScroll: true });
    }
  };
  /** Opens the case that the address names: #case=NAME. */
  data.show = async (hash) => {
    if (!hash.startsWith("#case=")) return;
    const i = data.names.indexOf(decodeURIComponent(hash.slice(6)));
    if (i >= 0) data.open(i, true);
  };
  // What comes into view is drawn before it is asked for.
  new IntersectionObserver((entries) => entries.some((e) => e.isIntersecting) && !more.hidden && draw(), { rootMargin: "600px" }).observe(more);
  // On paper there is nothing to press: all rows, and the cases themselves where they are few.
  // Nothing can be waited for then, so the few are unpacked ahead.
  const few = data.cases.length <= 20;
  if (few) data.cases.forEach((_, i) => unpackCase(i).catch(() => {}));
  addEventListener("beforeprint", () => {
    draw(order.length);
    if (few) order.forEach((i) => toggle(i, true));
  });
  again();
  if (data.cases.length <= 3) data.cases.forEach((c, i) => queueMicrotask(() => requestAnimationFrame(() => toggle(i, i === 0))));
  return h("div", {}, controls, count, box, more);
}

/** Flags, errors and warnings as words. */
export function badges(c, run) {
  return h("span", { class: "badges" },
    c.errors.length > 0 && h("span", { class: "badge error" }, "✕ error"),
    (c.flags[run] ?? []).map((f) => h("span", { class: "badge flag", title: f.message }, `⚑ ${f.kind}`)),
    c.warnings.length > 0 && h("span", { class: "badge warning" }, counted(c.warnings.length, "warning")));
}
