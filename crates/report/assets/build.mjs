// Builds dist/ from src/: `npm ci && npm run build`. The results are committed, so that cargo needs no Node.
import { build } from "esbuild";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const out = (name) => new URL(`dist/${name}`, import.meta.url);
mkdirSync(out(""), { recursive: true });

// zarr volumes are none that a report links: their codecs are two thirds of NiiVue's size.
const withoutZarrCodecs = {
  name: "without-zarr-codecs",
  setup(b) {
    b.onResolve({ filter: /^numcodecs\// }, (args) => ({ path: args.path, namespace: "none" }));
    b.onLoad({ filter: /.*/, namespace: "none" }, () => ({
      contents: "export default { fromConfig() { throw new Error('zarr volumes are not supported'); } };",
    }));
  },
};

async function bundle(entry, options) {
  const result = await build({
    entryPoints: [new URL(`src/${entry}`, import.meta.url).pathname],
    bundle: true,
    minify: true,
    write: false,
    legalComments: "none",
    metafile: true,
    target: "es2022",
    ...options,
  });
  for (const input of Object.keys(result.metafile.inputs)) {
    const found = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//);
    if (found) used.add(found[1]);
  }
  return Buffer.from(result.outputFiles[0].contents);
}

/** Packages whose code is in the bundles. */
const used = new Set();

/** Name, version, licence and its text of every package used; they travel with every report. */
function notice() {
  const parts = [...used].sort().map((name) => {
    const folder = new URL(`node_modules/${name}/`, import.meta.url);
    const about = JSON.parse(readFileSync(new URL("package.json", folder)));
    const file = existsSync(folder) && readdirSync(folder).find((f) => /^licen[cs]e/i.test(f));
    const text = file ? readFileSync(new URL(file, folder), "utf8").trim() : `(the package has no licence file; ${about.license}, ${about.author?.name ?? about.author ?? about.homepage ?? ""})`;
    return `${name} ${about.version}: ${about.license}\n\n${text}`;
  });
  return `Code of these packages is in the programs of a report.\n\n${parts.join(`\n\n${"-".repeat(80)}\n\n`)}\n`;
}

const sizes = {};
for (const [entry, name] of [["report.js", "report.js.gz"], ["viewer.js", "viewer.js.gz"]]) {
  const code = await bundle(entry, { format: "iife", plugins: [withoutZarrCodecs] });
  // Level 9 and no time stamp: the same input gives the same bytes.
  const packed = gzipSync(code, { level: 9 });
  writeFileSync(out(name), packed);
  sizes[name] = `${code.length} bytes, ${packed.length} compressed`;
}
const css = await bundle("report.css", {});
writeFileSync(out("report.css"), css);
sizes["report.css"] = `${css.length} bytes`;
const text = notice();
writeFileSync(out("NOTICE.txt"), text);
sizes["NOTICE.txt"] = `${text.length} bytes, ${used.size} packages`;
console.table(sizes);
