"""Measures a hand-over with real processes: from SIGKILL of a lead to its successor's first step.

    python -m bench.hand_over [--rounds 3] [--claim-s 30] [--checkpoint-s 30]

Bootstrap node, owner, two leads (one expert, the router) and one peer that stands by. Each round kills the
expert's lead and deletes its directory, waits for a step by another peer, and starts a newcomer as the next
one to stand by. Times are what `status` shows, asked five times a second; a trainer reports its steps once a
second.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.row import print_row
from examples.demo.processes import Node
from examples.demo.swarm import Swarm
from paris_p2p.spec import TimingSpec
from tests.made.made_prepared import make_run

T = TypeVar("T")
SLOT = "expert-0"
PATIENCE_S = 300.0
# node name -> when it had made how many steps
HISTORY: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)


@dataclass(frozen=True)
class Round:
    first_step_s: float  # since the SIGKILL
    lost_steps: int
    lost_s: float  # since the dead lead made the step that its successor went on from


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--claim-s", type=float, default=30.0)
    parser.add_argument("--checkpoint-s", type=float, default=30.0)
    options = parser.parse_args()
    timing = TimingSpec(
        claim_s=options.claim_s, settle_s=2.0, margin_s=3.0, checkpoint_s=options.checkpoint_s
    )
    with tempfile.TemporaryDirectory(prefix="paris-bench-") as folder:
        root = Path(folder)
        make_run(root / "run", timing=timing)
        swarm = Swarm(root, peers=3)
        try:
            swarm.open(root / "run")
            rounds = [one_round(swarm, number, timing) for number in range(options.rounds)]
        finally:
            for node in [
                *swarm.volunteers,
                *(n for n in (getattr(swarm, "owner", None), getattr(swarm, "bootstrap", None)) if n),
            ]:
                node.kill()
    report(rounds, timing)


def one_round(swarm: Swarm, number: int, timing: TimingSpec) -> Round:
    """Waits until the slot is led, has a tip of that lead and somebody stands by; then kills the lead."""
    lead = wait(swarm, "a lead with a tip, and a peer standing by", lambda: ready(swarm))
    began, history = time.monotonic(), HISTORY[lead.name]
    wait(
        swarm,
        "work to lose",
        lambda: time.monotonic() - began > timing.checkpoint_s / 2 and ready(swarm) is lead,
    )
    steps = steps_of(lead)
    log_sizes = {node.name: node.log.stat().st_size for node in swarm.volunteers}
    killed = time.monotonic()
    lead.destroy()
    successor = wait(swarm, "a successor's first step", lambda: stepping(swarm, but=lead))
    first_step_s = time.monotonic() - killed
    words = successor.log.read_text()[log_sizes[successor.name] :]
    went_on = int(words.split(f"training {SLOT} on cpu from step ")[1].split()[0])
    swarm.volunteers.remove(lead)
    swarm.add_volunteer(f"newcomer-{number}", swarm.root / "invite.txt")
    kept_at = max((at for at, made in history if made <= went_on), default=history[0][0])
    found = Round(first_step_s, max(0, steps - went_on), killed - kept_at)
    said = (
        f"first step after {found.first_step_s:.1f} s, lost {found.lost_steps} steps, "
        f"{found.lost_s:.1f} s of work"
    )
    print(f"  round {number + 1}: {said}", flush=True)
    return found


def ready(swarm: Swarm) -> Node | None:
    lead = stepping(swarm)
    waiting = any(node.last_status.get("phase") == "standby" for node in swarm.volunteers if node.running)
    slot = swarm.slot(SLOT)
    mine = (
        lead is not None
        and bool(slot.get("tip"))
        and slot["tip_epoch"] == lead.last_status["training"]["epoch"]
    )
    return lead if mine and waiting else None


def stepping(swarm: Swarm, but: Node | None = None) -> Node | None:
    lead = swarm.lead_of(SLOT)
    return lead if lead is not but else None


def steps_of(lead: Node) -> int:
    return int(lead.last_status["training"]["steps"])


def wait(swarm: Swarm, what: str, look: Callable[[], T]) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        swarm.poll()
        note_steps(swarm)
        if found := look():
            return found
        if time.monotonic() > deadline:
            words = "\n\n".join(
                f"{node.name}:\n{node.last_lines()}" for node in [swarm.owner, *swarm.volunteers]
            )
            raise SystemExit(f"waited {PATIENCE_S:.0f} s for {what}\n{words}")
        time.sleep(0.2)


def note_steps(swarm: Swarm) -> None:
    for node in swarm.volunteers:
        training = node.last_status.get("training") if node.running else None
        if training and training["slot"] == SLOT:
            HISTORY[node.name].append((time.monotonic(), training["steps"]))


def report(rounds: list[Round], timing: TimingSpec) -> None:
    times = [found.first_step_s for found in rounds]
    lost = [found.lost_s / timing.checkpoint_s for found in rounds]
    result = (
        f"median {statistics.median(times):.1f} s = {statistics.median(times) / timing.claim_s:.2f} claims "
        f"of {timing.claim_s:g} s"
        f" ({', '.join(f'{t / timing.claim_s:.2f}' for t in times)}); work lost: "
        f"{statistics.median(lost):.2f} checkpoint intervals of"
        f" {timing.checkpoint_s:g} s, at most {max(lost):.2f}"
    )
    print_row("(b) hand-over, SIGKILL of a lead to its successor's first step", result)


if __name__ == "__main__":
    main()
