// What the page knows, and its connection: every view asks through `ask`, and hears answers to the
// newest question alone.

export const at = (id) => document.getElementById(id);
export const views = {}; // name -> { shown(), answered(message), stopped() }
export const state = { stage: null, view: "files", number: 0, begun: 0, largest: 0 };

const KEPT = "lcm-play"; // what a reload of this tab finds again
let socket = null, waiting = null, asking = null;

export function say(text, isBad = false) {
  at("said").value = text;
  at("said").classList.toggle("bad", isBad);
}

export function settings() {
  const lead = at("lead").value || null, weights = {};
  for (const slider of document.querySelectorAll("#styles input")) weights[slider.dataset.name] = +slider.value;
  if (lead) weights[lead] = +at("lead-weight").value;
  return { prompt: at("prompt").value, negative: at("negative").value, seed: Math.max(0, Math.floor(+at("seed").value || 0)),
    steps: +at("steps").value, guidance: +at("guidance").value, lead, weights };
}

export const kept = () => { try { return JSON.parse(sessionStorage.getItem(KEPT)) ?? {}; } catch { return {}; } };
export const keep = (more) => sessionStorage.setItem(KEPT, JSON.stringify({ ...kept(), ...more }));

// `more()` is what a view adds; at most one question a frame, the newest
export function ask(view, more = () => ({})) {
  keep(settings());
  if (waiting !== null) { waiting = [view, more]; return; }
  waiting = [view, more];
  requestAnimationFrame(() => {
    const [name, add] = waiting;
    waiting = null;
    if (!socket || socket.readyState !== WebSocket.OPEN) return;
    if (asking !== name) views[asking]?.stopped?.(); // it will not be answered any more
    asking = name;
    state.begun = performance.now();
    socket.send(JSON.stringify({ view: name, number: ++state.number, ...settings(), ...add() }));
  });
}

export function connect(changed) {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.onclose = (event) => { say(`${event.reason || "no server"}; trying again`, true); setTimeout(() => connect(changed), 1000); };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.stage) { state.stage = message.stage; say(""); changed(); return; }
    if (message.number !== undefined && message.number !== state.number) return;
    if (message.error && message.column === undefined) say(message.error, true);
    views[message.view]?.answered?.(message);
  };
}

// a picture, enlarged without blur where it is small
export function show(image, source) {
  image.onload = () => image.classList.toggle("small", image.naturalWidth <= 256);
  image.src = source;
  image.classList.remove("waits");
}

export async function post(address, body) {
  const answer = await fetch(address, { method: "POST", body });
  const found = await answer.json();
  if (found.error && !answer.ok) throw new Error(found.error);
  return found;
}
