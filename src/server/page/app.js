// Puts the parts of the page together.

import * as api from "./api.js";
import { Hover } from "./hover.js";
import { listen } from "./keys.js";
import { rgb, tint } from "./masks.js";
import { Pointer } from "./pointer.js";
import { Session } from "./session.js";
import * as store from "./store.js";
import { t } from "./strings.js";
import { $, Ui } from "./ui.js";
import { View } from "./view.js";

const SAVE = 400; // milliseconds without a change before work is saved
const EDGE = 12; // how near the edge of the canvas the keyboard's cursor may come

class App {
  session = new Session();
  tool = "point";
  sign = true; // the next point is on the object
  brush = 24; // diameter in CSS pixels
  isPanKey = false;
  cursor = null; // of the keyboard, in pixels of the picture
  #hovered = null; // {at, stamp} of the pointer
  #band = null; // box being dragged
  #brushAt = null;
  #tints = new WeakMap(); // mask -> {color, tint}
  #saving = null;

  constructor() {
    const canvas = $("canvas");
    this.view = new View(canvas);
    this.view.onpaint = () => {
      $("scale").textContent = this.session.picture ? t("scale", { percent: Math.round(this.view.scale * 100) }) : "";
    };
    this.ui = new Ui(this);
    this.hover = new Hover({
      onmask: (answer, position) => this.#preview(answer, position),
      onstate: (state) => this.#connected(state),
      onfailure: (error) => this.ui.fail(error),
    });
    new Pointer(canvas, this);
    listen(this, canvas);
    this.#listenForFiles();
    const { session } = this;
    session.addEventListener("change", () => this.#changed());
    session.addEventListener("uploaded", () => this.#uploaded());
    session.addEventListener("refining", () => {
      this.setTool("point");
      canvas.focus({ preventScroll: true });
    });
    api.onUnauthorized(() => this.ui.askForToken(api.setToken));
    this.#begin();
  }

  async #begin() {
    this.ui.setState("none");
    const restored = this.#restore();
    try {
      const model = await api.model();
      this.session.model = model;
      $("model").hidden = false;
      $("model").textContent = model.demo ? t("demoChip") : model.name;
      $("model").title = model.name;
      if (model.demo) $("model").dataset.t = "demoChip";
      $("demoNote").hidden = !model.demo;
      $("sample").hidden = !model.demo;
      await restored;
      this.session.changed();
      if (this.session.picture?.id) this.#uploaded();
    } catch (error) {
      this.ui.setState("offline");
      this.ui.fail(error);
    }
  }

  // Pictures

  open() {
    $("file").click();
  }

  async openSample() {
    const response = await fetch("/assets/sample.png");
    this.openFile(new File([await response.blob()], "shapes.png", { type: "image/png" }));
  }

  async openFile(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      this.ui.fail({ key: "notAnImage", advice: "notAnImageAdvice" });
      return;
    }
    const left = this.session.picture?.id;
    this.#show({ blob: file, name: file.name || "picture.png" }, bitmap);
    if (left) api.forget(left); // an encode that nobody waits for stops
    await this.#upload();
  }

