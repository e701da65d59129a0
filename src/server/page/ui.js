// The page around the canvas: list, figures, dialogs, messages.

import { language, switchLanguage, t, translate } from "./strings.js";
import { fillMap } from "./keys.js";
import { LOWEST } from "./session.js";

export const $ = (id) => document.getElementById(id);

const SHOWN = 6000; // milliseconds of a message
const SOON = 100; // milliseconds that figures which change all the time may lag behind
const THEME = "sam3.theme";

/** Calls `update(key, value)` for keyed children: made when new, moved, updated, removed. */
function reconcile(list, items, make, update) {
  const known = new Map([...list.children].map((node) => [node.dataset.uid, node]));
  let before = list.firstChild;
  for (const item of items) {
    const key = String(item.uid);
    let node = known.get(key);
    if (!node) {
      node = make(item);
      node.dataset.uid = key;
    }
    known.delete(key);
    if (node === before) before = before.nextSibling;
    else list.insertBefore(node, before);
    update(node, item);
  }
  known.forEach((node) => node.remove());
}

const icon = (name) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
};

const make = (tag, fields, ...children) => {
  const node = Object.assign(document.createElement(tag), fields);
  node.append(...children);
  return node;
};

export class Ui {
  #due = new Map(); // figures that are not up to date: name -> function that writes it

  constructor(app) {
    this.app = app;
    this.latencies = [];
    const { session } = app;
    const click = (id, act) => $(id).addEventListener("click", act);
    click("open", () => app.open());
    click("emptyOpen", () => app.open());
    click("camera", () => $("cameraFile").click());
    click("sample", () => app.openSample());
    for (const id of ["file", "cameraFile"]) {
      $(id).addEventListener("change", (event) => {
        const [file] = event.target.files;
        event.target.value = ""; // so that the same file can be chosen again
        if (file) app.openFile(file);
      });
    }
    click("export", () => app.export());
    click("language", () => {
      switchLanguage();
      this.translate();
    });
    click("theme", () => this.setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
    click("help", () => app.help());
    click("everything", () => session.everything());
    click("undo", () => session.undo());
    click("redo", () => session.redo());
    click("keep", () => app.confirm());
    click("discard", () => session.discard());
    click("cycle", () => app.cycle(1));
    click("exemplarFind", () => app.confirm());
    click("exemplarClear", () => session.discard());
    for (const id of ["sign", "exemplarSign"]) click(id, () => app.setSign(!app.sign));
    click("clear", () => session.clear());
    click("zoomIn", () => app.view.zoom(1.25));
    click("zoomOut", () => app.view.zoom(0.8));
    click("zoomFit", () => app.view.fit());
    click("cancel", () => session.busy?.cancel());
    click("sheet", () => this.openSheet($("panel").dataset.open !== "true"));
    document.querySelectorAll("[data-tool]").forEach((button) => {
      if (button.tagName === "BUTTON") button.addEventListener("click", () => app.setTool(button.dataset.tool));
    });
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      if (session.exemplars.length) session.findAlike($("text").value);
      else session.find($("text").value);
    });
    $("threshold").addEventListener("input", (event) => session.setThreshold(Number(event.target.value)));
    $("threshold").min = LOWEST;
    $("brushRange").addEventListener("input", (event) => app.setBrush(Number(event.target.value)));
    $("exportForm").addEventListener("submit", (event) => {
      if (event.submitter?.value === "save") this.#save();
    });
    session.addEventListener("tell", ({ detail: { key, values } }) => this.tell(key, values));
    session.addEventListener("fail", ({ detail }) => this.fail(detail));
    session.addEventListener("change", () => this.render());
    this.setTheme(localStorage.getItem(THEME) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"), false);
    this.translate();
  }

  setTheme(theme, isChosen = true) {
    document.documentElement.dataset.theme = theme;
    if (isChosen) localStorage.setItem(THEME, theme);
  }

  openSheet(isOpen) {
    $("panel").dataset.open = String(isOpen);
    $("sheet").setAttribute("aria-expanded", String(isOpen));
  }

  translate() {
    translate(document);
    fillMap($("keys"));
    $("languageName").textContent = language() === "en" ? "中文" : "EN";
    this.render();
  }

  // Messages

  tell(key, values = {}) {
    $("live").textContent = t(key, { ...values, ...("name" in values ? { name: values.name || t("objectName") } : {}) });
  }

