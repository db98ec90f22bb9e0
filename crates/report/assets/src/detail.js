// A case: slices with outlines, volumes, scores, flags, files, and the way to the viewer.
import { check, h, radios, select, svg } from "./dom.js";
import { OUTLINES } from "./colors.js";
import { count, format } from "./numbers.js";
import { openViewer } from "./open.js";

/** Blocks of cases that were unpacked. */
const blocks = new Map();

/** Unpacks the block of a case, once. */
export async function unpackCase(i) {
  if (!blocks.has(i)) blocks.set(i, JSON.parse(await glioseg.unpack(`case-${i}`)));
  return blocks.get(i);
}

export function detail(data, i, run) {
  const c = data.cases[i];
  const part = h("div", { class: "case-body" });
  if (blocks.has(i)) {
    fill(data, c, i, run, blocks.get(i), part);
    return part;
  }
  part.append(h("p", { class: "note" }, "Unpacking …"));
  unpackCase(i).then((block) => fill(data, c, i, run, block, part)).catch((error) => {
    part.replaceChildren(h("p", { class: "problem" }, `This case cannot be shown: ${error.message}`));
  });
  return part;
}

function fill(data, c, i, run, block, part) {
  const state = { background: 0, run, reference: true, prediction: true, hidden: new Set() };
  const figures = h("div", { class: "slices" });
  const tables = h("div", { class: "case-tables" });
  const hasReference = block.reference !== null;
  const hasPrediction = () => block.predictions[state.run] !== null && block.predictions[state.run] !== undefined;

  function drawPictures() {
    figures.replaceChildren(...block.pictures.map((p) => picture(p)));
  }

  function picture(p) {
    const [width, height] = [p.size[0] * p.voxel[0], p.size[1] * p.voxel[1]];
    const shown = [state.reference && [p.outlines[0], "reference"], state.prediction && [p.outlines[state.run + 1], "prediction"]].filter((s) => s && s[0]);
    // A dark edge below all lines, so that they are seen on white as on black; dashes last, for they let through what is below.
    const lines = (kind) => shown.flatMap(([paths, of]) => paths.map((d, r) => (d && !state.hidden.has(r)
      ? svg("path", { d, class: kind ?? of, stroke: kind ? null : OUTLINES[r % OUTLINES.length], transform: `scale(${p.voxel[0]} ${p.voxel[1]})` })
      : null)));
    const [left, right, top, bottom] = p.letters;
    const letter = (x, y, text, anchor) => svg("text", { x, y, class: "letter", "text-anchor": anchor }, text);
    const size = Math.max(width, height) / 20;
    const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", style: { "--letter": `${size}px` },
      "aria-label": `${p.plane} slice ${p.slice} of ${p.of} of ${c.id} with outlines` },
      p.images.length > 0 && svg("image", { href: `data:image/png;base64,${p.images[Math.min(state.background, p.images.length - 1)]}`, width, height, preserveAspectRatio: "none" }),
      lines("casing"), lines(null),
      letter(size * 0.3, height / 2 + size / 3, left, "start"), letter(width - size * 0.3, height / 2 + size / 3, right, "end"),
      letter(width / 2, size, top, "middle"), letter(width / 2, height - size * 0.35, bottom, "middle"));
    return h("figure", {}, drawn, h("figcaption", {}, `${p.plane}, slice ${p.slice} of ${p.of}`));
  }

  function sample(kind, color) {
    return svg("svg", { viewBox: "0 0 26 10", width: 26, height: 10, class: "sample", "aria-hidden": "true" },
      svg("line", { x1: 1, y1: 5, x2: 25, y2: 5, class: "casing" }), svg("line", { x1: 1, y1: 5, x2: 25, y2: 5, class: kind, stroke: color }));
  }

  const controls = h("div", { class: "controls small" },
    block.backgrounds.length > 1 && radios("Image", block.backgrounds.map((b, k) => [k, b]), 0, (k) => { state.background = k; drawPictures(); }),
    data.runs.length > 1 && select("Predictions", data.runs.map((r, k) => [k, r.name]), run, (k) => { state.run = Number(k); drawPictures(); drawTables(); }),
    h("fieldset", { class: "checks" }, h("legend", {}, "Outlines"),
      hasReference && check("reference", true, (v) => { state.reference = v; drawPictures(); }, sample("reference", "var(--sample)")),
      check("prediction", true, (v) => { state.prediction = v; drawPictures(); }, sample("prediction", "var(--sample)"))),
    h("fieldset", { class: "checks" }, h("legend", {}, "Regions"), data.regions.map((region, r) =>
      check(region.name, true, (v) => { v ? state.hidden.delete(r) : state.hidden.add(r); drawPictures(); }, h("span", { class: "swatch", style: { background: OUTLINES[r % OUTLINES.length] }, "aria-hidden": "true" })))),
    (block.channels.length > 0 || hasReference || hasPrediction()) && h("button", { type: "button", class: "primary", onclick: () => openViewer(data, c, block, state.run) }, "Open in 3D viewer"));

  function drawTables() {
    const own = data.runs[state.run];
    const [reference, prediction] = [c.volumes[0], c.volumes[state.run + 1]];
    const volumes = (reference || prediction) && h("table", { class: "compact" },
      h("caption", {}, "Volumes in mL"),
      h("thead", {}, h("tr", {}, ["Region", reference && "Reference", prediction && "Prediction", reference && prediction && "Difference"].filter(Boolean).map((t, k) => h("th", { scope: "col", class: k ? "number" : null }, t)))),
      h("tbody", {}, data.regions.map((region, r) => h("tr", {}, h("th", { scope: "row" }, region.name),
        reference && h("td", { class: "number" }, format(reference[r], 2)), prediction && h("td", { class: "number" }, format(prediction[r], 2)),
        reference && prediction && h("td", { class: "number" }, `${prediction[r] - reference[r] > 0 ? "+" : ""}${format(prediction[r] - reference[r], 2)}`)))));
    const scores = (own?.rules ?? []).map((rule, k) => {
      const columns = data.columns(own, rule);
      const regions = [...new Set(columns.map((x) => x.region))];
      const metrics = data.metrics(rule);
      return h("details", { class: "rule", open: k === 0 }, h("summary", {}, `Scores: ${data.ruleName(rule)}`), h("div", { class: "scroll" }, h("table", { class: "compact" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Region"), metrics.map((m) => h("th", { scope: "col", class: "number" }, m)))),
        h("tbody", {}, regions.map((region) => h("tr", {}, h("th", { scope: "row" }, region), metrics.map((m) => {
          const column = columns.find((x) => x.region === region && x.metric === m);
          return h("td", { class: "number" }, column ? format(column.values[i]) : "");
        })))))));
    });
    const uncertainty = c.uncertainty[state.run];
    tables.replaceChildren(...[volumes,
      uncertainty && h("table", { class: "compact" }, h("caption", {}, "Uncertainty (0 sure, 1 not at all)"),
        h("tbody", {}, uncertainty.regions.map((r) => h("tr", {}, h("th", { scope: "row" }, r.region), h("td", { class: "number" }, format(r.score, 3)))),
          h("tr", {}, h("th", { scope: "row" }, "case"), h("td", { class: "number strong" }, format(uncertainty.score, 3))))),
      ...scores].filter(Boolean));
  }

  const notes = [
    ...c.errors.map((text) => h("li", { class: "error" }, h("strong", {}, "Error: "), text)),
    ...(c.flags[run] ?? []).map((f) => h("li", { class: "flag" }, h("strong", {}, `${f.kind}: `), f.message)),
    ...[...c.warnings, ...block.problems.filter((p) => !c.errors.includes(p))].map((text) => h("li", {}, text)),
  ];
  const files = [
    ...block.channels.map(([name, path]) => [name, path]),
    block.reference && ["reference", block.reference],
    ...block.predictions.map((path, k) => path && [data.runs.length > 1 ? data.runs[k].name : "prediction", path]),
    ...(block.maps ?? []).flatMap((own, k) => own.map(([kind, path]) => [data.runs.length > 1 ? `${kind}, ${data.runs[k].name}` : kind, path])),
  ].filter(Boolean);
  part.replaceChildren(...[
    notes.length && h("ul", { class: "notes" }, notes),
    block.pictures.length > 0 && controls, figures, tables,
    files.length > 0 && h("details", { class: "files" }, h("summary", {}, count(files.length, "file")), h("ul", {}, files.map(([name, path]) =>
      h("li", {}, `${name}: `, h("a", { href: path.split("/").map(encodeURIComponent).join("/"), download: path.split("/").pop() }, path))))),
  ].filter(Boolean));
  drawPictures();
  drawTables();
}
