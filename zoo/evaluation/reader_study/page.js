"use strict";

// ---------------------------------------------------------------------------------------------------------------------
// The study, and what the reader has done so far.

const byId = (id) => document.getElementById(id);
const study = JSON.parse(byId("study").textContent);
const STORED = `reader-study/${study.study}/${study.reader}`;
const IN_WINDOW = `${STORED}/window`; // changes when the study goes on in another window
const WARM_UP = study.cases.filter((item) => item.phase === "warm-up").length;
const [DEPTH, HEIGHT, WIDTH] = study.shape;
const VOXELS = DEPTH * HEIGHT * WIDTH;
const IS_LESION = study.kind === "lesion";

const CHOICES = {
  single: [["real", "Real", "R"], ["fake", "Fake", "F"]],
  pair: [["left", "Left is real", "←"], ["right", "Right is real", "→"]],
  lesion: [["none", "I cannot find it", "N"]],
}[study.kind];
const QUESTION = { single: "Real or fake?", pair: "Which one is real?", lesion: "Click the synthetic lesion." }[study.kind];

function newDraft() {
  return { choice: null, rating: null, seconds: 0 };
}

/** All that is kept when the page is closed: everything shown follows from it. */
let state = {
  background: null, // { role, years }
  started: null,
  finished: null,
  answers: [], // as in the file of answers, in the order of the cases
  draft: newDraft(), // of the case on the screen
  revealed: false, // the last answer belongs to the warm-up, and its truth is on the screen
  wentBack: false, // the last answer has been changed once
  testBegun: WARM_UP === 0,
};

const currentNumber = () => state.answers.length - (state.revealed ? 1 : 0);
const lastAnswer = () => state.answers[state.answers.length - 1];
const currentCase = () => study.cases[currentNumber()];
const isTimeUp = () => study.seconds > 0 && state.draft.seconds >= study.seconds;

// ---------------------------------------------------------------------------------------------------------------------
// Keeping answers: in the browser's storage, and in files.

let storageWorks = true;

function save() {
  if (!state.started || lockedOut) return;
  try {
    localStorage.setItem(STORED, JSON.stringify(state));
    storageWorks = true;
  } catch {
    storageWorks = false; // private windows and some browsers' local files
  }
  byId("unsaved").hidden = storageWorks;
}

function restore() {
  try {
    const text = localStorage.getItem(STORED);
    if (text) state = { ...state, ...JSON.parse(text) };
  } catch {
    storageWorks = false;
  }
}

/** Tell other windows that the study goes on here; they stop and save no more. */
function takeOver() {
  try {
    localStorage.setItem(IN_WINDOW, String(Math.random()));
  } catch {
    storageWorks = false;
  }
  save();
}

/** JSON with sorted keys and without spaces, which Python writes in the same way. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
}

/**
 * SHA-256 of a text as UTF-8, in hexadecimal digits (FIPS 180-4).
 *
 * crypto.subtle is missing where a browser does not trust the page's address, such as http in a hospital's network.
 */
function sha256(text) {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  const fraction = (value) => Math.floor((value - Math.floor(value)) * 2 ** 32);
  const hash = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
  const constants = primes.map((prime) => fraction(Math.cbrt(prime)));
  const rotate = (word, bits) => (word >>> bits) | (word << (32 - bits));

  const content = new TextEncoder().encode(text);
  const message = new DataView(new ArrayBuffer(Math.ceil((content.length + 9) / 64) * 64));
  content.forEach((byte, index) => message.setUint8(index, byte));
  message.setUint8(content.length, 0x80);
  message.setUint32(message.byteLength - 8, Math.floor(content.length / 2 ** 29));
  message.setUint32(message.byteLength - 4, (content.length << 3) >>> 0);

  const words = new Int32Array(64);
  for (let block = 0; block < message.byteLength; block += 64) {
    for (let t = 0; t < 64; t++) {
      if (t < 16) {
        words[t] = message.getInt32(block + 4 * t);
        continue;
      }
      const [early, late] = [words[t - 15], words[t - 2]];
      const sigma0 = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3);
      const sigma1 = rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10);
      words[t] = words[t - 16] + sigma0 + words[t - 7] + sigma1;
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let t = 0; t < 64; t++) {
      const sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const first = (h + sum1 + ((e & f) ^ (~e & g)) + constants[t] + words[t]) | 0;
      const sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const second = (sum0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [a, b, c, d, e, f, g, h] = [(first + second) | 0, a, b, c, (d + first) | 0, e, f, g];
    }
    [a, b, c, d, e, f, g, h].forEach((word, index) => (hash[index] = (hash[index] + word) | 0));
  }
  return hash.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