  /** A failure of the server's, or one of ours by its key. */
  fail(error) {
    const title = error.key ? t(error.key, error.values) : error.message || t("stateOffline");
    const advice = error.key ? error.advice && t(error.advice) : error.advice;
    const toast = make("div", { className: "toast" }, title);
    if (advice) toast.append(make("small", { textContent: advice }));
    $("toasts").append(toast);
    setTimeout(() => toast.remove(), SHOWN);
  }

  setState(state) {
    this.state = state;
    const key = { none: "stateNone", uploading: "stateUploading", encoding: "stateEncoding", ready: "stateReady", offline: "stateOffline" }[state];
    $("state").dataset.state = state;
    $("state").textContent = t(key);
  }

  /** From the pointer's event to the presented mask, and the server's part of it. */
  addLatency(ms, serverMs) {
    this.latencies.push([ms, serverMs]);
    if (this.latencies.length > 25) this.latencies.shift();
    const median = (at) => this.latencies.map((pair) => pair[at]).sort((a, b) => a - b)[this.latencies.length >> 1];
    const values = { ms: median(0).toFixed(0), server: median(1).toFixed(0) };
    Object.assign($("latency").dataset, values, { count: Number($("latency").dataset.count ?? 0) + 1, last: ms.toFixed(1) });
    this.#soon("latency", () => { $("latency").textContent = t("latency", values); });
  }

  setPosition(at) {
    this.#due.delete("position");
    $("position").textContent = at ? t("position", { x: Math.floor(at[0]), y: Math.floor(at[1]) }) : "";
  }

  /** Where a pointer is that moves. */
  setPositionSoon(at) {
    this.#soon("position", () => this.setPosition(at));
  }

  /** Writes the newest of a figure that changes all the time: each change costs a frame, which would delay masks. */
  #soon(figure, write) {
    if (!this.#due.size) {
      setTimeout(() => {
        const due = [...this.#due.values()];
        this.#due.clear();
        for (const write of due) write();
      }, SOON);
    }
    this.#due.set(figure, write);
  }

  // Everything that depends on the session

  render() {
    const { app } = this;
    const { session, view } = app;
    if (!view) return; // not set up yet
    const { picture, draft, exemplars, busy } = session;
    $("empty").hidden = Boolean(picture);
    $("zoom").hidden = !picture;
    $("canvas").tabIndex = picture ? 0 : -1;
    $("stage").dataset.tool = app.tool;
    for (const button of document.querySelectorAll(".tools [data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === app.tool));
    }
    const can = (kind) => !session.model || session.canDo(kind);
    $("everything").disabled = !picture || !can("everything");
    $("undo").disabled = !session.canUndo;
    $("redo").disabled = !session.canRedo;
    $("search").querySelector("button").disabled = !can("text");
    $("scale").textContent = picture ? t("scale", { percent: Math.round(view.scale * 100) }) : "";
    this.setState(this.state ?? "none");
    this.#renderHint();

    $("draft").hidden = !draft;
    const score = session.draftScore, mask = session.draftMask;
    if (draft) {
      const area = mask ? mask.bits.reduce((sum, bit) => sum + bit, 0) : 0;
      $("quality").textContent = draft.answers ? t("quality", { score: (score ?? 0).toFixed(2), area: area.toLocaleString(language()) }) : "…";
      $("cycle").hidden = draft.answers?.length !== 3;
      $("cycle").textContent = t("part", { index: draft.index + 1 });
      $("keep").disabled = !mask;
    }
    $("exemplars").hidden = app.tool !== "exemplar" || !exemplars.length;
    $("exemplarCount").textContent = t("exemplarCount", { count: exemplars.length });
    $("exemplarFind").disabled = !exemplars.some(({ isPositive }) => isPositive);
    for (const id of ["sign", "exemplarSign"]) {
      $(id).setAttribute("aria-pressed", String(app.sign));
      $(id).firstChild.textContent = app.sign ? "+" : "−";
    }
    $("brushSize").hidden = !picture || (app.tool !== "brush" && app.tool !== "eraser");
    $("brushRange").value = app.brush;

    $("busy").hidden = !busy;
    if (busy) {
      $("busyText").textContent = t(busy.key, busy.values);
      $("progress").hidden = busy.progress === null;
      $("progress").value = busy.progress ?? 0;
      $("cancel").hidden = busy.key === "busyUpload" || busy.key === "busyExport";
    }

    const listed = session.listed();
    $("count").textContent = $("sheetCount").textContent = String(listed.length);
    $("nothing").hidden = listed.length > 0;
    $("clear").disabled = !session.objects.length;
    $("export").disabled = !picture;
    $("thresholdBox").hidden = !session.hasFound;
    $("threshold").value = session.threshold;
    $("thresholdValue").textContent = session.threshold.toFixed(2);
    reconcile($("objects"), listed, (object) => this.#makeRow(object.uid), (node, object) => this.#updateRow(node, object));
  }

  #renderHint() {
    const { session, tool } = this.app;
    const hint = { select: "hintSelect", exemplar: "hintExemplar", brush: "hintBrush", eraser: "hintBrush" }[tool];
    const point = session.draft ? "hintDraft" : "hintPoint";
    $("hint").textContent = session.picture ? t(hint ?? point) : "";
  }

  #makeRow(uid) {
    const { session } = this.app;
    const button = (name, glyph, act) => {
      const node = make("button", { type: "button", className: name }, icon(glyph));
      node.addEventListener("click", (event) => {
        event.stopPropagation();
        act();
      });
      return node;
    };
    const color = make("input", { type: "color", className: "swatch" });
    color.addEventListener("change", () => session.edit(uid, { color: color.value }));
    const name = make("input", { type: "text", className: "name", maxLength: 80, spellcheck: false });
    name.addEventListener("change", () => session.edit(uid, { label: name.value.trim() }));
    name.addEventListener("focus", () => session.select(uid));
    name.addEventListener("keydown", (event) => event.key === "Enter" && name.blur());
    const row = make("li", {}, color, name, make("span", { className: "score" }),
      button("refine", "refine", () => session.refine(uid)),
      button("visibility", "eye", () => session.edit(uid, { isHidden: !session.objects.find((one) => one.uid === uid).isHidden })),
      button("remove", "trash", () => session.remove(uid)));
    row.addEventListener("click", (event) => {
      if (event.target === row || event.target.classList.contains("score")) session.select(uid);
    });
    return row;
  }

