// The report: reads the overview block and draws its parts.
import { curves, distribution, lineSample, PALETTE, reliability, scatter } from "./charts.js";
import { h, select, sortable, svg } from "./dom.js";
import { caseTable } from "./cases.js";
import { box, count as counted, format, number, pValue } from "./numbers.js";

async function start() {
  const data = prepare(JSON.parse(await glioseg.unpack("overview")));
  const main = document.getElementById("main");
  const parts = [
    ["overview", "Overview", overview(data)],
    ["scores", "Scores", scores(data)],
    ["ranking", "Ranking", data.ranking && ranking(data)],
    ["confidence", "Uncertainty", confidence(data)],
    ["calibration", "Calibration", calibration(data)],
    ["training", "Learning curves", data.curves.length > 0 && training(data)],
    ["cases", "Cases", data.cases.length > 0 && caseTable(data)],
    ["about", "About", about(data)],
  ].filter(([, , part]) => part);
  document.getElementById("wait").remove();
  for (const [id, title, part] of parts) {
    main.append(h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), part));
  }
  const nav = document.getElementById("nav");
  nav.append(h("div", { class: "wrap" }, h("ul", {}, parts.map(([id, title]) => h("li", {}, h("a", { href: `#${id}` }, title)))), theme()));
  document.getElementById("made").textContent = `Made by glioseg ${data.version}. Everything shown is in this file; it asks nothing of any network.`;
  await data.show(location.hash);
  addEventListener("hashchange", () => data.show(location.hash));
}

/** Numbers that JSON lacks become numbers again. */
function prepare(data) {
  for (const run of data.runs) {
    for (const column of run.columns) {
      column.values = column.values.map(number);
      for (const [name, value] of Object.entries(column.summary)) column.summary[name] = number(value);
    }
    run.rules = data.rules.map((r) => r.key).filter((key) => run.columns.some((c) => c.rule === key));
  }
  data.cases.forEach((c) => {
    c.volumes = c.volumes.map((v) => v && v.map(number));
    c.uncertainty = c.uncertainty.map((u) => u && { ...u, score: number(u.score), regions: u.regions.map((r) => ({ ...r, score: number(r.score) })) });
  });
  data.scored = data.runs.filter((r) => r.columns.length);
  const told = new Map(data.rules.map((r) => [r.key, r]));
  data.ruleName = (rule) => told.get(rule).label;
  data.ruleAbout = (rule) => told.get(rule).about;
  data.rules = data.rules.map((r) => r.key).filter((key) => data.runs.some((r) => r.rules.includes(key)));
  data.names = data.cases.map((c) => c.id);
  /** Columns of a run under a rule; of one metric, if it is named. */
  data.columns = (run, rule, metric) => run.columns.filter((c) => c.rule === rule && (!metric || c.metric === metric));
  data.metrics = (rule) => [...new Set(data.runs.flatMap((r) => data.columns(r, rule)).map((c) => c.metric))];
  /** The metric that stands for a rule: the first that it ranks by. */
  data.chief = (rule) => {
    const columns = data.runs.flatMap((r) => data.columns(r, rule));
    return (columns.find((c) => c.ranked) ?? columns[0]).metric;
  };
  /** The rule and metric that stand for the whole. */
  data.main = data.rules.length ? { rule: data.rules[0], metric: data.chief(data.rules[0]) } : null;
  // The table of cases replaces it.
  data.show = async () => {};
  return data;
}

/** Light, dark, or as the system has it. */
function theme() {
  const root = document.documentElement;
  const names = ["auto", "light", "dark"];
  let now = 0;
  const button = h("button", { type: "button", class: "theme", onclick: () => apply((now + 1) % 3) });
  function apply(next) {
    now = next;
    if (now === 0) delete root.dataset.theme;
    else root.dataset.theme = names[now];
    button.textContent = `Colours: ${names[now]}`;
  }
  apply(0);
  return button;
}

function tile(title, value, more, extra = {}) {
  return h("div", { class: "tile", ...extra }, h("p", { class: "tile-title" }, title), h("p", { class: value.length > 14 ? "tile-value long" : "tile-value" }, value), more && h("p", { class: "tile-more" }, more));
}

