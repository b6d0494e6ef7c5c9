// What the run is, how it is governed, and how this node gets on.
import { byId, el, keyed, setFigure, setText, terms } from "./parts.js";
import { others } from "./words.js";
import { state } from "./state.js";

export function head(status) {
  const name = others(status.name, 80);
  setFigure(byId("name"), "status.name", status.name, name);
  document.title = `${name} · paris-p2p`;
  const chip = byId("phase");
  setFigure(chip, "status.phase", status.phase, others(status.phase, 40));
  chip.className = `chip ${status.phase === "training" ? "good" : "warn"}`;
  setFigure(byId("why"), "status.why", status.why, others(status.why, 400));
  const isPaused = status.phase === "paused";
  byId("pause").disabled = isPaused;
  byId("resume").disabled = !isPaused;
}

export function run(status) {
  const holder = byId("run").querySelector(".body");
  const rule = status.governance;
  terms(holder, [
    ["Purpose", "about.purpose", state.about.purpose, others(state.about.purpose, 600)],
    ["Owner", "status.owner", status.owner, others(status.owner, 80), "words mono"],
    [
      "Data",
      "about.data_licence",
      state.about.data_licence,
      `licence: ${others(state.about.data_licence, 120)}`,
    ],
    [
      "Weights",
      "about.weights_licence",
      state.about.weights_licence,
      `licence: ${others(state.about.weights_licence, 120)}`,
    ],
    [
      "Model",
      "about.expert",
      state.about.expert,
      `${state.about.experts} experts (${others(state.about.expert, 40)}) and a router ` +
        `(${others(state.about.router, 40)}); clips of ${state.about.frames} frames, ` +
        `${state.about.width} x ${state.about.height}`,
    ],
    ["Run", "status.run", status.run, others(status.run, 80), "words mono"],
  ]);
  let list = holder.querySelector("ul");
  if (!list) {
    list = el("ul", { class: "notices", "aria-label": "What the owner said" });
    holder.append(list);
  }
  const lines = rule.last.map((one) => one.words);
  if (rule.members_only) {
    const kind = rule.private ? "private run" : "members only";
    lines.unshift(`${kind}, ${rule.members} members; this peer may ${rule.rights.join(", ") || "nothing"}`);
  }
  if (rule.contradiction) lines.push(rule.contradiction);
  list.hidden = !lines.length;
  const items = keyed(
    list,
    lines.map((line, place) => ({ line, place })),
    (one) => one.place,
    () => el("li"),
  );
  lines.forEach((line, place) => setText(items[place], others(line, 300)));
}
