// Charts: Observable Plot, in the page's own colours, with text for those who do not see them.
import { dot, gridX, gridY, line, lineY, plot, pointer, pointerX, rect, ruleX, ruleY, tip } from "@observablehq/plot";
import { box, format, shortened } from "./numbers.js";

/** Colours that people with any colour vision tell apart (after Okabe and Ito); report.css has them for light and for dark ground. */
export const PALETTE = [0, 1, 2, 3, 4, 5, 6, 7].map((k) => `var(--series-${k})`);
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 2", "12 3", "4 4", "3 1"];
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye", "asterisk"];

/** The same place for the same case in every drawing. */
function jitter(i) {
  return ((i * 0.61803398875) % 1) * 0.34 + 0.6;
}

const BASE = { style: { background: "none", color: "inherit", fontSize: "12px", overflow: "visible" } };

/** Strip and box per row; `rows` are {name, values}, `cases` names. */
export function distribution(rows, { cases, label, distance, width, open }) {
  const margin = Math.min(Math.max(...rows.map((r) => r.name.length)) * 7 + 14, Math.max(90, width * 0.32));
  const points = rows.flatMap((row, k) => row.values.map((value, i) =>
    Number.isFinite(value) ? { row: row.name, k, value, y: jitter(i), case: cases[i], i } : null).filter(Boolean));
  const boxes = rows.map((row, k) => ({ row: row.name, k, ...box(row.values) })).filter((b) => b.n);
  const color = (d) => PALETTE[d.k % PALETTE.length];
  const many = points.length > 400;
  const most = Math.max(1, ...points.map((p) => p.value));
  const x = distance
    ? { type: "symlog", constant: 2, domain: [0, most * 1.05], ticks: [0, 1, 2, 5, 10, 20, 50, 100, 200, 374].filter((t) => t <= most * 1.1), tickFormat: (t) => String(t), label }
    : { label, nice: true, tickFormat: (t) => String(Number(t.toFixed(3))) };
  const figure = plot({
    ...BASE,
    width, height: rows.length * 58 + 46, marginLeft: margin, marginRight: 16, marginTop: 8, marginBottom: 38,
    ariaLabel: `Distribution of ${label}`,
    ariaDescription: boxes.map((b) => `${b.row}: median ${format(b.median)}, quartiles ${format(b.q1)} and ${format(b.q3)}, ${b.n} cases`).join("; "),
    x, y: { axis: null, domain: [1, 0] }, fy: { domain: rows.map((r) => r.name), label: null, padding: 0.12, tickFormat: (name) => shortened(name, Math.floor((margin - 14) / 6.6)) },
    marks: [
      gridX({ strokeOpacity: 0.12 }),
      ruleY(boxes, { fy: "row", y: 0.32, x1: "low", x2: "high", stroke: color, strokeWidth: 1.5 }),
      rect(boxes, { fy: "row", x1: "q1", x2: "q3", y1: 0.14, y2: 0.5, fill: color, fillOpacity: 0.28, stroke: color, strokeWidth: 1.5, rx: 2 }),
      // No tick mark: it would turn y into an ordinal scale.
      ruleX(boxes, { fy: "row", x: "median", y1: 0.14, y2: 0.5, stroke: "currentColor", strokeWidth: 2.5 }),
      dot(boxes, { fy: "row", x: "mean", y: 0.32, symbol: "diamond", r: 4, fill: "currentColor", stroke: "none" }),
      dot(points, { fy: "row", x: "value", y: "y", r: many ? 1.8 : 3, fill: color, fillOpacity: many ? 0.45 : 0.75, stroke: "none" }),
      tip(points, pointer({ fy: "row", x: "value", y: "y", maxRadius: 24, title: (d) => `${d.case}\n${d.row}: ${format(d.value)}`, fill: "var(--card)", stroke: "var(--line)" })),
    ],
  });
  figure.addEventListener("click", () => figure.value && open(figure.value.i));
  return figure;
}

/** Powers of ten around the values, and three times as much: few enough to be read. */
function decades(values) {
  const [low, high] = [Math.floor(Math.log10(Math.min(...values))), Math.ceil(Math.log10(Math.max(...values)))];
  const powers = Array.from({ length: Math.max(0, high - low) + 1 }, (_, i) => low + i);
  return powers.flatMap((e) => (e < high ? [10 ** e, 3 * 10 ** e] : [10 ** e]));
}