/** What a report of models alone begins with: how long they learned, and what they had reached. */
function trained(data) {
  return data.curves.flatMap((curve) => {
    const name = ["Dice, moving average", "validation loss", "train loss"].find((n) => curve.series[n]);
    const last = name && curve.series[name].map(number).findLast(Number.isFinite);
    return [tile(`${curve.fold} · epochs`, String(curve.epochs.length)), name && tile(`${curve.fold} · ${name}`, format(last, 3), "after the last epoch")];
  });
}

function overview(data) {
  const flagged = data.cases.filter((c) => c.flags.some((f) => f.length) || c.errors.length).length;
  const count = (status) => data.cases.filter((c) => c.status.includes(status)).length;
  if (!data.cases.length) return h("div", { class: "tiles" }, trained(data));
  const tiles = [tile("Cases", String(data.cases.length), data.runs.length > 1 ? `${data.runs.length} sets of predictions` : data.runs[0]?.prediction ?? null)];
  if (data.main && data.scored.length === 1) {
    for (const column of data.columns(data.scored[0], data.main.rule, data.main.metric)) {
      const s = column.summary;
      tiles.push(tile(`${column.region} · mean ${column.metric}`, format(s.mean, 3), s.n > 1 ? `95 % interval ${format(s.ci_low, 3)} to ${format(s.ci_high, 3)}` : counted(s.n, "case")));
    }
  } else if (data.ranking) {
    const first = data.ranking.places.filter((p) => p.place === 1).map((p) => p.run).join(", ");
    tiles.push(tile("First place", first, `mean rank ${format(data.ranking.places[0].mean_rank, 2)} over cases, regions and metrics`));
  } else if (!data.main) {
    const first = data.cases.map((c) => c.volumes.slice(1).find(Boolean));
    data.regions.forEach((region, i) => {
      const b = box(first.map((v) => (v ? v[i] : NaN)));
      if (b) tiles.push(tile(`${region.name} · median volume`, `${format(b.median, 1)} mL`, `quartiles ${format(b.q1, 1)} to ${format(b.q3, 1)} mL`));
    });
  }
  const notes = [[count("failed"), "could not be scored"], [count("missing"), "without a prediction"]].filter(([n]) => n).map(([n, text]) => `${n} ${text}`);
  tiles.push(tile("To look at", String(flagged), notes.length ? notes.join(", ") : flagged ? "cases with a flag or an error" : "no case has a flag", flagged ? { "data-alert": "" } : {}));
  const part = h("div", {}, h("div", { class: "tiles" }, tiles));
  if (data.main && data.scored.length > 1) {
    const { rule, metric } = data.main;
    const regions = [...new Set(data.scored.flatMap((r) => data.columns(r, rule, metric)).map((c) => c.region))];
    const order = data.ranking ? data.ranking.places.map((p) => data.runs.find((r) => r.name === p.run)) : data.scored;
    part.append(h("h3", {}, `Mean ${metric} (${data.ruleName(rule)})`), scroll(sortable(h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Predictions"), regions.map((r) => h("th", { scope: "col", class: "number" }, r)))),
      h("tbody", {}, order.map((run) => h("tr", {}, h("th", { scope: "row", class: "name" }, run.name), regions.map((region) => {
        const column = data.columns(run, rule, metric).find((c) => c.region === region);
        return bar(column?.summary.mean, column?.share);
      })))))), "Mean scores"));
  }
  return part;
}

/** A cell with a number, and where it is a share a bar as long as it. */
export function bar(value, share) {
  const inside = share && Number.isFinite(value);
  return h("td", { class: inside ? "number bar" : "number", style: inside ? { "--share": String(value) } : {} }, format(value));
}

export function scroll(table, label) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}

