// Everything that the page says, in each language. `{name}` is replaced.

const en = {
  open: "Open", camera: "Take a photo", export: "Export", language: "Language: 中文", theme: "Light or dark",
  help: "Keys and gestures", tools: "Tools", objects: "Objects", zoom: "Zoom", close: "Close", cancel: "Cancel",
  searchPlaceholder: "Name what to find: cat, red car", searchLabel: "Words to find, with commas between them",
  find: "Find", findAlike: "Find alike",
  toolPoint: "Point and box", toolSelect: "Select and move", toolExemplar: "Exemplars", toolBrush: "Brush",
  toolEraser: "Eraser", everything: "Everything", undo: "Undo", redo: "Redo",
  canvas: "Picture. Arrow keys move the cursor, space marks the object, minus marks what is not the object, Enter keeps it.",
  emptyTitle: "Drop a picture", emptyText: "Hover it, click it, or name what is in it.", choose: "Choose a picture",
  sample: "Try the sample", dropHere: "Drop to open",
  demoNote: "This is the built-in demo model. It knows colored shapes, as in “red star”. Start sam3 serve with -m for photographs.",
  demoChip: "Demo model", draft: "Current object", sign: "Next point: on the object, or not", cycle: "Other mask (whole, part)",
  discard: "Discard", keep: "Keep", brushSize: "Size", zoomIn: "Zoom in", zoomOut: "Zoom out", zoomFit: "Fit",
  clearAll: "Clear", threshold: "Confidence", nothing: "Nothing kept yet. Click an object, or name it above.",
  exportTitle: "Export", exportSave: "Save as zip", exportNote: "{count} objects of {name}", exportNothing: "Keep an object first.",
  formatCoco: "one JSON file, masks as run lengths", formatYolo: "one text file of polygons",
  formatLabelme: "one JSON file of polygons", formatMasksName: "Masks", formatMasks: "a black and white PNG for each object",
  formatCutoutsName: "Cut-outs", formatCutouts: "each object alone, transparent around it",
  tokenTitle: "This server asks for a token", tokenText: "It is in the address that `sam3 serve` printed when it started.",
  token: "Token", continue: "Continue",
  helpTitle: "Keys and gestures",
  stateNone: "No picture", stateUploading: "Uploading", stateEncoding: "Encoding: positions wait", stateReady: "Ready",
  stateOffline: "Server not reached, trying again", busySearch: "Looking for {text}", busyEverything: "Looking for everything",
  busyUpload: "Uploading", busyEncode: "Encoding the picture", busyExport: "Packing the zip",
  hintPoint: "Hover to preview, click to start, drag for a box, wheel for larger or smaller parts",
  hintDraft: "Click to add, Shift or right click for what is not the object, Enter to keep",
  hintExemplar: "Drag boxes around examples; with Shift around what is not meant",
  hintSelect: "Click an object to select it, double-click to refine it, drag to move the picture",
  hintBrush: "Paint on the selected object, or start a new one; [ and ] change the size",
  quality: "{score} · {area} px", part: "{index} of 3", exemplarCount: "boxes: {count}",
  latency: "hover {ms} ms · server {server} ms", position: "{x}, {y}", scale: "{percent} %",
  objectName: "object", visibility: "Show or hide {name}", refine: "Refine {name}", remove: "Delete {name}",
  color: "Color of {name}", rename: "Name of {name}", selected: "{name} selected",
  found: "{count} found for {text}", foundNothing: "Nothing found for {text}", foundEverything: "{count} objects found",
  kept: "{name} kept, {count} objects", mask: "Mask, quality {score}, {area} pixels", removed: "{name} deleted",
  undone: "Undone", redone: "Redone", cursor: "Cursor {x}, {y}",
  notAnImage: "This browser cannot show that file", notAnImageAdvice: "Use a JPEG, PNG, WebP, GIF or BMP file.",
  noText: "This model takes no words", noTextAdvice: "It answers points and boxes; words need a SAM 3 model.",
  noPoints: "This model takes no points", noPointsAdvice: "Name objects in the field above.",
  openFirst: "Open a picture first", restored: "Your work from last time is back",
  tap: "Tap", tapDoes: "point on the object", hold: "Hold", holdDoes: "point beside the object",
  drag: "Drag", dragDoes: "box around the object", pinch: "Two fingers", pinchDoes: "zoom and move the picture",
  keyPoint: "point and box: click, drag", keySelect: "select and move", keyExemplar: "exemplars", keyBrush: "brush, eraser",
  keyEverything: "everything", keyText: "name what to find", keyKeep: "keep the object", keyEscape: "discard, or back to hovering",
  keyNot: "not this: Shift, Alt or right click, long press", keyUndo: "undo, redo", keyBackspace: "take back the last point",
  keyDelete: "delete the selected object", keyCycle: "larger or smaller part", keySize: "size of the brush",
  keyHide: "hide or show all masks", keyZoom: "zoom; Ctrl and wheel, or two fingers", keyFit: "fit the picture",
  keyPan: "move the picture", keyArrows: "move the cursor; with Shift in large steps", keySpace: "point on the object, or not",
  keyNext: "next, previous object", keyRefine: "refine the selected object", keyHelp: "this list",
};

