// The viewer's window: unpacks the viewer when it is first wanted.
let loaded;

export async function openViewer(data, c, block, run) {
  loaded ??= glioseg.run("viewer");
  await loaded;
  globalThis.gliosegViewer.open(data, c, block, run);
}
