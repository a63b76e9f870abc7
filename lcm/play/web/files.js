// An adapter file is looked at before it is attached.
import { at, post, say, state, views } from "/web/state.js";

let looked = null;

function tell(found) {
  looked = found;
  at("looked").hidden = false;
  at("file-name").textContent = found.name;
  const verdict = at("verdict");
  verdict.textContent = found.error ?? (state.stage ? "It fits this base." : "It can be read.");
  verdict.classList.toggle("bad", Boolean(found.error));
  at("lines").textContent = found.lines.join("\n");
  at("lines").hidden = !found.lines.length;
  at("attach").hidden = !found.fits;
  at("attach").textContent = found.has_recipe ? "Attach" : "Attach as a style";
  at("attach-lcm").hidden = !found.fits || found.has_recipe;
  at("mend").hidden = !found.can_be_mended || found.fits;
}

async function work(label, address, body) {
  say(label);
  for (const button of document.querySelectorAll("#looked button")) button.disabled = true;
  try {
    const found = await post(address, body);
    say("");
    return found;
  } catch (error) {
    say(error.message, true);
    return null;
  } finally {
    for (const button of document.querySelectorAll("#looked button")) button.disabled = false;
  }
}

async function drop(file) {
  at("looked").hidden = at("mended").hidden = true;
  if (file.size > state.largest) { say(`${file.name} has more than ${state.largest >> 20} MiB; raise --max_upload`, true); return; }
  const found = await work(`looking at ${file.name}`, `/drop?name=${encodeURIComponent(file.name)}`, file);
  if (found) tell(found);
}

async function attach(kind) {
  const found = await work("attaching", `/attach/${looked.key}?kind=${kind}`);
  if (!found) return;
  at("attach").hidden = at("attach-lcm").hidden = true;
  at("verdict").textContent = `Attached as ${found.name}.`;
}

views.files = {
  async shown() {
    at("picking").hidden = !state.folders;
    if (!state.folders) return;
    const names = await (await fetch("/folders")).json();
    at("listed").replaceChildren(...names.map((name) => new Option(name, name)));
  },
};

at("file").addEventListener("change", (event) => {
  if (event.target.files[0]) drop(event.target.files[0]);
  event.target.value = "";
});
at("pick").addEventListener("click", async () => {
  at("mended").hidden = true;
  const found = await work("looking", `/pick?name=${encodeURIComponent(at("listed").value)}`);
  if (found) tell(found);
});
at("attach").addEventListener("click", () => attach("style"));
at("attach-lcm").addEventListener("click", () => attach("lcm"));
at("mend").addEventListener("click", async () => {
  const found = await work("repairing", `/mend/${looked.key}`);
  if (!found) return;
  tell(found);
  at("mended").href = `/file/${found.key}`;
  at("mended").hidden = false;
});
// anywhere on the page: a browser would open the file in its place otherwise
document.addEventListener("dragover", (event) => { event.preventDefault(); at("zone").classList.add("over"); });
document.addEventListener("dragleave", () => at("zone").classList.remove("over"));
document.addEventListener("drop", (event) => {
  if (event.defaultPrevented) return; // the canvas takes pictures
  event.preventDefault();
  at("zone").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) { at("tab-files").click(); drop(file); }
});