function scores(data) {
  if (!data.main) return null;
  let { rule, metric } = data.main;
  const controls = h("div", { class: "controls" });
  const charts = h("div", { class: "charts" });
  const tables = h("div", {});
  const note = h("p", { class: "note" });
  const open = (i) => data.open(i, true);
  function controlsNow() {
    controls.replaceChildren(
      select("Rule", data.rules.map((r) => [r, data.ruleName(r)]), rule, (r) => { rule = r; metric = data.chief(r); draw(); }),
      select("Metric", data.metrics(rule).map((m) => [m, m]), metric, (m) => { metric = m; draw(); }));
  }
  function drawCharts() {
    const regions = [...new Set(data.scored.flatMap((r) => data.columns(r, rule, metric)).map((c) => c.region))];
    const find = (run, region) => data.columns(run, rule, metric).find((c) => c.region === region);
    const first = data.scored.flatMap((r) => data.columns(r, rule, metric))[0];
    const direction = { true: "more is better", false: "less is better" }[first.more];
    const told = [first.unit, direction].filter(Boolean).join(", ");
    const what = told ? `${metric} (${told})` : metric;
    const single = data.scored.length === 1;
    const groups = single
      ? [{ title: null, rows: regions.map((region) => ({ name: region, values: find(data.scored[0], region).values })) }]
      : regions.map((region) => ({ title: region, rows: data.scored.map((run) => ({ name: run.name, values: find(run, region)?.values ?? [] })) }));
    charts.classList.toggle("several", !single);
    // Charts measure their place, so they are drawn once they have one.
    const figures = groups.map(() => h("figure", {}));
    charts.replaceChildren(...figures);
    groups.forEach(({ title, rows }, i) => {
      const width = Math.min(960, Math.max(280, figures[i].clientWidth || 320));
      figures[i].append(...[title && h("h3", {}, title),
        distribution(rows, { cases: data.names, label: what, distance: first.more === false, width, open })].filter(Boolean));
    });
  }
  function draw() {
    controlsNow();
    drawCharts();
    const { label } = data.scored.flatMap((r) => data.columns(r, rule, metric))[0];
    note.textContent = `${metric}: ${label}. ${data.ruleAbout(rule)} Each dot is a case. Box: quartiles and median; whiskers: the last case within 1.5 interquartile ranges; diamond: mean.`;
    tables.replaceChildren(scroll(sortable(statistics(data, rule, metric)), `Statistics by the rule ${data.ruleName(rule)}`));
  }
  whenShown(charts, draw, drawCharts);
  return h("div", {}, controls, charts, note, tables);
}

/** All metrics of a rule; of several sets of predictions the chosen one, so that they stand below each other. */
function statistics(data, rule, metric) {
  const several = data.scored.length > 1;
  const rows = data.scored.flatMap((run) => data.columns(run, rule, several ? metric : null).map((c) => ({ run, c })));
  const regions = [...new Set(rows.map(({ c }) => c.region))];
  if (several) rows.sort((a, b) => regions.indexOf(a.c.region) - regions.indexOf(b.c.region));
  const th = (text, number = true) => h("th", { scope: "col", class: number ? "number" : null }, text);
  return h("table", { class: "compact" },
    h("thead", {}, h("tr", {}, several && th("Predictions", false), th("Region", false), th("Metric", false),
      th("n"), th("Mean"), th("95 % interval"), th("SD"), th("Median"), th("Quartiles"), th("Range"))),
    h("tbody", {}, rows.map(({ run, c: { region, metric, summary: s } }, i) => {
      const first = i === 0 || rows[i - 1].c.region !== region;
      return h("tr", { class: first ? "first" : null },
        several && h("td", { class: "name" }, run.name), h("th", { scope: "row" }, region), h("td", {}, metric),
        h("td", { class: "number" }, String(s.n)), h("td", { class: "number strong" }, format(s.mean)),
        h("td", { class: "number" }, `${format(s.ci_low)} to ${format(s.ci_high)}`), h("td", { class: "number" }, format(s.sd)),
        h("td", { class: "number" }, format(s.median)), h("td", { class: "number" }, `${format(s.q1)} to ${format(s.q3)}`),
        h("td", { class: "number" }, `${format(s.min)} to ${format(s.max)}`));
    })));
}

/** Draws once the element has a place on the page, and again when its width has changed or the page is printed. */
function whenShown(element, draw, again = draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = element.clientWidth;
    if (now && Math.abs(now - width) > 8) {
      const first = width === 0;
      width = now;
      (first ? draw : again)();
    }
  }).observe(element);
}

