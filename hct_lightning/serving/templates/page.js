"use strict";
// Everything that comes from a file or an answer is set as text, never as HTML.
const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const [viewer, scene, image, map] = ["viewer", "scene", "image", "map"].map($);
const BARS = 10; // classes that are shown
const FARTHEST = 16; // screen pixels of an image's pixel
let file = null; // what was dropped last
let size = [0, 0]; // of the image, width and height
let view = { x: 0, y: 0, scale: 1 }; // where the image's corner is on the screen, and how large its pixels

$("name").textContent = about.name;
$("takes").textContent = `${about.classes.length} classes, seen at ${about.size.join("×")} px; PNG, JPEG or TIFF up to ${about.max_mb} MB`;
$("token").hidden = !about.token;

// --- The answer

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

async function ask(asked, query = "") {
  const headers = { "Content-Type": "application/octet-stream" };
  if (about.token) headers.Authorization = `Bearer ${$("secret").value}`;
  const response = await fetch(`/predict${query}`, { method: "POST", body: asked, headers });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail || `status ${response.status}`);
  return answer;
}

function show(answer) {
  $("class").textContent = answer.class;
  const best = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  $("bars").replaceChildren(...best.slice(0, BARS).map(([name, probability]) => {
    const row = document.createElement("li");
    const [label, number] = [document.createElement("span"), document.createElement("span")];
    const bar = document.createElement("span");
    label.textContent = name;
    number.textContent = `${(100 * probability).toFixed(1)} %`;
    bar.className = "bar";
    bar.style.setProperty("--share", `${100 * probability}%`);
    row.append(label, number, bar);
    return row;
  }));
  $("times").textContent = `${answer.time_ms.toFixed(0)} ms, of these ${answer.network_ms.toFixed(0)} in the network`;
}

function forget() {
  for (const id of ["class", "times"]) $(id).textContent = "";
  $("bars").replaceChildren();
  map.hidden = true;
}

async function take(dropped) {
  if (!dropped) return;
  file = dropped;
  forget();
  look(dropped);
  say(`Asking about ${dropped.name || "the image"} …`);
  try {
    const answer = await ask(dropped);
    if (file !== dropped) return; // another one has been dropped meanwhile
    show(answer);
    say(dropped.name || "");
    $("where").hidden = !about.map;
  } catch (error) {
    if (file === dropped) say(error.message, true);
  }
}

// --- The map: by how much the answer's probability falls where a part of the image is grey

async function explain() {
  const asked = file;
  if (!map.hidden) { map.hidden = true; return; }
  $("where").disabled = true;
  say("Greying one part after the other …");
  try {
    const { map: found } = await ask(asked, "?map=true");
    if (file !== asked) return;
    draw(found);
    say(asked.name || "");
  } catch (error) {
    if (file === asked) say(error.message, true);
  } finally {
    $("where").disabled = false;
  }
}

function draw({ drop, region: [top, left, height, width] }) {
  const most = Math.max(1e-6, ...drop.flat().map(Math.abs));
  [map.width, map.height] = [drop[0].length, drop.length];
  const paint = map.getContext("2d");
  drop.forEach((row, y) => row.forEach((fall, x) => {
    paint.fillStyle = fall > 0 ? `rgba(255, 60, 0, ${fall / most})` : `rgba(0, 90, 255, ${-fall / most})`;
    paint.fillRect(x, y, 1, 1);
  }));
  Object.assign(map.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  map.hidden = false;
}

// --- The image, moved and zoomed

function look(dropped) {
  if (image.src) URL.revokeObjectURL(image.src);
  $("where").hidden = true;
  $("choose").hidden = $("tools").hidden = true;
  image.onload = () => {
    size = [image.naturalWidth, image.naturalHeight];
    viewer.hidden = $("tools").hidden = false;
    fit();
    viewer.focus();
  };
  image.onerror = () => { // a TIFF, say, which most browsers don't show
    viewer.hidden = true;
    $("choose").hidden = false;
  };
  image.src = URL.createObjectURL(dropped);
}

function place() {
  scene.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  scene.classList.toggle("near", view.scale > 1);
  $("zoom").textContent = `${(100 * view.scale * devicePixelRatio).toPrecision(3)} %`;
}

function fit() {
  const scale = Math.min(viewer.clientWidth / size[0], viewer.clientHeight / size[1]);
  view = { scale, x: (viewer.clientWidth - size[0] * scale) / 2, y: (viewer.clientHeight - size[1] * scale) / 2 };
  place();
}

function zoom(factor, x = viewer.clientWidth / 2, y = viewer.clientHeight / 2) {
  const least = Math.min(viewer.clientWidth / size[0], viewer.clientHeight / size[1]) / 2;
  const scale = Math.min(FARTHEST, Math.max(least, view.scale * factor));
  const by = scale / view.scale;
  view = { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
  place();
}

function move(x, y) {
  view.x += x;
  view.y += y;
  place();
}

const full = () => zoom(1 / (view.scale * devicePixelRatio));
const keys = {
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": fit, "1": full,
  ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
};
viewer.addEventListener("keydown", (event) => {
  if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  keys[event.key]();
});
viewer.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = viewer.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

const fingers = new Map();
viewer.addEventListener("pointerdown", (event) => {
  viewer.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
});
viewer.addEventListener("pointermove", (event) => {
  if (!fingers.has(event.pointerId)) return;
  const [x, y] = fingers.get(event.pointerId);
  const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  if (!others.length) { move(event.clientX - x, event.clientY - y); return; }
  const [[a, b], box] = [others[0], viewer.getBoundingClientRect()];
  const before = Math.hypot(x - a, y - b) || 1;
  zoom(Math.hypot(event.clientX - a, event.clientY - b) / before, (event.clientX + a) / 2 - box.left, (event.clientY + b) / 2 - box.top);
});
for (const name of ["pointerup", "pointercancel"]) viewer.addEventListener(name, (event) => fingers.delete(event.pointerId));

$("token").onsubmit = (event) => { event.preventDefault(); take(file); };
$("in").onclick = () => zoom(1.5);
$("out").onclick = () => zoom(1 / 1.5);
$("fit").onclick = fit;
$("full").onclick = full;
$("where").onclick = explain;
$("another").onclick = () => $("file").click();
$("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", () => document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
