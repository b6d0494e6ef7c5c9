"""The demo: a swarm on this machine trains a small video model, loses a member, goes on, and generates what it is asked for.

    scripts/demo                      # at most 15 minutes on two cores, after the set-up
    scripts/demo --minutes 3 --clips 300 --lenient   # a quick look; the verdict is printed and not judged

Real input: gameplay clips of three VizDoom scenarios, written to mp4 files first and prepared like any user's clips. Every
node is a process of its own with its own data directory. The exit status is 0 only if the demo's own judge is content.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from examples.demo.clips import SCENARIOS, write_clips
from examples.demo.judge import Probe, Verdict, fit_probe, judge
from examples.demo.picture import picture
from examples.demo.processes import run_command
from examples.demo.swarm import Swarm, watch
from examples.gameplay import FPS
from paris_p2p.data.prepared import Prepared, SplitClip, split_clips

RECIPE = {
    "expert": "micro",
    "router": "micro",
    "batch": "16",
    "learning-rate": "2e-3",
    "warmup-steps": "50",
    "ema-decay": "0.995",
    "router-batch": "32",
    "gate-clips": "32",
    "gate-tolerance": "0.1",
    "claim-s": "20",
    "settle-s": "2",
    "margin-s": "3",
    "checkpoint-s": "60",
}
SIDE, FRAMES, RATE = "32", "8", str(FPS)
STEPS, GUIDANCE, JUDGED_CLIPS, CLIPS_PER_PROMPT = 32, 1.5, 60, 2
TRAIN_S = 570.0  # from the first volunteer's start
KILL_AT = 0.35  # of that time, or when the first tip is there, whichever is later
console = Console()


@dataclass
class Options:
    out: Path
    minutes: float
    clips: int
    peers: int
    lenient: bool
    rng_seed: int

    @property
    def train_s(self) -> float:
        return self.minutes * 60


def main() -> None:
    options = parse_options()
    started = time.monotonic()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    os.chdir(options.out)  # VizDoom leaves an .ini where it runs
    failures: list[str] = []
    probe, prepared = prepare(options)
    swarm = Swarm(options.out, options.peers)
    try:
        train(swarm, options, failures)
        prompts, labels = choose_prompts(options.out / "run", options.rng_seed)
        generated = generate(swarm, options, prompts)
        swarm.poll()
    finally:
        console.print("stopping the nodes …")
        swarm.close()
    verdict = report(options, swarm, probe, prepared, prompts, labels, generated)
    failures += verdict.failures
    minutes = (time.monotonic() - started) / 60
    console.print(f"\nall in {minutes:.1f} minutes; files in {options.out}")
    for failure in failures:
        console.print(f"[red]FAILED[/red] {failure}")
    console.print("[green]The demo passed.[/green]" if not failures else f"{len(failures)} of the demo's own checks failed.")
    sys.exit(0 if not failures or options.lenient else 1)


def parse_options() -> Options:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Train a small video model in a swarm on this machine.")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="everything goes here; emptied first")
    parser.add_argument("--minutes", type=float, default=TRAIN_S / 60, help="training time")
    parser.add_argument("--clips", type=int, default=900, help="gameplay clips to record")
    parser.add_argument("--peers", type=int, default=5, help="volunteers; four lead, the others stand by")
    parser.add_argument("--rng-seed", type=int, default=0)
    parser.add_argument("--lenient", action="store_true", help="exit 0 whatever the judge says")
    arguments = parser.parse_args()
    if arguments.peers < 4:
        parser.error("--peers must be at least 4")
    return Options(arguments.out.resolve(), arguments.minutes, arguments.clips, arguments.peers, arguments.lenient, arguments.rng_seed)


# 1. data


def prepare(options: Options) -> tuple[Probe, Prepared]:
    """Record clips, prepare them with the project's own command, fix the probe, create the run."""
    folder, log = options.out / "run", options.out / "logs" / "owner-commands.log"
    console.rule("1. clips: recorded from the game, then prepared like anybody's")
    count = write_clips(options.out / "clips", options.clips, options.rng_seed)
    console.print(f"recorded {count} clips of {len(SCENARIOS)} scenarios in {options.out / 'clips'}")
    console.print("paris-run prepare … (decoding, latents, captions, clusters)")
    run_command(
        "paris-run",
        *("prepare", str(options.out / "clips"), "--out", str(folder), "--experts", "3"),
        *("--frames", FRAMES, "--height", SIDE, "--width", SIDE, "--fps", RATE),
        log=log,
    )
    prepared = Prepared.load(folder)
    console.print(prepared.describe())
    console.print("fixing the judge's probe on real clips, before anything is trained …")
    probe = fit_probe(*real_clips(folder, prepared, "train", 60))
    run_command("paris-run", "create", str(folder), "--name", "demo", *purpose(), *(f"--{k}={v}" for k, v in RECIPE.items()), log=log)
    return probe, prepared


