// The canvas: picture, masks, preview and marks, with zoom and pan.

import { paintLevels, ramp, rgb } from "./masks.js";

const MIN_SCALE = 0.02, MAX_SCALE = 40;
/** Around a picture that is fitted, in CSS pixels: room for the hint above and for buttons below. */
const MARGIN = { side: 28, top: 56, bottom: 82 };
const NARROW = 600; // where there is no hint
/** Pixels along a hover mask when it is colored: more than there are logits, so that it is smooth. */
const SMOOTH = 512;

export class View {
  scale = 1;
  x = 0; // of the picture's corner, in CSS pixels
  y = 0;
  bitmap = null;
  width = 0; // of the picture
  height = 0;
  #scene = {};
  #backdrop = new OffscreenCanvas(1, 1);
  #backdropOf = {}; // what is drawn on it
  #queued = false;
  #afterFrame = [];

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.preview = new OffscreenCanvas(1, 1);
    this.previewContext = this.preview.getContext("2d");
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  #resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const ratio = devicePixelRatio;
    const isFirst = !this.canvasWidth;
    const dx = isFirst ? 0 : (width - this.canvasWidth) / 2, dy = isFirst ? 0 : (height - this.canvasHeight) / 2;
    this.canvasWidth = width;
    this.canvasHeight = height;
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    if (this.isFitted) this.fit();
    else this.pan(dx, dy);
    this.#paint();
  }

  /** Shows a picture; null for none. */
  show(bitmap) {
    this.bitmap = bitmap;
    this.width = bitmap?.width ?? 0;
    this.height = bitmap?.height ?? 0;
    this.fit();
  }

  /** The whole picture, centered. */
  fit() {
    this.isFitted = true;
    if (!this.bitmap || !this.canvasWidth) return; // fitted when the size is known
    const { bottom } = MARGIN;
    const side = Math.min(MARGIN.side, this.canvasWidth / 20), top = this.canvasWidth < NARROW ? side : MARGIN.top;
    const width = this.canvasWidth - 2 * side, height = Math.max(this.canvasHeight - top - bottom, this.canvasHeight / 2);
    this.scale = Math.max(MIN_SCALE, Math.min(MAX_SCALE, width / this.width, height / this.height));
    this.x = (this.canvasWidth - this.width * this.scale) / 2;
    this.y = top + (height - this.height * this.scale) / 2;
    this.changed();
  }

  /** Zooms by `factor` about a place in CSS pixels of the canvas. */
  zoom(factor, cx = this.canvasWidth / 2, cy = this.canvasHeight / 2) {
    const scale = Math.max(MIN_SCALE, Math.min(MAX_SCALE, this.scale * factor));
    this.x = cx - ((cx - this.x) * scale) / this.scale;
    this.y = cy - ((cy - this.y) * scale) / this.scale;
    this.scale = scale;
    this.isFitted = false;
    this.changed();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    if (dx || dy) this.isFitted = false;
    this.changed();
  }

  /** CSS pixels of the canvas -> pixels of the picture */
  toPicture(cx, cy) {
    return [(cx - this.x) / this.scale, (cy - this.y) / this.scale];
  }

  toCanvas(px, py) {
    return [px * this.scale + this.x, py * this.scale + this.y];
  }

  isInside([px, py]) {
    return this.bitmap && px >= 0 && py >= 0 && px < this.width && py < this.height;
  }

  /** The nearest place inside the picture. */
  clamp([px, py]) {
    // Just inside: a point on the far edge is outside.
    return [Math.min(Math.max(px, 0), this.width - 0.01), Math.min(Math.max(py, 0), this.height - 0.01)];
  }

  /** Takes over a hover mask. */
  setPreview(answer, color) {
    if (!answer) {
      this.hasPreview = false;
      this.changed();
      return;
    }
    const { levels } = answer;
    const times = Math.max(1, Math.round(SMOOTH / answer.width));
    const width = times * answer.width, height = times * answer.height;
    if (this.preview.width !== width || this.preview.height !== height) {
      this.preview.width = width;
      this.preview.height = height;
    }
    if (color !== this.rampColor) {
      this.ramp = ramp(rgb(color));
      this.rampColor = color;
    }
    const image = this.previewContext.createImageData(width, height);
    paintLevels(levels, answer.width, answer.height, times, this.ramp, new Uint32Array(image.data.buffer));
    this.previewContext.putImageData(image, 0, 0);
    this.previewCrop = answer.crop.map((edge) => edge * times);
    this.hasPreview = true;
    this.changed();
  }

  /** What to draw besides picture and preview: {tints, points, boxes, cursor, brush} */
  setScene(scene) {
    this.#scene = scene;
    this.changed();
  }

  /** Calls `done` when what changed now has been drawn and the frame presented. */
  afterFrame(done) {
    this.#afterFrame.push(done);
  }

  changed() {
    if (this.#queued) return;
    this.#queued = true;
    requestAnimationFrame(() => {
      this.#queued = false;
      this.#paint();
      const done = this.#afterFrame.splice(0);
      if (!done.length) return;
      // A task of its own comes after the frame.
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => done.forEach((call) => call());
      port2.postMessage(0);
    });
  }

  #paint() {
    const { context, canvas } = this;
    const ratio = devicePixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    this.onpaint?.();
    if (!this.bitmap) return;
    canvas.dataset.placement = `${this.x} ${this.y} ${this.scale}`;
    this.#drawBackdrop(ratio);
    context.drawImage(this.#backdrop, 0, 0);
    context.setTransform(this.scale * ratio, 0, 0, this.scale * ratio, this.x * ratio, this.y * ratio);
    context.imageSmoothingQuality = "high";
    const { tints = [], points = [], boxes = [], cursor, brush } = this.#scene;
    for (const { canvas: tint, x, y, w, h, alpha = 1 } of tints) {
      context.globalAlpha = alpha;
      context.drawImage(tint, x, y, w, h);
    }
    context.globalAlpha = 1;
    if (this.hasPreview) {
      context.imageSmoothingQuality = "low"; // it is smooth already, and cubic sums cost more than all else here
      context.drawImage(this.preview, ...this.previewCrop, 0, 0, this.width, this.height);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    boxes.forEach((box) => this.#box(box));
    points.forEach((point) => this.#point(point));
    if (cursor) this.#cursor(cursor);
    if (brush) this.#brush(brush);
  }

  /** The picture and its shadow, where it stands now: most of a frame's work, and rarely another. */
  #drawBackdrop(ratio) {
    const { bitmap, x, y, scale, canvas: { width, height } } = this;
    const of = { bitmap, x, y, scale, ratio, width, height };
    if (Object.keys(of).every((key) => of[key] === this.#backdropOf[key])) return;
    this.#backdropOf = of;
    this.#backdrop.width = width; // clears it
    this.#backdrop.height = height;
    const context = this.#backdrop.getContext("2d");
    context.setTransform(scale * ratio, 0, 0, scale * ratio, x * ratio, y * ratio);
    context.imageSmoothingEnabled = scale * ratio < 6;
    context.imageSmoothingQuality = "high";
    context.shadowColor = "rgb(0 0 0 / 22%)";
    context.shadowBlur = 24 * ratio;
    context.shadowOffsetY = 6 * ratio;
    context.drawImage(bitmap, 0, 0);
  }

  #box({ box: [x0, y0, x1, y1], color, isDashed }) {
    const [left, top] = this.toCanvas(x0, y0), [right, bottom] = this.toCanvas(x1, y1);
    const { context } = this;
    context.lineWidth = 4;
    context.strokeStyle = "rgb(255 255 255 / 85%)";
    context.strokeRect(left, top, right - left, bottom - top);
    context.lineWidth = 2;
    context.strokeStyle = color;
    context.setLineDash(isDashed ? [6, 5] : []);
    context.strokeRect(left, top, right - left, bottom - top);
    context.setLineDash([]);
  }

  #point({ xy, isOn }) {
    const [x, y] = this.toCanvas(...xy);
    const { context } = this;
    context.beginPath();
    context.arc(x, y, 8, 0, 7);
    context.fillStyle = isOn ? "#16a34a" : "#dc2626";
    context.fill();
    context.lineWidth = 2.5;
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.lineWidth = 2;
    context.moveTo(x - 3.5, y);
    context.lineTo(x + 3.5, y);
    if (isOn) {
      context.moveTo(x, y - 3.5);
      context.lineTo(x, y + 3.5);
    }
    context.stroke();
  }

  #cursor(xy) {
    const [x, y] = this.toCanvas(...xy);
    const { context } = this;
    for (const [width, color] of [[4, "#fff"], [1.5, "#111"]]) {
      context.beginPath();
      context.lineWidth = width;
      context.strokeStyle = color;
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx, y + 4 * dy);
        context.lineTo(x + 13 * dx, y + 13 * dy);
      }
      context.stroke();
    }
  }

  #brush({ xy, radius }) {
    const [x, y] = this.toCanvas(...xy);
    const { context } = this;
    for (const [width, color] of [[3, "rgb(255 255 255 / 90%)"], [1.2, "#111"]]) {
      context.beginPath();
      context.arc(x, y, Math.max(2, radius * this.scale), 0, 7);
      context.lineWidth = width;
      context.strokeStyle = color;
      context.stroke();
    }
  }
}
