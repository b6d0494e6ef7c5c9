"""Shows a dev-swarm while it runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from paris_p2p.dev_swarm.dev_nodes import DevNode
from paris_p2p.dev_swarm.outcome import OWNER
from paris_p2p.shown import put, shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from paris_p2p.dev_swarm.dev_run import DevSwarm

DRAW_EVERY_S, LINE_EVERY_S = 0.5, 30.0
_NEWS = 8  # lines of what happened that stay in sight
_COLOURS = {"training": "green", "standby": "cyan", "seeding": "cyan", "gone": "red", "still": "yellow"}


@dataclass
class DevView:
    """Takes lines of what happens, and draws the swarm beside them."""

    live: Live | None = None
    _news: deque[str] = field(default_factory=lambda: deque(maxlen=_NEWS))
    _next_s: float = 0.0

    def say(self, line: str) -> None:
        """Shows one line of what happened."""
        stamped = f"{time.strftime('%H:%M:%S')} {shown(line)}"
        self._news.append(stamped)
        if self.live is None:
            put(stamped)

    def show(self, swarm: DevSwarm) -> None:
        """Draws the swarm, as often as a person looks."""
        if time.monotonic() < self._next_s:
            return
        if self.live is not None:
            self._next_s = time.monotonic() + DRAW_EVERY_S
            self.live.update(draw_swarm(swarm, list(self._news)), refresh=True)
        else:
            self._next_s = time.monotonic() + LINE_EVERY_S
            put(f"{time.strftime('%H:%M:%S')} {line_of(swarm)}")


@contextmanager
def dev_view() -> Iterator[DevView]:
    """Yields a view that fits where this program's output goes."""
    if not sys.stdout.isatty():
        yield DevView()
        return
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        view = DevView(live)
        yield view
        live.update("", refresh=True)


def state_of(swarm: DevSwarm, node: DevNode) -> str:
    """Returns in a word what a node does, or what was done to it."""
    if not node.running:
        return "gone"
    if node.halted:
        return "still"
    _, status = swarm.chronicle.last.get(node.name, (0.0, {}))
    if not status:
        return "starting"
    training = status.get("training")
    return str(training["slot"]) if training and training.get("loss") is not None else str(status["phase"])


def line_of(swarm: DevSwarm) -> str:
    """Returns the swarm in one line."""
    leads = swarm.chronicle.leads_now(swarm.now_s, 10.0)
    slots = []
    for slot in swarm.slots:
        tip = swarm.chronicle.tip(OWNER, slot)
        at = f"step {tip.steps:,} seq {tip.seq}" if tip else "no tip"
        slots.append(f"{slot} {at} by {leads.get(slot, 'nobody')}")
    there = sum(node.running and not node.halted for node in swarm.peers)
    return f"{swarm.phase} {_clock(swarm)}: {'; '.join(slots)}; {there} of {len(swarm.peers)} peers run"


def draw_swarm(swarm: DevSwarm, news: list[str]) -> RenderableType:
    """Draws the slots, the peers and what happened last, within 80 columns."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    leads = swarm.chronicle.leads_now(swarm.now_s, 10.0)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("slot", "trained by", "tip", "at step", "since the troubles began"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("slot", "trained by") else "right")
    for slot in swarm.slots:
        tip = swarm.chronicle.tip(OWNER, slot)
        first = swarm.chronicle.tip(OWNER, slot, swarm.troubled_s) if swarm.troubled_s else None
        table.add_row(
            slot,
            leads.get(slot, "–"),
            f"epoch {tip.epoch} seq {tip.seq}" if tip else "none",
            f"{tip.steps:,}" if tip else "–",
            f"+{tip.steps - first.steps:,}" if tip and first else "–",
        )
    peers = Text()
    for node in swarm.peers:
        state = state_of(swarm, node)
        colour = _COLOURS.get(state, "green" if state in swarm.slots else "default")
        peers.append(f"{node.name} {state}".ljust(20), style=colour)
    title = Text(f"dev-swarm: {swarm.phase} {_clock(swarm)}", style="bold")
    return Group(title, table, peers, Text("\n".join(line[:100] for line in news), style="dim"))


def _clock(swarm: DevSwarm) -> str:
    if swarm.phase != "troubles":
        return f"{swarm.now_s:.0f} s"
    return f"{swarm.now_s - swarm.troubled_s:.0f} of {swarm.wishes.length_s:.0f} s"
