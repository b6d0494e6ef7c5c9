"""Runs the demo: a swarm on this machine trains a small video model, loses a member, goes on, and generates.

    plan = the largest size that this machine finishes in time, by steps measured here
    clips of three VizDoom scenarios -> mp4 files -> paris-run prepare, create, publish
    bootstrap node, owner and five peers train three experts and a router; one lead is killed and replaced
    paris-peer generate makes clips for prompts that no train clip has
    verdict = do they show what was asked, move, in order, vary, copy nothing: as promised for the size?

    scripts/demo                      # measures the machine first and does what it can finish
    scripts/demo --no-bfloat16        # as on a machine with AVX2 alone
    scripts/demo --size small --steps 100 --lenient   # a quick look; the verdict is printed and not judged

Every node is a process of its own with its own data directory. The exit status is 1 when what was promised
for this machine did not come; a machine that is too slow, or too busy, for any promise gets what there is,
said in so many words, and 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from examples.demo import data
from examples.demo.clips import SCENARIOS
from examples.demo.data import CLIPS_PER_PROMPT
from examples.demo.judge import Probe, Verdict, fit_probe, judge
from examples.demo.measure import measure
from examples.demo.picture import gif, picture
from examples.demo.processes import run_command
from examples.demo.report import Report, machine
from examples.demo.sizes import SIZES, Plan, choose, choose_again, excuse, shortfall
from examples.demo.story import Training, train
from examples.demo.swarm import Swarm
from paris_p2p.data.prepared import Prepared
from paris_p2p.device import NO_BFLOAT16

GUIDANCE = 1.5
TEST_CLIPS, TRAIN_CLIPS, PROBE_CLIPS = 40, 1000, 60  # of each scenario
console = Console(highlight=False)


@dataclass
class Options:
    out: Path
    size: str
    steps: int
    peers: int
    lenient: bool
    rng_seed: int


@dataclass
class Clock:
    """Measures wall seconds since the start, and by phase."""

    began_at: float = field(default_factory=time.monotonic)
    phases_s: dict[str, float] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_at

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_at = time.monotonic()
        try:
            yield
        finally:
            self.phases_s[name] = self.phases_s.get(name, 0.0) + time.monotonic() - began_at


def main() -> None:
    options, clock = parse_options(), Clock()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    os.chdir(options.out)  # VizDoom leaves an .ini where it runs
    with clock.phase("measuring"):
        plan = first_plan(options)
    with clock.phase("clips, preparing, creating"):
        probe, prepared, plan = prepare(options, plan, clock)
    training, samples = swarm(options, plan, clock)
    with clock.phase("judging, drawing"):
        verdict = judged(options, plan, probe, prepared, samples) if samples else None
    report = Report(training, training.got(), clock.phases_s, verdict, ending(plan, training, verdict))
    for table in report.tables():
        console.print(table)
    report.write(options.out)
    console.print(
        f"\nall in {clock.elapsed_s / 60:.1f} minutes; report.md, report.json and logs are in {options.out}",
        soft_wrap=True,
    )
    console.print(report.ending)
    sys.exit(0 if options.lenient or not report.ending.startswith(FAILED) else 1)


FAILED, PASSED, UNFINISHED = "The demo FAILED", "The demo passed", "The demo is unfinished, and not judged"


def parse_options() -> Options:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Train a small video model in a swarm on this machine."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="everything goes here; emptied first"
    )
    parser.add_argument(
        "--size",
        choices=["auto", *(size.name for size in SIZES)],
        default="auto",
        help="default: what the machine can",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=0,
        help="of every slot, instead of the size's own; promises are for the size's",
    )
    parser.add_argument(
        "--no-bfloat16", action="store_true", help="as on a machine with AVX2 and without bfloat16"
    )
    parser.add_argument("--peers", type=int, default=5, help="volunteers; four lead, the others stand by")
    parser.add_argument("--rng-seed", type=int, default=0)
    parser.add_argument("--lenient", action="store_true", help="exit 0 whatever the judge says")
    arguments = parser.parse_args()
    if arguments.peers < 4:
        parser.error("--peers must be at least 4")
    if arguments.no_bfloat16:
        refuse_bfloat16()
    out, size, steps = arguments.out.resolve(), arguments.size, arguments.steps
    return Options(out, size, steps, arguments.peers, arguments.lenient, arguments.rng_seed)


def refuse_bfloat16() -> None:
    """Keeps this process and all it starts in float32: by our own switch, and oneDNN without AVX-512."""
    os.environ |= {NO_BFLOAT16: "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}


# 1. the machine and the data


def first_plan(options: Options) -> Plan:
    """Returns the size that this machine, measured, can finish; or the one that was asked for."""
    console.rule("1. this machine: how fast does it train?")
    console.print(machine())
    sizes = [size for size in SIZES if options.size in ("auto", size.name)]
    sizes = [replace(size, steps=options.steps or size.steps) for size in sizes]
    plan = choose(measure(sizes), sizes)
    console.print(str(plan))
    if not plan.fits:
        console.print(
            "[yellow]This machine, as it is now, cannot finish that in time: "
            "you will see what there is by then.[/yellow]"
        )
    return plan


def prepare(options: Options, plan: Plan, clock: Clock) -> tuple[Probe, Prepared, Plan]:
    """Records and prepares clips, fixes the probe, measures the machine once more, creates the run."""
    console.rule("2. clips: recorded from the game, then prepared like anybody's")
    folder = options.out / "run"
    count = data.record(options.out, plan.size, options.rng_seed)
    console.print(f"recorded {count} clips of {len(SCENARIOS)} scenarios in {options.out / 'clips'}")
    console.print("paris-run prepare … (decoding, latents, captions, clusters)")
    prepared = data.prepare(options.out, plan.size)
    console.print(prepared.describe())
    console.print("fixing the judge's probe on real clips, before anything is trained …")
    probe = fit_probe(*data.real_clips(folder, prepared, "train", PROBE_CLIPS))
    if options.size == "auto":
        sizes = [replace(size, steps=options.steps or size.steps) for size in SIZES]
        again = choose_again(plan, measure(sizes), clock.elapsed_s, sizes)
        console.print(f"measured again: {again}")
        plan = again
    data.create(options.out, plan)
    return probe, prepared, plan


# 2. the swarm


def swarm(options: Options, plan: Plan, clock: Clock) -> tuple[Training, Samples | None]:
    """Opens the swarm, lets it train, has a newcomer generate.

    There are no samples when a slot has no tip.
    """
    console.rule("3. a swarm: bootstrap node, owner and volunteers, each its own process")
    nodes = Swarm(options.out, options.peers)
    training = Training(nodes, plan, clock.began_at + plan.train_until_s())
    try:
        with clock.phase("the swarm's training"):
            training.begin()
            nodes.open(options.out / "run")
            console.print(f"invite: {nodes.invite[:60]}…")
            train(training, console)
        with clock.phase("generating"):
            samples = generate(options, plan) if nodes.tips() else None
        nodes.poll()
    finally:
        console.print("stopping the nodes …")
        nodes.close()
    return training, samples


@dataclass(frozen=True)
class Samples:
    """Holds what was generated, and for what."""

    prompts: list[str]
    labels: list[str]  # the prompts' scenarios
    clips: np.ndarray  # uint8 [N, T, H, W, 3]


def generate(options: Options, plan: Plan) -> Samples:
    """Has a peer that holds nothing fetch everything and generate: the judged clips, then one mp4,
    offline.
    """
    console.rule("4. a newcomer that has nothing fetches all experts and generates")
    out, log = options.out, options.out / "logs" / "newcomer.log"
    prompts, labels = data.choose_prompts(out / "run", plan.size.judged_clips, options.rng_seed)
    (out / "prompts.txt").write_text("\n".join(prompts) + "\n")
    common = (
        "--data-dir",
        str(out / "newcomer"),
        "--steps",
        str(plan.size.sampling_steps),
        "--guidance",
        str(GUIDANCE),
    )
    invite, frames, clip = f"@{out / 'invite.txt'}", out / "generated.npy", out / "clip.mp4"
    began_at = time.monotonic()
    run_command(
        "paris-peer",
        "generate",
        invite,
        "--prompts-file",
        str(out / "prompts.txt"),
        "--out",
        str(frames),
        *common,
        log=log,
    )
    console.print(
        f"{len(prompts)} clips for captions never trained on, in {time.monotonic() - began_at:.0f} s"
    )
    run_command(
        "paris-peer", "generate", prompts[0], invite, "--offline", "--out", str(clip), *common, log=log
    )
    console.print(f"{clip.name}: {prompts[0]!r}, generated offline")
    return Samples(prompts, labels, np.asarray(np.load(frames)))


# 3. the verdict


def judged(options: Options, plan: Plan, probe: Probe, prepared: Prepared, samples: Samples) -> Verdict:
    """Judges and draws."""
    console.rule("5. the verdict")
    real, real_labels = data.real_clips(options.out / "run", prepared, "test", TEST_CLIPS)
    train_real, _ = data.real_clips(options.out / "run", prepared, "train", TRAIN_CLIPS)
    draw(options.out, samples, real, real_labels)
    return judge(
        probe,
        samples.clips,
        samples.prompts,
        samples.labels,
        (real, real_labels),
        train_real,
        plan.size.promise,
    )


def draw(out: Path, samples: Samples, real: np.ndarray, real_labels: list[str]) -> None:
    """Draws picture.png with two prompts of each scenario, generated.gif of one clip, and real.gif beside
    it.
    """
    rows = []
    for name in SCENARIOS:
        prompted = [at for at, label in enumerate(samples.labels) if label == name][::CLIPS_PER_PROMPT]
        kind = real[np.asarray(real_labels) == name]
        rows += [
            (samples.prompts[at], kind[number % len(kind)], samples.clips[at])
            for number, at in enumerate(prompted[:2])
        ]
    picture(rows, out / "picture.png")
    picture(rows, out / "picture.jpg")  # small enough for a page
    _, real_clip, generated = rows[1]
    gif(real_clip, out / "real.gif")
    gif(generated, out / "generated.gif")
    console.print("look at picture.png (real rows beside generated ones), real.gif and generated.gif")


def ending(plan: Plan, training: Training, verdict: Verdict | None) -> str:
    """Says the last word: what was promised and came, did not come, or was not to be had from this
    machine.
    """
    missing = training.failures() + (
        verdict.failures if verdict else ["some slot has no checkpoint to generate with"]
    )
    got = training.got()
    short = shortfall(plan, got)
    if short and (why := excuse(plan, got)):
        seen = f" What the judge would have missed: {'; '.join(missing)}." if missing else ""
        return f"{UNFINISHED}: {short}, because {why}.{seen}"
    failures = ([short] if short else []) + missing
    if failures:
        return "\n".join(
            [
                f"{FAILED} what was promised for its size ({plan.size.name}):",
                *(f"- {failure}" for failure in failures),
            ]
        )
    return f"{PASSED}: all that was promised for its size ({plan.size.name}) came."


if __name__ == "__main__":
    main()