function ranking(data) {
  const r = data.ranking;
  const title = (m) => `${m.region} ${m.metric}`;
  const places = h("table", {},
    h("thead", {}, h("tr", {}, ["Place", "Predictions", "Mean rank", "Winner's rule"].map((t, i) => h("th", { scope: "col", class: i === 1 ? null : "number" }, t)),
      r.metrics.map((m) => h("th", { scope: "col", class: "number" }, title(m))))),
    h("tbody", {}, r.places.map((p) => h("tr", {}, h("td", { class: "number strong" }, String(p.place)), h("th", { scope: "row", class: "name" }, p.run),
      h("td", { class: "number" }, format(p.mean_rank, 3)), h("td", { class: "number" }, String(p.winner_place)),
      p.metric_means.map((v) => h("td", { class: "number" }, format(number(v))))))));
  const matrix = h("table", { class: "matrix" },
    h("thead", {}, h("tr", {}, h("td", {}), r.places.map((p) => h("th", { scope: "col", class: "number name" }, p.run)))),
    h("tbody", {}, r.places.map((p, i) => h("tr", {}, h("th", { scope: "row", class: "name" }, p.run), r.permutation_p_holm[i].map((v, j) =>
      h("td", { class: i === j ? "number none" : v < 0.05 ? "number significant" : "number" }, i === j ? "·" : `${pValue(v)}${v < 0.05 ? " *" : ""}`))))));
  const tests = r.wilcoxon.filter((t) => t.p_holm < 0.05);
  return h("div", {},
    h("p", { class: "note" }, `By the rule ${data.ruleName(r.rule)}: for every case, region and metric the predictions are ranked; ranks are averaged over ${r.cases.length} cases, then over ${r.metrics.length} metrics. Columns to the right hold mean values.`),
    scroll(sortable(places), "Places"),
    h("h3", {}, "Is the order more than chance?"),
    h("p", { class: "note" }, "p of a difference in mean rank: permutation test on the cases' mean ranks, corrected after Holm for all pairs; * marks p below 0.05."),
    scroll(matrix, "p values"),
    tests.length
      ? h("details", {}, h("summary", {}, `${tests.length} significant differences of single metrics`), scroll(sortable(h("table", { class: "compact" },
        h("thead", {}, h("tr", {}, ["Metric", "First", "Second", "First − second", "p (Wilcoxon, Holm)"].map((t, i) => h("th", { scope: "col", class: i > 2 ? "number" : null }, t)))),
        h("tbody", {}, tests.map((t) => h("tr", {}, h("td", {}, title(t.metric)), h("td", { class: "name" }, t.first), h("td", { class: "name" }, t.second),
          h("td", { class: "number" }, format(number(t.mean_difference))), h("td", { class: "number" }, pValue(t.p_holm))))))), "Significant differences"))
      : h("p", { class: "note" }, "No single metric of any two sets differs significantly (Wilcoxon's signed-rank test, corrected after Holm)."));
}

function legend(names) {
  return h("ul", { class: "legend" }, names.map((name, k) => {
    const { color, dash } = lineSample(k);
    return h("li", {}, svg("svg", { viewBox: "0 0 28 10", width: 28, height: 10, "aria-hidden": "true" },
      svg("line", { x1: 1, x2: 27, y1: 5, y2: 5, stroke: color, "stroke-width": 3, "stroke-dasharray": dash })), name);
  }));
}

function training(data) {
  const part = h("div", { class: "charts several" });
  const kinds = (series) => {
    const names = Object.keys(series);
    return {
      loss: names.filter((n) => /loss/i.test(n)),
      dice: names.filter((n) => /dice/i.test(n)),
      "learning rate": names.filter((n) => /learning rate/i.test(n)),
    };
  };
  function draw() {
    const charts = data.curves.flatMap((curve) => Object.entries(kinds(curve.series)).filter(([, names]) => names.length)
      .map(([kind, names]) => ({ curve, kind, names, figure: h("figure", {}) })));
    // All have their places before any is measured.
    part.replaceChildren(...charts.map((c) => c.figure));
    for (const { curve, kind, names, figure } of charts) {
      const lines = names.map((name) => ({ name, epochs: curve.epochs, values: curve.series[name].map(number) }));
      figure.append(h("h3", {}, `${curve.fold} · ${kind}`), names.length > 1 ? legend(names) : "",
        curves(lines, { label: kind, width: Math.max(280, figure.clientWidth), log: kind === "learning rate" }));
    }
  }
  whenShown(part, draw);
  return part;
}

