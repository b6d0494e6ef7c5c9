// What was refused and why, and who else takes part.
import { byId, table } from "./parts.js";
import { count, others, peer, rate } from "./words.js";

export function refused(status) {
  const rows = Object.entries(status.refused_cards).map(([reason, times]) => ({
    key: `card ${reason}`,
    cells: [
      ["", reason, others(reason, 160)],
      [`status.refused_cards.${reason}`, times, count(times)],
      ["", "", "checkpoints, here"],
    ],
  }));
  status.slots.forEach((slot, place) => {
    if (slot.refusal)
      rows.push({
        key: `slot ${slot.slot}`,
        cells: [
          [`status.slots.${place}.refusal`, slot.refusal, others(slot.refusal, 160)],
          ["", "", "–"],
          ["", "", `the newest of ${others(slot.slot, 40)}`],
        ],
      });
    for (const one of slot.crew?.refused ?? [])
      rows.push({
        key: `update ${slot.slot} ${one.peer}`,
        cells: [
          ["", one.reason, others(one.reason, 160)],
          ["", "", "–"],
          ["", "", `${peer(one.peer)}, ${others(slot.slot, 40)}`],
        ],
      });
  });
  for (const [code, times] of Object.entries(status.training?.refused_updates ?? {}))
    rows.push({
      key: `own ${code}`,
      cells: [
        ["", code, others(code, 160)],
        [`status.training.refused_updates.${code}`, times, count(times)],
        ["", "", "updates of this peer"],
      ],
    });
  table(
    byId("refused").querySelector(".body"),
    [
      ["Why", ""],
      ["Times", "number"],
      ["What", ""],
    ],
    rows,
    "Nothing.",
  );
}

export function peers(status) {
  const names = status.governance.names;
  const rows = status.peers.map((one, place) => {
    const at = `status.peers.${place}`;
    const own = names[one.peer_id];
    const cells = [
      [`${at}.peer_id`, one.peer_id, own ? `${others(own, 40)} (${peer(one.peer_id)})` : peer(one.peer_id)],
      [`${at}.path`, one.path, others(one.path, 20)],
      [`${at}.role`, one.role, one.role === "?" ? "not known" : others(one.role, 20)],
      [
        `${at}.distance_s`,
        one.distance_s ?? null,
        one.distance_s ? `${(1000 * one.distance_s).toFixed(0)} ms` : "–",
      ],
      [`${at}.bytes_per_s`, one.bytes_per_s ?? null, one.bytes_per_s ? rate(one.bytes_per_s) : "–"],
      [`${at}.version`, one.version ?? null, one.version ? others(one.version, 24) : "–"],
    ];
    return { key: one.peer_id, cells };
  });
  table(
    byId("peers").querySelector(".body"),
    [
      ["Peer", "mono"],
      ["Path", ""],
      ["Role", ""],
      ["Distance", "number"],
      ["Speed", "number"],
      ["Version", ""],
    ],
    rows,
    "No other peer is connected. If that stays so, type `paris doctor`.",
  );
}
