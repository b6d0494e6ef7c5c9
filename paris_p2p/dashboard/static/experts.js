// One card for each expert and the router, and the clips that the model makes.
import { chart } from "./charts.js";
import { byId, el, keyed, setFigure, setText, terms } from "./parts.js";
import { ask } from "./session.js";
import { state } from "./state.js";
import { count, loss, others, pace, peer, span } from "./words.js";

export function experts(status, now) {
  const context = { names: status.governance.names, me: status.peer_id, total: state.about.total_steps };
  slotCards(byId("experts").querySelector(".body"), status.slots, "status.slots", {
    ...context,
    history: now.history ?? {},
    key: "",
  });
}

// The runs that a bootstrap node holds; slots are told of those that its operator named.
export function runs(status) {
  byId("runs").hidden = false;
  const none = byId("runs").querySelector(".none");
  none.hidden = Boolean(status.runs.length);
  const holder = byId("runs").querySelector(".body");
  const groups = keyed(
    holder,
    status.runs,
    (one) => one.run,
    () =>
      el(
        "article",
        { class: "held" },
        el("div", { class: "head" }, el("h3"), el("span", { class: "chip" })),
        el("div", { class: "figures" }),
        el("div", { class: "cards" }),
      ),
  );
  status.runs.forEach((one, place) => {
    const at = `status.runs.${place}`;
    const group = groups[place];
    setFigure(group.querySelector("h3"), `${at}.name`, one.name, others(one.name, 80));
    const words = one.ended ? "ended" : one.paused ? "paused" : "running";
    const chip = group.querySelector(".chip");
    setText(chip, words);
    chip.className = `chip ${words === "running" ? "good" : "warn"}`;
    terms(group.querySelector(".figures"), [
      ["Run", `${at}.run`, one.run, others(one.run, 80), "words mono"],
      ["Owner", `${at}.owner`, one.owner, others(one.owner, 80), "words mono"],
      ["Slots with a tip", `${at}.tips`, one.tips, count(one.tips), "words"],
    ]);
    const context = { names: {}, me: "", total: 0, history: {}, key: one.run };
    slotCards(group.querySelector(".cards"), one.slots, `${at}.slots`, context);
  });
}

