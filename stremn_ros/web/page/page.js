"use strict";
// The page of `stremn view`: shows pictures with masks, and sends what people click.

const $ = (id) => document.getElementById(id);
const STATES = {
  TRACKED: "tracked", OCCLUDED: "hidden", LOST: "lost", GIVEN: "given", "NOT SEGMENTED": "not in this frame",
};
const HINTS = {
  inside: matchMedia("(pointer: coarse)").matches
    ? "Tap on the object, or drag a box around it." : "Click on the object. Drag for a box. Shift-click: not the object.",
  outside: "Show what is not the object.",
  box: "Drag a box around the object.",
  polygon: "Draw around the object, or click the corners and double-click to close.",
};
const DRAG = 6; // pixels of the screen from which a click is a drag

const state = {
  socket: null, wait: 500, hello: null, status: {}, answers: new Map(), asked: 0,
  shown: null, // the picture on the screen: {head, bitmap, labels, columns, rows}
  newest: null, skipped: 0, last: 0, incoming: null, decoding: false,
  hints: [], stamp: null, mask: null, about: "", asking: false, again: false, target: 0, draft: [],
  following: false, // an answer is on its way
  halted: null, // the answer to the pause of a video that was playing when its picture was taken
  cross: null, drag: null, pressed: false, seeking: false, sought: null, awaited: false,
  turn: 0, // counts the changes of camera or server
  round: 0, // counts the objects that were begun: an answer may come to hints that were dropped
  camera: null, // the tab that was chosen; null for the first
};
window.stremn = state; // for tests and the curious; nothing of it is secret

// ------------------------------------------------------------------ connection

function connect() {
  clearTimeout(state.timer);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const which = state.camera === null ? "" : `?camera=${encodeURIComponent(state.camera)}`;
  const socket = new WebSocket(`${scheme}//${location.host}/live${which}`);
  socket.binaryType = "arraybuffer";
  state.socket = socket;
  socket.onmessage = (event) => {
    if (socket !== state.socket) return; // of the camera before
    if (typeof event.data === "string") takeText(JSON.parse(event.data));
    else takePicture(event.data);
  };
  socket.onclose = () => {
    if (socket !== state.socket) return; // another tab was chosen
    for (const [, settle] of state.answers) settle({ ok: false, message: "the connection was lost" });
    state.answers.clear();
    link("no connection", "bad");
    notice("Connection lost. Connecting again …");
    sayIfRefused(socket);
    state.timer = setTimeout(connect, state.wait);
    state.wait = Math.min(5000, state.wait * 1.6);
  };
}

// a server that was started again has another token; a WebSocket does not tell that it was refused
async function sayIfRefused(socket) {
  const answer = await fetch("/icon.svg").catch(() => null);
  if (answer && answer.status === 401 && socket === state.socket) {
    notice("The server was started again. Open the link that it printed now.");
  }
}

function send(message) {
  if (state.socket && state.socket.readyState === WebSocket.OPEN) state.socket.send(JSON.stringify(message));
}

function ask(action, fields = {}) {
  return new Promise((settle) => {
    if (!state.socket || state.socket.readyState !== WebSocket.OPEN) {
      settle({ ok: false, message: "there is no connection" });
      return;
    }
    const id = ++state.asked;
    state.answers.set(id, settle);
    send({ id, do: action, ...fields });
  });
}

async function order(action, fields) {
  const answer = await ask(action, fields);
  if (answer.ok && (action === "play" || action === "pause")) { // the status says it in a while
    takeStatus({ ...state.status, playing: action === "play" });
  }
  if (!answer.ok || ["export", "reset", "remove", "follow", "save", "load"].includes(action)) say(answer.message, !answer.ok);
  return answer;
}

function takeText(message) {
  if (message.hello) {
    if (state.hello && state.hello.run !== message.hello.run) forgetPictures(); // another server
    state.hello = message.hello;
    state.wait = 500;
    state.last = 0;
    $("title").textContent = message.hello.title;
    document.title = `${message.hello.title} – stremn`;
    const able = (name) => message.hello.abilities.includes(name);
    $("transport").hidden = !able("seek");
    $("pause").hidden = able("seek") || !able("pause");
    $("export").hidden = !able("export");
    $("save").hidden = !able("save");
    $("load").hidden = !able("load");
    listCameras(message.hello.cameras, message.hello.camera);
    notice("");
  }
  if (message.status) takeStatus(message.status);
  if (message.answer !== undefined) {
    const settle = state.answers.get(message.answer);
    state.answers.delete(message.answer);
    if (settle) settle(message);
    else if (!message.ok) say(message.message, true);
  }
}

