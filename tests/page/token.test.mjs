// A server with a token: the page takes it from its address or asks for it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { launch, load, open, serve } from "./support.mjs";

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([serve("--token", "open-sesame"), launch()]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

test("the token in the address is taken and leaves it", async () => {
  assert.match(server.address, /#token=open-sesame$/);
  const { page, errors, close } = await open(browser, server.address);
  await load(page, "scene_2");
  assert.ok(!page.url().includes("token"));
  assert.deepEqual(errors, []);
  await close();
});

test("without it the page asks", async () => {
  const { page, close } = await open(browser, server.address.split("#")[0]);
  await page.fill("#token", "open-sesame");
  await page.press("#token", "Enter");
  await page.waitForSelector("#model:not([hidden])");
  await load(page, "scene_2");
  await close();
});
