// Builds dist/ from src/: `npm ci && npm run build`. The results are committed, so that cargo needs no Node.
import { build } from "esbuild";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
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
    target: "es2022",
    ...options,
  });
  return Buffer.from(result.outputFiles[0].contents);
}

const packages = JSON.parse(readFileSync(new URL("package-lock.json", import.meta.url)));
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
console.table(sizes);
console.log(`${Object.keys(packages.packages).length - 1} packages in package-lock.json`);
