// The page of one node: opened by a link's code, live by server-sent events, nothing from elsewhere.
import { answer } from "./answer.js";
import { experts, runs, samples } from "./experts.js";
import { here, limits, note, operated, receipts } from "./here.js";
import { peers, refused } from "./lists.js";
import { byId, setText } from "./parts.js";
import { head, run } from "./run.js";
import { ask, enter, show, trouble, watch, words } from "./session.js";
import { state } from "./state.js";
import { count, others, when } from "./words.js";

async function open() {
  const about = await enter();
  if (!about) return;
  state.about = about;
  state.points = await (await ask("/points")).json();
  byId("buttons").hidden = Boolean(about.read_only);
  await watch(look);
}

function look(now) {
  state.newest = now;
  show(true);
  trouble(now.trouble ? `The node cannot look at its network now: ${now.trouble}` : "");
  const status = now.status;
  if (!status) return;
  note(status);
  if (state.about.kind === "bootstrap") bootstrap(status);
  else volunteer(status, now);
  const peer = others(status.peer_id, 80);
  setText(byId("foot"), `paris-p2p ${others(state.about.version)} · peer ${peer} · ${when(status.at)}`);
  document.documentElement.dataset.at = status.at;
}

function volunteer(status, now) {
  head(status);
  run(status);
  experts(status, now);
  samples(now);
  here(status, now);
  limits(now);
  receipts(now);
  refused(status);
  peers(status);
}

function bootstrap(status) {
  for (const id of ["run", "experts", "refused", "pause", "resume"]) byId(id).hidden = true;
  setText(byId("name"), "Bootstrap node");
  setText(byId("phase"), `${count(status.runs.length)} runs`);
  document.title = "Bootstrap node · paris-p2p";
  runs(status);
  operated(status);
  if (status.peers) peers({ peers: status.peers, governance: { names: {} } });
  else byId("peers").hidden = true;
}

async function act(name) {
  for (const button of byId("buttons").children) button.disabled = true;
  answer(name === "pause" ? "Writing a checkpoint first …" : "");
  try {
    const reply = await ask(`/${name}`, { method: "POST" });
    answer(reply.ok ? others((await reply.json()).message, 300) : await words(reply));
  } catch (error) {
    answer(`No answer: ${error.message}`);
  }
  byId("stop").disabled = false;
  if (state.newest?.status?.phase) head(state.newest.status);
}

byId("pause").addEventListener("click", () => act("pause"));
byId("resume").addEventListener("click", () => act("resume"));
byId("stop").addEventListener("click", () => byId("sure").showModal());
byId("sure-no").addEventListener("click", () => byId("sure").close());
byId("sure-yes").addEventListener("click", () => {
  byId("sure").close();
  act("stop");
});
addEventListener("hashchange", () => {
  if (location.hash.length > 1) location.reload();
});
open().catch((error) => show(false, `The node does not answer (${error.message}).`));
