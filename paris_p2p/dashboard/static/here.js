// This machine: what it does for the run, what it may use, and what it contributed.
import { chart } from "./charts.js";
import { answer } from "./answer.js";
import { byId, el, keyed, terms } from "./parts.js";
import { ask, words } from "./session.js";
import { state } from "./state.js";
import { bytes, count, loss, others, rate, share } from "./words.js";

const MOST_POINTS = 720;

export function note(status) {
  const last = state.points[state.points.length - 1];
  if (last && last.at >= status.at - 4) return;
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
      ["Speed", "status.training.clips_per_s", train.clips_per_s, `${train.clips_per_s.toFixed(1)} clips/s`],
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
      state.about.max_disk_bytes
        ? `${bytes(status.disk_bytes)} of ${bytes(state.about.max_disk_bytes)}`
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
  for (const one of now.machine ?? [])
    rows.push([one.term, `machine.${one.key}`, one.value, others(one.words, 120)]);
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
      train ? `now ${train.clips_per_s.toFixed(1)}` : "not training now",
    );
  }
  chart(
    charts,
    "traffic",
    "Traffic in MB/s",
    ["sent", "received"],
    [
      times,
      state.points.map((p) => p.upload_bytes_per_s / 1e6),
      state.points.map((p) => p.download_bytes_per_s / 1e6),
    ],
    `${rate(status.upload_bytes_per_s)} sent, ${rate(status.download_bytes_per_s)} received`,
  );
}

export function limits(now) {
  const offered = now.limits ?? [];
  const section = byId("limits");
  section.hidden = !offered.length || Boolean(state.about.read_only);
  const holder = section.querySelector(".body");
  let form = holder.querySelector("form");
  if (!form) {
    form = el("form", { class: "set" });
    form.addEventListener("submit", change);
    holder.append(form);
  }
  const rows = keyed(
    form,
    offered,
    (one) => one.key,
    (one) => {
      const id = `limit-${one.key}`;
      const label = el("label", { for: id }, one.term, el("small", {}, one.help ?? ""));
      return el(
        "div",
        { class: "row" },
        label,
        el("input", { id, name: one.key, autocomplete: "off", spellcheck: "false" }),
        el("button", { type: "submit", value: one.key, "aria-label": `Set ${one.term}` }, "Set"),
      );
    },
  );
  offered.forEach((one, place) => {
    const input = rows[place].querySelector("input");
    if (input.dataset.had === one.value || document.activeElement === input) return;
    input.dataset.had = one.value;
    input.value = one.value;
  });
}

export async function change(event) {
  event.preventDefault();
  const key = event.submitter?.value;
  const input = byId(`limit-${key}`);
  if (!key || !input) return;
  const reply = await ask("/ask/set", {
    method: "POST",
    body: JSON.stringify({ changes: { [key]: input.value } }),
  });
  answer(reply.ok ? others((await reply.json()).message ?? "changed", 300) : await words(reply));
}

export function receipts(now) {
  const mine = now.receipts;
  byId("receipts").hidden = !mine;
  if (!mine) return;
  terms(
    byId("receipts").querySelector(".body"),
    mine.map((one) => [one.term, `receipts.${one.key}`, one.value, others(one.words, 160)]),
  );
}
