// This machine: what it does for the run, what it may use, and what it contributed.
import { chart } from "./charts.js";
import { answer } from "./answer.js";
import { byId, el, keyed, setText, table, terms } from "./parts.js";
import { ask, words } from "./session.js";
import { state } from "./state.js";
import { bytes, count, loss, others, pace, rate, share } from "./words.js";

const MOST_POINTS = 720;

export function note(status) {
  const last = state.points[state.points.length - 1];
  if (last && Math.abs(last.at - status.at) <= 4) return;
  // a clock that was set back begins anew after the points before it, as the node's own do
  if (last && last.at > status.at) state.points = state.points.filter((one) => one.at < status.at);
  const { loss: value = null, clips_per_s = null } = status.training ?? {};
  state.points.push({
    at: status.at,
    loss: value,
    clips_per_s,
    upload_bytes_per_s: status.upload_bytes_per_s,
    download_bytes_per_s: status.download_bytes_per_s,
    memory_bytes: status.memory_bytes,
  });
  if (state.points.length > MOST_POINTS)
    state.points = state.points.filter((_, place) => place > MOST_POINTS / 2 || place % 2 === 0);
}

// What a bootstrap node does, as its operator, or the public, may see.
export function operated(status) {
  const rows = [
    ["Peers", "status.peer_count", status.peer_count, count(status.peer_count)],
    ["Private runs stored for", "status.private_runs", status.private_runs, count(status.private_runs ?? 0)],
    ["Disk", "status.disk_bytes", status.disk_bytes, bytes(status.disk_bytes)],
    ["Memory", "status.memory_bytes", status.memory_bytes, bytes(status.memory_bytes)],
    ["Sent", "status.uploaded_bytes", status.uploaded_bytes, bytes(status.uploaded_bytes)],
    ["Received", "status.downloaded_bytes", status.downloaded_bytes, bytes(status.downloaded_bytes)],
    [
      "Address",
      "status.addresses",
      status.addresses,
      (status.addresses ?? []).map((one) => others(one)).join(" "),
      "words mono",
    ],
  ].filter(([, , value]) => value !== undefined && value !== null);
  terms(byId("here").querySelector(".body"), rows);
  traffic(status);
}

export function here(status, now) {
  const train = status.training;
  const rows = [];
  if (train) {
    rows.push(
      [
        "Trains",
        "status.training.slot",
        train.slot,
        train.note ? others(train.note, 200) : others(train.slot, 40),
      ],
      ["Step", "status.training.steps", train.steps, count(train.steps)],
      ["Loss", "status.training.loss", train.loss, loss(train.loss)],
      ["Speed", "status.training.clips_per_s", train.clips_per_s, `${pace(train.clips_per_s)} clips/s`],
      ["Device", "status.training.device", train.device, others(train.device, 80)],
      ["Waits for data", "status.training.wait_share", train.wait_share, share(train.wait_share)],
    );
  }
  rows.push(
    ["Memory", "status.memory_bytes", status.memory_bytes, bytes(status.memory_bytes)],
    [
      "Disk",
      "status.disk_bytes",
      status.disk_bytes,
      status.disk_limit_bytes
        ? `${bytes(status.disk_bytes)} of ${bytes(status.disk_limit_bytes)}`
        : bytes(status.disk_bytes),
    ],
    [
      "Sent",
      "status.uploaded_bytes",
      status.uploaded_bytes,
      `${bytes(status.uploaded_bytes)} (${rate(status.upload_bytes_per_s)})`,
    ],
    [
      "Received",
      "status.downloaded_bytes",
      status.downloaded_bytes,
      `${bytes(status.downloaded_bytes)} (${rate(status.download_bytes_per_s)})`,
    ],
    ["Checkpoints checked", "status.attested", status.attested, count(status.attested)],
    ["Network restarts", "status.daemon_restarts", status.daemon_restarts, count(status.daemon_restarts)],
  );
  rows.push(...cared(status.care));
  const holder = byId("here");
  terms(holder.querySelector(".body"), rows);
  const charts = byId("here-charts");
  const times = state.points.map((point) => point.at);
  if (state.points.some((point) => point.loss !== null && point.loss !== undefined)) {
    chart(
      charts,
      "loss here",
      "Training loss here",
      ["loss"],
      [times, state.points.map((p) => p.loss ?? null)],
      train ? `now ${loss(train.loss)}` : "not training now",
    );
    chart(
      charts,
      "speed here",
      "Clips a second",
      ["clips/s"],
      [times, state.points.map((p) => p.clips_per_s ?? null)],
      train ? `now ${pace(train.clips_per_s)}` : "not training now",
    );
  }
  traffic(status);
}

