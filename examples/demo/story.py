"""Tells the demo's swarm what to do: it trains every slot, loses a lead on the way, and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
from rich.console import Console
from rich.live import Live

from examples.demo.shares import TRAINERS, Shares, look_around
from examples.demo.sizes import Got, Plan
from examples.demo.swarm import Swarm, watch

VICTIM_SLOT = "expert-0"
KILL_AT = (
    0.3  # of the slot's steps, or of the time there is, whichever comes first; its first tip must be there
)
LOG_S = 60.0  # between two tables in a log


@dataclass
class Training:
    """Holds what is known of the swarm's phase while it lasts and after it."""

    swarm: Swarm
    plan: Plan
    ends_at: float  # monotonic: training must be over then
    shares: Shares = field(default_factory=Shares)
    began_at: float = field(default_factory=time.monotonic)
    ended_at: float = 0.0
    made: dict[str, int] = field(default_factory=dict)  # steps by slot, those lost with a killed lead too
    _machine: tuple[float, float] = (0.0, 0.0)  # idle and all processor seconds when it began
    _newest: dict[tuple[str, str], tuple[int, int]] = field(
        default_factory=dict
    )  # (node, slot): steps it began and stands at

    def begin(self) -> None:
        self.began_at, self._machine = time.monotonic(), machine_s()
        self.shares.begin(look_around())

    def note(self) -> None:
        """Looks at the processes and at the leads; called after each poll."""
        self.shares.add(look_around())
        for node in self.swarm.volunteers:
            training = node.last_status.get("training") if node.running else None
            if training and training["loss"] is not None:
                key = node.name, training["slot"]
                first, last = self._newest.get(key, (self._stood_at(training), 0))
                self._newest[key] = first, max(last, training["steps"])
        self.made = {slot: self._made(slot) for _, slot in self._newest}

    def _stood_at(self, training: dict[str, object]) -> int:
        """Returns where a leadership that is seen for the first time went on from, as nearly as the tip
        says.
        """
        return self.swarm.trained(str(training["slot"]))

    def _made(self, slot: str) -> int:
        return sum(last - first for (_, some), (first, last) in self._newest.items() if some == slot)

    @property
    def elapsed_s(self) -> float:
        return (self.ended_at or time.monotonic()) - self.began_at

    def over(self) -> bool:
        """Says whether every slot has its last step and the hand-over is done, or time is up."""
        return (
            self.swarm.finished(self.plan.size.steps) and self.went_on()
        ) or time.monotonic() > self.ends_at

    def kill_is_due(self) -> bool:
        """Says whether there is a tip to go on from, and a third of the slot's work is done."""
        swarm = self.swarm
        if swarm.hand_over.killed_at or not swarm.slot(VICTIM_SLOT).get("tip"):
            return False
        lead = swarm.lead_of(VICTIM_SLOT)
        steps = max(lead.last_status["training"]["steps"] if lead else 0, swarm.trained(VICTIM_SLOT))
        return steps >= KILL_AT * self.plan.size.steps or self.elapsed_s > KILL_AT * (
            self.ends_at - self.began_at
        )

    def went_on(self) -> bool:
        """Says whether the killed lead's slot has a newer tip; one that had its last step needs none."""
        over = self.swarm.hand_over
        return over.killed_at > 0 and (
            over.new_tip_s is not None or over.steps_at_tip >= self.plan.size.steps
        )

    def failures(self) -> list[str]:
        """Returns what of the swarm's story did not come to pass."""
        over = self.swarm.hand_over
        if not over.killed_at:
            return [f"{VICTIM_SLOT} had no tip in time, so nobody was killed"]
        if self.went_on():
            return []
        late = (
            "its successor's first tip did not come in time"
            if over.first_step_s is not None
            else "nobody took it over"
        )
        return [f"{VICTIM_SLOT}, whose lead was killed: {late}"]

    def got(self) -> Got:
        tips = {slot["slot"]: self.swarm.trained(slot["slot"]) for slot in self.swarm.slots()}
        idle_s, all_s = machine_s()
        idle = (idle_s - self._machine[0]) / max(all_s - self._machine[1], 1e-9)
        return Got(tips, self.made, self.shares.seconds()[TRAINERS], idle, self.shares.share())

    def title(self) -> str:
        """Tells the progress, and when the slowest slot will be done at the rate of the whole time so far."""
        steps = self.plan.size.steps
        least = min((self.swarm.trained(slot["slot"]) for slot in self.swarm.slots()), default=0)
        left_s = max(0.0, self.ends_at - time.monotonic())
        words = f"training for {self.elapsed_s:.0f} s, at most {left_s:.0f} s more; "
        words += f"every slot signed up to step {least:,} of {steps:,}"
        return f"{words}; training has {self.shares.share():.0%} of our processor time"


def machine_s() -> tuple[float, float]:
    """Returns (idle, all) processor seconds of this machine since it started."""
    times = psutil.cpu_times()
    return float(times.idle + getattr(times, "iowait", 0.0)), float(sum(times))


def train(training: Training, console: Console) -> None:
    """Watches until it is over, and kills the lead of VICTIM_SLOT on the way. Then the volunteers pause."""
    swarm = training.swarm

    def over() -> bool:
        training.note()
        if training.kill_is_due():
            swarm.kill_lead(VICTIM_SLOT)
        return training.over()

    view = View(swarm, training.title, console)
    with view:
        watch(swarm, over, view.show)
    view.print()
    console.print("pausing the volunteers: they checkpoint, release their claims, and go on seeding")
    for node in swarm.volunteers:
        if node.running:
            node.ask("pause")
    swarm.poll()
    training.note()
    training.ended_at = time.monotonic()


class View:
    """Shows the swarm, live on a terminal; once a minute in a log."""

    def __init__(self, swarm: Swarm, title: Callable[[], str], console: Console):
        self.swarm, self.title, self.console = swarm, title, console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
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
            self._live.update(self.swarm.draw(self.title()), refresh=True)
        elif time.monotonic() - self._printed > LOG_S:
            self._printed = time.monotonic()
            self.print()

    def print(self) -> None:
        self.console.print(self.swarm.draw(self.title()))