function download(name, content) {
  const sealed = { ...content, sha256: sha256(canonical(content)) };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${JSON.stringify(sealed, null, 1)}\n`], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const ANSWERS_FILE = `answers-${study.study}-${study.reader}.json`;

function downloadAnswers() {
  const { background, started, finished, answers } = state;
  download(ANSWERS_FILE, { format: study.format, study: study.study, reader: study.reader, background, started, finished, answers });
}

function downloadProgress() {
  download(`progress-${study.study}-${study.reader}.json`, { format: study.format, study: study.study, reader: study.reader, progress: state });
}

/** Go on from a file of `downloadProgress`; returns what is wrong with it, or an empty text. */
async function loadProgress(file) {
  let stored;
  try {
    stored = JSON.parse(await file.text());
  } catch {
    return `${file.name} cannot be read. Choose the file progress-${study.study}-${study.reader}.json.`;
  }
  const { sha256: seal, ...content } = stored;
  if (!content.progress) return `${file.name} holds no saved progress. Choose the file progress-${study.study}-${study.reader}.json.`;
  if (content.study !== study.study || content.reader !== study.reader) {
    return `${file.name} is of study ${content.study}, ${content.reader}; this page is of study ${study.study}, ${study.reader}.`;
  }
  if (seal !== sha256(canonical(content))) return `${file.name} was changed or cut off after it was saved.`;
  state = content.progress;
  save();
  return "";
}

// ---------------------------------------------------------------------------------------------------------------------
// Images of a case: grey values [images, panels, slices, rows, columns], decoded when needed.

const decoded = new Map();

function imagesOf(number) {
  const { case: name } = study.cases[number];
  if (!decoded.has(name)) decoded.set(name, decode(byId(`case-${name}`).textContent));
  return decoded.get(name);
}

async function decode(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const packed = new Blob([bytes.subarray(4, 4 + length)]);
  return new Uint8Array(await new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
}

/** Keep the images of this case and the next, and forget the others. */
function prepareNext(number) {
  const near = study.cases.slice(number, number + 2).map((item) => item.case);
  for (const name of decoded.keys()) if (!near.includes(name)) decoded.delete(name);
  if (number + 1 < study.cases.length) imagesOf(number + 1);
}

// ---------------------------------------------------------------------------------------------------------------------
// View: slices, zoom and grey window, the same for every panel of a case.

const PLANES = ["axial", "coronal", "sagittal"];
const GROUPS = [...new Set(study.panels.map((panel) => panel.group))];
const ALL_GROUPS = -1;

let view;
let cells = []; // one per canvas on the stage
let grey = null; // images of the case on the screen
let lesionMask = null; // of a case of the warm-up whose truth is shown, one byte per voxel

function resetView() {
  view = {
    zoom: 1,
    plane: 0,
    cursor: [DEPTH >> 1, HEIGHT >> 1, WIDTH >> 1], // slice, row, column
    centre: [0.5, 0.5, 0.5], // of what is seen, as a share of slices, rows and columns
    windows: Object.fromEntries(GROUPS.map((group) => [group, { level: 127.5, width: 255 }])),
    group: ALL_GROUPS, // whose window the keys change
  };
}

/** How a plane cuts the volume: which axes are its rows and columns, and whether the rows run from top to bottom. */
function geometryOf(plane) {
  const [rowAxis, columnAxis] = [[1, 2], [0, 2], [0, 1]][plane];
  const flip = rowAxis === 0; // slices count from the bottom
  return {
    rowAxis, columnAxis, flip,
    rows: study.shape[rowAxis], columns: study.shape[columnAxis],
    height: study.shape[rowAxis] * study.spacing[rowAxis], width: study.shape[columnAxis] * study.spacing[columnAxis],
  };
}

/** Voxel [slice, row, column] at a place of a plane through the cursor. */
function voxelAt(plane, row, column) {
  const { rowAxis, columnAxis, flip, rows } = geometryOf(plane);
  const voxel = [...view.cursor];
  voxel[rowAxis] = flip ? rows - 1 - row : row;
  voxel[columnAxis] = column;
  return voxel;
}

/** Values of a plane through the cursor, row by row, from a volume that starts at `first`. */
function planeOf(volume, first, plane) {
  const { rows, columns } = geometryOf(plane);
  const values = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const [slice, line, column] = voxelAt(plane, row, 0);
    const start = first + (slice * HEIGHT + line) * WIDTH + column;
    const step = plane === 2 ? WIDTH : 1;
    for (let k = 0; k < columns; k++) values[row * columns + k] = volume[start + k * step];
  }
  return values;
}

/** Where a plane lies on its canvas, in pixels of the page. */
function placementOf(cell) {
  const { rowAxis, columnAxis, flip, rows, columns, height, width } = geometryOf(cell.plane);
  const scale = Math.min(cell.width / width, cell.height / height) * view.zoom;
  const across = view.centre[columnAxis];
  const down = flip ? 1 - view.centre[rowAxis] : view.centre[rowAxis];
  return {
    left: cell.width / 2 - across * width * scale, top: cell.height / 2 - down * height * scale,
    width: width * scale, height: height * scale, pixelWidth: (width * scale) / columns, pixelHeight: (height * scale) / rows,
  };
}

function pictureOf(cell) {
  const { rows, columns } = geometryOf(cell.plane);
  const { level, width } = view.windows[study.panels[cell.panel].group];
  const values = planeOf(grey, (cell.image * study.panels.length + cell.panel) * VOXELS, cell.plane);
  const truth = lesionMask && planeOf(lesionMask, 0, cell.plane);
  const picture = new ImageData(columns, rows);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let k = 0; k < values.length; k++) {
    const shown = Math.max(0, Math.min(255, Math.round(((values[k] - level) / width + 0.5) * 255)));
    const red = truth && truth[k] ? shown >> 1 : shown;
    pixels[k] = (255 << 24) | (red << 16) | (shown << 8) | red; // a lesion that is shown turns green
  }
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

function drawCell(cell) {
  const context = cell.canvas.getContext("2d");
  const ratio = window.devicePixelRatio || 1;
  cell.canvas.width = Math.round(cell.width * ratio);
  cell.canvas.height = Math.round(cell.height * ratio);
  context.scale(ratio, ratio);
  context.imageSmoothingQuality = "high";
  const at = placementOf(cell);
  context.drawImage(pictureOf(cell), at.left, at.top, at.width, at.height);
  if (IS_LESION) drawCursor(context, cell, at);
}

/** Draw the cross-hair, and the reader's mark in the slices around it. */
function drawCursor(context, cell, at) {
  const { rowAxis, columnAxis, flip, rows } = geometryOf(cell.plane);
  const onCanvas = (voxel) => [
    at.left + (voxel[columnAxis] + 0.5) * at.pixelWidth,
    at.top + ((flip ? rows - 1 - voxel[rowAxis] : voxel[rowAxis]) + 0.5) * at.pixelHeight,
  ];
  const [x, y] = onCanvas(view.cursor);
  context.strokeStyle = "rgb(109 181 242 / .55)";
  context.beginPath();
  for (const [fromX, fromY, toX, toY] of [[0, y, x - 9, y], [x + 9, y, cell.width, y], [x, 0, x, y - 9], [x, y + 9, x, cell.height]]) {
    context.moveTo(fromX, fromY);
    context.lineTo(toX, toY);
  }
  context.stroke();
  const mark = state.revealed ? lastAnswer().choice : state.draft.choice;
  if (!mark || mark === "none") return;
  const voxel = [mark.slice, mark.y, mark.x];
  if (Math.abs(voxel[cell.plane] - view.cursor[cell.plane]) > 1) return;
  const [markX, markY] = onCanvas(voxel);
  context.strokeStyle = "#ffb000";
  context.lineWidth = 2;
  context.beginPath();
  context.arc(markX, markY, 9, 0, 2 * Math.PI);
  context.stroke();
}

function drawAll() {
  for (const cell of cells) {
    drawCell(cell);
    const group = GROUPS.indexOf(study.panels[cell.panel].group);
    cell.figure.classList.toggle("active", view.group === group);
  }
  byId("position").textContent = DEPTH > 1 && !IS_LESION
    ? `${PLANES[view.plane]} ${view.cursor[view.plane] + 1} of ${study.shape[view.plane]}` : "";
}

// ---------------------------------------------------------------------------------------------------------------------
// Layout of the stage.

/** Number of columns with which `count` panels of a shape become largest. */
function bestColumns(count, aspect, width, height) {
  const sizes = Array.from({ length: count }, (_, k) => Math.min(width / (k + 1), (height / Math.ceil(count / (k + 1))) * aspect));
  return sizes.indexOf(Math.max(...sizes)) + 1;
}

/** What a stage shows of one image: [panel, plane, title, place] each. */
function panelsToShow() {
  if (IS_LESION && DEPTH > 1) {
    return study.panels.flatMap((panel, index) =>
      PLANES.map((name, plane) => ({ panel: index, plane, title: `${panel.title}, ${name}`, place: [index, plane] })));
  }
  return study.panels.map((panel, index) => ({
    panel: index, plane: view.plane, title: panel.title, place: panel.place,
  }));
}

function layOut() {
  const stage = byId("stage");
  stage.replaceChildren();
  cells = [];
  const images = study.kind === "pair" ? 2 : 1;
  const gap = 6;
  const share = (stage.clientWidth - gap * (images + 1)) / images;
  for (let image = 0; image < images; image++) {
    const area = { left: gap + image * (share + gap), top: gap, width: share, height: stage.clientHeight - 2 * gap };
    if (study.kind === "pair") addHalf(stage, image, area);
    const shown = panelsToShow();
    const { width, height } = geometryOf(shown[0].plane);
    const columns = shown[0].place
      ? Math.max(...shown.map((panel) => panel.place[1])) + 1 : bestColumns(shown.length, width / height, area.width, area.height);
    const rows = shown[0].place ? Math.max(...shown.map((panel) => panel.place[0])) + 1 : Math.ceil(shown.length / columns);
    const [cellWidth, cellHeight] = [area.width / columns, area.height / rows];
    // Tiles hug their images, so that a series stands together in the middle.
    const size = IS_LESION && DEPTH > 1 ? [cellWidth, cellHeight] : fitted(width / height, cellWidth, cellHeight);
    const left = area.left + (area.width - size[0] * columns) / 2;
    const top = area.top + (area.height - size[1] * rows) / 2;
    shown.forEach((panel, index) => {
      const [row, column] = panel.place || [Math.floor(index / columns), index % columns];
      addCell(stage, image, panel, left + column * size[0], top + row * size[1], size[0] - 3, size[1] - 3);
    });
  }
  if (grey) drawAll();
}

function fitted(aspect, width, height) {
  return width / height > aspect ? [height * aspect, height] : [width, width / aspect];
}

function addHalf(stage, image, area) {
  const half = document.createElement("div");
  half.className = "half";
  Object.assign(half.style, { left: `${area.left}px`, top: `${area.top}px`, width: `${area.width}px`, height: `${area.height}px` });
  const title = document.createElement("b");
  title.textContent = image ? "Right" : "Left";
  half.append(title);
  half.dataset.choice = image ? "right" : "left";
  stage.append(half);
  Object.assign(area, { left: area.left + 6, top: area.top + 24, width: area.width - 12, height: area.height - 30 });
}

function addCell(stage, image, { panel, plane, title }, left, top, width, height) {
  const figure = document.createElement("figure");
  figure.className = "panel";
  Object.assign(figure.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  figure.append(canvas, caption);
  stage.append(figure);
  const cell = { figure, canvas, image, panel, plane, width, height };
  cells.push(cell);
  listenTo(cell);
}

// ---------------------------------------------------------------------------------------------------------------------
// Mouse and touch: drag for the window, Shift and drag to pan, wheel for slices or zoom, click for a lesion.

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

function listenTo(cell) {
  let press = null;
  cell.canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    cell.canvas.setPointerCapture(event.pointerId);
    press = { x: event.clientX, y: event.clientY, moved: false, pans: event.shiftKey || event.button > 0 };
  });
  cell.canvas.addEventListener("pointermove", (event) => {
    if (!press) return;
    const [right, down] = [event.clientX - press.x, event.clientY - press.y];
    if (!press.moved && Math.hypot(right, down) < 4) return;
    Object.assign(press, { x: event.clientX, y: event.clientY, moved: true });
    if (press.pans) pan(cell.plane, right, down, placementOf(cell));
    else changeWindow([study.panels[cell.panel].group], -down / 2, right / 150);
    drawAll();
  });
  cell.canvas.addEventListener("pointerup", (event) => {
    if (press && !press.moved && !press.pans && IS_LESION) markAt(cell, event.offsetX, event.offsetY);
    press = null;
  });
  cell.canvas.addEventListener("pointercancel", () => (press = null));
  cell.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  cell.canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (DEPTH > 1 && !event.ctrlKey) move(cell.plane, -Math.sign(event.deltaY));
    else zoom(Math.exp(-event.deltaY / 500), cell, event.offsetX, event.offsetY);
    drawAll();
  }, { passive: false });
}

/** Make images brighter by a number of grey values, and their contrast higher by a factor exp(contrast). */
function changeWindow(groups, brighter, contrast) {
  for (const group of groups) {
    const shown = view.windows[group];
    shown.level = clamp(shown.level - (brighter * shown.width) / 255, -255, 510);
    shown.width = clamp(shown.width * Math.exp(-contrast), 8, 1020);
  }
}

function pan(plane, right, down, at) {
  const { rowAxis, columnAxis, flip } = geometryOf(plane);
  view.centre[columnAxis] = clamp(view.centre[columnAxis] - right / at.width, 0, 1);
  view.centre[rowAxis] = clamp(view.centre[rowAxis] + ((flip ? 1 : -1) * down) / at.height, 0, 1);
}

/** Zoom; what lies under the pointer stays there. By keyboard a lesion's cross-hair comes to the middle. */
function zoom(factor, cell = null, x = 0, y = 0) {
  const before = view.zoom;
  view.zoom = clamp(view.zoom * factor, 1, 16);
  if (view.zoom === 1) view.centre = [0.5, 0.5, 0.5];
  else if (cell) {
    const change = 1 - view.zoom / before;
    pan(cell.plane, (x - cell.width / 2) * change, (y - cell.height / 2) * change, placementOf(cell));
  } else if (IS_LESION) view.centre = view.cursor.map((place, axis) => (place + 0.5) / study.shape[axis]);
}

/** Move the cursor along an axis: 0 slices, 1 rows, 2 columns. What is enlarged follows a lesion's cross-hair. */
function move(axis, steps) {
  view.cursor[axis] = clamp(view.cursor[axis] + steps, 0, study.shape[axis] - 1);
  if (IS_LESION && view.zoom > 1) view.centre[axis] = (view.cursor[axis] + 0.5) / study.shape[axis];
}

function markAt(cell, x, y) {
  const at = placementOf(cell);
  const { rows, columns } = geometryOf(cell.plane);
  const [row, column] = [Math.floor((y - at.top) / at.pixelHeight), Math.floor((x - at.left) / at.pixelWidth)];
  if (row < 0 || row >= rows || column < 0 || column >= columns) return;
  view.cursor = voxelAt(cell.plane, row, column);
  markCursor();
}

function markCursor() {
  const [slice, y, x] = view.cursor;
  choose({ slice, x, y });
}

// ---------------------------------------------------------------------------------------------------------------------
// Answering.

function choose(choice) {
  if (!isAnswering() || (isTimeUp() && IS_LESION)) return;
  state.draft.choice = choice;
  save();
  show();
}

function rate(rating) {
  if (!isAnswering() || !study.ratings) return;
  state.draft.rating = rating;
  save();
  show();
}

const isAnswering = () => state.started && !state.finished && !state.revealed && !isPaused && grey !== null;
const isComplete = () =>
  (state.draft.choice !== null && (!study.ratings || state.draft.rating !== null)) || (IS_LESION && isTimeUp());

function next() {
  if (state.revealed) {
    state.revealed = false;
    return enterCase();
  }
  if (!isAnswering() || !isComplete()) return;
  tick();
  const { choice, rating, seconds } = state.draft;
  const { case: name, phase } = currentCase();
  state.answers.push({ case: name, phase, choice: choice ?? "none", rating, seconds: Math.round(seconds * 10) / 10 });
  state.draft = newDraft();
  state.revealed = phase === "warm-up";
  state.wentBack = false;
  if (state.answers.length === study.cases.length && !state.revealed) state.finished = new Date().toISOString();
  save();
  if (state.revealed) reveal();
  else enterCase();
}

const canGoBack = () => !state.revealed && !state.wentBack && state.answers.length > WARM_UP;

/** Take the last answer back, once: it can be changed. */
function goBack() {
  if (!isAnswering() || !canGoBack()) return;
  const { choice, rating, seconds } = state.answers.pop();
  state.draft = { choice, rating, seconds };
  state.wentBack = true;
  save();
  enterCase();
}

/** Show the truth of a case of the warm-up. */
function reveal() {
  const { truth } = currentCase();
  if (IS_LESION) {
    lesionMask = new Uint8Array(VOXELS);
    for (const { slice, runs } of truth.slices) {
      for (let k = 0; k < runs.length; k += 2) {
        const first = slice * HEIGHT * WIDTH + runs[k];
        lesionMask.fill(1, first, first + runs[k + 1]);
      }
    }
    const { slice, runs } = truth.slices[truth.slices.length >> 1];
    const middle = (runs.length >> 2) << 1;
    const pixel = runs[middle] + (runs[middle + 1] >> 1);
    view.cursor = [slice, Math.floor(pixel / WIDTH), pixel % WIDTH];
  }
  show();
}

function verdict() {
  const { truth, origin } = currentCase();
  const { choice } = lastAnswer();
  const right = IS_LESION ? choice !== "none" && isInLesion(choice, truth) : choice === truth;
  const said = {
    single: `This image is ${truth}`,
    pair: `The ${truth} image is real, the other one is fake`,
    lesion: "The synthetic lesion is green",
  }[study.kind];
  const mark = document.createElement("span");
  mark.className = right ? "good" : "bad";
  mark.textContent = right ? "✓ Correct. " : "✗ Wrong. ";
  return [mark, `${said}${origin ? ` (${origin})` : ""}.`];
}

function isInLesion({ slice, x, y }, { slices }) {
  const pixel = y * WIDTH + x;
  return slices.some((part) => part.slice === slice
    && part.runs.some((start, k) => k % 2 === 0 && pixel >= start && pixel < start + part.runs[k + 1]));
}

// ---------------------------------------------------------------------------------------------------------------------
// What is on the screen.

let isPaused = false;

async function enterCase() {
  if (state.finished || (state.answers.length === study.cases.length && !state.revealed)) return showEnd();
  const entered = currentNumber();
  show("reading");
  if (!state.testBegun && !state.revealed && entered === WARM_UP) {
    const left = study.cases.length - WARM_UP;
    openDialog("The warm-up is over", "Begin the test", [
      `${left} cases follow. From now on the right answers are not shown, and your answers count.`,
    ]);
    state.testBegun = true;
    save();
  }
  grey = null;
  lesionMask = null;
  resetView();
  layOut();
  const images = await imagesOf(entered);
  if (entered !== currentNumber()) return;
  tick(); // the time until here is not the reader's
  grey = images;
  prepareNext(entered);
  if (state.revealed) reveal();
  drawAll();
  show();
}

function showEnd() {
  state.finished = state.finished || new Date().toISOString();
  save();
  const test = state.answers.filter((answer) => answer.phase === "test");
  const minutes = Math.round(state.answers.reduce((sum, answer) => sum + answer.seconds, 0) / 60);
  byId("summary").textContent =
    `You answered ${test.length} cases${WARM_UP ? ` and ${WARM_UP} of the warm-up` : ""} in ${minutes} min without pauses.`;
  byId("file-name").textContent = ANSWERS_FILE;
  show("end");
  byId("download").focus();
}

/** Bring the page up to date with the state. */
function show(section = null) {
  if (section) for (const name of ["start", "reading", "end"]) byId(name).hidden = name !== section;
  if (byId("reading").hidden) return;
  const { phase } = currentCase();
  const first = phase === "test" ? WARM_UP : 0;
  const total = phase === "test" ? study.cases.length - WARM_UP : WARM_UP;
  byId("phase").textContent = phase === "test" ? "Test" : "Warm-up";
  byId("count").textContent = `Case ${currentNumber() - first + 1} of ${total}`;
  Object.assign(byId("progress"), { max: study.cases.length, value: state.answers.length });

  const choice = state.revealed ? lastAnswer().choice : state.draft.choice;
  const hides = isPaused || (isTimeUp() && !state.revealed);
  byId("stage").classList.toggle("hidden", hides);
  let question = [QUESTION];
  if (state.revealed) question = verdict();
  else if (isTimeUp()) question = [IS_LESION ? "Time is up. Go on with Next." : "Time is up. Please answer."];
  else if (IS_LESION && choice && choice !== "none") question = ["Marked. Click elsewhere to change it, or go on."];
  byId("question").replaceChildren(...question);
  for (const button of byId("choices").children) {
    button.setAttribute("aria-pressed", String(button.value === choice));
    button.disabled = state.revealed || (IS_LESION && isTimeUp());
  }
  byId("ratings").hidden = !study.ratings || state.revealed;
  for (const button of byId("ratings").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.value) === state.draft.rating));
  }
  for (const half of document.querySelectorAll(".half")) half.classList.toggle("chosen", half.dataset.choice === choice);
  byId("next").disabled = !state.revealed && !isComplete();
  byId("undo").hidden = WARM_UP > 0 && phase === "warm-up";
  byId("undo").disabled = !canGoBack();
  byId("unsaved").hidden = storageWorks;
  showClock();
  if (IS_LESION && grey) drawAll();
}

function showClock() {
  const seconds = state.revealed ? lastAnswer().seconds : state.draft.seconds;
  const shown = study.seconds ? Math.max(0, Math.ceil(study.seconds - seconds)) : Math.floor(seconds);
  byId("clock").textContent = `${Math.floor(shown / 60)}:${String(shown % 60).padStart(2, "0")}${study.seconds ? " left" : ""}`;
  byId("clock").classList.toggle("late", study.seconds > 0 && shown <= 10);
}

// ---------------------------------------------------------------------------------------------------------------------
// Time, pauses and messages.

let lastTick = performance.now();
let lastSave = lastTick;

/** Count the time while images are seen. A longer gap means that the computer slept. */
function tick() {
  const now = performance.now();
  const elapsed = Math.min((now - lastTick) / 1000, 1);
  lastTick = now;
  if (!isAnswering() || isTimeUp() || document.hidden) return;
  state.draft.seconds += elapsed;
  if (isTimeUp()) show();
  else showClock();
  if (now - lastSave > 2000 || isTimeUp()) {
    save();
    lastSave = now;
  }
}

/** Show a message over the hidden images, while the clock stands still. */
function openDialog(title, button, paragraphs, { saves = false } = {}) {
  isPaused = true;
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(...paragraphs.map((content) => {
    if (content instanceof Node) return content;
    const paragraph = document.createElement("p");
    paragraph.textContent = content;
    return paragraph;
  }));
  byId("dialog-close").textContent = button;
  byId("dialog-close").hidden = !button;
  byId("dialog-save").hidden = !saves;
  if (!byId("dialog").open) byId("dialog").showModal();
  if (button) byId("dialog-close").focus();
  show();
}

function pause(title = "Paused") {
  if (byId("reading").hidden || byId("dialog").open) return;
  save();
  const kept = storageWorks
    ? "Your answers are kept in this browser. You may close the page and open it again later, in the same browser."
    : "This browser keeps nothing after the page is closed. Save a copy to a file first; the start page reads it.";
  const done = `Answered: ${state.answers.length} of ${study.cases.length} cases. The clock stands still.`;
  openDialog(title, "Continue", [done, kept], { saves: true });
}

function keysTable() {
  const rows = [
    ...CHOICES.map(([, label, key]) => [key, label]),
    ...(IS_LESION ? [["Click|M", "Mark the synthetic lesion, at the pointer or at the cross-hair"],
      ["← → ↑ ↓", "Move the cross-hair (Shift: 10 pixels)"]] : []),
    ...(study.ratings ? [["1 … 5", "How sure you are: 1 a guess … 5 certain"]] : []),
    ["Enter|Space", "Next case"],
    ["B", "Back to the last answer, once, in the test"],
    ["Drag|W|S", "Brightness: up brighter, down darker"],
    ["Drag|E|D", "Contrast: right more, left less"],
    ...(GROUPS.length > 1 ? [["G", "Which images W, S, E and D change: all, or one group after the other"]] : []),
    ["+|−", "Zoom (wheel" + (DEPTH > 1 ? " with Ctrl)" : ")")],
    [IS_LESION ? "Shift + drag" : "Shift + drag|Shift + ← → ↑ ↓", "Pan"],
    ...(DEPTH > 1 ? [[IS_LESION ? "Wheel|PgUp|PgDn" : "Wheel|PgUp|PgDn|↑ ↓", "Slices"]] : []),
    ...(DEPTH > 1 && !IS_LESION ? [["V", "Axial, coronal, sagittal"]] : []),
    ["0", "Reset brightness, zoom and slice"],
    ["P", "Pause: the images are hidden and the clock stands still"],
  ];
  const table = document.createElement("table");
  for (const [keys, what] of rows) {
    const row = table.insertRow();
    const cell = row.insertCell();
    for (const key of keys.split("|")) {
      const label = document.createElement("kbd");
      label.textContent = key;
      cell.append(label, " ");
    }
    row.insertCell().textContent = what;
  }
  return table;
}

const showKeys = () => openDialog("Keys and mouse", "Continue", [keysTable()]);

function closeDialog() {
  byId("dialog").close();
}

// ---------------------------------------------------------------------------------------------------------------------
// Keyboard.

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || byId("reading").hidden || byId("dialog").open) return;
  const onButton = event.target instanceof HTMLButtonElement;
  if (onButton && (event.key === "Enter" || event.key === " ")) return; // the button's own
  if (!act(event)) return;
  event.preventDefault();
}

/** Do what a key asks for; returns whether there was something to do. */
function act({ key, shiftKey }) {
  const letter = key.length === 1 ? key.toLowerCase() : key;
  if (key in ARROWS) return onArrow(key, shiftKey);
  const choice = CHOICES.find(([, , shortcut]) => shortcut.toLowerCase() === letter);
  if (choice) return done(choose(choice[0]));
  if (/^[1-5]$/.test(key)) return done(rate(Number(key)));
  const groups = view.group === ALL_GROUPS ? GROUPS : [GROUPS[view.group]];
  const actions = {
    Enter: next, " ": next, b: goBack, p: () => pause(), "?": showKeys,
    m: () => IS_LESION && markCursor(),
    w: () => changeWindow(groups, 8, 0), s: () => changeWindow(groups, -8, 0),
    e: () => changeWindow(groups, 0, 0.1), d: () => changeWindow(groups, 0, -0.1),
    g: () => (view.group = view.group + 1 < GROUPS.length ? view.group + 1 : ALL_GROUPS),
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "−": () => zoom(0.8),
    PageUp: () => move(view.plane, 1), PageDown: () => move(view.plane, -1),
    v: turnPlane, 0: resetAndLayOut, Home: resetAndLayOut,
  };
  if (!(letter in actions)) return false;
  actions[letter]();
  if (grey && !byId("reading").hidden) drawAll();
  return true;
}

const done = () => true;

function onArrow(key, shift) {
  const [down, right] = ARROWS[key];
  if (IS_LESION) {
    move(1, down * (shift ? 10 : 1));
    move(2, right * (shift ? 10 : 1));
  } else if (shift) {
    for (const cell of cells.slice(0, 1)) pan(cell.plane, -right * 20, -down * 20, placementOf(cell));
  } else if (study.kind === "pair" && right) {
    choose(right < 0 ? "left" : "right");
  } else if (DEPTH > 1 && down) {
    move(view.plane, -down);
  } else return false;
  if (grey) drawAll();
  return true;
}

function turnPlane() {
  if (DEPTH === 1 || IS_LESION) return;
  view.plane = (view.plane + 1) % PLANES.length;
  layOut();
  show();
}

function resetAndLayOut() {
  resetView();
  layOut();
  show();
}

// ---------------------------------------------------------------------------------------------------------------------
// Start.

let lockedOut = false;

function addButtons() {
  for (const [value, label, key] of CHOICES) addButton(byId("choices"), value, label, key, () => choose(value));
  const label = document.createElement("span");
  label.textContent = "How sure?";
  byId("ratings").append(label);
  for (let rating = 1; rating <= 5; rating++) addButton(byId("ratings"), rating, String(rating), "", () => rate(rating));
  byId("ratings").append(Object.assign(document.createElement("span"), { className: "faint", textContent: "1 a guess, 5 certain" }));
}

function addButton(parent, value, label, key, onClick) {
  const button = Object.assign(document.createElement("button"), { type: "button", value, textContent: label });
  if (key) button.append(Object.assign(document.createElement("kbd"), { textContent: key }));
  button.addEventListener("click", onClick);
  parent.append(button);
}

function begin(event) {
  event.preventDefault();
  restore();
  if (state.started) return goOn(); // in another window, after this one was opened
  const years = Number(byId("years").value);
  state.background = { role: byId("role").value, years };
  state.started = new Date().toISOString();
  document.activeElement.blur();
  takeOver();
  enterCase();
}

function goOn() {
  if (!state.started) {
    show("start");
    byId("role").focus();
    return;
  }
  takeOver();
  enterCase();
  if (!state.finished) pause("Welcome back");
}

function listen() {
  const click = (id, action) => byId(id).addEventListener("click", action);
  // A click does not take the focus, so that Enter stays the key for the next case.
  byId("reading").addEventListener("mousedown", (event) => event.preventDefault());
  byId("background").addEventListener("submit", begin);
  click("load", () => byId("file").click());
  byId("file").addEventListener("change", async (event) => {
    const problem = await loadProgress(event.target.files[0]);
    event.target.value = "";
    byId("start-note").textContent = problem;
    if (!problem) goOn();
  });
  click("next", next);
  click("undo", goBack);
  click("pause", () => pause());
  click("help", showKeys);
  click("download", () => {
    downloadAnswers();
    byId("end-note").textContent = "Saved. If no file has appeared, press the button again.";
  });
  click("dialog-close", closeDialog);
  click("dialog-save", downloadProgress);
  byId("dialog").addEventListener("cancel", (event) => lockedOut && event.preventDefault());
  byId("dialog").addEventListener("close", () => {
    isPaused = false;
    show();
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => document.hidden && pause());
  window.addEventListener("pagehide", save);
  window.addEventListener("resize", () => byId("reading").hidden || (layOut(), show()));
  window.addEventListener("beforeunload", (event) => {
    if (!storageWorks && state.started) event.preventDefault();
  });
  window.addEventListener("storage", ({ key }) => {
    if (key !== IN_WINDOW || lockedOut) return;
    lockedOut = true;
    openDialog("The study is open in another window", "", ["It goes on there. Please close this window."]);
  });
  setInterval(tick, 200);
}

if (typeof DecompressionStream === "undefined" || typeof OffscreenCanvas === "undefined") {
  show("start");
  byId("background").hidden = true;
  byId("start-note").textContent =
    "This browser is too old for the study. Please use a current Firefox, Chrome, Edge or Safari.";
} else {
  addButtons();
  restore();
  listen();
  goOn();
}