function slotCards(holder, slots, at, context) {
  const cards = keyed(
    holder,
    slots,
    (slot) => slot.slot,
    (slot) =>
      el(
        "article",
        { class: "card", "aria-label": others(slot.slot, 40) },
        el("div", { class: "head" }, el("h3"), el("span", { class: "chip" })),
        el(
          "div",
          { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" },
          el("span"),
        ),
        el("div", { class: "figures" }),
        el("p", { class: "outlook" }),
        el("p", { class: "crew" }),
        el("p", { class: "news" }),
        el("div", { class: "charts" }),
      ),
  );
  slots.forEach((slot, place) => expert(cards[place], slot, `${at}.${place}`, context));
}

function expert(card, slot, at, context) {
  const name = context.names[slot.lead];
  const lead = slot.lead === context.me ? "this peer" : name ? others(name, 24) : peer(slot.lead);
  setFigure(card.querySelector("h3"), `${at}.slot`, slot.slot, others(slot.slot, 40));
  const chip = card.querySelector(".chip");
  setFigure(chip, `${at}.lead`, slot.lead, slot.lead ? `led by ${lead}` : "no lead");
  chip.className = `chip ${slot.lead ? "good" : "warn"}`;
  const total = context.total;
  const bar = card.querySelector(".bar");
  bar.hidden = !total;
  const done = total ? Math.min(1, slot.steps / total) : 0;
  bar.firstChild.style.width = `${(100 * done).toFixed(1)}%`;
  bar.setAttribute("aria-valuenow", (100 * done).toFixed(0));
  bar.setAttribute("aria-label", `${slot.slot}: steps trained`);
  const rows = [
    [
      "Steps",
      `${at}.steps`,
      slot.steps,
      total ? `${count(slot.steps)} of ${count(total)}` : count(slot.steps),
    ],
    ["Clips", `${at}.clips`, slot.clips, count(slot.clips)],
    ["Gate loss", `${at}.loss`, slot.loss, loss(slot.loss)],
    ["Tip", `${at}.tip`, slot.tip, slot.tip ? `${slot.tip.slice(0, 6)} #${slot.tip_seq}` : "none yet"],
    ["Its age", `${at}.tip_age_s`, slot.tip_age_s, span(slot.tip_age_s)],
    ["Signed by", `${at}.attestations`, slot.attestations, count(slot.attestations)],
    ["Wait for check", `${at}.pending`, slot.pending, count(slot.pending)],
  ];
  if (slot.clips_per_s)
    rows.push(["Speed", `${at}.clips_per_s`, slot.clips_per_s, `${pace(slot.clips_per_s)} clips/s`]);
  const hasTime = slot.eta_s !== null && slot.eta_s !== undefined;
  if (hasTime) {
    const late = slot.eta_high_s === null ? "or more" : `to ${span(slot.eta_high_s)}`;
    const words = `${span(slot.eta_s)} (${span(slot.eta_low_s)} ${late})`;
    rows.push(["Time left", `${at}.eta_s`, slot.eta_s, words]);
  }
  terms(card.querySelector(".figures"), rows);
  const news = card.querySelector(".news");
  news.hidden = !slot.news;
  setFigure(news, `${at}.news`, slot.news, others(slot.news, 300));
  const crew = card.querySelector(".crew");
  const working = slot.crew ? slot.crew.peers.filter((one) => one.works).length : 0;
  crew.hidden = working < 2;
  setText(
    crew,
    working < 2 ? "" : `${working} peers train it together, in rounds of ${span(slot.crew.round_s)}`,
  );
  const outlook = card.querySelector(".outlook");
  outlook.hidden = !slot.outlook || hasTime; // the row says the same
  setFigure(outlook, `${at}.outlook`, slot.outlook ?? null, others(slot.outlook ?? "", 300));
  const lines = context.history[slot.slot] ?? [];
  const pairs = lines.filter((line) => line.loss !== null && line.loss !== undefined);
  const last = pairs[pairs.length - 1];
  if (pairs.length)
    chart(
      card.querySelector(".charts"),
      `loss ${context.key} ${slot.slot}`,
      "Gate loss by steps",
      ["gate loss"],
      [pairs.map((line) => line.steps), pairs.map((line) => line.loss)],
      `now ${loss(last.loss)}`,
      false,
    );
}

const clips = new Map(); // name -> blob: URL

async function clip(holder, name) {
  if (holder.dataset.clip === name) return;
  holder.dataset.clip = name;
  if (!clips.has(name)) {
    const reply = await ask(`/previews/${name.split("/").map(encodeURIComponent).join("/")}`);
    if (!reply.ok) return;
    clips.set(name, URL.createObjectURL(await reply.blob()));
  }
  if (holder.dataset.clip === name) holder.src = clips.get(name);
}

function steps(all) {
  const numbers = Object.values(all);
  if (!numbers.length) return "";
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
  return least === most ? `${count(least)} steps` : `${count(least)} to ${count(most)} steps`;
}

export function samples(now) {
  const shown = now.previews ?? [];
  byId("samples").hidden = !shown.length;
  const holder = byId("samples").querySelector(".body");
  holder.classList.add("clips");
  const make = () => {
    const pair = el("div", { class: "pair" }, el("img", { alt: "" }), el("img", { alt: "" }));
    return el("figure", { class: "clip" }, pair, el("figcaption"));
  };
  const cards = keyed(holder, shown, (one) => one.prompt, make);
  shown.forEach((one, place) => {
    const [before, last] = cards[place].querySelectorAll("img");
    const prompt = others(one.prompt, 200);
    before.hidden = !one.before;
    last.alt = `after ${steps(one.steps)}: ${prompt}`;
    before.alt = `after ${steps(one.before_steps)}: ${prompt}`;
    if (one.before) clip(before, one.before);
    clip(last, one.newest);
    const earlier = one.before ? `left after ${steps(one.before_steps)}, right ` : "";
    setText(cards[place].querySelector("figcaption"), `${prompt} – ${earlier}after ${steps(one.steps)}`);
  });
  const used = new Set(shown.flatMap((one) => [one.newest, one.before]));
  for (const [name, url] of clips) {
    if (used.has(name)) continue;
    URL.revokeObjectURL(url);
    clips.delete(name);
  }
}
