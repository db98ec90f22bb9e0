// Opens a report in headless Chromium: no error on the console, no request but to its own server, all parts drawn, a case
// opened, the viewer with its volumes, masks toggled, readable at the width of a phone, printable.
//
//   node check.mjs URL [--pictures FOLDER] [--chromium PATH] [--cases N]
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
const settle = (ms = 400) => new Promise((done) => setTimeout(done, ms));

await page.setViewport({ width: 1280, height: 900 });
await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }, { name: "prefers-reduced-motion", value: "reduce" }]);
const before = Date.now();
await page.goto(url, { waitUntil: "load" });
await page.waitForSelector("#cases .row", { timeout: 60000 });
console.log(`     drawn after ${Date.now() - before} ms`);
await settle(800);
expect(await page.evaluate(() => document.body.innerText.includes("not a medical device")), "says that it is no medical device");
const sections = await page.$$eval("main > section", (all) => all.map((s) => s.id));
console.log(`     parts: ${sections.join(", ")}`);
const rows = await page.$$eval("#cases .row", (all) => all.length);
expect(rows > 0 && rows <= 200, `the table of cases is drawn piece by piece (${rows} rows)`);
if (sections.includes("scores")) {
  expect((await page.$$eval("#scores figure svg", (all) => all.length)) > 0, "distributions are drawn");
}
await shot("desktop");
await shot("desktop-whole", true);

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
await page.waitForSelector("#cases .opened .slices svg", { timeout: 20000 });
expect((await page.$$eval("#cases .opened .slices svg", (all) => all.length)) === 3, "a case opens by keyboard and shows three slices");
const paths = () => page.$$eval("#cases .opened .slices path.prediction", (all) => all.length);
const some = await paths();
expect(some > 0, "predictions are outlined");
await page.evaluate(() => [...document.querySelectorAll("#cases .opened .check")].find((l) => l.textContent.includes("prediction")).querySelector("input").click());
expect((await paths()) === 0, "outlines are toggled");
await page.evaluate(() => [...document.querySelectorAll("#cases .opened .check")].find((l) => l.textContent.includes("prediction")).querySelector("input").click());
await page.$eval("#cases .opened", (e) => e.previousElementSibling.scrollIntoView());
await settle();
await shot("case");

if (await page.$("#cases .opened button.primary")) {
  await page.$eval("#cases .opened button.primary", (b) => b.click());
  if (served) {
    await page.waitForSelector("dialog.viewer[data-volumes]", { timeout: 120000 });
    await settle(1500);
    const volumes = await page.$eval("dialog.viewer", (d) => Number(d.dataset.volumes));
    expect(volumes >= 2, `the viewer shows ${volumes} volumes`);
    // What the canvas shows, as a number: it has to change with the masks.
    const look = async () => {
      const clip = await page.$eval("dialog.viewer .viewer-canvas", (c) => { const r = c.getBoundingClientRect(); return { x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height }; });
      return Buffer.from(await page.screenshot({ clip, captureBeyondViewport: false })).toString("base64");
    };
    const on = await look();
    await shot("viewer");
    const mask = () => page.evaluate(() => [...document.querySelectorAll("dialog.viewer .check")].find((l) => l.textContent.includes("prediction")).querySelector("input").click());
    await mask();
    await settle(700);
    const off = await look();
    expect(on !== off, "the mask disappears when it is switched off");
    await shot("viewer-off");
    await mask();
    await settle(700);
    expect((await look()) !== off, "and comes back");
    await page.$eval("dialog.viewer .close", (b) => b.click());
  } else {
    await page.waitForSelector("dialog.viewer .viewer-help:not([hidden])", { timeout: 30000 });
    expect(await page.$eval("dialog.viewer .viewer-help", (d) => d.innerText.includes("glioseg view")), "from the disk, the viewer says how to serve the volumes");
    await shot("viewer-file");
    // Files chosen by hand take the server's place.
    const folder = new URL(".", url).pathname;
    const names = await page.$$eval("#cases .opened .files a", (all) => all.map((a) => a.getAttribute("href")));
    const paths = names.slice(0, 2).concat(names.slice(-1)).map((n) => decodeURIComponent(folder + n));
    await (await page.$("dialog.viewer input[type=file]")).uploadFile(...paths);
    await page.waitForSelector("dialog.viewer[data-volumes]", { timeout: 120000 });
    expect(true, "volumes that were chosen by hand are shown");
    await settle(1500);
    await shot("viewer-chosen");
    await page.keyboard.press("Escape");
  }
  await settle();
  expect((await page.$("dialog.viewer")) === null, "the viewer closes");
}

await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
await settle();
await page.evaluate(() => scrollTo(0, 0));
await shot("dark");
await shot("dark-whole", true);
await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
await page.setViewport({ width: 390, height: 844, isMobile: true, hasTouch: true, deviceScaleFactor: 1 });
await settle(900);
const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
expect(wide <= 1, `the page fits the width of a phone (${wide} px over)`);
await shot("phone", true);
await page.setViewport({ width: 1280, height: 900 });
await settle();
if (pictures) await page.pdf({ path: join(pictures, "report.pdf"), format: "A4", printBackground: true });
expect(errors.length === 0, `no error on the console${errors.length ? `: ${errors.slice(0, 5).join(" | ")}` : ""}`);
expect(outside.length === 0, `no request outside${outside.length ? `: ${outside.slice(0, 5).join(" ")}` : ""}`);
await browser.close();
console.log(problems.length ? `${problems.length} problems` : "all holds");
process.exit(problems.length ? 1 : 0);
