"""A run's past as text for people, as a table of values, and as JSON: `paris-run history`."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from paris_p2p.rules.history import HistoryLine, TipLink, missing
from paris_p2p.rules.time_left import duration_words
from paris_p2p.shown import FIELD_LETTERS, shown

if TYPE_CHECKING:
    from paris_p2p.node.run_history import RunHistory

_COLUMNS = (*(field.name for field in fields(HistoryLine)), "clips_per_s")
_BARS = "▁▂▃▄▅▆▇█"
_SPARK_LETTERS = 48
_HEADS = ("seq", "signed at", "took", "steps", "clips", "clips/s", "trained", "gate", "lead", "")


def history_csv(found: RunHistory) -> str:
    """Returns a row for each tip, with a row of names above them; what is not known is empty."""
    out = io.StringIO()
    table = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(_values(line) for lines in found.lines().values() for line in lines)
    return out.getvalue()


def history_json(found: RunHistory, now_s: float) -> str:
    """Returns one object: the run, each slot's lines, and who told how much where peers were asked."""
    links = found.links
    return json.dumps(
        {
            "at": now_s,
            "run": found.state.run,
            "name": found.state.signed.name,
            "slots": {slot: [_values(line) for line in lines] for slot, lines in found.lines().items()},
            "missing": {slot: missing(of_slot) for slot, of_slot in links.items()},
            "told": [asdict(one) for one in found.told],
        }
    )


def history_text(found: RunHistory, last: int) -> str:
    """Returns each slot's curve and its `last` tips (0: all), for a person."""
    blocks = [f"run {shown(found.state.signed.name, FIELD_LETTERS)} ({found.state.run[:16]}…)"]
    lines = found.lines()
    blocks += ["\n".join(_slot_lines(slot, lines[slot], links, last)) for slot, links in found.links.items()]
    if not any(lines.values()):
        blocks.append("no checkpoint has become a tip yet, or none is known here")
    if found.told:
        blocks.append("\n".join(_told_lines(found)))
    return "\n\n".join(block for block in blocks if block)


def sparkline(values: Sequence[float], letters: int = _SPARK_LETTERS) -> str:
    """Returns values as bars, of which the highest is the greatest; each bar is the mean of some in a row."""
    if not values:
        return ""
    groups = min(letters, len(values))
    cuts = [len(values) * place // groups for place in range(groups + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(cuts)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int((one - low) / span * len(_BARS)))] for one in means)


def _slot_lines(
    slot: str, lines: Sequence[HistoryLine], links: Sequence[TipLink], last: int
) -> Iterator[str]:
    if not lines:
        return
    newest = lines[-1]
    count = "1 tip" if newest.seq == 1 else f"{newest.seq:,} tips"
    yield f"{slot}: {count}, {newest.steps:,} steps, {newest.clips:,} clips"
    losses = [line.gate_loss for line in lines if line.gate_loss is not None]
    if losses:
        curve = f"{losses[0]:.4f} {sparkline(losses)} {losses[-1]:.4f}"
        yield f"  gate loss {curve}, the lowest {min(losses):.4f}"
    if lacking := missing(links):
        yield f"  {lacking:,} of them are not known here"
    thin = sum((line.tips or 1) - 1 for line in lines)
    if thin:
        yield f"  {thin:,} of them were thinned out; what was made in between is counted with the next"
    rows = [_HEADS, *(_row(line) for line in (lines[-last:] if last else lines))]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADS))]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()


def _row(line: HistoryLine) -> tuple[str, ...]:
    rate = line.clips_per_s
    kind = "went back" if line.tips == 1 and line.added_clips == 0 and line.lowered else ""
    if line.rounds:
        kind = f"{line.rounds} rounds" if line.is_light else "full, of a crew"
    return (
        f"{line.seq:,}",
        time.strftime("%Y-%m-%d %H:%M", time.gmtime(line.at_s)),
        "–" if line.seconds is None else duration_words(line.seconds),
        f"{line.steps:,}",
        f"{line.clips:,}",
        "–" if rate is None else f"{rate:.3g}",
        f"{line.train_loss:.4f}",
        "–" if line.gate_loss is None else f"{line.gate_loss:.4f}",
        f"…{line.lead[-8:]}",
        kind,
    )


def _told_lines(found: RunHistory) -> Iterator[str]:
    """Yields who told how much: of one that tells less than the others, or what does not hold, a person is
    told.
    """
    most = max(one.tips for one in found.told)
    for one in found.told:
        words = f"…{one.peer[-8:]} told {one.tips:,} tips"
        words += f", {most - one.tips:,} fewer than another" if one.tips < most else ""
        words += f"; {one.bad:,} records of it do not hold and were left out" if one.bad else ""
        yield shown(words + (f"; {one.error}" if one.error else ""))


def _values(line: HistoryLine) -> dict[str, Any]:
    return {**asdict(line), "clips_per_s": line.clips_per_s}
