// Numbers as people read them: the same forms as the terminal's view has.

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let place = 0;
  let value = Number(count) || 0;
  while (Math.abs(value) >= 1000 && place < units.length - 1) {
    value /= 1000;
    place += 1;
  }
  return place ? `${value.toFixed(1)} ${units[place]}` : `${Math.round(value)} B`;
}

export const rate = (count) => `${bytes(count)}/s`;

export function count(number) {
  if (!Number.isFinite(number)) return "–";
  for (const [unit, size] of [
    ["T", 1e12],
    ["G", 1e9],
    ["M", 1e6],
  ]) {
    if (number >= size) return `${(number / size).toPrecision(3)} ${unit}`;
  }
  return Math.round(number).toLocaleString("en-US");
}

export function loss(value) {
  if (value === null || value === undefined) return "–";
  return value < 10
    ? value.toFixed(4)
    : value < 1e4
      ? String(Number(value.toPrecision(4)))
      : value.toFixed(0);
}

export const pace = (value) => (value < 1 ? value.toPrecision(2) : value.toFixed(1));

export function span(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  for (const [unit, length] of [
    ["d", 86400],
    ["h", 3600],
    ["min", 60],
  ]) {
    if (seconds >= (unit === "min" ? 3 : 2) * length) return `${Math.round(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

export const share = (value) => `${(100 * value).toFixed(1)} %`;

export const when = (unix) =>
  new Date(unix * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });

// Others' words: no letter that steers a terminal or turns the reading direction, and not without end.
export function others(text, most = 200) {
  const plain = String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "�");
  const letters = [...plain];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : plain;
}

export const peer = (id) => (id ? `…${others(id, 80).slice(-8)}` : "–");
