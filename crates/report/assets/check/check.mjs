// Opens a report in headless Chromium: no error on the console, no request but to its own server, all parts drawn, a case
// opened, the viewer with its volumes, masks and maps of uncertainty toggled, readable at the width of a phone, printable.
// Nothing waits for a time: what is waited for is a condition, and a picture is taken when two in a row are the same.
//
//   node check.mjs URL [--pictures FOLDER] [--chromium PATH]
//
// URL: what `glioseg view` prints, or file:///….html for a report opened from the disk.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import puppeteer from "puppeteer-core";

const args = process.argv.slice(2);
const option = (name, otherwise) => {
  const at = args.indexOf(name);
  return at < 0 ? otherwise : args.splice(at, 2)[1];
};
const pictures = option("--pictures", null);
const chromium = option("--chromium", process.env.CHROMIUM ?? "/usr/bin/chromium");
const [url] = args;
if (!url) {
  console.error("usage: node check.mjs URL [--pictures FOLDER] [--chromium PATH]");
  process.exit(2);
}
if (pictures) mkdirSync(pictures, { recursive: true });

const problems = [];
const expect = (holds, what) => {
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
  if (!holds) problems.push(what);
};
const browser = await puppeteer.launch({
  executablePath: chromium,
  args: ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
});
const page = await browser.newPage();
const served = url.startsWith("http");
const origin = served ? new URL(url).origin : "file://";
const errors = [];
const outside = [];
page.on("console", (m) => m.type() === "error" && errors.push(m.text()));
page.on("pageerror", (e) => errors.push(String(e)));
page.on("request", (r) => {
  const to = r.url();
  if (!to.startsWith(origin) && !to.startsWith("data:") && !to.startsWith("blob:")) outside.push(to);
});
const shot = async (name, full = false) => pictures && page.screenshot({ path: join(pictures, `${name}.png`), fullPage: full });
/** Asks again until it holds; what it then says. */
const until = async (what, ask, seconds = 90) => {
  for (const end = Date.now() + seconds * 1000; ;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`);
  }
};
/** The picture of an element (or of the window), once it has stopped changing. */
const still = async (selector = null) => {
  const take = async () => {
    const clip = selector && await page.$eval(selector, (e) => { const r = e.getBoundingClientRect(); return { x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height }; });
    return Buffer.from(await page.screenshot(clip ? { clip, captureBeyondViewport: false } : {})).toString("base64");
  };
  let last = await take();
  return until("a picture at rest", async () => {
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    const now = await take();
    const same = now === last;
    last = now;
    return same && now;
  });
};
/** Switches the checkbox of that label inside an element. */
const flip = (inside, label) => page.evaluate((inside, label) => [...document.querySelectorAll(`${inside} .check`)].find((l) => l.textContent.includes(label)).querySelector("input").click(), inside, label);

await page.setViewport({ width: 1280, height: 900 });
await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }, { name: "prefers-reduced-motion", value: "reduce" }]);
try {
  await look();
} catch (error) {
  expect(false, String(error.message ?? error));
}
expect(errors.length === 0, `no error on the console${errors.length ? `: ${errors.slice(0, 5).join(" | ")}` : ""}`);
expect(outside.length === 0, `no request outside${outside.length ? `: ${outside.slice(0, 5).join(" ")}` : ""}`);
await browser.close();
console.log(problems.length ? `${problems.length} problems` : "all holds");
process.exit(problems.length ? 1 : 0);

async function look() {
  const before = Date.now();
  await page.goto(url, { waitUntil: "load" });
  await page.waitForSelector("footer #made:not(:empty)", { timeout: 60000 });
  console.log(`     drawn after ${Date.now() - before} ms`);
  await still();
  const text = await page.evaluate(() => document.body.innerText);
  expect(text.includes("not a medical device"), "says that it is no medical device");
  expect(!/\bundefined\b|\bNaN\b|\[object/.test(text), "nothing is undefined on the page");
  const sections = await page.$$eval("main > section", (all) => all.map((s) => s.id));
  console.log(`     parts: ${sections.join(", ")}`);
  for (const part of ["scores", "training", "calibration"].filter((p) => sections.includes(p))) {
    expect((await page.$$eval(`#${part} figure svg`, (all) => all.length)) > 0, `${part}: charts are drawn`);
  }
  await shot("desktop");
  await shot("desktop-whole", true);
  if (await page.$("#cases .row")) await cases();
  await looks();
}

