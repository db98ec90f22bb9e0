// The 3D viewer: NiiVue in a window of the report, with the case's channels and masks.
import { MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
import { check, h, radios, select } from "./dom.js";
import { OUTLINES } from "./colors.js";
import { format } from "./numbers.js";

const LAYOUTS = [["all", "Three + 3D"], ["axial", "Axial"], ["coronal", "Coronal"], ["sagittal", "Sagittal"], ["render", "3D"]];
const SLICES = { axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL, render: SLICE_TYPE.RENDER, all: SLICE_TYPE.MULTIPLANAR };

/** Maps of uncertainty: what they are called, their range and its unit. */
const MAPS = {
  entropy: { name: "entropy", max: 1, unit: "bit", about: "entropy of the mean probability: 0 is sure, 1 is undecided" },
  disagreement: { name: "disagreement", max: 0.5, unit: "", about: "standard deviation of all passes' probabilities" },
};
/** Cividis: even steps of brightness, the same for any colour vision. */
const CIVIDIS = { I: [0, 32, 64, 128, 192, 255], R: [0, 0, 42, 124, 187, 255], G: [34, 52, 72, 123, 175, 234], B: [78, 110, 108, 120, 113, 70], A: [0, 255, 255, 255, 255, 255] };
/** Below this share of the range a map lets the image through: nearly all of it is sure. */
const UNSEEN = 0.05;
/** NiiVue's COLORMAP_TYPE.ZERO_TO_MAX_TRANSLUCENT_BELOW_MIN, which it does not export. */
const FROM_ZERO = 2;

/** Colour of every label: that of the smallest region it lies in. */
function colors(regions) {
  const labels = [...new Set(regions.flatMap((r) => r.labels))].sort((a, b) => a - b);
  const lut = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
  for (const label of labels) {
    const smallest = regions.map((r, k) => ({ r, k })).filter(({ r }) => r.labels.includes(label)).sort((a, b) => a.r.labels.length - b.r.labels.length)[0];
    const hex = OUTLINES[smallest.k % OUTLINES.length];
    lut.R.push(parseInt(hex.slice(1, 3), 16));
    lut.G.push(parseInt(hex.slice(3, 5), 16));
    lut.B.push(parseInt(hex.slice(5, 7), 16));
    lut.A.push(255);
    lut.I.push(label);
    lut.labels.push(smallest.r.name);
  }
  return lut;
}

const url = (path) => path.split("/").map(encodeURIComponent).join("/");
const base = (path) => path.split("/").pop();

let window_ = null;

function open(data, c, block, run) {
  window_?.close();
  window_ = viewerWindow(data, c, block, run);
}

function viewerWindow(data, c, block, run) {
  const first = Math.max(0, block.channels.findIndex(([name]) => name === block.backgrounds[0]));
  const state = { channel: first, run, layout: innerWidth < 700 ? "axial" : "all", prediction: true, reference: false, opacity: 0.6, outline: false, map: "" };
  /** Bytes by path: fetched once, or chosen by hand. */
  const bytes = new Map();
  const status = h("p", { class: "viewer-status", role: "status" }, "");
  const place = h("output", { class: "viewer-place" }, "");
  const canvas = h("canvas", { tabindex: "0", "aria-label": "Volume viewer. Arrow keys and page up and down move the cross." });
  const help = h("div", { class: "viewer-help", hidden: true });
  const bar = h("div", { class: "controls small" });
  const scale = h("p", { class: "scale", hidden: true });
  const dialog = h("dialog", { class: "viewer", "aria-label": `Volumes of ${c.id}` },
    h("div", { class: "viewer-top" }, h("h2", {}, c.id), h("p", { class: "notice" }, h("strong", {}, "Research use only:"), " not a medical device."),
      h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close")),
    bar, h("div", { class: "viewer-canvas" }, canvas, scale, help), h("div", { class: "viewer-bottom" }, status, place));
  let nv = new Niivue({
    backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.6, crosshairWidthUnit: "mm", show3Dcrosshair: true, isOrientCube: false,
    multiplanarLayout: MULTIPLANAR_TYPE.GRID, multiplanarShowRender: SHOW_RENDER.ALWAYS, isRadiologicalConvention: true, sagittalNoseLeft: true,
    dragAndDropEnabled: false, logLevel: "warn", fontMinPx: 12, loadingText: "", isNearestInterpolation: false,
  });
  nv.addColormap("cividis-over", CIVIDIS);
  nv.onLocationChange = (location) => {
    const mm = [...location.mm].slice(0, 3).map((v) => v.toFixed(0).replace("-", "−")).join(", ");
    const parts = [`R, A, S ${mm} mm`];
    for (const { id, value } of location.values) {
      const image = nv.volumes.find((v) => v.id === id);
      const kind = image?.gliosegKind;
      if (kind === "channel") parts.push(`${block.channels[state.channel]?.[0] ?? ""} ${Number(value).toPrecision(4)}`);
      else if (kind === "map") parts.push(`${mapNow().text} ${Number(value).toFixed(3)}`);
      else if (kind && state[kind] && Math.round(value) > 0) parts.push(`${kind} ${Math.round(value)}`);
    }
    place.textContent = parts.join(" · ");
  };
  /** Every map of the predictions shown, region by region. */
  const maps = () => (block.maps?.[state.run] ?? []).flatMap(([kind, path]) => (c.uncertainty[state.run]?.regions ?? []).map(({ region }, frame) =>
    ({ value: `${kind}-${frame}`, kind, frame, path, text: `${MAPS[kind]?.name ?? kind}, ${region}` })));
  const mapNow = () => maps().find((m) => m.value === state.map);
  const wanted = () => [
    block.channels[state.channel] && { path: block.channels[state.channel][1], kind: "channel" },
    block.predictions[state.run] && { path: block.predictions[state.run], kind: "prediction" },
    block.reference && { path: block.reference, kind: "reference" },
    mapNow() && { path: mapNow().path, kind: "map", frame: mapNow().frame, max: MAPS[mapNow().kind]?.max ?? 1 },
  ].filter(Boolean);
  const overlay = (kind) => nv.volumes.find((v) => v.gliosegKind === kind);

  async function get(path) {
    if (!bytes.has(path)) {
      if (location.protocol === "file:") throw new Error("file");
      const answer = await fetch(url(path));
      if (!answer.ok) throw new Error(`${base(path)}: ${answer.status} ${answer.statusText}`);
      bytes.set(path, await answer.arrayBuffer());
    }
    // NiiVue may take the buffer away.
    return bytes.get(path).slice(0);
  }

  let turn = 0;
  async function load() {
    const mine = ++turn;
    const list = wanted();
    status.textContent = "Loading volumes …";
    try {
      const images = [];
      for (const { path, kind, frame, max } of list) {
        const range = kind === "map" ? { colormap: "cividis-over", cal_min: max * UNSEEN, cal_max: max, frame4D: frame } : { colormap: "gray" };
        const image = await NVImage.loadFromUrl({ url: await get(path), name: base(path), opacity: 1, ...range });
        if (mine !== turn) return;
        image.gliosegKind = kind;
        if (kind === "map") {
          image.frame4D = frame;
          // Colours from 0 on, and what lies below cal_min unseen.
          image.colormapType = FROM_ZERO;
          image.opacity = 0.8;
        }
        else if (kind !== "channel") {
          // A mask that comes first is still a mask.
          image.setColormapLabel(colors(kind === "reference" ? data.regions : data.runs[state.run].regions ?? data.regions));
        }
        images.push(image);
      }
      for (const image of [...nv.volumes].reverse()) nv.removeVolume(image);
      images.forEach((image) => nv.addVolume(image));
      help.hidden = true;
      if (!dialog.dataset.volumes) goToTumour();
      apply();
      status.textContent = images.map((i) => `${i.gliosegKind} ${i.name}`).join(" · ");
      dialog.dataset.volumes = String(nv.volumes.length);
      dialog.dataset.map = state.map;
      nv.createOnLocationChange();
    } catch (error) {
      if (mine !== turn) return;
      status.textContent = "";
      explain(error);
    }
  }

  /** Puts the cross where the report's slices meet. */
  function goToTumour() {
    const at = ["sagittal", "coronal", "axial"].map((plane) => block.pictures.find((p) => p.plane === plane)?.ras);
    if (!nv.volumes.length || at.includes(undefined)) return;
    nv.scene.crosshairPos = nv.vox2frac(at);
  }

  function apply() {
    const show = { prediction: state.prediction, reference: state.reference };
    for (const kind of ["prediction", "reference"]) {
      const image = overlay(kind);
      if (image) nv.setOpacity(nv.volumes.indexOf(image), show[kind] ? state.opacity : 0);
    }
    nv.setAtlasOutline(state.outline ? 1 : 0);
    nv.setSliceType(SLICES[state.layout]);
    const map = mapNow();
    scale.hidden = !map;
    if (map) {
      const { max, unit, about } = MAPS[map.kind] ?? { max: 1, unit: "", about: "" };
      scale.replaceChildren(h("span", {}, map.text), h("span", { class: "scale-bar" }, h("span", {}, "0"), h("span", { class: "ramp", "aria-hidden": "true" }), h("span", {}, `${max} ${unit}`)), h("small", {}, `${about}; below ${format(max * UNSEEN, 3)} nothing is shown`));
    }
    dialog.dataset.prediction = String(state.prediction);
    dialog.dataset.reference = String(state.reference);
  }

  /** All files of the case. */
  function files() {
    return [...block.channels.map(([, p]) => p), ...block.predictions, block.reference, ...(block.maps ?? []).flat().map(([, p]) => p)].filter(Boolean);
  }

  /** Why there are no volumes, and two ways to get them. */
  function explain(error) {
    const list = files();
    const disk = error.message === "file";
    const folder = decodeURIComponent(location.pathname).split("/").slice(0, -1);
    const served = folder.slice(0, folder.length - data.up).join("/") || "/";
    const input = h("input", { type: "file", multiple: true, accept: ".nii,.gz", onchange: (e) => take(e.target.files) });
    help.replaceChildren(...[
      h("h3", {}, disk ? "A browser does not let a page read the files beside it" : "The volumes cannot be read"),
      !disk && h("p", { class: "problem" }, error.message),
      h("p", {}, disk ? "This report was opened from the disk. Serve it to see its volumes:" : "Are they still where they were when the report was made? Serve the folder that holds both:"),
      h("pre", {}, h("code", {}, `glioseg view ${disk ? (/[^\w./-]/.test(served) ? `"${served}"` : served) : "FOLDER"}`)),
      h("p", {}, "Or drop the files of this case here, or choose them; nothing leaves this computer."),
      h("label", { class: "pick" }, h("span", {}, "Choose files"), input),
      h("ul", {}, [...new Set(list)].map((p) => h("li", {}, bytes.has(p) ? "✓ " : "", h("code", {}, base(p)))))].filter(Boolean));
    help.hidden = false;
  }

  async function take(given) {
    const list = files();
    let known = 0;
    for (const file of given) {
      const path = list.find((p) => base(p) === file.name && !bytes.has(p)) ?? list.find((p) => base(p) === file.name);
      if (!path) continue;
      bytes.set(path, await file.arrayBuffer());
      known++;
    }
    if (!known) {
      status.textContent = "None of these files belongs to the case: names must be those of the list.";
      return;
    }
    // What was not given is not shown.
    block.channels = block.channels.filter(([, p]) => bytes.has(p));
    block.predictions = block.predictions.map((p) => (p && bytes.has(p) ? p : null));
    block.reference = block.reference && bytes.has(block.reference) ? block.reference : null;
    block.maps = (block.maps ?? []).map((own) => own.filter(([, p]) => bytes.has(p)));
    state.channel = 0;
    state.map = "";
    if (!block.predictions[state.run]) state.run = Math.max(0, block.predictions.findIndex(Boolean));
    controls();
    await load();
  }

  function controls() {
    bar.replaceChildren(...[
      block.channels.length > 1 && radios("Channel", block.channels.map(([name], k) => [k, name]), state.channel, (k) => { state.channel = k; load(); }),
      radios("View", LAYOUTS, state.layout, (v) => { state.layout = v; apply(); }),
      data.runs.length > 1 && select("Predictions", data.runs.map((r, k) => [k, r.name]), state.run, (k) => { state.run = Number(k); if (!mapNow()) state.map = ""; controls(); load(); }),
      h("fieldset", { class: "checks" }, h("legend", {}, "Masks"),
        block.predictions.some(Boolean) && check("prediction", state.prediction, (v) => { state.prediction = v; apply(); }),
        block.reference && check("reference", state.reference, (v) => { state.reference = v; apply(); }),
        check("outlines only", state.outline, (v) => { state.outline = v; apply(); })),
      h("label", { class: "field" }, h("span", {}, "Opacity of masks"),
        h("input", { type: "range", min: 0, max: 1, step: 0.05, value: state.opacity, oninput: (e) => { state.opacity = Number(e.target.value); apply(); } })),
      maps().length > 0 && h("div", { class: "maps" }, select("Uncertainty", [["", "not shown"], ...maps().map((m) => [m.value, m.text])], state.map, (v) => { state.map = v; load(); })),
      h("ul", { class: "legend" }, data.regions.map((r, k) => h("li", {}, h("span", { class: "swatch", style: { background: OUTLINES[k % OUTLINES.length] }, "aria-hidden": "true" }), r.name))),
    ].filter(Boolean));
  }

  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] }[e.key];
    if (!step) return;
    e.preventDefault();
    nv.moveCrosshairInVox(...step);
  });
  dialog.addEventListener("dragover", (e) => e.preventDefault());
  dialog.addEventListener("drop", (e) => { e.preventDefault(); take(e.dataTransfer.files); });
  dialog.addEventListener("close", () => {
    turn++;
    nv.cleanup?.();
    nv.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    nv = null;
    dialog.remove();
    if (window_ === dialog) window_ = null;
  });
  document.body.append(dialog);
  dialog.showModal();
  controls();
  canvas.focus();
  nv.attachToCanvas(canvas).then(load).catch((error) => {
    status.textContent = "";
    help.replaceChildren(h("h3", {}, "The viewer cannot start"), h("p", { class: "problem" }, `${error.message ?? error} It needs WebGL 2.`));
    help.hidden = false;
  });
  return dialog;
}

globalThis.gliosegViewer = { open };
