"""A run's past: kept over restarts, told page by page, believed by nobody's word, merged from several."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from paris_p2p.envelope import Envelope, decode, encode, parse
from paris_p2p.errors import BusyError, DaemonError, MissingBlobError, MissingKeyError
from paris_p2p.history_records import HistoryPage, HistoryQuestion
from paris_p2p.node import history_answers, history_reading, kept_history
from paris_p2p.node.history_answers import HistoryDesk, history_answer
from paris_p2p.node.history_reading import HistoryReading, ToldHistory
from paris_p2p.node.run_history import history_on_disk, known_history
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.rules.history import missing
from paris_p2p.rules.tips import Tip
from paris_p2p.spec import GateSpec, RunSpec
from paris_p2p.swarm.fake import FakeNetwork
from tests.made.owner_home import host_at
from tests.node.crew_world import CREW, SLOT, attested, crew_card, crew_update, solo_card
from tests.node.members_world import soon
from tests.node.private_world import PrivateWorld
from tests.node.test_private_crew import meet, member
from tests.rules.made import A, B, C, D, attest, card
from tests.rules.made_notices import made_run

NOW = time.time() - 1000.0
RUN = made_run(created_at=NOW - 1e6, gate=GateSpec(members_attest=False, attestors=(C.peer_id, D.peer_id)))
MANY = 40  # more than the ledger keeps


@asynccontextmanager
async def node_at(home: Path, network: FakeNetwork) -> AsyncIterator[RunNode]:
    async with opened(host_at(home, network), RUN) as node:
        yield node


def tips_of(count: int, run: Envelope[RunSpec] = RUN) -> list[tuple[Envelope[Any], Envelope[Any]]]:
    made: list[tuple[Envelope[Any], Envelope[Any]]] = []
    for place in range(count):
        head = {"run": run.id, "issued_at": NOW - 9e4 + 60 * place, "expires_at": NOW + 9e4}
        one = card(A if place < count // 2 else B, made[-1][0] if made else None, **head)
        made.append((one, attest(D, one, loss=2.0 - place / 100, fixed_loss=2.0 - place / 100, **head)))
    return made


def grow(node: RunNode, made: list[tuple[Envelope[Any], Envelope[Any]]]) -> None:
    for one, signed in made:
        node.keep(one)
        node.keep(signed)


async def test_every_tip_is_a_line_that_survives_restarts_and_that_a_newcomer_gets(tmp_path: Path) -> None:
    network, made = FakeNetwork(), tips_of(MANY)
    async with node_at(tmp_path / "old", network) as node:
        grow(node, made[:30])
    async with node_at(tmp_path / "old", network) as node:
        grow(node, made[30:])
        assert [line.seq for line in known_history(node).lines()[SLOT]] == list(range(1, MANY + 1))
        async with node_at(tmp_path / "new", network) as newcomer:
            newest = known_history(newcomer)
            assert missing(newest.links[SLOT]) == MANY - 1
            told = await newcomer.history.ask()
            assert [(one.peer, one.tips, one.bad) for one in told] == [(node.peer_id, MANY, 0)]
            lines = known_history(newcomer).lines()[SLOT]
    assert [(line.seq, line.card) for line in lines] == [(one.record.seq, one.id) for one, _ in made]
    assert lines[1].gate_loss == pytest.approx(1.99)
    assert {line.lead for line in lines} == {A.peer_id, B.peer_id}
    kept = history_on_disk(tmp_path / "new", RUN, newcomer.word.open)  # nobody runs
    assert kept.lines()[SLOT] == lines


async def test_a_data_directory_from_before_there_was_a_history_begins_one(tmp_path: Path) -> None:
    network, made = FakeNetwork(), tips_of(MANY)
    async with node_at(tmp_path / "old", network) as node:
        grow(node, made)
    for file in (tmp_path / "old" / "runs" / RUN.id / "history").iterdir():
        file.unlink()
    async with node_at(tmp_path / "old", network) as node:
        lines = known_history(node).lines()[SLOT]
    assert [line.seq for line in lines] == list(range(MANY - 32, MANY + 1))


async def test_one_that_lies_or_tells_less_is_named_and_the_others_are_merged(tmp_path: Path) -> None:
    network, made = FakeNetwork(), tips_of(6)
    async with (
        node_at(tmp_path / "thin", network) as thin,
        node_at(tmp_path / "other", network) as other,
        node_at(tmp_path / "liar", network) as liar,
        node_at(tmp_path / "new", network) as newcomer,
    ):
        grow(other, made[:4])
        grow(thin, made[4:])
        forged = [(one, attest(B, one, run=RUN.id)) for one, _ in made]  # B may not attest

        async def lie(_: str, body: bytes) -> bytes:
            assert parse(HistoryQuestion, decode(body)).slot
            told = [{"card": one.data, "attestations": [by.data]} for one, by in forged]
            damaged = {"card": made[0][0].data[:-1] + b"x", "attestations": []}
            return encode({"tips": [*told, damaged], "more": False})

        liar.answers["history"] = lie
        told = {one.peer: one for one in await newcomer.history.ask([SLOT])}
        assert (told[other.peer_id].tips, told[other.peer_id].bad) == (4, 0)
        assert (told[thin.peer_id].tips, told[thin.peer_id].bad) == (2, 0)
        assert (told[liar.peer_id].tips, told[liar.peer_id].bad) == (0, 7)
        assert [line.seq for line in known_history(newcomer).lines()[SLOT]] == [1, 2, 3, 4, 5, 6]


async def test_an_answer_without_end_or_order_or_sense_is_left(tmp_path: Path) -> None:
    network, made = FakeNetwork(), tips_of(3)
    async with node_at(tmp_path / "liar", network) as liar, node_at(tmp_path / "new", network) as newcomer:
        asked = []

        async def again(_: str, body: bytes) -> bytes:
            asked.append(parse(HistoryQuestion, decode(body)).after)
            told = [{"card": one.data, "attestations": [by.data]} for one, by in made]
            return encode({"tips": told, "more": True})  # the same page again and again

        liar.answers["history"] = again
        (told,) = await newcomer.history.ask([SLOT])
        assert asked == [0, 3]
        assert (told.tips, told.bad) == (3, 3)

        async def nonsense(_: str, body: bytes) -> bytes:
            return msgpack.packb({"tips": [1, 2]})

        liar.answers["history"] = nonsense
        (told,) = await newcomer.history.ask([SLOT])
        assert "bad field 'tips" in told.error
        network.apart.add(frozenset((liar.peer_id, newcomer.peer_id)))
        assert await newcomer.history.ask([SLOT]) == []


async def test_long_answers_come_in_pages_and_what_is_no_question_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, made = FakeNetwork(), tips_of(12)
    monkeypatch.setattr(history_answers, "MAX_PAGE_BYTES", 4000)
    async with node_at(tmp_path / "old", network) as node, node_at(tmp_path / "new", network) as newcomer:
        grow(node, made)
        data = await history_answer(node.board, encode({"slot": SLOT, "after": 2}))
        assert data is not None
        page = parse(HistoryPage, decode(data))
        assert page.more
        assert 2 < len(page.tips) < 10
        (told,) = await newcomer.history.ask([SLOT])
        assert (told.tips, told.bad) == (12, 0)
        for nonsense in (b"", b"\x80", encode({"slot": "expert-99"}), encode({"slot": SLOT, "after": -1})):
            assert await history_answer(node.board, nonsense) is None


async def test_a_history_is_bounded_and_stays_provable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_history, "MAX_TIPS", 8)
    monkeypatch.setattr(kept_history, "_SPARE_TIPS", 4)
    monkeypatch.setattr(kept_history, "_aside", lambda work, slot: work(slot))
    async with node_at(tmp_path / "old", FakeNetwork()) as node:
        grow(node, tips_of(MANY))
        assert node.board.history.count(SLOT) <= 12
        links = known_history(node).links[SLOT]
    assert missing(links) == 0
    assert sum(link.clips for link in links) == 100 * MANY


async def test_rounds_of_crews_are_kept_and_told_also_in_a_private_run(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        world = PrivateWorld(tmp_path, crew=CREW)
        lead, worker, other = [await member(world, name, stack) for name in ("lead", "worker", "other")]
        await meet(lead, worker, other)
        first = await attested(worker, await solo_card(lead))
        await soon(lambda: (tip := lead.board.tip(SLOT)) is not None and tip.card.id == first.id)
        update = await crew_update(worker, first.id)
        light = await attested(worker, await crew_card(lead, [update]))
        await soon(lambda: (tip := lead.board.tip(SLOT)) is not None and tip.card.id == light.id)
        lead.note_crews()
        found = known_history(lead)
        (line, crew_line) = found.lines()[SLOT]
        assert (line.rounds, crew_line.rounds, crew_line.is_light) == (0, 1, True)
        (updates,) = found.merged.values()
        assert [one.id for one in updates] == [update.id]
        told = {one.peer: one for one in await other.history.ask([SLOT], rounds=True)}
        assert (told[lead.peer_id].bad, told[lead.peer_id].rounds) == (0, 1)
        assert known_history(other).merged == found.merged
        kept = (other.ledger.path.parent / "history" / f"{SLOT}.tips").read_bytes()
        assert bytes.fromhex(light.record.merged) not in kept  # sealed on this disk, too


async def test_who_has_no_part_in_a_closed_run_is_told_nothing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        world = PrivateWorld(tmp_path)
        node, stranger = await member(world, "node", stack), world.network.join(B)
        with pytest.raises(MissingBlobError):
            await stranger.ask(node.peer_id, "history", node.public_id, encode({"slot": SLOT}))


async def test_who_asks_too_often_is_busy_and_one_question_is_answered_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_answers, "EACH_AT_ONCE", 3)
    monkeypatch.setattr(history_answers, "ALL_AT_ONCE", 5)
    question = encode({"slot": SLOT})
    async with node_at(tmp_path / "old", FakeNetwork()) as node:
        grow(node, tips_of(3))
        desk = HistoryDesk(node.board, clock=lambda: 0.0)
        assert len([await desk.answer("stranger", question) for _ in range(3)]) == 3
        with pytest.raises(BusyError):
            await desk.answer("stranger", question)
        for other in ("second", "third"):
            assert await desk.answer(other, question)
        with pytest.raises(BusyError):  # ids cost nothing: all strangers together have a limit
            await desk.answer("fourth", question)
        assert await desk.answer(node.board.tips(SLOT)[-1].card.signer, question)


async def test_what_no_key_opens_is_not_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_history, "MAX_TIPS", 8)
    monkeypatch.setattr(kept_history, "_SPARE_TIPS", 4)
    monkeypatch.setattr(kept_history, "_aside", lambda work, slot: work(slot))
    made = [Tip(one, (signed,)) for one, signed in tips_of(MANY)]
    async with node_at(tmp_path / "old", FakeNetwork()) as node:
        right, sealed = node.board.history.open, made[2].card.data

        def opener(data: bytes, kinds: tuple[str, ...]) -> Any:
            if data == sealed:
                raise MissingKeyError("its key is not here")
            return right(data, kinds)

        kept = kept_history.KeptHistory(tmp_path / "history", opener)
        for tip in made:
            kept.add(tip)
        left = [one.id for one in kept.kept(SLOT)]
        assert made[2].card.id in left
        assert len(left) <= 12


async def test_a_loop_goes_on_while_a_history_is_thinned_and_what_comes_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_history, "MAX_TIPS", 8)
    monkeypatch.setattr(kept_history, "_SPARE_TIPS", 4)
    made = [Tip(one, (signed,)) for one, signed in tips_of(MANY)]
    async with node_at(tmp_path / "old", FakeNetwork()) as node:
        right, begun, go_on = node.board.history.open, asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def opener(data: bytes, kinds: tuple[str, ...]) -> Any:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(60)
            return right(data, kinds)

        kept = kept_history.KeptHistory(tmp_path / "history", opener)
        for tip in made[:13]:
            assert kept.add(tip)
        await asyncio.wait_for(begun.wait(), 60)  # in a thread: this loop is free
        for tip in made[13:15]:
            assert kept.add(tip)
        assert kept.count(SLOT) == 15
        go_on.set()
        while kept.count(SLOT) == 15:
            await asyncio.sleep(0.01)
        left = [one.id for one in kept.kept(SLOT)]
        assert {tip.card.id for tip in made[13:15]} <= set(left)
        assert len(left) == kept.count(SLOT) <= 10
        assert not kept.add(made[14])


def test_rounds_beyond_the_limit_go_from_the_slot_that_has_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_history, "MAX_ROUNDS_BYTES", 10_000)
    kept = kept_history.KeptHistory(tmp_path / "history", lambda data, kinds: pytest.fail("nothing to open"))

    def add(slot: str, number: int) -> str:
        data = bytes([number]) * 900
        ref = kept_history.round_ref(data)
        assert kept.add_round(slot, ref, data)
        return ref.id

    many = [add("expert-0", number) for number in range(10)]
    few = [add("expert-1", number) for number in range(100, 104)]
    assert {id for id, _ in kept.rounds("expert-1", few)} == set(few)
    left = [id for id in many if kept.has_round("expert-0", id)]
    assert left == many[-len(left) :]
    assert 0 < len(left) < 10
    assert {id for id, _ in kept.rounds("expert-0", many)} == set(left)


@pytest.mark.parametrize("failure", ["raised", "nobody", "every one"])
async def test_past_tips_that_nobody_told_are_asked_for_again_in_a_minute_and_not_in_an_hour(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert history_reading.FIRST_LOOK_S <= 60.0
    monkeypatch.setattr(history_reading, "FIRST_LOOK_S", 0.01)
    asked, again = list[str](), asyncio.Event()

    async def ask(slots: Any, *, rounds: bool) -> list[ToldHistory]:
        asked.append(failure)
        if len(asked) > 2:
            again.set()
            return [ToldHistory("peer", tips=1, error="p2pd died over it")]  # one that told: it waits again
        if failure == "raised":
            raise DaemonError("p2pd is being restarted")
        return [] if failure == "nobody" else [ToldHistory("peer", error="p2pd died over it")]

    async with node_at(tmp_path / "a", FakeNetwork()) as node:
        grow(node, tips_of(4)[2:])
        reading = HistoryReading(node.swarm, node.board, lambda: node.host.swarm)
        monkeypatch.setattr(reading, "ask", ask)
        keeping = asyncio.create_task(reading.keep_up())
        async with asyncio.timeout(60):
            await again.wait()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert len(asked) == 3
