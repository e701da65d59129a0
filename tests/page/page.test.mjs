// The page in a real browser against a real server and the demo model.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { colors, exported, iou, launch, load, onScreen, open, rows, saved, scene, serve } from "./support.mjs";

const SCENE = "scene_2";
let server, browser, objects, current;

before(async () => {
  [server, browser, objects] = await Promise.all([serve(), launch(), scene(SCENE)]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});
afterEach(async () => {
  const { errors, close } = current;
  await close();
  assert.deepEqual(errors, []);
});

async function start(options) {
  current = await open(browser, server.address, options);
  return current.page;
}

async function ready(options) {
  const page = await start(options);
  await load(page, SCENE);
  return page;
}

async function click(page, place, options) {
  await page.mouse.click(...(await onScreen(page, place)), options);
}

/** Waits for the draft to be answered. */
const answered = (page) => page.waitForFunction(() => /\d/.test(document.getElementById("quality").textContent));

async function keep(page) {
  const before = await rows(page);
  await answered(page);
  await page.keyboard.press("Enter");
  await page.waitForFunction((n) => document.querySelectorAll("#objects li").length === n, before + 1);
}

/** IoU of the only mask that is exported with an object of the scene. */
async function quality(page, name) {
  const files = await exported(page);
  const masks = Object.keys(files).filter((file) => file.startsWith("masks/") && file.endsWith(".png"));
  assert.equal(masks.length, 1, Object.keys(files).join());
  return iou(page, files[masks[0]], SCENE, objects[name].number);
}

test("the first visit says what the demo model knows and offers a sample", async () => {
  const page = await start();
  await page.waitForSelector("#demoNote:not([hidden])");
  assert.match(await page.textContent("#model"), /demo/i);
  await page.click("#sample");
  await page.waitForSelector('#state[data-state="ready"]');
  assert.equal(await page.isVisible("#empty"), false);
});

test("a mask follows the pointer", async () => {
  const page = await ready();
  const { click: on } = objects["red circle"];
  const corners = [[5, 5], on];
  const plain = await colors(page, corners);
  await page.mouse.move(...(await onScreen(page, [on[0] - 3, on[1]])));
  await page.mouse.move(...(await onScreen(page, on)), { steps: 4 });
  await page.waitForFunction(([x, y]) => {
    const { previewX, previewY } = document.getElementById("stage").dataset;
    return Math.abs(previewX - x) < 1 && Math.abs(previewY - y) < 1;
  }, on);
  const [outside, inside] = await colors(page, corners);
  assert.deepEqual(outside, plain[0]);
  assert.notDeepEqual(inside, plain[1]);
  // The wheel shows the other masks of the same place.
  for (const index of ["0", "1", "2"]) {
    await page.waitForTimeout(150); // one turn, one step
    await page.mouse.wheel(0, -100);
    await page.waitForFunction((index) => document.getElementById("stage").dataset.previewIndex === index, index);
  }
});

test("a click makes a mask, another one takes away, and Enter keeps it", async () => {
  const page = await ready();
  await click(page, objects["red circle"].click);
  await answered(page);
  await page.keyboard.down("Shift");
  await click(page, objects["white star"].click);
  await page.keyboard.up("Shift");
  await keep(page);
  assert.ok(await quality(page, "red circle") > 0.85);
});

test("the right button takes away, and a click on a point takes it back", async () => {
  const page = await ready();
  const { click: on } = objects["white star"];
  await click(page, on);
  await answered(page);
  await click(page, objects["red circle"].click, { button: "right" });
  await answered(page);
  await click(page, objects["red circle"].click);
  await keep(page);
  assert.ok(await quality(page, "white star") > 0.85);
});

test("a dragged box makes a mask, which can be undone and redone", async () => {
  const page = await ready();
  const [x0, y0, x1, y1] = objects["orange circle"].box;
  await page.mouse.move(...(await onScreen(page, [x0, y0])));
  await page.mouse.down();
  await page.mouse.move(...(await onScreen(page, [x1, y1])), { steps: 5 });
  await page.mouse.up();
  await keep(page);
  await page.keyboard.press("Control+z");
  assert.equal(await rows(page), 0);
  await page.keyboard.press("Control+y");
  assert.equal(await rows(page), 1);
  assert.ok(await quality(page, "orange circle") > 0.85);
});

test("words find objects, and the threshold moves without another request", async () => {
  const page = await ready();
  await page.keyboard.press("t");
  await page.keyboard.type("white star, blue");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#objects li");
  const found = await rows(page);
  assert.equal(found, 3); // a white star; a triangle and a star in blue
  let requests = 0;
  page.on("request", () => requests++);
  await page.fill("#threshold", "0.1");
  const more = await rows(page);
  await page.fill("#threshold", "0.99");
  const fewer = await rows(page);
  assert.ok(more >= found && fewer < found, `${more} ${found} ${fewer}`);
  assert.equal(requests, 0);
  await page.fill("#threshold", "0.5");
  const files = await exported(page);
  const star = Object.keys(files).find((name) => /^masks\/.*white.star.*\.png$/.test(name));
  assert.ok(await iou(page, files[star], SCENE, objects["white star"].number) > 0.85);
});

test("an object that was found is refined by clicks", async () => {
  const page = await ready();
  await page.fill("#text", "white star");
  await page.press("#text", "Enter");
  await page.waitForSelector("#objects li");
  await page.click("#objects .refine");
  await page.waitForSelector("#draft:not([hidden])");
  await click(page, objects["white star"].click);
  await answered(page);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#draft", { state: "hidden" });
  assert.equal(await rows(page), 1);
  assert.ok(await quality(page, "white star") > 0.85);
});

test("exemplars find what looks like them", async () => {
  const page = await ready();
  await page.keyboard.press("3");
  const [x0, y0, x1, y1] = objects["blue star"].box;
  await page.mouse.move(...(await onScreen(page, [x0, y0])));
  await page.mouse.down();
  await page.mouse.move(...(await onScreen(page, [x1, y1])), { steps: 5 });
  await page.mouse.up();
  await page.click("#exemplarFind");
  await page.waitForSelector("#objects li");
  assert.ok(await rows(page) >= 1);
});

test("brush and eraser change an object's last pixels", async () => {
  const page = await ready();
  await page.keyboard.press("4");
  const [x, y] = [190, 30];
  await page.mouse.move(...(await onScreen(page, [x, y])));
  await page.mouse.down();
  await page.mouse.move(...(await onScreen(page, [x + 15, y])), { steps: 6 });
  await page.mouse.up();
  assert.equal(await rows(page), 1);
  const area = async () => {
    const files = await exported(page);
    const { annotations } = JSON.parse(files["coco.json"]);
    return annotations[0].area;
  };
  const painted = await area();
  assert.ok(painted > 50, String(painted));
  await page.keyboard.press("5");
  await page.mouse.move(...(await onScreen(page, [x, y])));
  await page.mouse.down();
  await page.mouse.move(...(await onScreen(page, [x + 2, y])), { steps: 2 });
  await page.mouse.up();
  assert.ok(await area() < painted);
});

test("everything finds objects and shows how far it is", async () => {
  const page = await ready();
  await page.click("#everything");
  await page.waitForSelector("#objects li");
  assert.ok(await rows(page) >= 3);
});

test("the zip has what was chosen", async () => {
  const page = await ready();
  await page.fill("#text", "blue");
  await page.press("#text", "Enter");
  await page.waitForSelector("#objects li");
  const files = await exported(page);
  const coco = JSON.parse(files["coco.json"]);
  assert.equal(coco.annotations.length, await rows(page));
  assert.deepEqual(coco.categories.map(({ name }) => name), ["blue"]);
  const names = Object.keys(files).join("\n");
  for (const part of [/labelme/, /yolo|labels/, /masks\//, /cutouts\//]) assert.match(names, part);
});

test("work survives a reload", async () => {
  const page = await ready();
  await click(page, objects["red circle"].click);
  await keep(page);
  await page.fill("#objects .name", "my circle");
  await page.press("#objects .name", "Enter");
  await saved(page);
  await page.reload();
  await page.waitForSelector("#objects li");
  await page.waitForSelector('#state[data-state="ready"]');
  assert.equal(await page.inputValue("#objects .name"), "my circle");
  assert.ok(await quality(page, "red circle") > 0.85);
});

test("the keyboard alone is enough", async () => {
  const page = await ready();
  await page.focus("#canvas");
  const place = async () => (await page.textContent("#position")).split(",").map(Number);
  await page.keyboard.press("ArrowRight");
  const [tx, ty] = objects["red circle"].click;
  for (let i = 0; i < 200; i++) {
    const [x, y] = await place();
    if (Math.abs(x - tx) <= 3 && Math.abs(y - ty) <= 3) break;
    await page.keyboard.press(Math.abs(x - tx) > 3 ? (x < tx ? "ArrowRight" : "ArrowLeft") : (y < ty ? "ArrowDown" : "ArrowUp"));
  }
  await page.keyboard.press("Space");
  await keep(page);
  assert.match(await page.textContent("#live"), /kept/);
  await page.keyboard.press("?");
  assert.ok(await page.isVisible("#helpDialog"));
  await page.keyboard.press("Escape");
  await page.keyboard.press("j");
  assert.equal(await page.locator('#objects li[data-selected="true"]').count(), 1);
  await page.keyboard.press("Control+s");
  assert.ok(await page.isVisible("#exportDialog"));
  await page.keyboard.press("Escape");
  assert.ok(await quality(page, "red circle") > 0.85);
});

test("fingers tap, hold, pinch and reach the list", async () => {
  const page = await ready({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  const tap = async (place) => page.touchscreen.tap(...(await onScreen(page, place)));
  await tap(objects["red circle"].click);
  await answered(page);
  await page.tap("#sign");
  await tap(objects["white star"].click);
  await answered(page);
  await page.tap("#keep");
  await page.waitForFunction(() => document.getElementById("sheetCount").textContent === "1");
  await page.tap("#sheet");
  await page.waitForSelector("#objects .name", { state: "visible" });
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 390, String(width));
});

test("the page is in Chinese too, and remembers it", async () => {
  const page = await ready();
  await page.click("#language");
  assert.equal(await page.textContent("#search button"), "查找");
  assert.equal(await page.getAttribute("#canvas", "lang") ?? await page.getAttribute("html", "lang"), "zh-CN");
  await page.fill("#text", "white star\uff0corange circle"); // with the comma of Chinese
  await page.press("#text", "Enter");
  await page.waitForSelector("#objects li");
  const labels = await page.locator("#objects .name").evaluateAll((names) => names.map(({ value }) => value).sort());
  assert.deepEqual(labels, ["orange circle", "white star"]);
  await saved(page);
  await page.reload();
  await page.waitForSelector("#objects li");
  assert.equal(await page.textContent("#search button"), "查找");
});

test("both languages say everything", async () => {
  const page = await start();
  const missing = await page.evaluate(async () => {
    const source = await (await fetch("/assets/strings.js")).text();
    const keys = (name) => [...source.split(`const ${name} = {`)[1].split("\n};")[0].matchAll(/(?:^|[ ,{])(\w+): "/g)].map(([, key]) => key);
    const en = keys("en"), zh = keys("zh");
    return { en: en.length, differ: [...en.filter((key) => !zh.includes(key)), ...zh.filter((key) => !en.includes(key))] };
  });
  assert.ok(missing.en > 90);
  assert.deepEqual(missing.differ, []);
});

/** Pairs of things that are shown and overlap. */
const overlaps = (page, selectors) => page.evaluate((selectors) => {
  const shown = selectors.flatMap((selector) => [...document.querySelectorAll(selector)].map((node) => [selector, node.getBoundingClientRect()]))
    .filter(([, { width, height }]) => width > 0 && height > 0);
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return shown.flatMap(([name, a], i) => shown.slice(i + 1).filter(([, b]) => meet(a, b)).map(([other]) => `${name} ${other}`));
}, selectors);

for (const [size, viewport] of Object.entries({ desktop: [1440, 900], laptop: [1200, 760], tablet: [834, 1112], phone: [390, 844], small: [320, 568] })) {
  test(`nothing is in the way of anything else on a ${size} screen, in both languages`, async () => {
    const page = await ready({ viewport: { width: viewport[0], height: viewport[1] } });
    for (let language = 0; language < 2; language++) {
      await click(page, objects["red circle"].click);
      await answered(page);
      const parts = [".brand", ".search", ".actions", ".tools", "#draft", "#zoom", ".hint", ".status"];
      assert.deepEqual(await overlaps(page, parts), []);
      assert.deepEqual(await overlaps(page, ["#draft > *"]), []);
      assert.deepEqual(await overlaps(page, [".actions > *"]), []);
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
      const within = await page.evaluate(() => {
        const { left, right } = document.getElementById("draft").getBoundingClientRect();
        return [...document.querySelectorAll("#draft > *")].every((node) => {
          const inner = node.getBoundingClientRect();
          return inner.width === 0 || (inner.left >= left && inner.right <= right);
        });
      });
      assert.ok(within, "the buttons are within their bar");
      await page.click("#discard");
      await page.click("#language");
    }
  });
}

test("a file that is no picture is explained", async () => {
  const page = await start();
  await page.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("words") });
  await page.waitForSelector(".toast");
  assert.match(await page.textContent(".toast"), /cannot show/);
});
