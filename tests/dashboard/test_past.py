"""Curves stay short and keep the newest, and previews are shown beside the oldest of their prompt."""

from __future__ import annotations

from typing import Any

from paris_p2p.dashboard.past import MOST_LINES, curve, shown_previews
from paris_p2p.node.preview_sets import PreviewSet
from paris_p2p.rules.history import HistoryLine


def line(at_s: float, **more: Any) -> HistoryLine:
    fields: dict[str, Any] = {
        "slot": "expert-0",
        "seq": int(at_s),
        "epoch": 1,
        "card": f"{int(at_s):064x}",
        "lead": "12D3KooWLead",
        "at_s": at_s,
        "seconds": 60.0,
        "steps": int(10 * at_s),
        "clips": int(100 * at_s),
        "added_steps": 10,
        "added_clips": 100,
        "train_loss": 1.0,
        "gate_loss": 1.0 / (1.0 + at_s),
        "card_loss": 1.0,
        "reference_loss": 1.0,
        "attestations": 2,
        "lowered": 0,
        "rounds": 0,
        "is_light": False,
        "tips": 1,
    }
    return HistoryLine(**{**fields, **more})


def test_a_curve_is_in_order_short_and_ends_with_the_newest() -> None:
    points = curve([line(float(at)) for at in reversed(range(1, 5000))])
    assert len(points) <= MOST_LINES
    assert points[-1] == {"steps": 49990.0, "loss": 1.0 / 5000.0}
    assert [point["steps"] for point in points] == sorted(point["steps"] for point in points)


def test_a_curve_follows_the_lineage_whatever_the_clocks_of_its_makers_showed() -> None:
    """A lead whose clock was two days ahead dates its tip after those that follow."""
    made = [line(1.0), line(200_000.0, seq=2, steps=20), line(3.0)]
    assert [point["steps"] for point in curve(made)] == [10.0, 20.0, 30.0]


def test_tips_without_a_comparable_loss_are_not_in_the_curve() -> None:
    assert curve([line(1.0), line(2.0, gate_loss=None)]) == [{"steps": 10.0, "loss": 0.5}]
    assert curve([]) == []


def a_set(name: str, at_s: float, *prompts: str) -> PreviewSet:
    files = tuple(f"{place}.gif" for place in range(len(prompts)))
    steps = {"expert-0": int(at_s)}
    return PreviewSet(
        name=name, at_s=at_s, prompts=prompts, files=files, cards={}, seqs={}, steps=steps, clips={}
    )


def test_each_prompt_is_shown_newest_beside_oldest() -> None:
    sets = [a_set("a", 1.0, "ball"), a_set("b", 2.0, "cat", "ball"), a_set("c", 3.0, "ball", "cat", "new")]
    shown = shown_previews(sets)
    assert [(one["prompt"], one["newest"], one["before"]) for one in shown] == [
        ("ball", "c/0.gif", "a/0.gif"),
        ("cat", "c/1.gif", "b/0.gif"),
        ("new", "c/2.gif", ""),
    ]
    assert shown_previews([]) == []
