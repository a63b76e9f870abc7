// A canvas that the picture follows.
import { ask, at, say, show, state, views } from "/web/state.js";

const canvas = at("canvas"), pen = canvas.getContext("2d"), brush = { x: 256, y: 256 };
let asSaved = null; // what a saved picture began with, to the byte, until something is painted

const stroke = () => ask("paint", () => ({ image: asSaved ?? canvas.toDataURL("image/jpeg", 0.9), strength: +at("strength").value }));

function cover(colour) { asSaved = null; pen.fillStyle = colour; pen.fillRect(0, 0, canvas.width, canvas.height); }

function dab() {
  asSaved = null;
  pen.fillStyle = at("colour").value;
  pen.beginPath();
  pen.arc(brush.x, brush.y, at("brush").value / 2, 0, 7);
  pen.fill();
  stroke();
}

function put(image) {
  asSaved = null;
  const scale = Math.max(canvas.width / image.naturalWidth, canvas.height / image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  pen.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  stroke();
}

async function load(source, name) {
  const image = new Image();
  image.src = source;
  try { await image.decode(); put(image); return true; } catch { say(`${name} is no picture that this browser shows`, true); return false; }
}

async function open(file) {
  const source = URL.createObjectURL(file);
  await load(source, file.name);
  URL.revokeObjectURL(source);
}

views.paint = {
  shown: stroke,
  changed: stroke,
  async read(found) {
    at("strength").value = found.strength;
    if (found.image && await load(found.image, "what it began with")) asSaved = found.image;
    stroke();
  },
  answered(message) {
    if (!message.image) return;
    show(at("painted"), message.image);
    at("save-painted").href = message.image;
    at("save-painted").hidden = false;
    say(`${Math.round(performance.now() - state.begun)} ms`);
  },
};

for (const kind of ["pointerdown", "pointermove"]) canvas.addEventListener(kind, (event) => {
  if (!event.buttons) return;
  if (kind === "pointerdown") canvas.setPointerCapture(event.pointerId);
  const box = canvas.getBoundingClientRect();
  brush.x = (event.clientX - box.left) * canvas.width / box.width;
  brush.y = (event.clientY - box.top) * canvas.height / box.height;
  dab();
});
canvas.addEventListener("keydown", (event) => {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, way = ways[event.key];
  if (!way && event.key !== " ") return;
  event.preventDefault();
  if (!way) { dab(); return; }
  brush.x = Math.min(canvas.width, Math.max(0, brush.x + way[0] * 24));
  brush.y = Math.min(canvas.height, Math.max(0, brush.y + way[1] * 24));
  say(`brush at ${brush.x}, ${brush.y}`);
  if (event.shiftKey) dab();
});
at("strength").addEventListener("input", stroke);
at("clear").addEventListener("click", () => { cover("#1c2a5a"); stroke(); });
at("take").addEventListener("click", () => {
  const last = at("painted").src ? at("painted") : at("drawn");
  if (last.src) put(last); else say("there is no picture yet", true);
});
at("picture").addEventListener("change", (event) => {
  if (event.target.files[0]) open(event.target.files[0]);
  event.target.value = "";
});
canvas.addEventListener("dragover", (event) => event.preventDefault());
canvas.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});
cover("#1c2a5a");
