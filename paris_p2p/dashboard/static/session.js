// The way in, and the stream: a link's code becomes the token, and looks at the node come one by one.
import { byId, setText } from "./parts.js";
import { others } from "./words.js";

const KEY = "paris-token";
const RETRY_S = 3;
const STALE = "The node was started again since; this page needs a new link.";
let token = sessionStorage.getItem(KEY) ?? "";

export function ask(path, more = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { cache: "no-store", credentials: "omit", ...more };
  return fetch(path, { ...options, headers: { ...headers, ...more.headers } });
}

export async function words(reply) {
  try {
    return others((await reply.json()).detail ?? reply.statusText, 400);
  } catch {
    return reply.statusText;
  }
}

export function show(isOpen, why) {
  byId("page").hidden = !isOpen;
  byId("login").hidden = isOpen;
  if (why) setText(byId("login-why"), why);
}

export function trouble(text) {
  const line = byId("trouble");
  line.hidden = !text;
  setText(line, others(text, 400));
}

function closed(why) {
  token = "";
  sessionStorage.removeItem(KEY);
  show(false, why);
  return null;
}

// Returns what does not change while the node runs; null where this page may see nothing.
export async function enter() {
  const code = decodeURIComponent(location.hash.slice(1));
  if (/^[A-Za-z0-9_-]{20,64}$/.test(code)) {
    history.replaceState(null, "", location.pathname);
    const reply = await ask("/session", { method: "POST", body: JSON.stringify({ code }) });
    if (!reply.ok) return closed(await words(reply));
    token = (await reply.json()).token;
    sessionStorage.setItem(KEY, token);
  }
  const reply = await ask("/about");
  return reply.ok ? await reply.json() : closed(token ? STALE : "");
}

// Hands each look to `look`. EventSource sends no token, so the stream is read by hand.
export async function watch(look) {
  for (;;) {
    try {
      const reply = await ask("/live");
      if (reply.status === 401) return closed(STALE);
      if (!reply.ok) throw new Error(await words(reply));
      await read(reply.body.pipeThrough(new TextDecoderStream()).getReader(), look);
      throw new Error("the node ended, or is being started again");
    } catch (error) {
      trouble(`No answer from the node (${error.message}). Trying again.`);
      await new Promise((done) => setTimeout(done, RETRY_S * 1000));
    }
  }
}

// Lines `event: …` and `data: …`; an empty one ends an event.
async function read(reader, look) {
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (kept + value).replaceAll("\r\n", "\n").split("\n\n");
    kept = events.pop();
    for (const event of events) {
      const lines = event.split("\n");
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (lines.includes("event: refused")) throw new Error(others(data.join("\n")));
      if (lines.includes("event: look")) look(JSON.parse(data.join("\n")));
    }
  }
}