function takeStatus(status) {
  state.status = status;
  const live = status.live !== false;
  if (status.stopped) link("stream stopped", "bad");
  else if (status.playing) link(live ? "live" : "playing", "good");
  else link("paused", "");
  notice(status.problem || status.doing || (status.stopped ? "The stream has stopped: no new picture comes." : ""));
  $("rate").textContent = status.rate ? `${status.rate.toFixed(1)} /s` : "–";
  $("latency").textContent = status.latency ? `${Math.round(status.latency * 1000)} ms` : "–";
  $("dropped").textContent = `${status.dropped} / ${state.skipped}`;
  $("play").textContent = status.playing ? "Pause" : "Play";
  $("pause").textContent = status.playing ? "Pause" : "Go on";
  $("seek").max = Math.max(0, (status.count || 1) - 1);
  showPosition();
}

function showPosition() {
  const at = state.shown ? state.shown.head.position : 0;
  if (!state.seeking) $("seek").value = at;
  $("where").textContent = `${state.seeking ? $("seek").value : at} / ${Math.max(0, (state.status.count || 1) - 1)}`;
}

// ------------------------------------------------------------------ pictures

async function takePicture(buffer) {
  state.incoming = buffer; // an older one that was not decoded yet is left out
  if (state.decoding) return;
  state.decoding = true;
  while (state.incoming) {
    const data = state.incoming;
    const { turn } = state;
    state.incoming = null;
    try {
      const picture = await decode(data);
      if (turn !== state.turn) {
        picture.bitmap.close();
        continue;
      }
      const number = picture.head.number;
      if (state.last && number > state.last + 1) state.skipped += number - state.last - 1;
      state.last = number;
      if (state.newest && state.newest !== state.shown) state.newest.bitmap.close();
      state.newest = picture;
      if (state.stamp === null && !state.pressed) show(picture);
      else listObjects(picture.head.objects);
      send({ id: 0, do: "ack", number });
    } catch (error) {
      say(`a picture could not be shown: ${error.message}`, true);
    }
  }
  state.decoding = false;
}

async function decode(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  const [bitmap, labels] = await Promise.all([
    createImageBitmap(new Blob([new Uint8Array(buffer, start, head.jpeg)], { type: "image/jpeg" })),
    readLabels(new Uint8Array(buffer, start + head.jpeg)),
  ]);
  return { head, bitmap, labels, columns: bitmap.width, rows: bitmap.height };
}

const scratch = document.createElement("canvas");
let reading = Promise.resolve();

// the values of a grey PNG, one byte a pixel; one after the other, as they share a canvas
function readLabels(bytes) {
  const work = reading.then(async () => {
    const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), options);
    scratch.width = bitmap.width;
    scratch.height = bitmap.height;
    const context = scratch.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const pixels = context.getImageData(0, 0, scratch.width, scratch.height).data;
    const labels = new Uint8Array(pixels.length / 4);
    for (let n = 0; n < labels.length; n++) labels[n] = pixels[4 * n];
    return labels;
  });
  reading = work.catch(() => undefined);
  return work;
}

function show(picture) {
  if (state.shown && state.shown !== picture) state.shown.bitmap.close();
  state.shown = picture;
  if (state.awaited) state.seeking = state.awaited = false;
  listObjects(picture.head.objects);
  showPosition();
  draw();
}

