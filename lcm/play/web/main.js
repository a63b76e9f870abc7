// The controls that the views share, and the choice of a view.
import { ask, at, connect, keep, kept, post, say, settings, state, views } from "/web/state.js";
import "/web/draw.js";
import "/web/compare.js";
import "/web/paint.js";
import "/web/files.js";
import "/web/run.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const DRAWING = ["draw", "compare", "paint"];

// --- views ---------------------------------------------------------------------------------------

function choose(name, focus = false) {
  const tab = at(`tab-${name}`);
  if (!tab || tab.hidden) return;
  state.view = name;
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    at(other.id.slice(4)).hidden = !chosen;
  }
  at("controls").hidden = !DRAWING.includes(name);
  document.querySelector("main").classList.toggle("wide", !DRAWING.includes(name));
  history.replaceState(null, "", `#${name}`);
  if (focus) tab.focus();
  settle();
  views[name].shown?.();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab.id.slice(4)));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const there = tabs.filter((other) => !other.hidden);
    choose(there[(there.indexOf(tab) + step + there.length) % there.length].id.slice(4), true);
  });
}

// --- controls ------------------------------------------------------------------------------------

const leadFacts = () => state.stage?.adapters.find((adapter) => adapter.name === at("lead").value);

// what the chosen adapter has no use for is hidden; comparing is always with the teacher
function settle() {
  if (!state.stage) return;
  const lead = leadFacts(), compares = state.view === "compare";
  at("lead-row").hidden = !lead || compares;
  if (lead) removes(at("remove-lead"), lead.name);
  at("chosen").hidden = compares;
  at("steps").max = lead ? lead.most : state.stage.teacher.most;
  at("guided").hidden = Boolean(lead) && !lead.answers && !compares;
  at("steps").closest(".row").hidden = compares;
  for (const output of document.querySelectorAll("form output")) output.value = at(output.htmlFor[0]).value;
}

function removes(button, name) {
  button.title = `remove ${name}`;
  button.setAttribute("aria-label", button.title);
  button.onclick = () => remove(name);
}

async function remove(name) {
  say(`removing ${name}`);
  at(at("chosen").hidden ? "begin" : "lead").focus(); // the button will be gone
  try { await post(`/remove?name=${encodeURIComponent(name)}`); } catch (error) { say(error.message, true); }
}

function styles(weights) {
  const rows = state.stage.adapters.filter((adapter) => !adapter.few).map((adapter) => {
    const row = document.createElement("div"), label = document.createElement("label"), slider = document.createElement("input"),
      output = document.createElement("output");
    row.className = "row";
    slider.type = "range";
    Object.assign(slider, { id: `style-${adapter.name}`, min: -1, max: 2, step: 0.05, value: weights[adapter.name] ?? adapter.weight });
    slider.dataset.name = adapter.name;
    label.htmlFor = slider.id;
    label.textContent = label.title = adapter.name;
    output.htmlFor = slider.id;
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "remove", textContent: "×" });
    removes(button, adapter.name);
    row.append(label, slider, output, button);
    return row;
  });
  at("styles").replaceChildren(...rows);
}

// the numbers to begin with of the adapter that is chosen
function defaults() {
  const lead = leadFacts(), numbers = lead ?? state.stage.teacher;
  at("steps").max = numbers.most;
  at("steps").value = numbers.steps;
  at("guidance").value = !lead || lead.answers ? numbers.guidance : state.stage.teacher.guidance;
  if (lead) at("lead-weight").value = lead.weight || 1;
}

// puts settings into the controls; returns the adapters that are not here
function fill(found) {
  const known = state.stage.adapters.map((adapter) => adapter.name);
  for (const name of ["prompt", "negative", "seed", "steps", "guidance"]) if (found[name] !== undefined) at(name).value = found[name];
  const lead = leadFacts()?.name;
  if (lead && found.weights?.[lead]) at("lead-weight").value = found.weights[lead];
  styles(found.weights ?? {});
  settle();
  return Object.keys(found.weights ?? {}).filter((name) => !known.includes(name));
}

function changed() {
  const stage = state.stage, before = kept(), few = stage.adapters.filter((adapter) => adapter.few);
  at("base").textContent = `${stage.base}, ${stage.side[1]} x ${stage.side[0]}`;
  at("lead").replaceChildren(...few.map((adapter) => new Option(`${adapter.name} (${adapter.objective})`, adapter.name)), new Option("the teacher", ""));
  const has = before.lead !== undefined && [...at("lead").options].some((option) => option.value === (before.lead ?? ""));
  at("lead").value = has ? before.lead ?? "" : few[0]?.name ?? "";
  defaults();
  fill(has ? before : { ...before, steps: undefined, guidance: undefined });
  for (const name of DRAWING) at(`tab-${name}`).hidden = false;
  views.compare.stopped();
  const wanted = location.hash.slice(1) || "draw";
  choose(state.view === "files" && wanted === "files" ? "files" : at(`tab-${wanted}`) ? wanted : "draw");
}

const lastPart = (path) => path.split(/[\\/]/).filter(Boolean).pop(); // one base by two paths is the same

// puts the settings of a saved picture into the view that it was saved from
async function read(file) {
  const found = await post("/read", file), { adapters, base } = state.stage;
  const off = Object.fromEntries(adapters.filter((adapter) => !adapter.few).map((adapter) => [adapter.name, 0]));
  if (found.lead === null || adapters.some((adapter) => adapter.few && adapter.name === found.lead)) {
    at("lead").value = found.lead ?? "";
    defaults();
  }
  const missing = fill({ ...found, weights: { ...off, ...found.weights } }).filter((name) => found.weights[name]);
  if (found.base && lastPart(found.base) !== lastPart(base)) missing.unshift(found.base);
  at("missing").textContent = missing.length ? `The picture was drawn with ${missing.join(", ")}, which is not here.` : "";
  at("missing").hidden = !missing.length;
  choose(found.view);
  views[found.view].read?.(found);
}

at("settings").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  try { if (file) await read(file); } catch (error) { say(error.message, true); }
});

at("controls").addEventListener("input", (event) => {
  if (event.target === at("settings")) return;
  at("missing").hidden = true;
  if (event.target === at("lead")) defaults();
  settle();
  keep(settings());
  const view = views[state.view];
  if (state.view === "draw") ask("draw"); else view.changed?.();
});
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("another").addEventListener("click", () => {
  at("seed").value = Math.floor(Math.random() * 2 ** 31);
  at("seed").dispatchEvent(new Event("input", { bubbles: true }));
});

// --- the beginning -------------------------------------------------------------------------------

async function begin() {
  let facts;
  try { facts = await (await fetch("/facts")).json(); } catch { say("no server; trying again", true); setTimeout(begin, 1000); return; }
  Object.assign(state, { folders: facts.folders, largest: facts.largest });
  at("tab-run").hidden = !facts.run;
  if (facts.stage) { connect(changed); return; }
  choose(facts.run ? "run" : "files");
}
begin();