async function cases() {
  const rows = await page.$$eval("#cases .row", (all) => all.length);
  expect(rows <= 200, `the table of cases is drawn piece by piece (${rows} rows)`);
  // Sorting by the second column turns the order round with a second press.
  const second = "#cases thead th:nth-child(2) button";
  if (await page.$(second)) {
    const order = () => page.$$eval("#cases .row button.case", (all) => all.map((b) => b.textContent).join());
    await page.$eval(second, (b) => b.click());
    const one = await order();
    await page.$eval(second, (b) => b.click());
    const two = await order();
    expect(rows === 1 || one !== two, "the table is sorted");
  }
  // A case by keyboard.
  await page.evaluate(() => document.querySelectorAll('#cases .case[aria-expanded="true"]').forEach((b) => b.click()));
  await page.focus("#cases .row .case");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#cases .opened .case-body .case-tables", { timeout: 20000 });
  const opened = "#cases .opened";
  if (await page.$(`${opened} .slices svg`)) {
    expect((await page.$$eval(`${opened} .slices svg`, (all) => all.length)) === 3, "a case opens by keyboard and shows three slices");
    const paths = () => page.$$eval(`${opened} .slices path.prediction`, (all) => all.length);
    expect((await paths()) > 0, "predictions are outlined");
    await flip(opened, "prediction");
    expect((await paths()) === 0, "outlines are toggled");
    await flip(opened, "prediction");
  }
  await page.$eval(opened, (e) => e.previousElementSibling.scrollIntoView());
  await still();
  await shot("case");
  if (await page.$(`${opened} button.primary`)) {
    await page.$eval(`${opened} button.primary`, (b) => b.click());
    await (served ? viewer() : chosen());
    await page.waitForFunction(() => !document.querySelector("dialog.viewer"), { timeout: 20000 });
    expect(true, "the viewer closes");
    const groups = await page.$$eval(`${opened} .radios`, (all) => all.map((g) => g.querySelectorAll("input:checked").length));
    expect(groups.every((n) => n === 1), "and leaves the choices of the case as they were");
  }
}

async function viewer() {
  const dialog = "dialog.viewer";
  await page.waitForSelector(`${dialog}[data-volumes]`, { timeout: 120000 });
  // What the canvas shows, as a picture: it has to change with the masks.
  const canvas = `${dialog} .viewer-canvas`;
  const on = await still(canvas);
  const volumes = await page.$eval(dialog, (d) => Number(d.dataset.volumes));
  expect(volumes >= 2, `the viewer shows ${volumes} volumes`);
  expect(await page.$eval(dialog, (d) => d.innerText.includes("not a medical device")), "the viewer, too, says that it is no medical device");
  await shot("viewer");
  const switched = async (label, from, name) => {
    await flip(dialog, label);
    const now = await until(`the picture after ${label}`, async () => { const now = await still(canvas); return now !== from && now; });
    if (name) await shot(name);
    return now;
  };
  const off = await switched("prediction", on, "viewer-off");
  expect(true, "the mask disappears when it is switched off");
  expect((await switched("prediction", off)) === on, "and comes back");
  if (await page.evaluate(() => [...document.querySelectorAll("dialog.viewer .check")].some((l) => l.textContent.includes("reference")))) {
    const both = await switched("reference", on, "viewer-reference");
    expect((await switched("reference", both)) === on, "the reference is shown and hidden");
  }
  const maps = `${dialog} .maps select`;
  if (await page.$(maps)) {
    const values = await page.$$eval(`${maps} option`, (all) => all.map((o) => o.value));
    expect((await page.$eval(maps, (s) => s.value)) === values[0], "no map of uncertainty is shown unless it is asked for");
    const seen = [on];
    for (const value of [values[1], values.at(-1)]) {
      await page.select(maps, value);
      await page.waitForSelector(`${dialog}[data-map="${value}"]`, { timeout: 120000 });
      seen.push(await until(`the map ${value}`, async () => { const now = await still(canvas); return !seen.includes(now) && now; }));
      await shot(`viewer-map-${seen.length - 1}`);
    }
    expect(await page.$eval(`${dialog} .scale`, (s) => !s.hidden && s.innerText.length > 0), `maps of uncertainty are shown with their scale (${values.length - 1})`);
    await page.select(maps, values[0]);
    await until("the picture without map", async () => (await still(canvas)) === on);
    expect(true, "and are gone when they are switched off");
  }
  await page.$eval(`${dialog} .close`, (b) => b.click());
}

