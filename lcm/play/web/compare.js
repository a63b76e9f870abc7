// The same prompt and seed with the teacher and with every adapter.
import { ask, at, say, show, state, views } from "/web/state.js";

let left = 0;

function begin() {
  at("save-grid").hidden = true;
  at("begin").disabled = true;
  say("drawing");
  ask("compare");
}

function frames(labels) {
  at("strip").replaceChildren(...labels.map((label) => {
    const figure = document.createElement("figure"), frame = document.createElement("div"), caption = document.createElement("figcaption");
    frame.className = "frame";
    caption.textContent = label;
    figure.append(frame, caption);
    return figure;
  }));
}

views.compare = {
  shown: () => {},
  read: begin,
  answered(message) {
    if (message.columns) { left = message.columns.length; frames(message.columns); return; }
    if (message.column !== undefined) {
      const figure = at("strip").children[message.column];
      if (message.image) {
        const image = document.createElement("img");
        image.alt = figure.querySelector("figcaption").textContent;
        show(image, message.image);
        figure.firstChild.replaceWith(image);
      } else {
        figure.firstChild.textContent = message.error;
        figure.firstChild.classList.add("bad");
      }
      say(--left ? `${left} to go` : `${Math.round(performance.now() - state.begun)} ms`);
    }
    if (message.grid) { at("save-grid").href = message.grid; at("save-grid").hidden = false; }
    if (message.grid || (message.error && message.column === undefined)) at("begin").disabled = false;
  },
  stopped() {
    at("begin").disabled = false;
    for (const frame of at("strip").querySelectorAll(".frame:empty")) frame.textContent = "stopped";
  },
};

at("begin").addEventListener("click", begin);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && state.view === "compare" && !at("begin").disabled) begin();
});
