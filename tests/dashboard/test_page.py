"""The page in a real browser: every figure is the node's own, others' words are words alone, and nobody sees
or does anything without the token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.node.care_status import SettingStatus
from tests.dashboard.canned import (
    ABOUT,
    PAST,
    STATUS,
    CannedNode,
    browser,
    canned_node,
    needs_browser,
    value_at,
    wait_until,
)

pytestmark = [needs_browser, pytest.mark.timeout(240)]
WAIT_MS = 120_000.0  # guards against hanging: a busy machine takes its time to start a browser
WANTED = {"name", "phase", "why", "purpose", "slots", "peers", "training", "refused_cards", "attested"}
WANTED |= {"memory_bytes", "disk_bytes", "uploaded_bytes", "downloaded_bytes", "daemon_restarts"}
SIZES = [(360, 780), (1280, 800), (3840, 2160)]


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser() as one:
        yield one


@pytest.fixture
def node(opened: Any, tmp_path: Path) -> Iterator[CannedNode]:
    with canned_node(tmp_path) as one:
        yield one
        for context in opened.contexts:
            context.close()


def look_at(opened: Any, node: CannedNode, **more: Any) -> Any:
    """Opens the page by a link and waits until it shows a look."""
    page = opened.new_context(**more).new_page()
    page.set_default_timeout(WAIT_MS)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda line: page.faults.append(line.text) if line.type == "error" else None)
    page.goto(node.link())
    page.wait_for_selector("html[data-at]", state="attached")
    return page


def test_every_figure_is_the_nodes_own(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node)
    shown = page.evaluate(
        "[...document.querySelectorAll('[data-figure]')].map(e => [e.dataset.figure, e.dataset.value])"
    )
    look = {"status": STATUS.model_dump(mode="json"), "about": ABOUT, **PAST}
    figures = [(path, json.loads(value)) for path, value in shown if path]
    assert len(figures) > 60
    assert {path.split(".")[1] for path, _ in figures} >= WANTED
    for path, value in figures:
        assert value == value_at(look, path), path
    assert page.faults == []


def test_figures_follow_the_node(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node)
    node.status = STATUS.model_copy(update={"attested": 42, "at": STATUS.at + 9})
    page.wait_for_selector("[data-figure='status.attested'][data-value='42']")


def test_others_words_steer_neither_page_nor_reader(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node)
    assert page.evaluate("document.body.dataset.run") is None
    assert page.evaluate("document.querySelectorAll('body script').length") == 0
    assert page.evaluate("document.querySelectorAll('img').length") == 2  # the preview's two, by this page
    text = page.inner_text("body")
    assert "<script>" in text  # shown, as the letters that they are
    assert not set(text) & set("\x1b\x07\u202e")


def test_without_the_token_the_page_shows_nothing(opened: Any, node: CannedNode) -> None:
    for end in ("/", "/#wrong-code-wrong-code-1", node.link()[len(node.url) :]):
        page = opened.new_context().new_page()
        page.set_default_timeout(WAIT_MS)
        if end.startswith("/#") and "wrong" not in end:
            look_at(opened, node)  # a fresh link is used up by one page
            used = opened.new_context().new_page()
            link = node.link()
            used.goto(link)
            used.wait_for_selector("html[data-at]", state="attached")
            page.goto(link)
        else:
            page.goto(node.url + end)
        page.wait_for_selector("#login:not([hidden])")
        assert "balls" not in page.content()
        assert page.evaluate("document.querySelectorAll('[data-figure]').length") == 0


def test_pause_resume_and_stop_reach_the_node(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node)
    page.click("#pause")
    page.wait_for_selector("#phase[data-value='\"paused\"']")
    page.wait_for_selector("#resume:not([disabled])")
    assert "the slot is left to others" in page.inner_text("#answer")
    page.click("#resume")
    page.wait_for_selector("#phase[data-value='\"training\"']")
    page.click("#stop")
    page.click("#sure-no")  # a slip stops nothing
    page.click("#stop")
    page.click("#sure-yes")
    wait_until(page, "document.getElementById('answer').textContent === 'stopping'")
    assert node.told == ["pause", "resume", "stop"]


def test_limits_are_changed_and_a_refusal_is_told(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node)
    assert page.input_value("#limit-upload_limit") == "5MB/s"
    page.fill("#limit-upload_limit", "2MB/s")
    page.keyboard.press("Enter")
    wait_until(page, "document.getElementById('answer').textContent.startsWith('upload_limit is')")
    assert node.told == ["set {'upload_limit': '2MB/s'}"]
    page.fill("#limit-hours", "never")
    page.keyboard.press("Enter")
    wait_until(page, "document.getElementById('answer').textContent.includes('is not a size')")


def test_a_preview_stands_beside_an_earlier_one_and_curves_say_their_newest_value(
    opened: Any, node: CannedNode
) -> None:
    page = look_at(opened, node)
    wait_until(page, "[...document.images].filter(one => one.naturalWidth === 2).length === 2")
    assert page.inner_text("#samples figcaption").endswith(
        "left after 100 to 200 steps, right after 1,200 steps"
    )
    assert "Gate loss by steps: now 0.1250" in page.inner_text("#experts")
    assert page.evaluate("document.querySelectorAll('#experts canvas').length") == 1


def test_a_node_in_trouble_says_so_and_its_last_figures_stay(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node)
    node.is_down = True
    page.wait_for_selector("#trouble:not([hidden])")
    assert "p2pd is being started again" in page.inner_text("#trouble")
    assert page.get_attribute("[data-figure='status.attested']", "data-value") == "41"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_phones_and_walls(opened: Any, node: CannedNode, scheme: str) -> None:
    page = look_at(opened, node, color_scheme=scheme)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        wait_until(page, "document.documentElement.scrollWidth <= window.innerWidth")
    assert page.faults == []


def test_the_keyboard_reaches_everything_that_can_be_done(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node)
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"skip", "pause", "stop"} <= reached
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, section[aria-labelledby]')].filter(e => "
        "!(e.getAttribute('aria-label') || e.textContent.trim() || "
        "document.querySelector(`label[for='${e.id}']`))).length"
    )
    assert unnamed == 0


def test_axes_show_a_day_of_24_hours_and_tell_small_figures_apart(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node, timezone_id="UTC", locale="en-GB")
    drawn = page.evaluate(
        """async () => {
            const { moments, numbers } = await import("/assets/charts.js");
            const day = 86400 * 20000;
            return [
              moments(null, [day - 1800, day, day + 1800], 0, 0, 1800),
              moments(null, [day + 30, day + 60], 0, 0, 30),
              numbers(null, [0.001, 0.0015, 0.002], 1, 0, 0.0005),
              numbers(null, [0, 2.5, 5], 1, 0, 2.5),
              numbers(null, [0, 1000, 2000], 0, 0, 1000),
            ];
        }"""
    )
    assert drawn == [
        ["23:30\n3 Oct", "00:00\n4 Oct", "00:30"],
        ["00:00:30\n4 Oct", "00:01:00"],
        ["0.0010", "0.0015", "0.0020"],
        ["0.0", "2.5", "5.0"],
        ["0", "1,000", "2,000"],
    ]
    assert page.faults == []


def test_a_limit_says_anew_where_it_comes_from_and_hours_without_a_zone_name_none(
    opened: Any, node: CannedNode
) -> None:
    page = look_at(opened, node)
    assert STATUS.care is not None
    changed = SettingStatus(key="upload_limit", value="1MB/s", source="paris-peer set")
    care = STATUS.care.model_copy(update={"settings": (changed,), "time_zone": "", "hours": ("22:00-07:00",)})
    node.status = STATUS.model_copy(update={"care": care, "at": STATUS.at + 9})
    page.wait_for_selector("[data-key=upload_limit] small:text-is('from paris-peer set')")
    assert page.inner_text("[data-figure='status.care.hours']") == "22:00-07:00"


def test_a_wall_shows_every_table_whole(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node, viewport={"width": 3840, "height": 2160})
    hidden = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        ".map(e => e.innerText)"
    )
    assert hidden == []


def test_points_begin_anew_after_a_clock_that_was_set_back(opened: Any, node: CannedNode) -> None:
    page = look_at(opened, node)
    times = page.evaluate(
        """async () => {
            const { note } = await import("/assets/here.js");
            const { state } = await import("/assets/state.js");
            state.points = [];
            const figures = { upload_bytes_per_s: 0, download_bytes_per_s: 0, memory_bytes: 0 };
            for (const at of [100, 102, 110, 7300, 105, 112]) note({ ...figures, at });
            return state.points.map((one) => one.at);
        }"""
    )
    assert times == [100, 105, 112]
