"""A running peer is shown as a live table on a terminal, and as plain lines in a log."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from paris_p2p.byte_size import in_units
from paris_p2p.errors import ParisError
from paris_p2p.node.status import SlotStatus, Status, TrainingStatus
from paris_p2p.rules.rounds import REASONS_FOR_UPDATES
from paris_p2p.shown import FIELD_LETTERS, said, say, shown

log = logging.getLogger(__name__)
_FULL_DISK = ("raise --max-disk", "no space left")
_SAY_AGAIN_S = 600.0
_DRAW_EVERY_S = 1.0
_NAME_LETTERS = 9  # of a lead in the table
_COLUMNS = ("slot", "lead", "epoch", "tip", "age", "steps", "clips", "gate", "signed", "waits")


class Console:
    """Says things, and shows the status once a second when there is a terminal."""

    def __init__(self) -> None:
        self._rich = RichConsole()
        self._recent: deque[str] = deque(maxlen=8)
        self._full_said_s = -math.inf  # monotonic

    def say(self, line: str) -> None:
        """Says a line; one for want of disk only when the last of its kind is a while ago, as each try would
        say it again.
        """
        if any(words in line for words in _FULL_DISK):
            now_s = time.monotonic()
            if now_s - self._full_said_s < _SAY_AGAIN_S:
                log.debug("said before: %s", line)
                return
            self._full_said_s = now_s
        if self._rich.is_terminal:
            said.info("%s", line)  # drawn by `show`
            self._recent.append(f"{time.strftime('%H:%M:%S')} {shown(line)}")
        else:
            say(line)

    async def show(self, status: Callable[[], Awaitable[Status]]) -> None:
        """Shows the status until cancelled."""
        if not self._rich.is_terminal:
            await asyncio.Event().wait()
        with Live(console=self._rich, refresh_per_second=2, transient=False) as live:
            while True:
                live.update(_fitted(self._rich, await _drawn(status), self._recent))
                await asyncio.sleep(_DRAW_EVERY_S)


def _fitted(screen: RichConsole, table: RenderableType, recent: Iterable[str]) -> RenderableType:
    """Returns the table with as many of the newest lines under it as a screen of this height shows: what does
    not fit is cut at its end, where the newest stand.
    """
    left = screen.height - len(screen.render_lines(table)) - 1  # a screen scrolls by its last row
    lines: list[str] = []
    for line in reversed(list(recent)):
        left -= len(Text(line).wrap(screen, screen.width))
        if left < 0 and lines:
            break
        lines.insert(0, line)
    return Group(table, Text("\n".join(lines), style="dim"))


async def _drawn(status: Callable[[], Awaitable[Status]]) -> RenderableType:
    try:
        return draw(await status())
    except ParisError as error:  # p2pd is being restarted: a view that ended would stay dark
        return Text(shown(error), style="yellow")


def draw(status: Status) -> RenderableType:
    """Draws a Status as a table with a line above and below."""
    head = Text.assemble(
        (shown(status.name, FIELD_LETTERS), "bold"),
        f"  run {status.run[:12]}…  {status.role} {status.peer_id[-8:]}  ",
        (status.phase, "bold green" if status.phase == "training" else "bold yellow"),
        f"  {shown(status.why)}",
    )
    parts: list[RenderableType] = [head]
    parts += [Text(status.network_trouble, style="yellow")] if status.network_trouble else []
    parts += [Text(shown(line), style="cyan") for line in status.governance.lines()]
    parts.append(_slots(status))
    parts += [Text(f"{slot.slot}: {slot.news}", style="yellow") for slot in status.slots if slot.news]
    parts += [Text(f"{slot.slot}: {slot.outlook}") for slot in status.slots if slot.outlook]
    crews = [(slot.slot, slot.crew.words()) for slot in status.slots if slot.crew is not None]
    parts += [Text(f"{slot}: {words}") for slot, words in crews if words]
    if status.training is not None:
        parts += _training(status.training)
    parts.append(_machine(status))
    if status.care is not None and (care := status.care.line()):
        parts.append(Text(shown(care), style="dim"))
    if status.refused_cards:
        refused = ", ".join(
            f"{count} × {shown(reason)}" for reason, count in sorted(status.refused_cards.items())
        )
        parts.append(Text(f"refused: {refused}", style="red"))
    return Group(*parts)


def _slots(status: Status) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    rows = [_row(slot, status) for slot in status.slots]
    for place, name in enumerate(_COLUMNS):
        # a narrow terminal cuts hashes, not names
        whole = max(len(cells[place]) for cells in rows) if rows and name != "tip" else 0
        table.add_column(
            name, justify="left" if name in ("slot", "lead") else "right", no_wrap=True, min_width=whole
        )
    for cells in rows:
        table.add_row(*cells)
    return table


def _training(training: TrainingStatus) -> list[Text]:
    note = [Text(f"here: {training.note}")] if training.note else []
    if not training.device:  # its trainer has not begun
        return note or [Text(f"here: {training.slot} is about to train")]
    loss = "–" if training.loss is None else f"{training.loss:.4f}"
    is_split = training.micro_batch_clips < training.batch_clips or training.recomputes
    line = (
        f"here: {training.slot} step {training.steps:,}, loss {loss}, "
        f"{training.clips_per_s:.1f} clips/s on {training.device}, "
        f"waited for data {training.wait_share:.1%}"
    )
    lines = [*note, Text(f"{line}, {training.at_once()}" if is_split else line)]
    if training.refused_updates:
        refused = ", ".join(
            f"{count} × {REASONS_FOR_UPDATES.get(code, code)}"
            for code, count in sorted(training.refused_updates.items())
        )
        lines.append(Text(f"updates of this peer that were not merged: {refused}", style="red"))
    return lines


def _machine(status: Status) -> RenderableType:
    relayed = sum(peer.path != "direct" for peer in status.peers)
    rates = (status.upload_bytes_per_s, status.download_bytes_per_s)
    return _Whole(
        (
            f"{len(status.peers)} peer{'s' * (len(status.peers) != 1)} ({relayed} relayed)",
            f"up {in_units(status.uploaded_bytes)} ({in_units(rates[0])}/s)",
            f"down {in_units(status.downloaded_bytes)} ({in_units(rates[1])}/s)",
            f"disk {in_units(status.disk_bytes)}",
            f"memory {in_units(status.memory_bytes)}",
            f"attested {status.attested}",
        )
    )


class _Whole:
    """Figures in as few lines as the screen's width allows, none of them broken in two."""

    def __init__(self, figures: Sequence[str]) -> None:
        self._figures = figures

    def __rich_console__(self, _: RichConsole, options: ConsoleOptions) -> Iterator[Text]:
        line: list[str] = []
        for figure in self._figures:
            if line and len("  ".join([*line, figure])) > options.max_width:
                yield Text("  ".join(line), style="dim")
                line = []
            line.append(figure)
        yield Text("  ".join(line), style="dim")


