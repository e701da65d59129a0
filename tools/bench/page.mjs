// From the pointer to the painted mask on the page of `sam3 serve`, as the page measures it: from the
// pointer's event until a task after the frame that shows the mask.
//
//   SAM3=target/release/sam3 PLAYWRIGHT=target/page node tools/bench/page.mjs MODEL PICTURE
//
// PLAYWRIGHT is what tools/check_page.sh installs; CHROMIUM names the browser. The weights may be random.

import { launch, open, onScreen, serve } from "../../tests/page/support.mjs";

const WARM_UP = 20, POSITIONS = 200;

const [model, picture] = process.argv.slice(2);
if (!picture) {
  console.error("usage: page.mjs MODEL PICTURE");
  process.exit(2);
}
const server = await serve("-m", model);
const browser = await launch();
const { page } = await open(browser, server.address);
await page.setInputFiles("#file", picture);
await page.waitForSelector('#state[data-state="ready"]');
const [width, height] = await page.evaluate(() => {
  const { placement } = document.getElementById("canvas").dataset;
  const [dx, dy, scale] = placement.split(" ").map(Number);
  const { width, height } = document.getElementById("canvas").getBoundingClientRect();
  return [(width - 2 * dx) / scale, (height - 2 * dy) / scale];
});
const times = [];
for (let i = 0; i < WARM_UP + POSITIONS; i++) {
  // Told by the page: asking it again and again would take the server's processors.
  const painted = await page.evaluateHandle(() => {
    const watched = document.getElementById("latency");
    const seen = (resolve) => new MutationObserver((_, observer) => resolve(observer.disconnect())).observe(watched, { attributeFilter: ["data-count"] });
    return { done: new Promise(seen) };
  });
  const at = [0.05 + 0.9 * ((i * 0.618) % 1), 0.05 + 0.9 * ((i * 0.414) % 1)];
  await page.mouse.move(...(await onScreen(page, [at[0] * width, at[1] * height])));
  await painted.evaluate(({ done }) => done);
  if (i >= WARM_UP) times.push(Number(await page.evaluate(() => document.getElementById("latency").dataset.last)));
}
const median = await page.evaluate(() => document.getElementById("latency").dataset.server);
times.sort((a, b) => a - b);
const at = (part) => times[Math.floor(times.length * part)].toFixed(1);
console.log(`pointer to painted: p50 ${at(0.5)} ms, p95 ${at(0.95)} ms (${POSITIONS} positions; the server's part at the end: ${median} ms)`);
await browser.close();
await server.stop();