function traffic(status) {
  const words = `${rate(status.upload_bytes_per_s)} sent, ${rate(status.download_bytes_per_s)} received`;
  const times = state.points.map((point) => point.at);
  const sent = state.points.map((point) => point.upload_bytes_per_s / 1e6);
  const received = state.points.map((point) => point.download_bytes_per_s / 1e6);
  const names = ["sent", "received"];
  chart(byId("here-charts"), "traffic", "Traffic in MB/s", names, [times, sent, received], words);
}

// What the machine's own sensors and its budgets say, and why it rests.
function cared(care) {
  if (!care) return [];
  const at = "status.care";
  const sensed = care.sensors;
  const rows = [];
  const add = (term, name, value, text) => {
    if (value !== null && value !== undefined && value !== "")
      rows.push([term, `${at}.${name}`, value, text]);
  };
  add("GPU", "sensors.gpu", sensed.gpu, others(sensed.gpu, 80));
  const used = (sensed.gpu_memory_bytes ?? 0) - (sensed.gpu_free_bytes ?? 0);
  const memory = `${bytes(used)} of ${bytes(sensed.gpu_memory_bytes)} used`;
  add("GPU memory", "sensors.gpu_free_bytes", sensed.gpu_free_bytes, memory);
  const degrees = sensed.gpu_temperature_c;
  add("GPU temperature", "sensors.gpu_temperature_c", degrees, `${degrees} °C`);
  const watts = sensed.gpu_power_w;
  add(
    "GPU power",
    "sensors.gpu_power_w",
    watts,
    `${watts?.toFixed(0)} of ${sensed.gpu_power_limit_w?.toFixed(0)} W`,
  );
  add("GPU use", "sensors.gpu_utilisation", sensed.gpu_utilisation, share(sensed.gpu_utilisation ?? 0));
  add("Battery", "sensors.on_battery", sensed.on_battery, sensed.on_battery ? "runs on it" : "plugged in");
  const hours = care.hours.map((one) => others(one, 60)).join(", ");
  if (care.hours.length) add("Hours", "hours", care.hours, care.time_zone ? `${hours} (${others(care.time_zone, 40)})` : hours);
  for (const way of ["upload", "download"]) {
    const budget = care[way];
    const words = budget && `${bytes(budget.used_bytes)} of ${others(budget.budget, 40)}`;
    if (budget)
      add(
        way === "upload" ? "Sent of budget" : "Received of budget",
        `${way}.used_bytes`,
        budget.used_bytes,
        words,
      );
  }
  if (care.rests) add("Rests", "why", care.why, `${others(care.why, 200)}; goes on ${others(care.goes_on, 120)}`);
  return rows;
}

export function limits(now) {
  const offered = (now.status.care?.settings ?? []).map((one) => ({
    key: one.key,
    term: one.key.replaceAll("_", " "),
    value: one.value,
    help: `from ${one.source}`,
  }));
  const section = byId("limits");
  section.hidden = !offered.length || Boolean(state.about.read_only);
  const holder = section.querySelector(".body");
  holder.classList.add("set");
  const rows = keyed(
    holder,
    offered,
    (one) => one.key,
    (one) => {
      const id = `limit-${one.key}`;
      const label = el("label", { for: id }, one.term, el("small", {}, one.help));
      const input = el("input", { id, name: one.key, autocomplete: "off", spellcheck: "false" });
      const button = el("button", { "aria-label": `Set ${one.term}` }, "Set");
      const row = el("form", { class: "row" }, label, input, button);
      row.addEventListener("submit", change);
      return row;
    },
  );
  offered.forEach((one, place) => {
    setText(rows[place].querySelector("small"), one.help);
    const input = rows[place].querySelector("input");
    if (input.dataset.had === one.value || document.activeElement === input) return;
    input.dataset.had = one.value;
    input.value = one.value;
  });
}

export async function change(event) {
  event.preventDefault();
  const input = event.currentTarget.querySelector("input");
  const asked = { words: { [input.name]: input.value } };
  const reply = await ask("/ask/set", { method: "POST", body: JSON.stringify(asked) });
  if (!reply.ok) return answer(await words(reply));
  delete input.dataset.had; // what the node made of it comes with the next look
  answer(others((await reply.json()).said.join(" "), 400) || "Changed.");
}

export function receipts(now) {
  const mine = now.receipts ?? [];
  byId("receipts").hidden = !mine.length;
  const rows = mine.map((one, place) => {
    const at = `receipts.${place}`;
    return {
      key: one.slot,
      cells: [
        [`${at}.slot`, one.slot, others(one.slot, 40)],
        [`${at}.clips`, one.clips, count(one.clips)],
        [`${at}.steps`, one.steps, count(one.steps)],
        [`${at}.cards`, one.cards, count(one.cards)],
        [`${at}.updates`, one.updates, count(one.updates)],
      ],
    };
  });
  const numbers = ["Clips", "Steps", "Checkpoints", "Updates"].map((name) => [name, "number"]);
  table(byId("receipts").querySelector(".body"), [["Slot", ""], ...numbers], rows, "Nothing yet.");
}
