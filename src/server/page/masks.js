// Masks: a window of 0/1 bytes within the picture, {x, y, w, h, bits}, by rows.

/** The run lengths in COCO's compressed text. */
function parse(text) {
  const runs = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 0x1f) << shift;
      shift += 5;
    } while (code & 0x20);
    if (code & 0x10 && shift < 32) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** COCO run lengths, down the columns, as a mask; null when empty. */
export function fromRle({ size: [height, width], counts }) {
  const runs = typeof counts === "string" ? parse(counts) : counts;
  let x0 = width, y0 = height, x1 = 0, y1 = 0;
  for (let i = 0, at = 0; i < runs.length; at += runs[i++]) {
    if (i % 2 === 0 || runs[i] === 0) continue;
    const last = at + runs[i] - 1;
    const left = Math.floor(at / height), right = Math.floor(last / height);
    x0 = Math.min(x0, left);
    x1 = Math.max(x1, right + 1);
    y0 = Math.min(y0, left === right ? at % height : 0);
    y1 = Math.max(y1, left === right ? (last % height) + 1 : height);
  }
  if (x1 === 0) return null;
  const mask = empty(x0, y0, x1 - x0, y1 - y0);
  for (let i = 0, at = 0; i < runs.length; at += runs[i++]) {
    if (i % 2 === 0) continue;
    for (let p = at; p < at + runs[i]; p++) {
      mask.bits[((p % height) - y0) * mask.w + Math.floor(p / height) - x0] = 1;
    }
  }
  return mask;
}

/** A mask as run lengths of a picture of this size. */
export function toRle(mask, width, height) {
  const counts = [];
  let run = 0, value = 0;
  const push = (next, length) => {
    if (next !== value) {
      counts.push(run);
      run = 0;
      value = next;
    }
    run += length;
  };
  push(0, mask.x * height);
  for (let x = 0; x < mask.w; x++) {
    push(0, mask.y);
    for (let y = 0; y < mask.h; y++) push(mask.bits[y * mask.w + x], 1);
    push(0, height - mask.y - mask.h);
  }
  push(0, (width - mask.x - mask.w) * height);
  counts.push(run);
  return { size: [height, width], counts };
}

export const empty = (x, y, w, h) => ({ x, y, w, h, bits: new Uint8Array(w * h) });

export function contains(mask, x, y) {
  const column = Math.floor(x) - mask.x, row = Math.floor(y) - mask.y;
  return column >= 0 && row >= 0 && column < mask.w && row < mask.h && mask.bits[row * mask.w + column] === 1;
}

export function area(mask) {
  let sum = 0;
  for (const bit of mask.bits) sum += bit;
  return sum;
}

/** [x0, y0, x1, y1] */
export const boxOf = (mask) => [mask.x, mask.y, mask.x + mask.w, mask.y + mask.h];

/** The same mask in a window that covers the whole picture, to paint on. */
export function spread(mask, width, height) {
  const whole = empty(0, 0, width, height);
  if (!mask) return whole;
  for (let y = 0; y < mask.h; y++) {
    whole.bits.set(mask.bits.subarray(y * mask.w, (y + 1) * mask.w), (mask.y + y) * width + mask.x);
  }
  return whole;
}

/** The same mask in the smallest window; null when empty. */
export function trim(mask) {
  let x0 = mask.w, y0 = mask.h, x1 = 0, y1 = 0;
  for (let y = 0; y < mask.h; y++) {
    for (let x = 0; x < mask.w; x++) {
      if (!mask.bits[y * mask.w + x]) continue;
      if (x < x0) x0 = x;
      if (x >= x1) x1 = x + 1;
      if (y < y0) y0 = y;
      if (y >= y1) y1 = y + 1;
    }
  }
  if (x1 === 0) return null;
  const small = empty(mask.x + x0, mask.y + y0, x1 - x0, y1 - y0);
  for (let y = y0; y < y1; y++) {
    small.bits.set(mask.bits.subarray(y * mask.w + x0, y * mask.w + x1), (y - y0) * small.w);
  }
  return small;
}

/** Sets a disc of pixels around the segment from a to b to `value`. */
export function stroke(mask, [ax, ay], [bx, by], radius, value) {
  const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
  const reach = Math.max(radius, 0.71); // one pixel at least
  const x0 = Math.max(0, Math.floor(Math.min(ax, bx) - reach)), x1 = Math.min(mask.w, Math.ceil(Math.max(ax, bx) + reach));
  const y0 = Math.max(0, Math.floor(Math.min(ay, by) - reach)), y1 = Math.min(mask.h, Math.ceil(Math.max(ay, by) + reach));
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      const px = x + 0.5 - ax, py = y + 0.5 - ay;
      const along = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
      if ((px - along * dx) ** 2 + (py - along * dy) ** 2 <= reach * reach) mask.bits[y * mask.w + x] = value;
    }
  }
}