/** Lines over epochs; `lines` are {name, epochs, values}. */
export function curves(lines, { label, width, log = false }) {
  const points = lines.flatMap((l, k) => l.values.map((value, i) =>
    ({ name: l.name, k, epoch: l.epochs[i], value })).filter((p) => Number.isFinite(p.value) && !(log && p.value <= 0)));
  const color = (d) => PALETTE[d.k % PALETTE.length];
  const last = lines.map((l) => points.findLast((p) => p.name === l.name)).filter(Boolean);
  const ticks = log && points.length ? decades(points.map((p) => p.value)) : undefined;
  const few = points.length / Math.max(1, lines.length) < 40;
  return plot({
    ...BASE,
    width, height: Math.min(300, Math.max(220, width * 0.5)), marginLeft: 52, marginRight: 20, marginBottom: 36, marginTop: 26,
    ariaLabel: `${label} over epochs`,
    ariaDescription: last.map((p) => `${p.name}: ${format(p.value)} at epoch ${p.epoch}`).join("; "),
    x: { label: "epoch", ticks: Math.max(3, Math.round(width / 90)), tickFormat: (t) => (Number.isInteger(t) ? String(t) : "") },
    y: { label, type: log ? "log" : "linear", nice: true, ...(log ? { tickFormat: "~e", ticks, domain: ticks && [ticks[0], ticks.at(-1)] } : {}) },
    marks: [
      gridY({ strokeOpacity: 0.12, ...(log ? { ticks } : {}) }),
      lines.map((l, k) => lineY(points.filter((p) => p.k === k), { x: "epoch", y: "value", stroke: PALETTE[k % PALETTE.length], strokeWidth: 2, strokeDasharray: DASHES[k % DASHES.length] })),
      few ? dot(points, { x: "epoch", y: "value", fill: color, r: 2 }) : null,
      ruleX(points, pointerX({ x: "epoch", stroke: "currentColor", strokeOpacity: 0.25 })),
      tip(points, pointer({ x: "epoch", y: "value", maxRadius: 40, title: (d) => `${d.name}\nepoch ${d.epoch}: ${format(d.value)}`, fill: "var(--card)", stroke: "var(--line)" })),
    ],
  });
}

/** The dash of the k-th line of `curves`, for a legend. */
export function lineSample(k) {
  return { color: PALETTE[k % PALETTE.length], dash: DASHES[k % DASHES.length] };
}

/** Frequency against probability; `regions` are {region, bins: {voxels, positive, probability}[]}. */
export function reliability(regions, { width }) {
  const points = regions.flatMap(({ region, bins }, k) => bins.filter((b) => b.voxels > 0).map((b) =>
    ({ region, k, x: b.probability / b.voxels, y: b.positive / b.voxels, n: b.voxels })));
  const color = (d) => PALETTE[d.k % PALETTE.length];
  return plot({
    ...BASE,
    width, height: width * 0.92, marginLeft: 52, marginRight: 20, marginBottom: 40, marginTop: 26,
    ariaLabel: "Frequency against probability",
    ariaDescription: regions.map(({ region }, k) => `${region}: ${points.filter((p) => p.k === k).map((p) => `${format(p.x, 2)} is ${format(p.y, 2)}`).join(", ")}`).join("; "),
    x: { label: "probability", domain: [0, 1], ticks: 5 }, y: { label: "share of voxels in the region", domain: [0, 1], ticks: 5 },
    symbol: { domain: regions.map((_, k) => k), range: SYMBOLS },
    marks: [
      gridX({ strokeOpacity: 0.12 }), gridY({ strokeOpacity: 0.12 }),
      line([[0, 0], [1, 1]], { stroke: "currentColor", strokeDasharray: "4 4", strokeOpacity: 0.6 }),
      regions.map((_, k) => lineY(points.filter((p) => p.k === k), { x: "x", y: "y", stroke: PALETTE[k % PALETTE.length], strokeWidth: 2, strokeDasharray: DASHES[k % DASHES.length] })),
      dot(points, { x: "x", y: "y", symbol: "k", r: 3.5, fill: color, stroke: color }),
      tip(points, pointer({ x: "x", y: "y", maxRadius: 30, title: (d) => `${d.region}\nprobability ${format(d.x, 3)}: ${format(d.y, 3)} in the region\n${d.n} voxels`, fill: "var(--card)", stroke: "var(--line)" })),
    ],
  });
}

/** Points {name, x, y, k}: how a score goes with another. */
export function scatter(points, { x, y, width, groups, threshold, open }) {
  const figure = plot({
    ...BASE,
    width, height: Math.min(380, width * 0.7), marginLeft: 52, marginBottom: 40, marginTop: 26,
    ariaLabel: `${y} against ${x}`,
    x: { label: x, nice: true }, y: { label: y, nice: true },
    symbol: { domain: groups.map((_, k) => k), range: SYMBOLS },
    marks: [
      gridX({ strokeOpacity: 0.12 }), gridY({ strokeOpacity: 0.12 }),
      threshold === null ? null : ruleY([threshold], { stroke: "currentColor", strokeDasharray: "4 4", strokeOpacity: 0.6 }),
      dot(points, { x: "x", y: "y", symbol: "k", stroke: (d) => PALETTE[d.k % PALETTE.length], fill: (d) => PALETTE[d.k % PALETTE.length], fillOpacity: 0.35, r: 4 }),
      tip(points, pointer({ x: "x", y: "y", maxRadius: 30, title: (d) => `${d.name}\n${groups[d.k]}: ${format(d.y)}\n${x}: ${format(d.x)}`, fill: "var(--card)", stroke: "var(--line)" })),
    ],
  });
  figure.addEventListener("click", () => figure.value && open(figure.value.i));
  return figure;
}
