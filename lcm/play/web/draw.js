// Type, and the picture follows.
import { ask, at, say, show, state, views } from "/web/state.js";

views.draw = {
  shown: () => { at("drawn").classList.add("waits"); ask("draw"); },
  answered(message) {
    if (!message.image) return;
    show(at("drawn"), message.image);
    at("save").href = message.image;
    at("save").hidden = false;
    at("note").textContent = message.note ?? "";
    say(`${Math.round(performance.now() - state.begun)} ms`);
  },
};
