"""Says what the demo found: tables within 80 columns, and the same as markdown and JSON."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from examples.demo.data import CLAIM_S
from examples.demo.judge import Verdict, limit_of
from examples.demo.shares import TRAINERS
from examples.demo.sizes import Got, Plan, step_cost
from examples.demo.story import Training
from paris_p2p.device import NO_BFLOAT16, bfloat16_allowed, pick_device


@dataclass(frozen=True)
class Report:
    """Holds everything that was found out, ready to be printed or written."""

    training: Training
    got: Got
    phases_s: Mapping[str, float]  # wall seconds by phase, in order
    verdict: Verdict | None  # None where there was nothing to generate with
    ending: str  # the last word: passed, failed or unfinished, and why

    @property
    def plan(self) -> Plan:
        return self.training.plan

    def tables(self) -> list[Table]:
        """Returns the swarm's work, where the processor time went, and the judge's numbers."""
        tables = [self._slots(), self._shares()]
        return [*tables, self.verdict.table()] if self.verdict else tables

    def _slots(self) -> Table:
        swarm = self.training.swarm
        table = Table(title="the swarm's work", caption=self.hand_over(), caption_justify="left")
        for name in ("slot", "steps", "clips", "held-out loss", "signed by", "leads"):
            table.add_column(name, no_wrap=name != "leads")
        for slot in swarm.slots():
            leads = " → ".join(swarm.leads.get(slot["slot"], []))
            loss = "–" if slot["loss"] is None else f"{slot['loss']:.4f}"
            table.add_row(
                slot["slot"],
                f"{slot['steps']:,}",
                f"{slot['clips']:,}",
                loss,
                str(slot["attestations"]),
                leads,
            )
        return table

    def _shares(self) -> Table:
        seconds = self.training.shares.seconds()
        total_s = max(sum(seconds.values()), 1e-9)
        words = (
            f"from the first node's start until the volunteers paused: {self.training.elapsed_s:.0f} s; "
            "trainers count from the start of their process, nodes with their start and their joining"
        )
        table = Table(title="the swarm's processor time", caption=words, caption_justify="left")
        for name in ("what", "seconds", "share"):
            table.add_column(name, no_wrap=True, justify="left" if name == "what" else "right")
        for kind, used_s in seconds.items():
            table.add_row(
                kind, f"{used_s:.1f}", f"{used_s / total_s:.1%}", style="bold" if kind == TRAINERS else None
            )
        return table

    def hand_over(self) -> str:
        """Tells the killed lead's story in one sentence, or nothing."""
        over = self.training.swarm.hand_over
        if over.first_step_s is None:
            return (
                f"{over.victim} was killed when {over.slot} had its last step"
                if over.killed_at and self.training.went_on()
                else ""
            )
        return (
            f"hand-over of {over.slot}: {over.victim} killed, {over.successor} took its first step "
            f"{over.first_step_s:.0f} s later (a claim lasts {CLAIM_S} s), from step {over.steps_at_tip} "
            f"of the {over.steps_at_kill} that the dead lead had made"
        )

    def rows(self) -> list[tuple[str, str]]:
        """Returns the lines of the table that docs/benchmarks.md shows."""
        seconds, over = self.training.shares.seconds(), self.training.swarm.hand_over
        total_s, speed = max(sum(seconds.values()), 1e-9), self.plan.speed
        rows = [
            ("size", self.plan.size.name),
            (
                "a training step, measured in the first seconds",
                f"{speed.expert_step_s * 1000:.0f} ms of a processor",
            ),
            ("processors that the trainers got", f"{speed.cores:.2f}"),
            (
                "time, expected and at most",
                f"{self.plan.total_s / 60:.1f} and {self.plan.bound_s / 60:.0f} minutes",
            ),
            *((f"time of {name}", f"{spent_s / 60:.1f} minutes") for name, spent_s in self.phases_s.items()),
            ("all in, after the set-up", f"{sum(self.phases_s.values()) / 60:.1f} minutes"),
            ("steps of each slot's tip", ", ".join(f"{steps:,}" for steps in self.got.tip_steps.values())),
            ("a step, to what was measured", f"{step_cost(self.plan, self.got):.2f}"),
            (
                "hand-over: SIGKILL to the successor's first step",
                f"{over.first_step_s:.0f} s" if over.first_step_s else "–",
            ),
        ]
        rows += [
            (f"processor time: {kind}", f"{used_s:.0f} s, {used_s / total_s:.1%}")
            for kind, used_s in seconds.items()
        ]
        for check in self.verdict.checks if self.verdict else ():
            mark = "" if check.passed else " (missed)"
            rows.append((f"{check.name} ({limit_of(check)})", f"{check.value:.3f}{mark}"))
        rows += list(self.verdict.notes.items()) if self.verdict else []
        return [*rows, ("ending", self.ending)]

    def write(self, folder: Path) -> None:
        """Writes report.md, to be pasted, and report.json."""
        rows = [f"| {what} | {value} |" for what, value in self.rows()]
        lines = [f"{time.strftime('%Y-%m-%d')}, {machine()}", "", "| | |", "|---|---|", *rows]
        (folder / "report.md").write_text("\n".join(lines) + "\n")
        (folder / "report.json").write_text(json.dumps(self._numbers(), indent=1) + "\n")

    def _numbers(self) -> dict[str, Any]:
        training = self.training
        return {
            "machine": machine(),
            "at": time.time(),
            "plan": asdict(self.plan),
            "phases_s": dict(self.phases_s),
            "got": asdict(self.got),
            "swarm_s": training.elapsed_s,
            "processor_s": training.shares.seconds(),
            "training_share": training.shares.share(),
            "slots": training.swarm.slots(),
            "hand_over": asdict(training.swarm.hand_over),
            "moved_bytes": training.swarm.moved_bytes,
            "checks": [
                asdict(check) | {"passed": check.passed}
                for check in (self.verdict.checks if self.verdict else ())
            ],
            "ending": self.ending,
        }


def machine() -> str:
    """Describes the processors, and how they multiply."""
    device, kind = pick_device("auto"), "switched off" if not bfloat16_allowed() else "not there"
    bf16 = (
        "bfloat16"
        if device.bf16
        else f"float32 (bfloat16 {kind}{f', {NO_BFLOAT16} is set' if not bfloat16_allowed() else ''})"
    )
    return f"{_processor()}, {psutil.cpu_count()} cores, {device}, {bf16}"


def _processor(lines: Iterable[str] | None = None) -> str:
    """Returns the processor's name where Linux tells it."""
    try:
        lines = lines or Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = ()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