  #show({ blob, name }, bitmap, saved) {
    this.hover.open(null);
    this.view.setPreview(null);
    this.cursor = this.#hovered = this.#band = null;
    this.view.show(bitmap);
    this.session.start({ id: null, blob, name, width: bitmap.width, height: bitmap.height }, saved);
    document.title = `${name} · sam3`;
    $("canvas").focus({ preventScroll: true });
  }

  async #upload() {
    this.ui.setState("uploading");
    try {
      await this.session.upload();
    } catch (error) {
      this.ui.setState(error.status ? "none" : "offline");
      this.ui.fail(error);
    }
  }

  #uploaded() {
    if (!this.session.model) return; // comes again when it is known
    if (this.session.canDo("points")) this.hover.open(this.session.picture.id);
    else this.ui.setState("ready");
  }

  async #restore() {
    const work = await store.load();
    if (!work || this.session.picture) return;
    try {
      const bitmap = await createImageBitmap(work.blob);
      this.#show(work, bitmap, work);
    } catch {
      return; // a file that this browser no longer shows
    }
    if (work.objects.length) this.ui.tell("restored");
    await this.#upload();
  }

  #save() {
    clearTimeout(this.#saving);
    const { dataset } = $("stage");
    dataset.saved = "false";
    const saving = (this.#saving = setTimeout(async () => {
      const { picture } = this.session;
      if (picture) await store.save({ blob: picture.blob, name: picture.name, ...this.session.saved() });
      if (this.#saving === saving) dataset.saved = "true";
    }, SAVE));
  }

  #listenForFiles() {
    const stage = $("stage");
    let depth = 0; // enter and leave come for every child
    const dropping = (isOver) => { stage.dataset.dropping = String(isOver); };
    document.addEventListener("dragenter", (event) => {
      if (event.dataTransfer?.types.includes("Files")) dropping(++depth > 0);
    });
    document.addEventListener("dragleave", () => dropping((depth = Math.max(0, depth - 1)) > 0));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      dropping((depth = 0) > 0);
      const [file] = event.dataTransfer.files;
      if (file) this.openFile(file);
    });
    document.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (file) this.openFile(file);
    });
  }

  // Hovering

  /** The pointer is at a place of the picture. */
  pointed(at, isInside, stamp) {
    this.ui.setPositionSoon(isInside ? at : null);
    this.#hovered = isInside ? { at, stamp } : null;
    if (isInside && this.cursor) {
      this.cursor = null;
      this.#draw();
    }
    this.#follow();
  }

  #follow() {
    const { session } = this;
    const place = this.cursor ? { at: this.cursor, stamp: performance.now() } : this.#hovered;
    if (!place || this.tool !== "point" || session.draft || this.#band || !session.canDo("points")) {
      this.hover.leave();
      if (!session.draft || session.draft.answers) this.view.setPreview(null);
      return;
    }
    this.hover.move(...this.view.clamp(place.at), session.choice ?? undefined, place.stamp);
  }

  #preview(answer, position) {
    if (this.tool !== "point" || this.session.draft) return;
    this.view.setPreview(answer, this.session.draftColor);
    this.view.afterFrame(() => {
      const { x, y } = position, { index } = answer;
      Object.assign($("stage").dataset, { previewX: x, previewY: y, previewIou: answer.ious[index].toFixed(3), previewIndex: index });
      this.ui.addLatency(performance.now() - position.stamp, answer.serverMs);
    });
  }

  #connected(state) {
    this.ui.setState(state);
    if (state === "ready") this.#follow();
  }

  canCycle() {
    const { draft } = this.session;
    return draft ? draft.answers?.length === 3 : Boolean(this.#hovered) && this.session.canDo("points");
  }

  cycle(step) {
    this.session.cycle(step);
    this.#follow();
  }

  // Tools

  setTool(tool) {
    this.tool = tool;
    this.sign = true;
    if (tool !== "point" && this.session.draft && tool !== "select") this.session.keep();
    this.showBrush(null);
    this.ui.render();
    this.#follow();
    this.#draw();
  }

  setSign(sign) {
    this.sign = sign;
    this.ui.render();
  }

  setBrush(diameter) {
    this.brush = Math.min(120, Math.max(2, diameter));
    this.ui.render();
    this.#draw();
  }

  resizeBrush(factor) {
    this.setBrush(this.brush * factor);
  }

  /** Of the brush, in pixels of the picture. */
  get radius() {
    return this.brush / 2 / this.view.scale;
  }

  showBrush(at) {
    const isBrush = this.tool === "brush" || this.tool === "eraser";
    const had = Boolean(this.#brushAt);
    this.#brushAt = isBrush ? at : null;
    if (had || this.#brushAt) this.#draw(); // else every move would paint all for nothing
  }

  setPanning(isPanning) {
    $("stage").dataset.panning = String(isPanning);
  }

  setBand(box, isOn = true) {
    const had = Boolean(this.#band);
    this.#band = box && { box, isOn };
    if (had || box) {
      this.#follow();
      this.#draw();
    }
  }

  confirm() {
    const { session } = this;
    if (this.tool === "exemplar" && session.exemplars.length) session.findAlike($("text").value);
    else session.keep();
  }

  escape() {
    this.#band = null;
    this.corner = null;
    if (this.session.busy) this.session.busy.cancel();
    else this.session.discard();
    this.#follow();
  }

  focusText() {
    $("text").focus();
    $("text").select();
  }

  export() {
    if (this.session.picture) this.ui.showExport();
  }

  help() {
    this.ui.help();
  }

  // The keyboard's cursor

  moveCursor([dx, dy], stamp) {
    const { view } = this;
    if (!view.bitmap) return;
    const from = this.cursor ?? this.#hovered?.at ?? [view.width / 2, view.height / 2];
    const isNew = !this.cursor;
    this.cursor = view.clamp([from[0] + dx, from[1] + dy]);
    const [cx, cy] = view.toCanvas(...this.cursor);
    // What is zoomed in follows the cursor.
    const beyond = (value, size) => Math.min(0, size - EDGE - value) + Math.max(0, EDGE - value);
    view.pan(beyond(cx, view.canvasWidth), beyond(cy, view.canvasHeight));
    if (isNew) this.ui.tell("cursor", { x: Math.floor(this.cursor[0]), y: Math.floor(this.cursor[1]) });
    this.ui.setPosition(this.cursor);
    if (this.corner) this.setBand(this.#fromCorner(), this.corner.isOn);
    this.#follow();
    this.#draw();
    return stamp;
  }

  #fromCorner() {
    const { at } = this.corner, to = this.cursor;
    return [Math.min(at[0], to[0]), Math.min(at[1], to[1]), Math.max(at[0], to[0]), Math.max(at[1], to[1])];
  }

  /** Does with the tool what a click at the cursor does; boxes have two corners. */
  actAtCursor(isOn) {
    const { session, cursor } = this;
    if (this.tool === "point") {
      session.addPoint(cursor, isOn);
    } else if (this.tool === "select") {
      session.select(session.objectAt(cursor)?.uid ?? null);
    } else if (this.tool === "exemplar") {
      if (!this.corner) {
        this.corner = { at: cursor, isOn };
        return;
      }
      const box = this.#fromCorner();
      const { isOn: isPositive } = this.corner;
      this.corner = null;
      this.setBand(null);
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) session.addExemplar(box, isPositive);
    } else if (session.beginStroke(cursor, this.radius, Number((this.tool === "brush") === isOn))) {
      session.endStroke();
    }
  }

  // Drawing

  #changed() {
    const { session } = this;
    if (session.draft?.answers || (!session.draft && !this.#hovered && !this.cursor)) this.view.setPreview(null);
    if (!session.draft) this.#follow();
    this.#draw();
    this.#save();
  }

  #tint(mask, color, strength) {
    const known = this.#tints.get(mask);
    if (known?.color === color && known.strength === strength) return known.tint;
    const made = tint(mask, rgb(color), Math.max(this.view.width, this.view.height), strength);
    this.#tints.set(mask, { color, strength, tint: made });
    return made;
  }

  #draw() {
    const { session } = this;
    const { draft, selected, stroke } = session;
    const tints = [];
    if (!session.areHidden) {
      for (const { uid, mask, color } of session.visible()) {
        if (uid === draft?.target || uid === stroke?.uid) continue;
        tints.push(this.#tint(mask, color, uid === selected ? 0.6 : 0.42));
      }
    }
    const { draftMask: mask } = session;
    if (mask) tints.push(this.#tint(mask, session.draftColor, 0.5));
    if (stroke) tints.push(tint(stroke.mask, rgb(stroke.color), 5000, 0.5));
    const boxes = session.exemplars.map(({ box, isPositive }) => ({ box, color: isPositive ? "#16a34a" : "#dc2626", isDashed: !isPositive }));
    if (draft?.box) boxes.push({ box: draft.box, color: session.draftColor, isDashed: Boolean(draft.target) });
    if (this.#band) boxes.push({ box: this.#band.box, color: this.#band.isOn ? session.draftColor : "#dc2626", isDashed: true });
    const brush = this.#brushAt && { xy: this.#brushAt, radius: this.radius };
    this.view.setScene({ tints, points: draft?.points ?? [], boxes, cursor: this.cursor, brush });
  }
}

new App();