function color(label) {
  const text = state.hello ? state.hello.palette[label] : "#ffffff";
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

const tint = document.createElement("canvas");

function draw() {
  const { shown } = state;
  if (!shown) return;
  const { columns, rows } = shown;
  const canvas = $("picture");
  if (canvas.width !== columns || canvas.height !== rows) {
    canvas.width = tint.width = columns;
    canvas.height = tint.height = rows;
    $("view").style.setProperty("--aspect", columns / rows);
  }
  const context = canvas.getContext("2d");
  context.drawImage(shown.bitmap, 0, 0);
  const layer = tint.getContext("2d");
  const image = layer.createImageData(columns, rows);
  const words = new Uint32Array(image.data.buffer);
  const fill = new Uint32Array(256), edge = new Uint32Array(256);
  for (let label = 1; label < 256; label++) {
    const [red, green, blue] = color(label);
    const light = (value) => Math.round(0.45 * value + 0.55 * 255);
    fill[label] = ((118 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    edge[label] = ((255 << 24) | (light(blue) << 16) | (light(green) << 8) | light(red)) >>> 0;
  }
  paint(words, shown.labels, columns, rows, fill, edge);
  if (state.mask && state.mask.columns === columns && state.mask.rows === rows) {
    const white = new Uint32Array(256).fill(((110 << 24) | 0xffffff) >>> 0);
    const bright = new Uint32Array(256).fill(0xffffffff);
    paint(words, state.mask.labels, columns, rows, white, bright);
  }
  layer.putImageData(image, 0, 0);
  context.drawImage(tint, 0, 0);
  drawMarks();
}

function paint(words, labels, columns, rows, fill, edge) {
  const reach = Math.max(1, Math.round(Math.min(rows, columns) / 300)); // width of the outline
  const down = reach * columns;
  for (let y = 0, n = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, n++) {
      const label = labels[n];
      if (!label) continue;
      const inner = x >= reach && y >= reach && x < columns - reach && y < rows - reach
        && labels[n - reach] === label && labels[n + reach] === label
        && labels[n - down] === label && labels[n + down] === label;
      words[n] = inner ? fill[label] : edge[label];
    }
  }
}

function drawMarks() {
  const canvas = $("marks");
  const bounds = canvas.getBoundingClientRect();
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(bounds.width * density);
  canvas.height = Math.round(bounds.height * density);
  const { shown } = state;
  if (!shown) return;
  const context = canvas.getContext("2d");
  const scale = canvas.width / shown.head.width;
  const place = ([x, y]) => [x * scale, y * scale];
  const stroke = (width, style) => {
    context.lineWidth = width * density;
    context.strokeStyle = style;
    context.stroke();
  };
  const outline = (points, closed) => {
    if (!points.length) return;
    context.beginPath();
    points.forEach((point, n) => context[n ? "lineTo" : "moveTo"](...place(point)));
    if (closed) context.closePath();
    stroke(4, "rgba(0,0,0,.6)");
    stroke(2, "#fff");
  };
  const corners = ([x, y, w, h]) => [[x, y], [x + w, y], [x + w, y + h], [x, y + h]];
  for (const hint of state.hints) {
    if (hint.kind === "box") outline(corners(hint.value), true);
    else if (hint.kind === "polygon") outline(hint.value, true);
    else {
      context.beginPath();
      context.arc(...place(hint.value), 6 * density, 0, 2 * Math.PI);
      context.fillStyle = hint.kind === "inside" ? "#1fd6a8" : "#ff5a5a";
      context.fill();
      stroke(2, "#fff");
    }
  }
  if (state.draft.length) {
    if (tool() === "box" && state.cross) outline(corners(boxOf(state.draft[0], state.cross)), true);
    else outline(state.drag || !state.cross ? state.draft : [...state.draft, state.cross], false);
  }
  if (state.drag && state.drag.box) outline(corners(state.drag.box), true);
  if (state.cross && document.activeElement === canvas) {
    const [x, y] = place(state.cross);
    for (const [width, style] of [[4, "rgba(0,0,0,.6)"], [2, "#fff"]]) {
      context.beginPath();
      context.moveTo(x - 12 * density, y);
      context.lineTo(x + 12 * density, y);
      context.moveTo(x, y - 12 * density);
      context.lineTo(x, y + 12 * density);
      stroke(width, style);
    }
  }
}

// ------------------------------------------------------------------ hints

const tool = () => document.querySelector("input[name=tool]:checked").value;

function useTool(name) {
  document.querySelector(`input[name=tool][value=${name}]`).checked = true;
  state.draft = [];
  letGo();
  tell();
  drawMarks();
}

function hold() { // the picture that is shown stays until the hints are used or dropped
  if (!state.shown || state.stamp !== null) return;
  state.stamp = state.shown.head.stamp;
  if (state.hello.abilities.includes("hold")) ask("hold", { stamp: state.stamp });
  // only a video can wait; it keeps the picture for a moment only while it plays
  if (state.status.live === false && state.status.playing) state.halted = order("pause");
}

function letGo() { // where the picture was held for nothing
  if (state.stamp === null || state.hints.length || state.draft.length || state.target) return;
  state.stamp = null;
  if (state.halted) state.halted.then(() => order("play"));
  state.halted = null;
  if (state.newest && state.newest !== state.shown) show(state.newest);
}

function tell() {
  $("hint").textContent = state.asking ? "Making the mask …" : state.target && !state.hints.length
    ? `Seed object ${state.target} again: click on it.`
    : state.mask ? `The mask: ${state.about}. ${HINTS[tool()]}` : HINTS[tool()];
  const some = state.hints.length > 0;
  $("follow").disabled = !some || !state.mask || state.following;
  $("undo").disabled = !some;
  $("cancel").disabled = !some && !state.target && !state.draft.length && state.stamp === null;
  $("held").hidden = state.stamp === null || state.status.live === false;
  $("follow").textContent = state.target ? "Seed again" : "Follow";
}

function boxOf([x1, y1], [x2, y2]) {
  const x = Math.floor(Math.min(x1, x2)), y = Math.floor(Math.min(y1, y2));
  return [x, y, Math.max(1, Math.ceil(Math.max(x1, x2)) - x), Math.max(1, Math.ceil(Math.max(y1, y2)) - y)];
}

function addHint(kind, value) {
  if (!state.shown) return;
  if (kind === "outside" && !state.hints.length) {
    say("First show the object: click on it.", true);
    return;
  }
  hold();
  const one = kind === "box" || kind === "polygon";
  if (one) state.hints = state.hints.filter((hint) => hint.kind !== "box" && hint.kind !== "polygon");
  state.hints.push({ kind, value });
  state.draft = [];
  if ($("atonce").checked && state.hints.length === 1 && !state.following) follow();
  else preview();
  tell();
  drawMarks();
}

function fields() {
  const of = (kind) => state.hints.filter((hint) => hint.kind === kind).map((hint) => hint.value);
  return {
    stamp: state.stamp, object: state.target, inside: of("inside"), outside: of("outside"),
    box: of("box")[0] || null, polygon: of("polygon")[0] || [],
  };
}

async function preview() {
  if (state.asking) {
    state.again = true;
    return;
  }
  state.asking = true;
  tell();
  do {
    state.again = false;
    const { round } = state;
    const answer = await ask("preview", fields());
    if (round !== state.round || state.again) continue;
    if (answer.ok) {
      const bytes = Uint8Array.from(atob(answer.mask), (letter) => letter.charCodeAt(0));
      const labels = await readLabels(bytes);
      if (round !== state.round || !state.shown) continue;
      state.mask = { labels, columns: state.shown.columns, rows: state.shown.rows };
      state.about = answer.message;
    } else {
      state.mask = null;
      say(answer.message, true);
    }
  } while (state.again && state.stamp !== null);
  state.asking = false;
  if (state.stamp === null) state.mask = null;
  tell();
  draw();
}

async function follow() {
  // twice would make two objects of one
  if (!state.hints.length || state.following) return;
  const { round } = state;
  state.following = true;
  tell();
  const answer = await order("follow", { ...fields(), name: $("name").value });
  state.following = false;
  if (answer.ok && state.round === round) drop();
  tell();
}

function drop() {
  state.round++;
  Object.assign(state, { hints: [], stamp: null, mask: null, target: 0, draft: [], drag: null, pressed: false, halted: null });
  $("name").value = "";
  if (state.newest) show(state.newest);
  tell();
}

function undo() {
  state.hints.pop();
  if (state.hints.some((hint) => hint.kind !== "outside")) {
    preview();
    tell();
    drawMarks();
  } else drop();
}

// ------------------------------------------------------------------ pointer and keys

function pixel(event) {
  const bounds = $("marks").getBoundingClientRect();
  const { width, height } = state.shown.head;
  const within = (value, most) => Math.max(0, Math.min(most - 0.01, value));
  return [
    within(((event.clientX - bounds.left) / bounds.width) * width, width),
    within(((event.clientY - bounds.top) / bounds.height) * height, height),
  ];
}

$("marks").addEventListener("pointerdown", (event) => {
  if (!state.shown || event.button !== 0) return;
  const at = pixel(event);
  state.cross = null;
  state.drag = { from: at, x: event.clientX, y: event.clientY, moved: false, path: [at], box: null };
  $("marks").setPointerCapture(event.pointerId);
  state.pressed = true;
  hold();
});

$("marks").addEventListener("pointermove", (event) => {
  const { drag } = state;
  if (!drag) return;
  const at = pixel(event);
  if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > DRAG) drag.moved = true;
  if (!drag.moved) return;
  if (tool() === "polygon") {
    const [x, y] = drag.path[drag.path.length - 1];
    if (Math.hypot(at[0] - x, at[1] - y) > 2) drag.path.push(at);
    // a message holds so many; a slow hand gets coarser, it does not stop
    if (drag.path.length > 900) drag.path = drag.path.filter((_, n) => n % 2 === 0);
    state.draft = drag.path;
  } else if (tool() !== "outside") drag.box = boxOf(drag.from, at);
  drawMarks();
});

$("marks").addEventListener("pointerup", (event) => {
  const { drag } = state;
  state.drag = null;
  if (!drag) return;
  const name = tool();
  if (name === "polygon") {
    if (drag.moved) {
      if (drag.path.length > 2) addHint("polygon", drag.path);
    } else addCorner(drag.from);
  } else if (drag.moved && drag.box) addHint("box", drag.box);
  else if (name === "box") say("Drag a box around the object.", false);
  else addHint(event.shiftKey || name === "outside" ? "outside" : "inside", drag.from);
  release();
});

function release() {
  state.drag = null;
  state.pressed = false;
  letGo();
  tell();
  drawMarks();
}

$("marks").addEventListener("pointercancel", release);
$("marks").addEventListener("dblclick", () => { if (tool() === "polygon") closePolygon(); });
$("marks").addEventListener("focus", drawMarks);
$("marks").addEventListener("blur", drawMarks);

function addCorner(at) {
  hold();
  state.draft.push(at);
  tell();
}

function closePolygon() {
  const corners = state.draft.filter(
    ([x, y], n, all) => !n || Math.hypot(x - all[n - 1][0], y - all[n - 1][1]) > 1);
  if (corners.length >= 3) addHint("polygon", corners);
  else say("An outline needs three corners or more.", true);
}

function pressAtCross(kind) {
  if (!state.shown) return;
  const { width, height } = state.shown.head;
  if (!state.cross) state.cross = [width / 2, height / 2];
  const at = [...state.cross];
  if (kind === "outside") addHint("outside", at);
  else if (tool() === "polygon") addCorner(at);
  else if (tool() === "box") {
    if (state.draft.length) addHint("box", boxOf(state.draft[0], at));
    else addCorner(at);
  } else addHint(tool(), at);
  drawMarks();
}

function moveCross(event) {
  const { width, height } = state.shown.head;
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const pace = event.altKey ? 1 : Math.max(1, width / 50);
  const [x, y] = state.cross || [width / 2, height / 2];
  state.cross = [
    Math.max(0, Math.min(width - 1, x + dx * pace)), Math.max(0, Math.min(height - 1, y + dy * pace)),
  ];
  drawMarks();
}

document.addEventListener("keydown", (event) => {
  // the keys of the browser, and those with which Chinese or Japanese is typed
  if (event.ctrlKey || event.metaKey || event.isComposing || event.keyCode === 229) return;
  if (event.altKey && !event.key.startsWith("Arrow")) return;
  const on = event.target;
  if (event.key === "Escape") { drop(); $("marks").focus(); return; }
  if (on.id === "name" || (on.id === "seek" && event.key.length > 1)) return; // it has arrows of its own
  const picture = on === $("marks");
  const key = event.key.toLowerCase();
  const press = ["BUTTON", "SUMMARY", "INPUT"].includes(on.tagName) && on.id !== "seek";
  if (picture && event.key.startsWith("Arrow") && state.shown) moveCross(event);
  else if (picture && event.key === "Enter") pressAtCross(event.shiftKey ? "outside" : "inside");
  else if (picture && key === "x") pressAtCross("outside");
  else if (key === "c" && tool() === "polygon") closePolygon();
  else if (key === "f") { if (!event.repeat) follow(); }
  else if (key === "u") { if (state.hints.length) undo(); }
  else if (event.key === " " && !press) playOrPause();
  else if (key === "." && !$("transport").hidden) step(event.repeat);
  else if ("1234".includes(key) && !press) useTool(["inside", "outside", "box", "polygon"][key - 1]);
  else return;
  event.preventDefault();
});

// ------------------------------------------------------------------ the rest of the page

function listObjects(objects) {
  const list = $("objects");
  $("count").textContent = objects.length ? `(${objects.length})` : "";
  $("none").hidden = objects.length > 0;
  const rows = new Map([...list.children].map((row) => [Number(row.dataset.id), row]));
  for (const item of objects) {
    // a row is kept while its object is there, so that the keyboard's focus stays
    const row = rows.get(item.id) || newRow(item.id);
    rows.delete(item.id);
    list.append(...(row.parentNode === list ? [] : [row]));
    const title = item.name || `object ${item.id}`;
    row.className = item.state.toLowerCase().replace(" ", "-") + (state.target === item.id ? " target" : "");
    row.querySelector(".name").textContent = title;
    const facts = [STATES[item.state] || item.state];
    if (item.score !== undefined && item.score !== null) facts.push(`score ${item.score.toFixed(2)}`);
    if (item.area !== undefined) facts.push(`${item.area.toLocaleString("en")}\u00a0px`);
    row.querySelector(".facts").textContent = facts.join(" · ");
    row.querySelector(".again").setAttribute("aria-label", `Seed ${title} again`);
    row.querySelector(".remove").setAttribute("aria-label", `Remove ${title}`);
  }
  for (const row of rows.values()) row.remove();
}

function newRow(id) {
  const row = document.createElement("li");
  row.dataset.id = id;
  const part = (kind, className, text = "") => {
    const made = document.createElement(kind);
    made.className = className;
    made.textContent = text;
    row.append(made);
    return made;
  };
  part("span", "color").style.background = `rgb(${color(id).join(" ")})`;
  part("span", "name");
  part("span", "facts");
  part("button", "again", "Again").onclick = () => {
    drop();
    state.target = id;
    useTool("inside");
    listObjects(state.shown.head.objects);
    $("marks").focus();
  };
  part("button", "remove", "✕").onclick = () => order("remove", { object: id });
  return row;
}

function listCameras(names, chosen) {
  const tabs = $("cameras");
  tabs.hidden = names.length < 2;
  tabs.replaceChildren(...names.map((name) => {
    const tab = document.createElement("button");
    tab.textContent = name;
    tab.ariaCurrent = name === chosen ? "true" : "false";
    tab.onclick = () => choose(name);
    return tab;
  }));
}

function forgetPictures() {
  state.turn++;
  if (state.shown) state.shown.bitmap.close();
  state.shown = state.newest = state.incoming = null;
  drop();
  $("picture").getContext("2d").clearRect(0, 0, $("picture").width, $("picture").height);
  drawMarks();
  listObjects([]);
}

function choose(name) {
  const old = state.socket;
  state.camera = name;
  for (const [, settle] of state.answers) settle({ ok: false, message: "another camera was chosen" });
  state.answers.clear();
  forgetPictures(); // what is clicked is of this camera
  connect();
  old.close();
}

let quiet = 0;
function say(text, bad = false) {
  const message = $("message");
  message.textContent = text;
  message.className = `shown${bad ? " bad" : ""}`;
  clearTimeout(quiet);
  quiet = setTimeout(() => { message.className = bad ? "bad" : ""; }, bad ? 7000 : 3500);
}

function notice(text) {
  $("notice").hidden = !text;
  if ($("notice").textContent !== text) $("notice").textContent = text;
}

function link(text, kind) {
  $("link").textContent = text;
  $("link").className = `pill ${kind}`;
}

const playOrPause = () => order(state.status.playing ? "pause" : "play");
$("play").onclick = playOrPause;
$("pause").onclick = playOrPause;
let stepping = 0;
async function step(repeated) { // a key that is held gives more than can be done
  if (repeated && stepping) return;
  stepping++;
  await order("step");
  stepping--;
}
$("step").onclick = () => step(false);
$("export").onclick = () => order("export");
$("save").onclick = () => order("save");
$("load").onclick = () => {
  if (confirm("Go on from the saved memory? The objects followed now are forgotten.")) { drop(); order("load"); }
};
$("reset").onclick = () => { drop(); order("reset"); };
$("undo").onclick = undo;
$("cancel").onclick = drop;
$("new").onsubmit = (event) => { event.preventDefault(); follow(); };
$("seek").oninput = () => { state.seeking = true; state.awaited = false; showPosition(); };
$("seek").onchange = async () => { // one after the other: a key that is held gives many
  const more = state.sought !== null;
  state.sought = Number($("seek").value);
  state.seeking = true;
  drop();
  if (more) return;
  let answer, before;
  for (let number = null; number !== state.sought;) {
    number = state.sought;
    before = state.shown;
    answer = await order("seek", { number });
  }
  state.sought = null;
  // until its picture is there the bar stays where it was put
  state.awaited = answer.ok && state.shown === before;
  state.seeking = state.awaited;
  showPosition();
};
for (const radio of document.querySelectorAll("input[name=tool]")) radio.onchange = () => useTool(radio.value);
$("theme").onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : !matchMedia("(prefers-color-scheme: light)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("stremn-theme", root.dataset.theme); } catch { /* private window */ }
};
try {
  const theme = localStorage.getItem("stremn-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* private window */ }
new ResizeObserver(drawMarks).observe($("view"));
tell();
connect();
