"""Tests that everything given is on the page, and that nothing given can change the page."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from paris_p2p.errors import UsageError
from paris_p2p.score.drawing import colours
from paris_p2p.score.figures import (
    Curve,
    calibration,
    confusion,
    distances,
    expected_calibration_error,
    loss_curves,
    routing_over_time,
    specialisation,
)
from paris_p2p.score.intervals import Floor, Score
from paris_p2p.score.page import (
    ClipRow,
    ClipWall,
    Report,
    Section,
    Table,
    looping,
    number,
    render,
    score_table,
)

HOSTILE = '</figcaption><script>alert(1)</script> $x^2$ " onload="x" & <svg onload=x> \x1b[31m\u202e 猫'
SCORE = Score(
    name="Fréchet distance, toy",
    value=12.3456,
    low=11.25,
    high=13.75,
    level=0.95,
    real_clips=120,
    real_sources=40,
    generated_clips=121,
    generated_sources=41,
    seeds=1,
    matched=14.125,
    floor=Floor(3.5, 3.25, 3.75, 60),
)


class Page(HTMLParser):
    """Collects the tags of a page, with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.text += data


def whole_report(text: str) -> Report:
    """Returns a report with every part there is, with `text` wherever a text goes."""
    rng = np.random.default_rng(0)
    names = [text, "beta", "gamma"]
    confidence = rng.uniform(0.3, 1, 200)
    figures = (
        loss_curves(text, [Curve(text, np.arange(9), 1 / (1 + np.arange(9)))], text, text),
        distances(
            text, {text: [replace(SCORE, name=text)], "monolith": [replace(SCORE, name=text, value=24.5)]}
        ),
        routing_over_time(text, np.linspace(1, 0.1, 10), rng.dirichlet([1, 1, 1], (3, 10)), names, names),
        confusion(text, np.array([[9, 1, 0], [2, 8, 0], [0, 0, 10]]), names),
        calibration(text, confidence, rng.uniform(size=200) < confidence),
        specialisation(text, np.array([[0.5, 1.0, 1.5], [1.0, 0.625, 1.5], [1.0, 1.0, 0.75]]), names, names),
    )
    clip = looping(rng.integers(0, 255, (4, 32, 32, 3)).astype(np.uint8), 8.0, text)
    wall = ClipWall(text, (text, "experts"), (ClipRow(text, (clip, None)),), text)
    table = Table(text, (text, "b"), ((text, "1"),), text)
    scores = score_table(text, {text: [SCORE], "monolith": [replace(SCORE, value=24.5)]})
    return Report(text, (text,), (Section(text, (text,), (scores, table, *figures, wall)),), ((text, text),))


@pytest.fixture(scope="module")
def hostile_page() -> str:
    return render(whole_report(HOSTILE))


@pytest.fixture(scope="module")
def page() -> str:
    return render(whole_report("plain"))


def test_foreign_text_stays_text(hostile_page: str, page: str) -> None:
    hostile, plain = Page(hostile_page), Page(page)
    assert [tag for tag, _ in hostile.tags if tag in ("script", "iframe", "object")] == []
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)
    assert [tag for tag, _ in hostile.tags if tag != "tspan"] == [
        tag for tag, _ in plain.tags if tag != "tspan"
    ]
    assert "<script>alert(1)</script> $x^2$" in hostile.text
    assert not re.search("[\x00-\x08\x1b\u202e]", hostile_page)


def test_nothing_on_the_page_is_fetched_from_anywhere(page: str) -> None:
    for _, attributes in Page(page).tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/webp;base64,"))
    assert "default-src 'none'" in page


def test_the_same_report_gives_the_same_page(page: str) -> None:
    assert render(whole_report("plain")) == page


def test_every_part_is_there_and_says_in_words_what_it_shows(page: str) -> None:
    parsed = Page(page)
    drawings = [attributes for _, attributes in parsed.tags if attributes.get("role") == "img"]
    assert len(drawings) == len([tag for tag, _ in parsed.tags if tag == "svg"]) == 6
    assert all(len(drawing["aria-label"] or "") > 20 for drawing in drawings)
    assert [attributes["alt"] for tag, attributes in parsed.tags if tag == "img"] == ["plain"]
    assert len([tag for tag, _ in parsed.tags if tag == "table"]) == 4


def test_a_score_is_shown_with_its_interval_its_floor_and_its_counts(page: str) -> None:
    text = Page(page).text
    for known in (
        "12.35",
        "11.25 to 13.75 (95%)",
        "14.12",
        "3.500 (3.250 to 3.750, 60 a side)",
        "120 / 40",
        "121 / 41",
        "24.50",
        "above",
    ):
        assert known in text
    at_floor = score_table("t", {"m": [replace(SCORE, matched=3.6)]})
    assert "at the floor" in at_floor.rows[0]


def test_drawings_carry_their_numbers_and_take_the_pages_ink(page: str) -> None:
    text = Page(page).text
    for known in (
        "90%",
        "0.6250",
        "+100%",
        "floor: real against real",
        "t (1 is noise; denoising runs to the right)",
    ):
        assert known in text
    assert "currentColor" in page
    assert "#010203" not in page


def test_looping_clips_loop_for_ever_at_their_rate() -> None:
    video = np.zeros((4, 32, 48, 3), dtype=np.uint8)
    video[np.arange(4), :, np.arange(4) * 8] = 255
    clip = looping(video, 8.0, "a bar")
    picture = Image.open(io.BytesIO(base64.b64decode(clip.uri.split(",")[1])))
    assert (picture.n_frames, picture.size, picture.info["loop"]) == (4, (48, 32), 0)
    picture.seek(1)
    picture.load()
    assert picture.info["duration"] == 125
    still = Image.open(io.BytesIO(base64.b64decode(looping(video[:1], 8.0, "a bar").uri.split(",")[1])))
    assert getattr(still, "n_frames", 1) == 1


def test_calibration_error_is_the_gap_between_confidence_and_how_often_it_is_right() -> None:
    always = np.full(100, 0.85)
    right = np.arange(100) < 60
    assert expected_calibration_error(always, right) == pytest.approx(0.25)
    assert expected_calibration_error(np.ones(10), np.ones(10, dtype=bool)) == 0
    two = np.repeat([0.25, 0.95], 50)  # off by 0.25 and by 0.05, in equal shares
    assert expected_calibration_error(two, np.repeat([False, True], 50)) == pytest.approx(0.15)


def test_many_experts_each_have_a_colour_of_their_own() -> None:
    assert len({tuple(colour) for colour in colours(64)}) == 64


def test_numbers_are_readable() -> None:
    assert [number(value) for value in (0.0, 1234.5, 12.3456, 0.00001234, -0.5, float("nan"))] == [
        "0.000", "1234", "12.35", "1.23e-05", "-0.5000", "not finite",
    ]  # fmt: skip


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(UsageError, match="2 columns and a row of 1 cells"):
        Table("t", ("a", "b"), (("1",),))
    with pytest.raises(UsageError, match="1 columns and 2 clips"):
        ClipWall("t", ("real",), (ClipRow("c", (None, None)),))
    with pytest.raises(UsageError, match="cannot be shown"):
        looping(np.zeros((2, 8, 8, 3), dtype=np.float32), 8.0, "")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="for 1 groups, 2 steps and 3 experts"):
        routing_over_time("t", np.ones(2), np.ones((1, 2, 2)), ["a"], ["x", "y", "z"])
    with pytest.raises(UsageError, match="must be"):
        Curve("c", np.arange(3), np.arange(2))
