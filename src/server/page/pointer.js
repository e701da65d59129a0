// Mouse, pen and fingers on the canvas.

const CLICK = 5; // a pointer that moved less has not dragged, in CSS pixels
const HOLD = 500; // milliseconds of a long press
const NEAR = 11; // a click this close to a point takes it back
const CYCLE = 110; // milliseconds between steps of the wheel

export class Pointer {
  #fingers = new Map();
  #down = null; // {id, start, at, isOn, isPan, hasMoved, timer}
  #pinch = null;
  #cycled = 0;

  /** `app` has session, view, tool, sign, radius, isPanKey and hover. */
  constructor(canvas, app) {
    this.canvas = canvas;
    this.app = app;
    const on = (name, handle) => canvas.addEventListener(name, handle.bind(this));
    on("pointerdown", this.#pressed);
    on("pointermove", this.#moved);
    on("pointerup", this.#released);
    on("pointercancel", this.#cancelled);
    on("pointerleave", this.#left);
    on("dblclick", this.#doubled);
    canvas.addEventListener("wheel", this.#wheeled.bind(this), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    // Raw updates come up to a frame earlier than moves.
    if ("onpointerrawupdate" in window) on("pointerrawupdate", this.#hovered);
    else on("pointermove", this.#hovered);
  }

  #place(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  #picture(event) {
    return this.app.view.toPicture(...this.#place(event));
  }

  #hovered(event) {
    if (event.pointerType === "touch" || event.buttons) return;
    const { app } = this;
    const events = event.getCoalescedEvents?.() ?? [];
    const last = events.at(-1) ?? event;
    const at = this.#picture(last);
    app.pointed(at, app.view.isInside(at), last.timeStamp || event.timeStamp);
  }

  #pressed(event) {
    const { app } = this;
    this.canvas.focus({ preventScroll: true });
    if (!app.view.bitmap) return;
    this.canvas.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") {
      this.#fingers.set(event.pointerId, this.#place(event));
      if (this.#fingers.size === 2) return this.#startPinch();
      if (this.#fingers.size > 2) return;
    }
    if (event.button > 2) return;
    const start = this.#place(event);
    const isNot = event.shiftKey || event.altKey || event.button === 2;
    const isPan = event.button === 1 || app.isPanKey || (app.tool === "select" && event.button === 0);
    this.#down = { id: event.pointerId, start, at: start, isOn: app.sign && !isNot, isPan, hasMoved: false, isLong: false };
    if (isPan) return;
    if (app.tool === "brush" || app.tool === "eraser") {
      const isBrush = (app.tool === "brush") === !isNot;
      this.#down.isPainting = app.session.beginStroke(this.#picture(event), app.radius, Number(isBrush));
    } else if (event.pointerType === "touch") {
      this.#down.timer = setTimeout(() => this.#held(), HOLD);
    }
  }

  #held() {
    const down = this.#down;
    if (!down || down.hasMoved) return;
    down.isLong = true;
    navigator.vibrate?.(15);
    this.#click(down.start, false);
  }

  #moved(event) {
    const { app } = this;
    if (this.#fingers.has(event.pointerId)) this.#fingers.set(event.pointerId, this.#place(event));
    if (this.#pinch) return this.#movePinch();
    const down = this.#down;
    if (!down || down.id !== event.pointerId) {
      if (event.pointerType !== "touch") app.showBrush(this.#picture(event));
      return;
    }
    const at = this.#place(event);
    const [dx, dy] = [at[0] - down.at[0], at[1] - down.at[1]];
    down.hasMoved ||= Math.hypot(at[0] - down.start[0], at[1] - down.start[1]) > CLICK;
    down.at = at;
    if (down.hasMoved) clearTimeout(down.timer);
    if (down.isPan) {
      if (down.hasMoved) {
        app.setPanning(true);
        app.view.pan(dx, dy);
      }
    } else if (down.isPainting) {
      for (const one of event.getCoalescedEvents?.() ?? [event]) app.session.paint(this.#picture(one), app.radius);
      app.showBrush(this.#picture(event));
    } else if (down.hasMoved && !down.isLong && (app.tool === "point" || app.tool === "exemplar")) {
      app.setBand(this.#band(down), down.isOn);
    }
  }

  /** The box from where the pointer went down to where it is, inside the picture. */
  #band({ start, at }) {
    const { view } = this.app;
    const a = view.clamp(view.toPicture(...start)), b = view.clamp(view.toPicture(...at));
    return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  }

  #released(event) {
    const { app } = this;
    this.#fingers.delete(event.pointerId);
    if (this.#pinch) {
      if (this.#fingers.size < 2) this.#pinch = null;
      this.#down = null;
      return;
    }
    const down = this.#down;
    if (!down || down.id !== event.pointerId) return;
    this.#end();
    if (down.isPainting) return app.session.endStroke();
    if (down.isLong) return;
    if (!down.hasMoved) return this.#click(down.start, down.isOn);
    if (down.isPan) return;
    const box = this.#band(down);
    if (box[2] - box[0] < 1 || box[3] - box[1] < 1) return;
    if (app.tool === "point") app.session.addBox(box);
    else if (app.tool === "exemplar") app.session.addExemplar(box, down.isOn);
  }

  #end() {
    clearTimeout(this.#down?.timer);
    this.#down = null;
    this.app.setPanning(false);
    this.app.setBand(null);
  }

  #click(place, isOn) {
    const { session, view, tool } = this.app;
    const at = view.toPicture(...place);
    if (!view.isInside(at)) return;
    if (tool === "select") return session.select(session.objectAt(at)?.uid ?? null);
    if (tool !== "point") return;
    const near = ({ xy }) => Math.hypot(...view.toCanvas(...xy).map((v, axis) => v - place[axis])) < NEAR;
    const taken = session.draft?.points.findIndex(near) ?? -1;
    if (taken >= 0) session.removePoint(taken);
    else session.addPoint(at, isOn);
  }

  #doubled(event) {
    const { session, tool } = this.app;
    if (tool !== "select") return;
    const object = session.objectAt(this.#picture(event));
    if (object) session.refine(object.uid);
  }

  #cancelled(event) {
    this.#fingers.delete(event.pointerId);
    if (this.#fingers.size < 2) this.#pinch = null;
    if (this.#down?.id !== event.pointerId) return;
    if (this.#down.isPainting) this.app.session.endStroke();
    this.#end();
  }

  #left() {
    if (this.#down) return;
    this.app.showBrush(null);
    this.app.pointed(null, false, 0);
  }

  #startPinch() {
    if (this.#down?.isPainting) this.app.session.endStroke();
    this.#end();
    this.#pinch = this.#twoFingers();
  }

  #twoFingers() {
    const [a, b] = [...this.#fingers.values()];
    return { middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], apart: Math.hypot(a[0] - b[0], a[1] - b[1]) };
  }

  #movePinch() {
    if (this.#fingers.size < 2) return;
    const now = this.#twoFingers(), { middle, apart } = this.#pinch;
    this.app.view.pan(now.middle[0] - middle[0], now.middle[1] - middle[1]);
    if (apart > 0) this.app.view.zoom(now.apart / apart, ...now.middle);
    this.#pinch = now;
  }

  #wheeled(event) {
    event.preventDefault();
    const { app } = this;
    if (!app.view.bitmap) return;
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 24 : 1;
    const turn = event.deltaY * lines;
    if (!event.ctrlKey && !event.metaKey && app.tool === "point" && app.canCycle()) {
      if (event.timeStamp - this.#cycled < CYCLE || !turn) return;
      this.#cycled = event.timeStamp;
      app.cycle(turn < 0 ? 1 : -1);
      return;
    }
    app.view.zoom(Math.exp(-turn * (event.ctrlKey ? 0.008 : 0.0016)), ...this.#place(event));
  }
}
