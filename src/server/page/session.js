// What the user works on: the picture, its objects, the object being made, and the way back.
//
// Objects and drafts are never changed but replaced, so that a step of the past is a list of them.

import * as api from "./api.js";
import { area, boxOf, colorOf, contains, fromRle, spread, stroke, toRle, trim } from "./masks.js";

/** Instances are asked for down to this score; the slider shows those above its own. */
export const LOWEST = 0.1;
const MOST = 100;
/** Everything: points along a side, and for the demo model, which is less sure of its masks, how good they must be. */
const EVERYTHING = { points_per_side: 24 };
const DEMO = { pred_iou_thresh: 0.7, stability_score_thresh: 0.9 };
const STEPS = 200;
const COMMA = /[,\uff0c\u3001]/; // of Chinese too

export class Session extends EventTarget {
  picture = null; // {id, blob, name, width, height}
  objects = []; // {uid, label, color, isHidden, score, origin, isPinned, mask, box}
  draft = null; // {points: [{xy, isOn}], box, answers: [{mask, score, logits}], index, target, logits}
  exemplars = []; // {box, isPositive}
  selected = null; // uid
  threshold = 0.5;
  choice = null; // which of three masks hovering shows; null for the best
  areHidden = false;
  stroke = null; // {mask, uid, last, value} while painting
  busy = null; // {key, values, progress, cancel}
  model = null;
  #past = [];
  #future = [];
  #asked = null; // controller of the decode on its way
  #uids = 1;
  #colors = 0;

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  changed() {
    this.#emit("change");
  }

