"use strict";
// Unpacks a block of the report: base64 of gzip. The blocks need no network, and cases are unpacked when they are opened.
const glioseg = {
  async unpack(id) {
    const text = document.getElementById(id).textContent;
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  },
  async run(id) {
    const script = document.createElement("script");
    script.textContent = await this.unpack(id);
    document.head.append(script);
  },
};
glioseg.run("program").catch((error) => {
  const wait = document.getElementById("wait");
  wait.className = "problem";
  wait.textContent = `The report cannot be unpacked (${error.message}). It needs a browser of 2023 or later.`;
});