/** The report from the disk: a browser does not let it read the volumes, so they are chosen by hand. */
async function chosen() {
  await page.waitForSelector("dialog.viewer .viewer-help:not([hidden])", { timeout: 30000 });
  expect(await page.$eval("dialog.viewer .viewer-help", (d) => d.innerText.includes("glioseg view")), "from the disk, the viewer says how to serve the volumes");
  await still();
  await shot("viewer-file");
  const folder = new URL(".", url).pathname;
  const names = await page.$$eval("#cases .opened .files a", (all) => all.map((a) => a.getAttribute("href")));
  const paths = names.slice(0, 2).concat(names.slice(-1)).map((n) => decodeURIComponent(folder + n));
  await (await page.$("dialog.viewer input[type=file]")).uploadFile(...paths);
  await page.waitForSelector("dialog.viewer[data-volumes]", { timeout: 120000 });
  expect(true, "volumes that were chosen by hand are shown");
  await still();
  await shot("viewer-chosen");
  await page.keyboard.press("Escape");
}

/** Text whose contrast with its ground is below WCAG's 4.5 (3 where it is large), and controls without a name. */
async function unreadable() {
  return page.evaluate(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
    const seen = new Map();
    /** Any colour of CSS as red, green, blue, alpha. */
    const rgba = (color) => {
      if (!seen.has(color)) {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        seen.set(color, [...canvas.getImageData(0, 0, 1, 1).data]);
      }
      return seen.get(color);
    };
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const groundOf = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255, 255]; };
    const bad = new Set();
    for (const e of document.querySelectorAll("body *")) {
      const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
      if (!own || e.closest("script, .slices, noscript, .skip") || !e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const style = getComputedStyle(e);
      const text = rgba(e instanceof SVGElement ? style.fill : style.color);
      const [a, b] = [light(text), light(groundOf(e))].sort((x, y) => y - x);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.6 && Number(style.fontWeight) >= 700);
      const ratio = (a + 0.05) / (b + 0.05);
      // Arrows beside words are ornaments.
      if (ratio < (large ? 3 : 4.5) && !e.matches("[aria-hidden=true]")) bad.add(`${e.tagName.toLowerCase()}.${e.getAttribute("class") ?? ""} "${e.textContent.trim().slice(0, 24)}" ${ratio.toFixed(2)}`);
    }
    for (const e of document.querySelectorAll("button, select, input, a, summary")) {
      if (!(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.[0]?.textContent.trim())) bad.add(`${e.outerHTML.slice(0, 80)} has no name`);
    }
    return [...bad];
  });
}

/** Light and dark, on a phone, on paper. */
async function looks() {
  const readable = async (where) => {
    const bad = await unreadable();
    expect(bad.length === 0, `${where}: text stands out from its ground, controls have names${bad.length ? `: ${bad.slice(0, 6).join(" | ")}` : ""}`);
  };
  await readable("light");
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  expect((await ground()) !== light, "dark where the system is dark");
  await readable("dark");
  await page.evaluate(() => scrollTo(0, 0));
  await still();
  await shot("dark");
  await shot("dark-whole", true);
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
  await page.setViewport({ width: 390, height: 844, isMobile: true, hasTouch: true, deviceScaleFactor: 1 });
  await still();
  // The window itself grows with what does not fit.
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - 390);
  expect(wide <= 1, `the page fits the width of a phone (${wide} px over)`);
  await shot("phone", true);
  await page.setViewport({ width: 1280, height: 900 });
  await still();
  const paper = await page.pdf({ ...(pictures ? { path: join(pictures, "report.pdf") } : {}), format: "A4", printBackground: true });
  expect(paper.length > 10000, `it prints (${Math.round(paper.length / 1000)} kB of PDF)`);
}