/** Enlargement of small masks before they are colored, so that their edges are smooth on screen. */
const enlargement = (pictureSide) => Math.min(4, Math.max(1, Math.round(1400 / pictureSide)));

/** A canvas of the mask in a color: light inside, strong at the edge, with a white rim. */
export function tint(mask, [r, g, b], pictureSide, strength = 0.42) {
  const k = enlargement(pictureSide);
  const pad = 1; // so that the edge is smooth on all sides
  const source = new OffscreenCanvas(mask.w + 2 * pad, mask.h + 2 * pad);
  const flat = source.getContext("2d");
  const pixels = flat.createImageData(source.width, source.height);
  for (let y = 0; y < mask.h; y++) {
    for (let x = 0; x < mask.w; x++) {
      if (mask.bits[y * mask.w + x]) pixels.data[4 * ((y + pad) * source.width + x + pad) + 3] = 255;
    }
  }
  flat.putImageData(pixels, 0, 0);
  const canvas = new OffscreenCanvas(source.width * k, source.height * k);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  if (k > 1) context.filter = `blur(${0.5 * k}px)`; // takes the stairs from the edge
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data, width, height } = image;
  const inside = new Uint8Array(width * height);
  for (let i = 0; i < inside.length; i++) inside[i] = data[4 * i + 3] > 127 ? 1 : 0;
  const line = Math.max(1, Math.round((pictureSide * k) / 640));
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside[y * width + x];
  const isWithin = (x, y, reach) => !(at(x - reach, y) && at(x + reach, y) && at(x, y - reach) && at(x, y + reach));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      if (!inside[i]) {
        data[4 * i + 3] = 0;
        continue;
      }
      // White around the color, so that the edge shows on a thing of the same color.
      const isRim = isWithin(x, y, line), isEdge = isWithin(x, y, 3 * line);
      data[4 * i] = isRim ? 255 : r;
      data[4 * i + 1] = isRim ? 255 : g;
      data[4 * i + 2] = isRim ? 255 : b;
      data[4 * i + 3] = isRim ? 235 : isEdge ? 255 : 255 * strength;
    }
  }
  context.putImageData(image, 0, 0);
  return { canvas, x: mask.x - pad, y: mask.y - pad, w: source.width, h: source.height };
}

/**
 * Colors each level of a hover mask (width, height) by `ramp`, at `times` its size: between levels
 * the logits are interpolated, so that the edge is a line and no stairs.
 */
export function paintLevels(levels, width, height, times, ramp, pixels) {
  const place = (at, size) => {
    const from = Math.min(Math.max((at + 0.5) / times - 0.5, 0), size - 1);
    return [Math.floor(from), Math.min(Math.floor(from) + 1, size - 1), from % 1];
  };
  const columns = Array.from({ length: width * times }, (_, x) => place(x, width));
  const lefts = Uint16Array.from(columns, ([left]) => left), rights = Uint16Array.from(columns, ([, right]) => right);
  const shares = Float32Array.from(columns, ([, , share]) => share);
  const row = new Float32Array(width);
  for (let y = 0, to = 0; y < height * times; y++) {
    const [upper, lower, share] = place(y, height);
    for (let x = 0; x < width; x++) {
      const above = levels[upper * width + x];
      row[x] = above + share * (levels[lower * width + x] - above);
    }
    for (let x = 0; x < columns.length; x++, to++) {
      const left = row[lefts[x]];
      pixels[to] = ramp[(left + shares[x] * (row[rights[x]] - left)) | 0];
    }
  }
}

/** Color and opacity of each level of a hover mask: nothing, a bright edge, a light inside. */
export function ramp([r, g, b]) {
  const table = new Uint32Array(256);
  for (let level = 0; level < 256; level++) {
    const logit = (level - 128) / 16;
    const rise = Math.min(1, Math.max(0, (logit + 0.45) / 0.9));
    const fall = Math.min(1, Math.max(0, (logit - 0.6) / 2.2));
    const alpha = Math.round(255 * rise * (0.95 - 0.5 * fall));
    table[level] = (alpha << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}

/** "#rrggbb" as [r, g, b] */
export const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

/** The n-th color of objects: hues far apart from their neighbours. */
export function colorOf(n) {
  const hue = (250 + n * 137.508) % 360;
  const lightness = n % 2 ? 0.6 : 0.52, chroma = 0.78 * Math.min(lightness, 1 - lightness);
  const channel = (k) => {
    const at = (k + hue / 30) % 12;
    const value = lightness - chroma * Math.max(-1, Math.min(at - 3, 9 - at, 1));
    return Math.round(255 * value).toString(16).padStart(2, "0");
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}
