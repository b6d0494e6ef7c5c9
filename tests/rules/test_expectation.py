"""What experts are expected to be worth is what was measured at such a size, and elsewhere not known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.rules.expectation import LIKE, PLACES, MeasuredPlace, RunSize, differences, expectation

ROOT = Path(__file__).parents[2]
SIZES = st.builds(
    RunSize,
    images=st.booleans(),
    experts=st.integers(2, 256),
    parameters=st.integers(1000, 10**11),
    clips=st.integers(1, 10**9),
    passes=st.floats(0, 1e6),
)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.section[:20] + place.worth)
def test_at_a_place_itself_the_answer_is_what_was_found_there(place: MeasuredPlace) -> None:
    found = expectation(place.size)
    assert found.place == place
    assert found.worth == place.worth


@given(SIZES)
def test_nothing_is_said_of_a_size_that_is_unlike_all_that_were_measured(size: RunSize) -> None:
    found = expectation(size)
    assert found.place.size.images == size.images
    like = [
        place for place in PLACES if place.size.images == size.images and not differences(size, place.size)
    ]
    assert (found.worth == "not known") == (not like)
    if like:
        assert found.place in like


@pytest.mark.parametrize("name", sorted(LIKE))
def test_a_run_that_differs_in_one_thing_alone_is_told_in_what(name: str) -> None:
    place = PLACES[0]
    far = replace(place.size, **{name: type(getattr(place.size, name))(getattr(place.size, name) * 50)})
    found = expectation(far, (place,))
    assert found.worth == "not known"
    assert found.differs == (name,)


def test_a_run_without_an_end_is_compared_by_what_is_known_of_it() -> None:
    assert expectation(replace(PLACES[0].size, passes=0)).worth == PLACES[0].worth


def test_every_place_is_told_with_its_ratios_where_it_says() -> None:
    page, answers = (
        (ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("experiments", "science")
    )
    headings = [line.lstrip("# ") for line in page.splitlines() if line.startswith("## ")]
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    whole = " ".join((page + answers).replace("*", "").split())
    for place in PLACES:
        assert place.section in anchors
        for value, low, high in re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", place.found):
            said = f"{value} ({low} to {high})" in whole or f"{value}, {low} to {high}" in whole
            assert said, f"{place.name}: {value} ({low} to {high}) is in neither page"


def test_the_owners_page_has_a_row_for_every_place() -> None:
    page = (ROOT / "docs/owners.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| [") and "experiments.md#" in line]
    said = {"pays": "**pay**", "loses": "**lose**", "level": "**level**", "undecided": "undecided"}
    for place, row in zip(PLACES, rows, strict=True):
        found, size = place.found, place.size
        millions = f"{size.experts} x {size.parameters / 1e6:.2f} M"
        clips = f"{size.clips:,} {'images' if size.images else 'clips'}, {size.passes:.0f} pass"
        for words in (f"[{place.name}](experiments.md#{place.section})", millions, clips, found):
            assert words in row
        assert row.endswith(f"| {said[place.worth]} |")