  #updateRow(row, { uid, color, label, score, isHidden, origin }) {
    const { session } = this.app;
    const name = label || t("objectName");
    row.dataset.selected = String(uid === session.selected);
    row.dataset.hidden = String(isHidden);
    const [swatch, field, figure, refine, visibility, remove] = row.children;
    swatch.value = color;
    swatch.setAttribute("aria-label", t("color", { name }));
    if (document.activeElement !== field) field.value = label;
    field.placeholder = t("objectName");
    field.setAttribute("aria-label", t("rename", { name }));
    figure.textContent = origin === "brush" ? "" : score.toFixed(2);
    refine.hidden = !session.canDo("points");
    refine.setAttribute("aria-label", t("refine", { name }));
    visibility.setAttribute("aria-label", t("visibility", { name }));
    visibility.setAttribute("aria-pressed", String(!isHidden));
    visibility.querySelector("use").setAttribute("href", isHidden ? "#i-hidden" : "#i-eye");
    remove.setAttribute("aria-label", t("remove", { name }));
  }

  // Dialogs

  help() {
    $("helpDialog").showModal();
  }

  showExport() {
    const { session } = this.app;
    const count = session.visible().length;
    $("exportNote").textContent = count ? t("exportNote", { count, name: session.picture.name }) : t("exportNothing");
    $("exportSave").disabled = !count;
    $("exportDialog").showModal();
  }

  async #save() {
    const { session } = this.app;
    const formats = [...$("formats").querySelectorAll("input:checked")].map(({ name }) => name);
    if (!formats.length) return;
    try {
      const blob = await session.exportZip(formats);
      const link = make("a", { href: URL.createObjectURL(blob), download: `${session.picture.name.replace(/\.\w+$/, "")}.zip` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    } catch (error) {
      this.fail(error);
    }
  }

  /** Resolves when the user has typed a token. */
  askForToken(set) {
    const dialog = $("tokenDialog");
    if (!this.tokenAsked) {
      dialog.showModal();
      this.tokenAsked = new Promise((resolve) => {
        $("tokenForm").addEventListener("submit", () => {
          set($("token").value);
          this.tokenAsked = null;
          resolve();
        }, { once: true });
      });
    }
    return this.tokenAsked;
  }
}