function confidence(data) {
  const runs = data.runs.map((run, k) => ({ run, k })).filter(({ k }) => data.cases.some((c) => c.uncertainty[k]));
  if (!runs.length) return null;
  const part = h("div", {}, h("p", { class: "note" },
    "Score of a region: 1 minus the Dice that the mean probabilities of folds, models and mirrored passes promise; 0 is sure. Of a case: the mean of its regions."));
  const tables = runs.filter(({ run }) => run.uncertainty?.regions?.length);
  for (const { run } of tables) {
    const u = run.uncertainty;
    part.append(h("h3", {}, data.runs.length > 1 ? `How well the score predicts the Dice: ${run.name}` : "How well the score predicts the Dice"), scroll(h("table", {},
      h("thead", {}, h("tr", {}, ["Region", "n", "Spearman's ρ", `Cases with Dice below ${format(u.failing_below, 2)}`, "AUC of finding them"].map((t, i) => h("th", { scope: "col", class: i ? "number" : null }, t)))),
      h("tbody", {}, u.regions.map((r) => h("tr", {}, h("th", { scope: "row" }, r.region), h("td", { class: "number" }, String(r.n)),
        h("td", { class: "number" }, format(number(r.spearman), 3)), h("td", { class: "number" }, String(r.failing)), h("td", { class: "number" }, format(number(r.auc), 3)))))), "How well uncertainty predicts the Dice"));
  }
  if (data.main) {
    const { rule, metric } = data.main;
    const chart = h("div", { class: "charts several" });
    const draw = () => {
      chart.replaceChildren();
      for (const { run, k } of runs) {
        const columns = data.columns(run, rule, metric);
        if (!columns.length) continue;
        const groups = columns.map((c) => c.region);
        // Regions of the record come in the order of the scheme's, where their labels are the same.
        const points = columns.flatMap((c, g) => c.values.map((y, i) => {
          const region = data.regions.find((r) => r.name === c.region);
          const found = data.cases[i].uncertainty[k]?.regions.find((r) => region && same(r.labels, run.regions?.[data.regions.indexOf(region)]?.labels ?? region.labels));
          return found && Number.isFinite(y) && Number.isFinite(found.score) ? { x: found.score, y, k: g, i, name: data.names[i] } : null;
        })).filter(Boolean);
        if (!points.length) continue;
        const figure = h("figure", {});
        chart.append(figure);
        figure.append(...[data.runs.length > 1 && h("h3", {}, run.name), dots(groups),
          scatter(points, { x: "uncertainty score", y: metric, groups, width: Math.min(760, Math.max(280, figure.clientWidth)), threshold: run.uncertainty?.rule === rule ? run.uncertainty.failing_below : null, open: (i) => data.open(i, true) })].filter(Boolean));
      }
    };
    whenShown(chart, draw);
    part.append(chart);
  }
  return part;
}

/** Reliability of the saved probabilities; nothing where none were looked at. */
function calibration(data) {
  const runs = data.runs.filter((run) => run.calibration?.regions?.length);
  if (!runs.length) return null;
  const several = data.runs.length > 1;
  const { margin_mm: margin } = runs[0].calibration;
  const part = h("div", {}, h("p", { class: "note" },
    `Of the voxels to which the model gives a probability, how many belong to the region? On the diagonal, as many as it says; below it the model is too sure, above it not sure enough. Voxels up to ${margin} mm around the box of a case's labels count, of all cases together.`));
  // One chart has its table beside it.
  const charts = h("div", { class: runs.length > 1 ? "charts several" : "charts" });
  const draw = () => {
    const figures = runs.map((run) => [run, h("figure", {})]);
    charts.replaceChildren(...figures.map(([, figure]) => figure));
    for (const [run, figure] of figures) {
      figure.append(...[several && h("h3", {}, run.name), legend(run.calibration.regions.map((r) => r.region)),
        reliability(run.calibration.regions, { width: Math.min(520, Math.max(280, figure.clientWidth)) })].filter(Boolean));
    }
  };
  whenShown(charts, draw);
  const rows = runs.flatMap((run) => run.calibration.regions.map((r) => ({ run, r })));
  part.append(h("div", { class: runs.length > 1 ? null : "beside" }, charts, scroll(sortable(h("table", {},
    h("thead", {}, h("tr", {}, several && h("th", { scope: "col" }, "Predictions"), h("th", { scope: "col" }, "Region"),
      ["Cases", "Voxels", "Calibration error", "Brier score"].map((t) => h("th", { scope: "col", class: "number" }, t)))),
    h("tbody", {}, rows.map(({ run, r }) => h("tr", {}, several && h("td", { class: "name" }, run.name), h("th", { scope: "row" }, r.region),
      [String(run.calibration.cases), String(r.bins.reduce((n, b) => n + b.voxels, 0)), format(number(r.ece)), format(number(r.brier))].map((t) => h("td", { class: "number" }, t))))))), "Calibration")),
    h("p", { class: "note" }, "Calibration error (expected calibration error, ECE): mean distance from the diagonal, weighted by voxels. Brier score: mean squared distance of probability and truth. 0 is best for both."));
  return part;
}

