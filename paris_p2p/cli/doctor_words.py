"""How `paris doctor` shows a report to a person: a row for each finding, and what mends it under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paris_p2p.byte_size import in_units
from paris_p2p.shown import shown

if TYPE_CHECKING:
    from paris_p2p.doctor.finding import Diagnosis, Finding, SlotOutlook, Verdict

_MARKS: dict[Verdict, tuple[str, str]] = {
    "good": ("ok", "green"),
    "note": ("note", "cyan"),
    "unknown": ("?", "dim"),
    "poor": ("poor", "yellow"),
    "cannot": ("NO", "bold red"),
}
_LETTERS = 1000


def draw_report(report: Diagnosis) -> RenderableType:
    """Returns what rich prints: findings, slots, and the verdict in a line."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(min_width=4)
    rows.add_column(no_wrap=True)
    rows.add_column(ratio=1)
    for finding in report.findings:
        _add(rows, finding)
    parts: list[RenderableType] = [rows]
    if report.slots:
        parts += [Text(""), _slots(report.slots)]
    return Group(*parts, Text(""), _verdict(report))


def _add(rows: Table, finding: Finding) -> None:
    word, style = _MARKS[finding.verdict]
    rows.add_row(Text(word, style=style), Text(finding.check), _text(finding.found))
    if finding.wanted and finding.verdict in ("unknown", "poor", "cannot"):
        rows.add_row("", Text("wanted", style="dim"), _text(finding.wanted, "dim"))
    if finding.mend and finding.verdict != "good":
        rows.add_row("", Text("do", style="bold"), _text(finding.mend))


def _slots(slots: tuple[SlotOutlook, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=False)
    for name in ("slot", "preset", "led by", "memory", "clips/s", "at once", "upload", "days left"):
        table.add_column(
            name, no_wrap=name != "preset", justify="left" if name in ("slot", "preset") else "right"
        )
    for one in slots:
        main = in_units(one.needs_memory_bytes)
        table.add_row(
            one.slot,
            Text(shown(one.preset)),
            f"…{one.lead[-8:]}" if one.lead else "nobody",
            f"{main} + {in_units(one.needs_vram_bytes)}" if one.needs_vram_bytes else main,
            f"{one.clips_per_s:.3g}" if one.clips_per_s else "does not fit" if not one.fits else "-",
            str(one.micro_batch_clips or "-"),
            f"{one.upload_s:.0f} s" if one.upload_s else "-",
            f"{one.days_left:.1f}" if one.days_left is not None else "-",
        )
    return table


def _verdict(report: Diagnosis) -> Text:
    bad = [one.check for one in report.findings if one.verdict == report.verdict]
    words = {
        "cannot": f"This machine cannot take part: {', '.join(bad)}.",
        "poor": f"This machine can take part, and will be poor: {', '.join(bad)}.",
    }
    return _text(words.get(report.verdict, "This machine can take part."), "bold")


def _text(words: str, style: str = "") -> Text:
    return Text(shown(words, _LETTERS), style=style)
