// Lines, drawn by uPlot, each with its newest value in words for those who do not see it.
import { el, setText } from "./parts.js";

const drawn = new Map(); // key -> { plot, holder, words, shape }

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const two = (number) => String(number).padStart(2, "0");
const day = (moment) => moment.toLocaleDateString([], { day: "numeric", month: "short" });

// Hours and minutes of a day of 24 hours; under the first one, and where a day begins, which day that is.
export function moments(plot, seconds, axis, space, step_s) {
  let last = "";
  return seconds.map((one) => {
    const moment = new Date(1000 * one);
    const date = day(moment);
    const clock = `${two(moment.getHours())}:${two(moment.getMinutes())}`;
    const words = step_s >= 86400 ? date : step_s < 60 ? `${clock}:${two(moment.getSeconds())}` : clock;
    const isNew = date !== last && words !== date;
    last = date;
    return isNew ? `${words}\n${date}` : words;
  });
}

// As many decimals as tell two neighbours apart.
export function numbers(plot, values, axis, space, step) {
  const digits = (step.toFixed(9).replace(/0+$/, "").split(".")[1] ?? "").length;
  const form = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return values.map((one) => one.toLocaleString("en-US", form));
}

function options(width, names, isTime) {
  const inks = ["--mark", "--good", "--warn", "--bad"];
  const axis = {
    stroke: colour("--soft"),
    grid: { stroke: colour("--line") },
    ticks: { stroke: colour("--line") },
  };
  const size = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const font = `${Math.round(size * 0.8)}px system-ui, sans-serif`;
  return {
    width,
    height: Math.round(size * 9.5),
    legend: { show: names.length > 1, live: false },
    cursor: { y: false },
    scales: { x: { time: isTime } },
    axes: [
      {
        ...axis,
        font,
        space: size * 5,
        size: size * (isTime ? 3.4 : 2.2),
        values: isTime ? moments : numbers,
      },
      { ...axis, font, size: size * 4.2, values: numbers },
    ],
    series: [
      {},
      ...names.map((label, place) => ({
        label,
        stroke: colour(inks[place % inks.length]),
        width: 2,
        spanGaps: !isTime, // a rest is a gap
        points: { show: false },
      })),
    ],
  };
}

// Draws `columns` (x, then one y for each of `names`) into `holder`; `words` is said of it.
export function chart(holder, key, title, names, columns, words, isTime = true) {
  let one = drawn.get(key);
  if (!one || !one.figure.isConnected) {
    const figure = el("figure", { class: "chart" });
    const place = el("div", { role: "img" });
    const caption = el("figcaption");
    figure.append(place, caption);
    holder.append(figure);
    one = { figure, place, caption, plot: null, width: 0 };
    drawn.set(key, one);
  }
  Object.assign(one, { names, columns, isTime });
  setText(one.caption, `${title}: ${words}`);
  one.place.setAttribute("aria-label", `${title}: ${words}`);
  one.place.hidden = columns[0].length < 2;
  if (!one.place.hidden) draw(one);
}

function draw(one) {
  const width = Math.floor(one.figure.clientWidth) || 300;
  if (!one.plot || Math.abs(width - one.width) > 2) {
    one.plot?.destroy();
    one.plot = new uPlot(options(width, one.names, one.isTime), one.columns, one.place);
    one.width = width;
  } else {
    one.plot.setData(one.columns);
  }
}

// Colours and widths follow the screen.
function again() {
  for (const one of drawn.values()) {
    one.width = 0;
    if (!one.place.hidden) draw(one);
  }
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
addEventListener("resize", again);
