// A run under way: asked for again and again, shown anew where something has changed.
import { at, say, state, views } from "/web/state.js";

const EVERY = 2000; // milliseconds
let version = "", timer = null;

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

function chart(facts) {
  const section = document.createElement("section");
  element("h2", facts.title, section);
  const drawing = element("div", undefined, section);
  drawing.innerHTML = facts.svg; // of our own making, and no script runs here
  const list = element("ul", undefined, section);
  for (const entry of facts.legend) {
    const item = element("li", undefined, list), mark = element("i", undefined, item);
    mark.style.background = entry.colour;
    mark.style.opacity = entry.opacity;
    item.append(`${entry.name}: ${entry.last}`);
  }
  return section;
}

function picture(entry) {
  const figure = document.createElement("figure"), link = element("a", undefined, figure), image = element("img", undefined, link);
  link.href = image.src = `/run/${entry.path}?changed=${entry.changed}`;
  image.alt = entry.label;
  image.loading = "lazy";
  element("figcaption", entry.label, figure);
  return figure;
}

function tell(found) {
  at("run-name").textContent = found.name;
  at("run-state").textContent = found.step === null ? "No line of metrics.jsonl yet." : `${found.step} updates`;
  at("numbers").replaceChildren(...found.numbers.map(([name, value]) => {
    const box = document.createElement("div");
    element("dt", name, box);
    element("dd", value, box);
    return box;
  }));
  at("concerns").replaceChildren(...found.concerns.map((text) => Object.assign(element("p", text), { className: "bad" })));
  at("grids").replaceChildren(...found.pictures.reverse().map(picture));
  at("charts").replaceChildren(...found.charts.map(chart));
}

async function refresh() {
  clearTimeout(timer);
  if (state.view !== "run") return;
  try {
    const answer = await fetch(`/run?version=${encodeURIComponent(version)}`), found = await answer.json();
    if (found.error) say(found.error, true);
    else if (found.version !== version) { version = found.version; tell(found); say(""); }
  } catch { say("no server; trying again", true); }
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY);
}

views.run = { shown: refresh };