function same(a, b) {
  return a.length === b.length && [...a].sort().every((v, i) => v === [...b].sort()[i]);
}

function dots(names) {
  const shapes = ["●", "■", "▲", "◆", "★", "✚", "Y", "✱"];
  return h("ul", { class: "legend" }, names.map((name, k) => h("li", {}, h("span", { "aria-hidden": "true", style: { color: PALETTE[k % PALETTE.length] } }, shapes[k % shapes.length]), name)));
}

function about(data) {
  const list = (items) => h("dl", {}, items.filter(([, v]) => v !== null && v !== undefined && v !== "").flatMap(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]));
  const part = h("div", { class: "about" });
  part.append(h("p", {}, "Outlines lie on the borders of voxels and are exact; the grey images are small copies to find one's way. The patient's right is on the left of axial and coronal slices. Volumes are in mL; distances in mm."));
  if (data.rules.length) {
    part.append(h("h3", {}, "Rules"), h("p", {}, "A rule is a set of metrics with its own treatment of empty and missing regions. Numbers of different rules are not comparable, even where they share a name."),
      list(data.rules.map((r) => [data.ruleName(r), data.ruleAbout(r)])));
  }
  for (const run of data.runs) {
    const settings = run.settings ?? {};
    const models = run.models.map((m) => [m.dataset, m.configuration, m.plans, m.trainer].filter(Boolean).join(" · "));
    part.append(h("h3", {}, run.name), list([
      ["References", run.reference], ["Predictions", run.prediction],
      ["Labels", run.labels && `${run.labels}${run.labels_guessed ? " (guessed from the files)" : ""}`],
      ["Intervals", run.bootstrap_samples ? `bootstrap over cases, ${run.bootstrap_samples} samples` : null],
      ["Tolerance of NSD", run.tolerance_mm !== null ? `${run.tolerance_mm} mm` : null],
      ["Predictions without a reference", run.extra.length ? run.extra.join(", ") : null],
      ["Models", models.length ? h("ul", {}, run.models.map((m, i) => h("li", {}, models[i], h("br"),
        h("small", {}, Object.entries(m.folds ?? {}).map(([fold, hash]) => `fold ${fold}: SHA-256 ${String(hash).slice(0, 16)}…`).join(", "))))) : null],
      ["Prediction", settings.step ? `step ${settings.step}, mirroring ${settings.mirroring ? "on" : "off"}, ${settings.accumulation} precision sums, device ${settings.device}` : null],
    ]));
  }
  part.append(h("h3", {}, "Parts of this page"), h("p", {}, "Charts: Observable Plot (ISC) with parts of D3 (ISC). 3D viewer: NiiVue (BSD 2-Clause). Their code is in this file."),
    h("details", { ontoggle: (e) => { const pre = e.target.querySelector("pre"); if (!pre.textContent) glioseg.unpack("notice").then((text) => { pre.textContent = text; }); } },
      h("summary", {}, "Licences"), h("pre", { class: "licences" })));
  return part;
}

start().catch((error) => {
  console.error(error);
  document.getElementById("main").prepend(h("p", { class: "problem" }, `The report cannot be drawn: ${error.message}`));
});