  /** A line for those who do not see the page. */
  #tell(key, values) {
    this.#emit("tell", { key, values });
  }

  #fail(error) {
    if (error.name !== "AbortError") this.#emit("fail", error);
  }

  canDo(kind) {
    return this.model?.prompts.includes(kind) ?? false;
  }

  // The picture

  /** Starts on another picture, or with what was saved of one. */
  start(picture, saved = {}) {
    this.#asked?.abort();
    this.busy?.cancel?.();
    Object.assign(this, { picture, draft: null, exemplars: [], selected: null, stroke: null, choice: null, areHidden: false });
    this.objects = saved.objects ?? [];
    this.threshold = saved.threshold ?? 0.5;
    this.#past = [];
    this.#future = [];
    this.#uids = 1 + Math.max(0, ...this.objects.map((object) => object.uid));
    this.#colors = saved.colors ?? this.objects.length;
    this.changed();
  }

  /** What is worth keeping. */
  saved() {
    const { objects, threshold } = this;
    return { objects, threshold, colors: this.#colors };
  }

  /** Uploads the picture; a server that has it already says so. */
  async upload() {
    const { picture } = this;
    const answer = await this.#while("busyUpload", {}, (signal) => api.upload(picture.blob, signal));
    if (this.picture !== picture) {
      api.forget(answer.id);
      return;
    }
    picture.id = answer.id;
    this.#emit("uploaded");
    this.changed();
  }

  /** Asks about the picture; one that the server has forgotten is uploaded again. */
  async #ask(question) {
    const { picture } = this;
    try {
      return await question(picture.id);
    } catch (error) {
      if (error.code !== "unknown_image") throw error;
      picture.id = (await api.upload(picture.blob)).id;
      this.#emit("uploaded");
      return question(picture.id);
    }
  }

  /** Shows that something takes its time. */
  async #while(key, values, work) {
    const controller = new AbortController();
    const busy = { key, values, progress: null, cancel: () => controller.abort() };
    this.busy = busy;
    this.changed();
    try {
      return await work(controller.signal, (progress) => {
        busy.progress = progress;
        this.changed();
      });
    } finally {
      if (this.busy === busy) this.busy = null;
      this.changed();
    }
  }

  // The way back

  #step() {
    const { objects, draft, exemplars, selected } = this;
    return { objects, draft, exemplars, selected };
  }

  #change(change) {
    this.#past.push(this.#step());
    if (this.#past.length > STEPS) this.#past.shift();
    this.#future = [];
    change();
    this.changed();
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  undo() {
    this.#travel(this.#past, this.#future, "undone");
  }

  redo() {
    this.#travel(this.#future, this.#past, "redone");
  }

  #travel(from, to, key) {
    const step = from.pop();
    if (!step) return;
    this.#asked?.abort();
    to.push(this.#step());
    Object.assign(this, step);
    this.#tell(key);
    this.changed();
    if (this.draft && !this.draft.answers) this.#decode(); // left before it was answered
  }

  // One object by points and boxes

  /** A point on the object, or on what is not the object. */
  addPoint(xy, isOn) {
    if (!this.#mayPoint()) return;
    const { draft } = this;
    if (!draft && !isOn) return; // nothing to take away from
    const points = [...(draft?.points ?? []), { xy, isOn }];
    this.#setDraft({ ...draft, points, logits: this.#answer()?.logits ?? draft?.logits });
  }

  /** A box around the object. */
  addBox(box) {
    if (!this.#mayPoint()) return;
    this.#setDraft({ points: [], target: this.draft?.target, box });
  }

  #mayPoint() {
    if (!this.picture?.id) {
      this.#emit("fail", { key: "openFirst" });
      return false;
    }
    if (!this.canDo("points")) {
      this.#emit("fail", { key: "noPoints", advice: "noPointsAdvice" });
      return false;
    }
    return true;
  }

  removePoint(index) {
    const points = this.draft.points.filter((_, at) => at !== index);
    // What the removed point brought about is in the logits.
    if (points.length || this.draft.box) this.#setDraft({ ...this.draft, points, logits: null });
    else this.discard();
  }

  takeBack() {
    if (this.draft?.points.length) this.removePoint(this.draft.points.length - 1);
    else if (this.exemplars.length) this.#change(() => { this.exemplars = this.exemplars.slice(0, -1); });
    else if (this.draft) this.discard();
  }

  #setDraft({ points, box, target, logits }) {
    this.#change(() => { this.draft = { points, box, target, logits, answers: null, index: this.choice ?? 0 }; });
    this.#decode();
  }

  /** The answer of the draft that is shown. */
  #answer() {
    return this.draft?.answers?.[this.draft.index];
  }

  async #decode() {
    const { draft } = this;
    this.#asked?.abort();
    const controller = (this.#asked = new AbortController());
    const { points, box, logits } = draft;
    const isOpen = points.length === 1 && !box && !logits;
    const object = { points: points.map(({ xy }) => xy), labels: points.map(({ isOn }) => Number(isOn)) };
    if (box) object.box = box;
    if (logits) object.logits = logits;
    const prompt = { objects: [object], multimask: isOpen, logits: true };
    try {
      const start = performance.now();
      const { objects, timing } = await this.#ask((id) => api.segment(id, prompt, controller.signal));
      if (this.draft !== draft) return;
      const answers = objects.map(({ mask, score, logits: next }) => ({ mask: fromRle(mask), score, logits: next }));
      const best = answers.reduce((best, { score }, at) => (score > answers[best].score ? at : best), 0);
      const index = isOpen ? this.choice ?? best : 0;
      this.draft = { ...draft, answers, index };
      this.#emit("decoded", { ms: performance.now() - start, serverMs: timing.decode_ms });
      this.#tellMask();
      this.changed();
    } catch (error) {
      if (this.draft === draft && error.name !== "AbortError") this.undo();
      this.#fail(error);
    }
  }

  #tellMask() {
    const { mask, score } = this.#answer();
    this.#tell("mask", { score: score.toFixed(2), area: mask ? area(mask) : 0 });
  }

  /** Shows a larger (1) or smaller (-1) of the three masks. */
  cycle(step) {
    const of = (index) => (index + step + 3) % 3;
    if (this.draft?.answers?.length === 3) {
      this.draft = { ...this.draft, index: of(this.draft.index) };
      this.#tellMask();
    } else if (!this.draft) {
      this.choice = this.choice === null ? (step > 0 ? 0 : 2) : of(this.choice);
    }
    this.changed();
  }

  discard() {
    this.#asked?.abort();
    if (this.draft || this.exemplars.length) {
      this.#change(() => Object.assign(this, { draft: null, exemplars: [] }));
    } else {
      this.selected = null;
      this.choice = null;
      this.changed();
    }
  }

  /** Keeps the draft as an object, or as the new mask of the one that is refined. */
  keep() {
    const answer = this.#answer();
    if (!answer?.mask) return;
    const { mask, score } = answer;
    const { target } = this.draft;
    const old = this.objects.find(({ uid }) => uid === target);
    const object = old
      ? { ...old, mask, score, box: boxOf(mask), isPinned: true }
      : this.#object({ mask, score, box: boxOf(mask), origin: "point", label: "", isPinned: true });
    this.#change(() => {
      this.draft = null;
      this.selected = object.uid;
      this.objects = old ? this.objects.map((one) => (one === old ? object : one)) : [...this.objects, object];
    });
    this.#tell("kept", { name: object.label, count: this.visible().length });
  }

  #object(fields) {
    return { uid: this.#uids++, color: colorOf(this.#colors++), isHidden: false, ...fields };
  }

  /** The color of the draft. */
  get draftColor() {
    return this.objects.find(({ uid }) => uid === this.draft?.target)?.color ?? colorOf(this.#colors);
  }

  get draftMask() {
    return this.#answer()?.mask ?? null;
  }

  get draftScore() {
    return this.#answer()?.score ?? null;
  }

  /** Points now change this object: what is sent is its box, and what the points say. */
  refine(uid) {
    const object = this.objects.find((one) => one.uid === uid);
    if (!object || !this.#mayPoint()) return;
    this.#asked?.abort();
    const answers = [{ mask: object.mask, score: object.score, logits: null }];
    this.#change(() => {
      this.selected = uid;
      this.draft = { points: [], box: object.box, target: uid, logits: null, answers, index: 0 };
    });
    this.#emit("refining");
  }

  // Many objects

  async find(text) {
    const words = text.split(COMMA).map((word) => word.trim()).filter(Boolean);
    if (!words.length) return;
    await this.#search({ text: words }, words, "text");
  }

  addExemplar(box, isPositive) {
    this.#change(() => { this.exemplars = [...this.exemplars, { box, isPositive }]; });
  }

  /** Objects like the boxes; `text` may say more. */
  async findAlike(text) {
    if (!this.exemplars.some(({ isPositive }) => isPositive)) return;
    const exemplars = this.exemplars.map(({ box, isPositive }) => ({ box, positive: isPositive }));
    const word = text.split(COMMA)[0].trim();
    const prompt = word ? { exemplars, text: [word] } : { exemplars };
    if (await this.#search(prompt, [word], "exemplar")) {
      this.exemplars = [];
      this.changed();
    }
  }

  async #search(prompt, labels, origin) {
    if (!this.picture?.id) return this.#emit("fail", { key: "openFirst" });
    if (!this.canDo("text")) return this.#emit("fail", { key: "noText", advice: "noTextAdvice" });
    const { picture } = this;
    const text = labels.filter(Boolean).join(", ");
    try {
      const start = performance.now();
      const { objects, timing } = await this.#while("busySearch", { text }, (signal) =>
        this.#ask((id) => api.segment(id, { ...prompt, threshold: LOWEST, max_instances: MOST }, signal)));
      if (this.picture !== picture) return false;
      this.#emit("searched", { ms: performance.now() - start, serverMs: timing.decode_ms });
      this.#replace(origin, labels, objects.map((found) => ({ ...found, label: labels[found.prompt] ?? "" })));
      const count = objects.filter(({ score }) => score >= this.threshold).length;
      this.#tell(count ? "found" : "foundNothing", { count, text });
      if (!count) this.#emit("fail", { key: "foundNothing", values: { text } });
      return true;
    } catch (error) {
      this.#fail(error);
      return false;
    }
  }

  async everything() {
    if (!this.#mayPoint()) return;
    const { picture, model } = this;
    const options = model.demo ? { ...EVERYTHING, ...DEMO } : EVERYTHING;
    try {
      const { objects } = await this.#while("busyEverything", {}, (signal, progress) =>
        this.#ask((id) => api.everything(id, options, (done, total) => progress(done / total), signal)));
      if (this.picture !== picture) return;
      this.#replace("everything", [""], objects.map((found) => ({ ...found, label: "" })));
      const values = { count: objects.length };
      this.#tell("foundEverything", values);
      if (!objects.length) this.#emit("fail", { key: "foundEverything", values });
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Puts what was found in the place of what an earlier search of the same words has found. */
  #replace(origin, labels, found) {
    const isOld = (object) => object.origin === origin && !object.isPinned && labels.includes(object.label);
    const fresh = found
      .map(({ mask, score, box, label }) => ({ mask: fromRle(mask), score, box, label }))
      .filter(({ mask }) => mask)
      .sort((a, b) => b.score - a.score);
    this.#change(() => {
      const kept = this.objects.filter((object) => !isOld(object));
      const clip = (box) => {
        const [x0, y0, x1, y1] = box;
        return [Math.max(0, x0), Math.max(0, y0), Math.min(this.picture.width, x1), Math.min(this.picture.height, y1)];
      };
      this.objects = [...kept, ...fresh.map((one) => this.#object({ ...one, box: clip(one.box), origin, isPinned: false }))];
    });
  }

  /** Objects that the threshold lets through: those of the list. */
  listed() {
    const isFound = ({ origin, isPinned }) => (origin === "text" || origin === "exemplar") && !isPinned;
    return this.objects.filter((object) => !isFound(object) || object.score >= this.threshold);
  }

  get hasFound() {
    return this.objects.some(({ origin, isPinned }) => (origin === "text" || origin === "exemplar") && !isPinned);
  }

  /** Objects that are shown and exported. */
  visible() {
    return this.listed().filter(({ isHidden }) => !isHidden);
  }

  setThreshold(value) {
    this.threshold = value;
    this.changed();
  }

  // One of many

  edit(uid, fields) {
    this.#change(() => { this.objects = this.objects.map((one) => (one.uid === uid ? { ...one, ...fields } : one)); });
  }

  remove(uid) {
    const gone = this.objects.find((one) => one.uid === uid);
    if (!gone) return;
    this.#change(() => {
      this.objects = this.objects.filter((one) => one !== gone);
      if (this.selected === uid) this.selected = null;
      if (this.draft?.target === uid) this.draft = null;
    });
    this.#tell("removed", { name: gone.label });
  }

  clear() {
    if (this.objects.length) this.#change(() => Object.assign(this, { objects: [], selected: null, draft: null }));
  }

  select(uid) {
    this.selected = uid;
    const object = this.objects.find((one) => one.uid === uid);
    if (object) this.#tell("selected", { name: object.label });
    this.changed();
  }

  /** Selects the next or previous of the list. */
  step(by) {
    const listed = this.listed();
    if (!listed.length) return;
    const at = listed.findIndex(({ uid }) => uid === this.selected);
    this.select(listed[at < 0 ? (by > 0 ? 0 : listed.length - 1) : (at + by + listed.length) % listed.length].uid);
  }

  /** The smallest shown object here. */
  objectAt([x, y]) {
    const hits = this.visible().filter(({ mask }) => contains(mask, x, y));
    return hits.sort((a, b) => area(a.mask) - area(b.mask))[0] ?? null;
  }

  toggleAll() {
    this.areHidden = !this.areHidden;
    this.changed();
  }

  // The brush

  /** Starts to paint (value 1) or erase (0): on the draft, the selected object, or a new one. */
  beginStroke(xy, radius, value) {
    if (!this.picture) return false;
    if (this.draft) this.keep();
    const object = this.visible().find(({ uid }) => uid === this.selected);
    if (!object && !value) return false;
    const mask = spread(object?.mask, this.picture.width, this.picture.height);
    this.stroke = { mask, uid: object?.uid ?? null, last: xy, value, color: object?.color ?? colorOf(this.#colors) };
    this.paint(xy, radius);
    return true;
  }

  paint(xy, radius) {
    const { mask, last, value } = this.stroke;
    stroke(mask, last, xy, radius, value);
    this.stroke.last = xy;
    this.changed();
  }

  endStroke() {
    const { mask: whole, uid } = this.stroke;
    this.stroke = null;
    const mask = trim(whole);
    if (uid === null) {
      if (!mask) return this.changed();
      const object = this.#object({ mask, score: 1, box: boxOf(mask), origin: "brush", label: "", isPinned: true });
      this.#change(() => {
        this.objects = [...this.objects, object];
        this.selected = object.uid;
      });
    } else if (mask) {
      this.edit(uid, { mask, box: boxOf(mask), isPinned: true });
    } else {
      this.remove(uid);
    }
  }

  // Export

  async exportZip(formats) {
    const { width, height, name } = this.picture;
    const objects = this.visible().map(({ label, score, mask }) => ({ label, score, mask: toRle(mask, width, height) }));
    return this.#while("busyExport", {}, () => this.#ask((id) => api.exportZip(id, { name, formats, objects })));
  }
}