def _row(slot: SlotStatus, status: Status) -> list[str]:
    lead = _lead(slot.lead, status)
    if not slot.tip:
        return [slot.slot, lead, str(slot.epoch or "–"), "none yet", *["–"] * 5, str(slot.pending)]
    age = "–" if slot.tip_age_s is None else _age(slot.tip_age_s)
    loss = "–" if slot.loss is None else _loss(slot.loss)
    return [
        slot.slot,
        lead,
        str(slot.epoch or "–"),
        f"{slot.tip[:6]} #{slot.tip_seq}",
        age,
        _count(slot.steps),
        _count(slot.clips),
        loss,
        str(slot.attestations),
        str(slot.pending),
    ]


def _lead(peer: str, status: Status) -> str:
    """Returns a lead as the owner calls it, else the end of its id; at most nine letters."""
    if not peer:
        return "–"
    if peer == status.peer_id:
        return "this peer"
    name = status.governance.names.get(peer, "")
    return shown(name, _NAME_LETTERS) if name else f"…{peer[-8:]}"


def _age(seconds: float) -> str:
    """Returns at most five letters: `132 s`, `14 min`, `3 h`, `12 d`."""
    for unit, length_s in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= (3 if unit == "min" else 2) * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _loss(value: float) -> str:
    """Returns at most six letters below a million."""
    return f"{value:.4f}" if value < 10 else f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _count(number: int) -> str:
    """Writes numbers exactly up to 999,999, then with three figures: `12.3 M`, `4.56 G`."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if number >= size:
            return (
                f"{number / size:#.3g}".rstrip(".") + f" {unit}"
                if number < 1000 * size
                else f"{number / size:,.0f} {unit}"
            )
    return f"{number:,}"
