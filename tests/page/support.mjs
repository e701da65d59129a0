// A server with the demo model, a browser, and what the tests read of the page.

import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { inflateRawSync } from "node:zlib";

const require = createRequire(`${process.env.PLAYWRIGHT ?? process.cwd()}/`);
const { chromium } = require("playwright-core");

export const SCENES = new URL("../scenes/", import.meta.url).pathname;

/** Starts `sam3 serve` on a free port; resolves with its address. */
export async function serve(...args) {
  const server = spawn(process.env.SAM3, ["serve", "--port", "0", ...args], { stdio: ["ignore", "ignore", "pipe"] });
  const address = await new Promise((resolve, reject) => {
    let said = "";
    server.stderr.on("data", (chunk) => {
      said += chunk;
      const found = said.match(/http:\S+/);
      if (found) resolve(found[0]);
    });
    server.on("exit", (code) => reject(new Error(`the server ended with ${code}: ${said}`)));
  });
  return { address, stop: () => new Promise((resolve) => server.on("exit", resolve).kill("SIGTERM")) };
}

export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** For machines that have other things to do. */
const PATIENCE = 180_000;

/** A page whose errors fail the test. */
export async function open(browser, address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "en-US", ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.stack));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(address);
  return { page, errors, close: () => context.close() };
}

/** The scenes' objects: name -> {box, click, number}. */
export async function scene(name) {
  const scenes = JSON.parse(await readFile(`${SCENES}scenes.json`, "utf8"));
  const { objects } = scenes.find((one) => one.name === name);
  return Object.fromEntries(objects.map((object, at) => [`${object.color} ${object.shape}`, { ...object, number: at + 1 }]));
}

export async function load(page, name) {
  await page.setInputFiles("#file", `${SCENES}${name}.png`);
  await page.waitForSelector('#state[data-state="ready"]');
}

/** Where a place of the picture is on the screen. */
export async function onScreen(page, [x, y]) {
  await page.waitForFunction(() => document.getElementById("canvas").dataset.placement);
  return page.evaluate(([x, y]) => {
    const canvas = document.getElementById("canvas");
    const { left, top } = canvas.getBoundingClientRect();
    const [dx, dy, scale] = canvas.dataset.placement.split(" ").map(Number);
    return [left + dx + x * scale, top + dy + y * scale];
  }, [x, y]);
}

/** The pixels of the canvas at places of the picture, one byte list each. */
export async function colors(page, places) {
  const points = [];
  for (const place of places) points.push(await onScreen(page, place));
  return page.evaluate((points) => {
    const canvas = document.getElementById("canvas");
    const { left, top } = canvas.getBoundingClientRect();
    const context = canvas.getContext("2d");
    return points.map(([x, y]) => [...context.getImageData(Math.round((x - left) * devicePixelRatio), Math.round((y - top) * devicePixelRatio), 1, 1).data]);
  }, points);
}

/** The files of a zip: name -> bytes. Sizes are those of the directory at its end. */
export function unzip(bytes) {
  const files = {};
  let at = bytes.length - 22;
  while (bytes.readUInt32LE(at) !== 0x06054b50) at--;
  const count = bytes.readUInt16LE(at + 10);
  let entry = bytes.readUInt32LE(at + 16);
  for (let i = 0; i < count; i++) {
    const method = bytes.readUInt16LE(entry + 10), size = bytes.readUInt32LE(entry + 20);
    const [name, extra, comment] = [28, 30, 32].map((offset) => bytes.readUInt16LE(entry + offset));
    const start = bytes.readUInt32LE(entry + 42);
    const data = start + 30 + bytes.readUInt16LE(start + 26) + bytes.readUInt16LE(start + 28);
    const packed = bytes.subarray(data, data + size);
    files[bytes.toString("utf8", entry + 46, entry + 46 + name)] = method === 8 ? inflateRawSync(packed) : packed;
    entry += 46 + name + extra + comment;
  }
  return files;
}

/** Exports what is on the page and unpacks it. */
export async function exported(page) {
  await page.click("#export");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#exportSave")]);
  return unzip(await readFile(await download.path()));
}

/** The pixels of a grey or RGB PNG as the browser decodes it, one byte each. */
export async function pixels(page, png) {
  const bytes = await page.evaluate(async (data) => {
    const blob = new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))]);
    const bitmap = await createImageBitmap(blob);
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const { data: rgba } = context.getImageData(0, 0, canvas.width, canvas.height);
    return Array.from({ length: canvas.width * canvas.height }, (_, i) => rgba[4 * i]);
  }, Buffer.from(png).toString("base64"));
  return bytes;
}

/** IoU of a mask's PNG with the visible pixels of an object of the scene. */
export async function iou(page, png, sceneName, number) {
  const mask = await pixels(page, png);
  const numbers = await pixels(page, await readFile(`${SCENES}${sceneName}_objects.png`));
  let both = 0, either = 0;
  for (let i = 0; i < mask.length; i++) {
    const a = mask[i] > 127, b = numbers[i] === number;
    both += a && b;
    either += a || b;
  }
  return both / either;
}

/** Waits until the work is in the browser's database. */
export const saved = (page) => page.waitForSelector('#stage[data-saved="true"]');

export const rows = (page) => page.locator("#objects li").count();
