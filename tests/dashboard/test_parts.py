"""What the page stands on: points that stay few, codes that open once, looks that skip, links that fit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.dashboard.codes import VALID_S, LoginCodes
from paris_p2p.dashboard.feed import MAX_WATCHERS, Feed, TooManyWatchersError
from paris_p2p.dashboard.links import has_screen, page_link, ssh_line
from paris_p2p.dashboard.pages import ASSETS
from paris_p2p.dashboard.points import Point, point_of, with_point
from paris_p2p.errors import StoreError
from paris_p2p.node.status import Status, TrainingStatus
from tests.dashboard.canned import STATUS


@given(st.lists(st.floats(0, 1e6), max_size=300), st.integers(8, 40))
def test_points_stay_few_in_order_and_keep_the_newest(times: list[float], limit: int) -> None:
    points: tuple[Point, ...] = ()
    for at in times:
        points = with_point(points, Point(at=at), limit)
        assert points[-1].at == at
        assert len(points) <= limit
        assert all(one.at < other.at for one, other in pairwise(points))


def test_old_points_are_thinned_and_new_ones_are_not() -> None:
    points: tuple[Point, ...] = ()
    for at in range(1000):
        points = with_point(points, Point(at=float(at)), 100)
    gaps = [other.at - one.at for one, other in pairwise(points)]
    assert points[0].at == 0
    assert gaps[-1] == 1
    assert max(gaps) > 8


def test_a_point_is_of_its_status() -> None:
    point = point_of(STATUS, 7.0)
    assert (point.at, point.loss, point.clips_per_s, point.memory_bytes) == (
        7.0,
        0.4512,
        31.25,
        1_200_000_000,
    )
    assert point_of(STATUS.model_copy(update={"training": None}), 7.0).loss is None


def test_a_code_opens_once_and_not_for_long() -> None:
    codes = LoginCodes()
    code = codes.give(0.0)
    assert codes.take(code, VALID_S - 1)
    assert not codes.take(code, VALID_S - 1)
    assert not codes.take(codes.give(0.0), VALID_S)
    assert not codes.take("", 0.0)


def test_codes_that_nobody_uses_do_not_pile_up() -> None:
    codes = LoginCodes()
    given_out = [codes.give(0.0) for _ in range(100)]
    assert sum(codes.take(code, 1.0) for code in given_out) == 16


class Changing:
    """Is a status that counts its looks, and fails when told to."""

    def __init__(self) -> None:
        self.looks = 0
        self.fails: Exception | None = None

    async def __call__(self) -> Status:
        self.looks += 1
        if self.fails:
            raise self.fails
        return STATUS.model_copy(update={"at": STATUS.at + self.looks})


async def first(feed: Feed) -> dict[str, object]:
    async with aclosing(feed.looks()) as looks:
        async for look in looks:
            answer: dict[str, object] = json.loads(look)
            return answer
    raise AssertionError("the stream ended")


async def test_looks_are_shared_and_end_with_the_feed() -> None:
    changing = Changing()
    async with Feed(changing).open() as feed:
        async with asyncio.timeout(30):
            seen = await asyncio.gather(*(first(feed) for _ in range(MAX_WATCHERS)))
        assert all(look["trouble"] == "" for look in seen)
        assert changing.looks <= 2  # twelve pages ask the node no more often than one
        waiting = [asyncio.create_task(_all(feed.looks())) for _ in range(MAX_WATCHERS)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyWatchersError, match="12 pages"):
            await first(feed)
        feed.end()
        async with asyncio.timeout(30):
            await asyncio.gather(*waiting)


async def _all(looks: AsyncIterator[str]) -> None:
    async for _ in looks:
        pass


async def test_a_node_that_cannot_answer_is_told_and_its_last_look_is_kept() -> None:
    changing = Changing()
    feed = Feed(changing)
    await feed._once()
    for error, told in (
        (StoreError("no p2pd now"), "no p2pd now"),
        (ValueError("/home/a"), "its log says more"),
    ):
        changing.fails = error
        await feed._once()
        assert feed.newest["trouble"] == told
        assert feed.newest["status"]["attested"] == STATUS.attested


async def test_a_loss_that_is_no_number_is_still_json_for_a_browser() -> None:
    training = TrainingStatus(slot="expert-0", epoch=1, loss=float("nan"))
    odd = STATUS.model_copy(update={"training": training})

    async def status() -> Status:
        return odd

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    feed = Feed(status)
    await feed._once()
    async with aclosing(feed.looks()) as looks:
        look = json.loads(await anext(looks), parse_constant=refuse)
    assert look["status"]["training"]["loss"] is None
    assert point_of(odd, 1.0).loss is None


def test_links_and_ssh_lines() -> None:
    assert page_link("http://127.0.0.1:4711", "abc") == "http://127.0.0.1:4711/#abc"
    assert ssh_line("http://127.0.0.1:4711", "anna", "attic") == "ssh -N -L 4711:127.0.0.1:4711 anna@attic"
    odd = ssh_line("http://127.0.0.1:4711", "a; rm -rf ~", "$(reboot)")
    assert odd == "ssh -N -L 4711:127.0.0.1:4711 THIS-MACHINE"


def test_a_browser_is_opened_only_where_somebody_sees_it() -> None:
    assert has_screen({"DISPLAY": ":0"})
    assert has_screen({"WAYLAND_DISPLAY": "wayland-0"})
    assert not has_screen({})
    assert not has_screen({"DISPLAY": ":0", "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"})


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    folder = files("paris_p2p.dashboard").joinpath("static")
    for name in ("page.html", *ASSETS):
        text = folder.joinpath(name).read_text()
        for word in ("http://", "https://", "//cdn", "@import", "innerHTML", "eval("):
            allowed = name == "uPlot.iife.min.js" and text.startswith("/*! https://github.com/leeoniya/uPlot")
            found = text.count(word) - (1 if allowed and word == "https://" else 0)
            found -= text.count("http://www.w3.org/2000/svg") if word == "http://" else 0
            assert found == 0, (name, word)
    assert "MIT" in folder.joinpath("uPlot.LICENSE").read_text()