const zh = {
  open: "打开", camera: "拍照", export: "导出", language: "Language: English", theme: "浅色或深色",
  help: "按键与手势", tools: "工具", objects: "对象", zoom: "缩放", close: "关闭", cancel: "取消",
  searchPlaceholder: "要找什么：cat，red car", searchLabel: "要查找的词，用逗号分隔",
  find: "查找", findAlike: "查找相似",
  toolPoint: "点选与框选", toolSelect: "选择与移动", toolExemplar: "示例框", toolBrush: "画笔",
  toolEraser: "橡皮擦", everything: "全部分割", undo: "撤销", redo: "重做",
  canvas: "图片。方向键移动光标，空格标记对象，减号标记不属于对象的部分，回车保留。",
  emptyTitle: "拖入一张图片", emptyText: "悬停、点击，或说出图中有什么。", choose: "选择图片",
  sample: "试试示例", dropHere: "松开即可打开",
  demoNote: "这是内置的演示模型，只认识彩色形状，例如“red star”。处理照片请用 -m 启动 sam3 serve。",
  demoChip: "演示模型", draft: "当前对象", sign: "下一个点：属于对象，或不属于", cycle: "换一个掩码（整体、局部）",
  discard: "放弃", keep: "保留", brushSize: "大小", zoomIn: "放大", zoomOut: "缩小", zoomFit: "适合窗口",
  clearAll: "清空", threshold: "置信度", nothing: "还没有保留的对象。点击一个对象，或在上方输入名称。",
  exportTitle: "导出", exportSave: "保存为 zip", exportNote: "{name} 的 {count} 个对象", exportNothing: "请先保留一个对象。",
  formatCoco: "一个 JSON 文件，掩码为游程编码", formatYolo: "一个多边形文本文件",
  formatLabelme: "一个多边形 JSON 文件", formatMasksName: "掩码", formatMasks: "每个对象一张黑白 PNG",
  formatCutoutsName: "抠图", formatCutouts: "每个对象单独一张，背景透明",
  tokenTitle: "此服务器需要令牌", tokenText: "令牌在 `sam3 serve` 启动时打印的地址里。",
  token: "令牌", continue: "继续",
  helpTitle: "按键与手势",
  stateNone: "没有图片", stateUploading: "上传中", stateEncoding: "编码中：位置会等待", stateReady: "就绪",
  stateOffline: "无法连接服务器，正在重试", busySearch: "正在查找 {text}", busyEverything: "正在查找全部对象",
  busyUpload: "正在上传", busyEncode: "正在编码图片", busyExport: "正在打包 zip",
  hintPoint: "悬停预览，单击开始，拖动画框，滚轮切换更大或更小的部分",
  hintDraft: "单击添加，Shift 或右键排除，回车保留",
  hintExemplar: "拖动框出示例；按住 Shift 框出不要的",
  hintSelect: "单击选择对象，双击修正，拖动移动图片",
  hintBrush: "在所选对象上涂抹，或新建一个；[ 和 ] 改变大小",
  quality: "{score} · {area} 像素", part: "{index} / 3", exemplarCount: "{count} 个框",
  latency: "悬停 {ms} 毫秒 · 服务器 {server} 毫秒", position: "{x}, {y}", scale: "{percent} %",
  objectName: "对象", visibility: "显示或隐藏 {name}", refine: "修正 {name}", remove: "删除 {name}",
  color: "{name} 的颜色", rename: "{name} 的名称", selected: "已选择 {name}",
  found: "找到 {count} 个 {text}", foundNothing: "没有找到 {text}", foundEverything: "找到 {count} 个对象",
  kept: "已保留 {name}，共 {count} 个对象", mask: "掩码，质量 {score}，{area} 像素", removed: "已删除 {name}",
  undone: "已撤销", redone: "已重做", cursor: "光标 {x}, {y}",
  notAnImage: "浏览器无法显示该文件", notAnImageAdvice: "请使用 JPEG、PNG、WebP、GIF 或 BMP 文件。",
  noText: "此模型不接受文字", noTextAdvice: "它回答点和框；文字需要 SAM 3 模型。",
  noPoints: "此模型不接受点", noPointsAdvice: "请在上方输入对象名称。",
  openFirst: "请先打开一张图片", restored: "已恢复上次的工作",
  tap: "轻点", tapDoes: "标记对象", hold: "长按", holdDoes: "标记不属于对象的部分",
  drag: "拖动", dragDoes: "框出对象", pinch: "双指", pinchDoes: "缩放与移动图片",
  keyPoint: "点选与框选：单击、拖动", keySelect: "选择与移动", keyExemplar: "示例框", keyBrush: "画笔、橡皮擦",
  keyEverything: "全部分割", keyText: "输入要找的名称", keyKeep: "保留对象", keyEscape: "放弃，或回到悬停",
  keyNot: "排除：Shift、Alt、右键或长按", keyUndo: "撤销、重做", keyBackspace: "收回最后一个点",
  keyDelete: "删除所选对象", keyCycle: "更大或更小的部分", keySize: "画笔大小",
  keyHide: "隐藏或显示所有掩码", keyZoom: "缩放；也可 Ctrl 加滚轮，或双指", keyFit: "适合窗口",
  keyPan: "移动图片", keyArrows: "移动光标；加 Shift 大步移动", keySpace: "标记属于对象，或不属于",
  keyNext: "下一个、上一个对象", keyRefine: "修正所选对象", keyHelp: "本列表",
};

const languages = { en, zh };
const KEY = "sam3.language";

let current = localStorage.getItem(KEY) ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

/** The code of the language in use. */
export const language = () => current;

/** Changes to the other language. */
export function switchLanguage() {
  current = current === "en" ? "zh" : "en";
  localStorage.setItem(KEY, current);
}

/** A text, with `values` put in. */
export function t(key, values = {}) {
  const text = languages[current]?.[key] ?? en[key];
  if (text === undefined) throw new Error(`no text ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Puts texts where the document names them. */
export function translate(root) {
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
  for (const node of root.querySelectorAll("[data-t-placeholder]")) node.placeholder = t(node.dataset.tPlaceholder);
}
