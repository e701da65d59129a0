// The keyboard.

import { t } from "./strings.js";

const STEP = 8, LEAP = 48; // of the cursor, in CSS pixels

/** What `?` shows: keys, and what they do. */
const MAP = [
  [["1", "P"], "keyPoint"], [["2", "V"], "keySelect"], [["3", "X"], "keyExemplar"], [["4", "5", "B", "E"], "keyBrush"],
  [["6", "A"], "keyEverything"], [["T", "/"], "keyText"], [["Enter", "N"], "keyKeep"], [["Esc"], "keyEscape"],
  [["⇧"], "keyNot"], [["Ctrl Z", "Ctrl Y"], "keyUndo"], [["⌫"], "keyBackspace"], [["Del"], "keyDelete"],
  [["Q", "W"], "keyCycle"], [["[", "]"], "keySize"], [["H"], "keyHide"], [["R"], "keyRefine"], [["J", "K"], "keyNext"],
  [["+", "−"], "keyZoom"], [["0", "F"], "keyFit"], [["Space"], "keyPan"], [["← ↑ → ↓"], "keyArrows"],
  [["Space", "-"], "keySpace"], [["?"], "keyHelp"],
];

/** What fingers do. */
const GESTURES = [["tap", "tapDoes"], ["hold", "holdDoes"], ["drag", "dragDoes"], ["pinch", "pinchDoes"]];

export function fillMap(list) {
  const hasFingers = matchMedia("(pointer: coarse)").matches;
  const gestures = hasFingers ? GESTURES.map(([name, what]) => [[t(name)], what]) : [];
  list.replaceChildren(...[...gestures, ...MAP].map(([keys, what]) => {
    const [line, dt, dd] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    dt.append(...keys.map((key) => Object.assign(document.createElement("kbd"), { textContent: key })));
    dd.textContent = t(what);
    line.append(dt, dd);
    return line;
  }));
}

const isField = (node) => node.matches("input:not([type=range]):not([type=checkbox]), textarea, select");

export function listen(app, canvas) {
  // The focus of the canvas shows while the keyboard is used.
  document.addEventListener("pointerdown", () => { document.getElementById("stage").dataset.keys = "false"; }, true);
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    if (isField(event.target)) {
      if (event.key === "Escape") canvas.focus();
      return;
    }
    document.getElementById("stage").dataset.keys = "true";
    const isOnCanvas = event.target === canvas || event.target === document.body;
    if (pressed(app, event, isOnCanvas)) event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.code === "Space") app.isPanKey = false;
  });
}

/** Whether the key was one of ours. */
function pressed(app, event, isOnCanvas) {
  const { session } = app;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") event.shiftKey ? session.redo() : session.undo();
    else if (key === "y") session.redo();
    else if (key === "o") app.open();
    else if (key === "s") app.export();
    else return false;
    return true;
  }
  if (event.altKey) return false;
  if (isOnCanvas && onCanvas(app, event, key)) return true;
  const tools = { 1: "point", p: "point", 2: "select", v: "select", 3: "exemplar", x: "exemplar", 4: "brush", b: "brush", 5: "eraser", e: "eraser" };
  if (tools[key]) app.setTool(tools[key]);
  else if (key === "6" || key === "a") session.everything();
  else if (key === "t" || key === "/") app.focusText();
  else if (key === "Escape") app.escape();
  else if (key === "Delete" && session.selected !== null) session.remove(session.selected);
  else if (key === "Backspace") session.draft || session.exemplars.length ? session.takeBack() : session.remove(session.selected);
  else if (key === "q" || key === "w") app.cycle(key === "w" ? 1 : -1);
  else if (key === "[" || key === "]") app.resizeBrush(key === "]" ? 1.2 : 1 / 1.2);
  else if (key === "h") session.toggleAll();
  else if (key === "r" && session.selected !== null) session.refine(session.selected);
  else if (key === "j" || key === "k") session.step(key === "j" ? 1 : -1);
  else if (key === "+" || key === "=") app.view.zoom(1.25);
  else if (key === "_") app.view.zoom(0.8);
  else if (key === "0" || key === "f") app.view.fit();
  else if (key === "?") app.help();
  else return false;
  return true;
}

/** Keys that belong to the canvas, and to buttons elsewhere. */
function onCanvas(app, event, key) {
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (arrows[key]) {
    const step = (event.shiftKey ? LEAP : STEP) / app.view.scale;
    app.moveCursor(arrows[key].map((direction) => direction * step), event.timeStamp);
  } else if (key === " ") {
    // Once the arrows have shown the cursor, space acts there; else it pans with the pointer.
    if (app.cursor) app.actAtCursor(!event.shiftKey);
    else app.isPanKey = true;
  } else if (key === "-") {
    if (app.cursor) app.actAtCursor(false);
    else app.view.zoom(0.8);
  } else if (key === "Enter" || key === "n") {
    app.confirm();
  } else {
    return false;
  }
  return true;
}