def purpose() -> tuple[str, ...]:
    return ("--purpose", "to show a swarm at work", "--data-licence", "MIT (VizDoom)", "--weights-licence", "Apache-2.0")


def real_clips(folder: Path, prepared: Prepared, split: str, per_scenario: int) -> tuple[np.ndarray, list[str]]:
    """Pixels of real clips, uint8 [N, T, H, W, 3], with their scenarios."""
    taken: dict[str, list[SplitClip]] = {name: [] for name in SCENARIOS}
    for clip in split_clips(folder, split):  # type: ignore[arg-type]
        kind = taken[scenario_of(clip)]
        if len(kind) < per_scenario:
            kind.append(clip)
    clips = [(clip.pixels(prepared.clip), name) for name, kind in taken.items() for clip in kind]
    return np.stack([np.asarray(pixels) for pixels, _ in clips]), [name for _, name in clips]


def scenario_of(clip: SplitClip) -> str:
    return Path(clip.source).name.partition("-")[0]


def choose_prompts(folder: Path, rng_seed: int) -> tuple[list[str], list[str]]:
    """Captions of the test split that no train clip has, 10 of each scenario, each twice: to see if a prompt gives one clip only."""
    by_scenario: dict[str, list[str]] = {name: [] for name in SCENARIOS}
    for line in (folder / "captions" / "test.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if not entry["seen_in_train"]:
            by_scenario[Path(entry["source"]).name.partition("-")[0]].append(entry["caption"])
    rng = random.Random(rng_seed)
    each = JUDGED_CLIPS // len(by_scenario) // CLIPS_PER_PROMPT
    some = [(caption, name) for name, captions in by_scenario.items() for caption in _some(captions, each, rng)]
    chosen = [pair for pair in some for _ in range(CLIPS_PER_PROMPT)]
    return [caption for caption, _ in chosen], [name for _, name in chosen]


def _some(captions: list[str], count: int, rng: random.Random) -> list[str]:
    if not captions:
        raise SystemExit("no test caption is unseen in training; record more clips with --clips")
    rng.shuffle(captions)
    return [captions[number % len(captions)] for number in range(count)]


# 2. the swarm


def train(swarm: Swarm, options: Options, failures: list[str]) -> None:
    """Open the swarm, let it train, kill a lead on the way, and go on until every slot has a newer tip."""
    console.rule("2. a swarm: bootstrap node, owner and volunteers, each its own process")
    swarm.open(options.out / "run")
    console.print(f"invite: {swarm.invite[:90]}…")
    began, wall = time.monotonic(), time.time()
    victim_slot = "expert-0"

    def elapsed() -> float:
        return time.monotonic() - began

    def due() -> bool:
        if not swarm.hand_over.killed_at and elapsed() > KILL_AT * options.train_s and swarm.slot(victim_slot).get("tip"):
            swarm.kill_lead(victim_slot)
        fresh = swarm.hand_over.killed_at > 0 and swarm.every_slot_since(wall + swarm.hand_over.killed_at - began)
        return (elapsed() > options.train_s and fresh) or elapsed() > options.train_s * 1.3 + 60

    view = View(swarm, lambda: f"training, {elapsed():.0f} of about {options.train_s:.0f} s")
    with view:
        watch(swarm, due, view.show)
    if not swarm.hand_over.killed_at:
        failures.append(f"{victim_slot} had no tip in time, so nobody was killed")
    elif swarm.hand_over.first_step_s is None:
        failures.append(f"nobody took over {victim_slot}")
    if not swarm.every_slot_since(wall + swarm.hand_over.killed_at - began):
        failures.append("not every slot has a tip that was made after the hand-over")
    console.print("pausing the volunteers: they checkpoint, release their claims, and go on seeding")
    for node in swarm.volunteers:
        if node.running:
            node.ask("pause")


class View:
    """The swarm, live on a terminal; once a minute in a log."""

    def __init__(self, swarm: Swarm, title: Callable[[], str]):
        self.swarm, self.title = swarm, title
        self._live = Live(console=console, refresh_per_second=1) if console.is_terminal else None
        self._printed = -1e9

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        if self._live is not None:
            self._live.update(self.swarm.draw(self.title()))
        elif time.monotonic() - self._printed > 60:
            self._printed = time.monotonic()
            console.print(self.swarm.draw(self.title()))


# 3. what it was for


def generate(swarm: Swarm, options: Options, prompts: list[str]) -> np.ndarray:
    """A peer that has nothing fetches everything and generates: all judged clips, then one as mp4, offline."""
    console.rule("3. a newcomer that has nothing fetches all experts and generates")
    newcomer, log = options.out / "newcomer", options.out / "logs" / "newcomer.log"
    invite, prompts_file, frames = options.out / "invite.txt", options.out / "prompts.txt", options.out / "generated.npy"
    prompts_file.write_text("\n".join(prompts) + "\n")
    common = ("--data-dir", str(newcomer), "--steps", str(STEPS), "--guidance", str(GUIDANCE))
    began = time.monotonic()
    run_command("paris-peer", "generate", f"@{invite}", "--prompts-file", str(prompts_file), "--out", str(frames), *common, log=log)
    console.print(f"{len(prompts)} clips for captions never trained on, in {time.monotonic() - began:.0f} s")
    clip = options.out / "clip.mp4"
    run_command("paris-peer", "generate", prompts[0], f"@{invite}", "--offline", "--out", str(clip), *common, log=log)
    console.print(f"{clip}: {prompts[0]!r}, generated offline")
    return np.asarray(np.load(frames))


def report(
    options: Options, swarm: Swarm, probe: Probe, prepared: Prepared, prompts: list[str], labels: list[str], generated: np.ndarray
) -> Verdict:
    """Judge, draw, and print what happened."""
    console.rule("4. the verdict")
    folder = options.out / "run"
    real, real_labels = real_clips(folder, prepared, "test", 40)
    train_real, _ = real_clips(folder, prepared, "train", 1000)
    verdict = judge(probe, generated, prompts, labels, (real, real_labels), train_real)
    rows = [
        (prompts[at], real[real_labels.index(name) + number], generated[at])
        for name in SCENARIOS
        for number, at in enumerate(_first(labels, name, 3 * CLIPS_PER_PROMPT)[::CLIPS_PER_PROMPT])
    ]
    picture(rows, options.out / "picture.png")
    console.print(slots_table(swarm))
    console.print(verdict.table())
    (options.out / "report.json").write_text(json.dumps({"slots": swarm.slots(), "hand_over": asdict(swarm.hand_over)}, indent=1))
    console.print(f"real rows beside generated ones: {options.out / 'picture.png'}")
    return verdict


def _first(labels: list[str], name: str, count: int) -> list[int]:
    return [at for at, label in enumerate(labels) if label == name][:count]


def slots_table(swarm: Swarm) -> Table:
    """What each slot came to, and the hand-over."""
    over = swarm.hand_over
    caption = f"bytes fetched: {', '.join(f'{name} {count / 1e6:.1f} MB' for name, count in swarm.moved_bytes.items())}"
    if over.first_step_s is not None:
        caption += (
            f"\nhand-over of {over.slot}: {over.victim} killed, {over.successor} took its first step {over.first_step_s:.1f} s later"
            f" (claim {RECIPE['claim-s']} s), from step {over.steps_at_tip} of the {over.steps_at_kill} that the dead lead had made"
        )
    table = Table(title="the swarm's work", caption=caption, caption_justify="left")
    for name in ("slot", "steps", "clips", "held-out loss", "signed by", "leads"):
        table.add_column(name)
    for slot in swarm.slots():
        leads = " → ".join(swarm.leads.get(slot["slot"], []))
        loss = "–" if slot["loss"] is None else f"{slot['loss']:.4f}"
        table.add_row(slot["slot"], f"{slot['steps']:,}", f"{slot['clips']:,}", loss, str(slot["attestations"]), leads)
    return table


if __name__ == "__main__":
    main()
