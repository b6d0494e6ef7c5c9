"""An owner's notices reach every peer, whatever it missed and others lie about."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import pytest

from paris_p2p.envelope import Envelope, seal
from paris_p2p.errors import MissingKeyError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.kinds import MAX_ENVELOPE_BYTES, cards_topic, notices_key, peers_key
from paris_p2p.node.board import Board
from paris_p2p.node.host import Host
from paris_p2p.node.notice_reading import NoticeReading
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.owner_records import (
    AddClips,
    AddedShard,
    AddExpert,
    Admit,
    AnyChange,
    Extend,
    Pause,
    Resume,
    Revoke,
    RevokeCard,
)
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef, PeerRecord
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.gossip import MESSAGES_AT_ONCE
from tests.peer.world import World
from tests.rules.made import A, B, attest, card
from tests.rules.made_notices import chain_of

NIGHT = [Pause(reason="night"), Resume(), Extend(total_steps=900), Pause(), Resume()]
STRANGER = Identity.from_private_bytes(bytes([9]) * 32)


@dataclass
class Town:
    """Peers of one run that only read and tell."""

    root: Path
    world: World
    stack: AsyncExitStack
    said: list[AnyChange] = field(default_factory=list)
    began_s: float = field(default_factory=lambda: time.time() - 3600)

    async def peer(self, name: str, identity: Identity | None = None) -> RunNode:
        key = identity or Identity.generate()
        host = Host(PeerSettings(data_dir=self.root / name), key, BlobStore(self.root / name / "blobs"))
        host.swarm = self.world.network.join(key, host)
        return await self.stack.enter_async_context(opened(host, self.world.run))

    def chain(self, *changes: AnyChange) -> list[Envelope[Any]]:
        """All that the owner said, and more."""
        self.said += changes
        return chain_of(self.world.run.id, self.said, self.world.owner, self.began_s)

    def cut_off(self, node: RunNode, *, offline: bool = True) -> None:
        self.world.network.swarms[node.peer_id].offline = offline

    def clear_board(self) -> None:
        self.world.network.board.clear()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with town_at(tmp_path) as town:
        yield town


@asynccontextmanager
async def town_at(root: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        yield Town(root, World(root / "world"), stack)


async def gossip() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def numbers(*nodes: RunNode) -> list[int]:
    return [node.chain.number for node in nodes]


# from peer to peer


async def test_a_notice_reaches_those_who_are_there_by_gossip(town: Town) -> None:
    owner, other = await town.peer("owner"), await town.peer("other")
    heard: list[Envelope[Any]] = []
    other.listeners.append(heard.append)
    for notice in town.chain(*NIGHT[:3]):
        owner.keep(notice)
        await owner.tell(notice)
    await gossip()
    assert numbers(owner, other) == [3, 3]
    assert [one.record.seq for one in heard] == [1, 2, 3]
    assert other.spec.training.total_steps == 900
    assert other.signed_spec.training.total_steps != 900


@pytest.mark.parametrize("way", ["peers", "board"])
async def test_a_peer_that_slept_is_up_to_date_after_one_refresh(town: Town, way: str) -> None:
    owner, sleeper = await town.peer("owner"), await town.peer("sleeper")
    town.cut_off(sleeper)
    for notice in town.chain(*NIGHT * 5):
        owner.keep(notice)
        if way == "board":
            await owner.tell(notice)
    await owner.announce_peer("peer")
    town.cut_off(sleeper, offline=False)
    if way == "board":
        town.cut_off(owner)  # nobody is left to ask
        await sleeper.refresh()
    else:
        town.world.network.board = type(town.world.network.board)(
            town.world.network.board.default_factory,
            {peers_key(sleeper.run): town.world.network.board[peers_key(sleeper.run)]},
        )
        await sleeper.read_peers()
    assert numbers(sleeper) == [25]


async def test_a_newcomer_has_all_notices_when_it_opens_the_run_and_a_restart_knows_them_alone(
    town: Town,
) -> None:
    owner = await town.peer("owner")
    owner.keep_all(town.chain(*NIGHT * 120))  # more than one answer holds
    key = Identity.generate()
    newcomer = await town.peer("newcomer", key)
    assert numbers(newcomer) == [600]
    town.cut_off(newcomer)
    assert numbers(RunNode(newcomer.host, town.world.run)) == [600]


async def test_any_peer_puts_back_what_the_board_forgot(town: Town) -> None:
    owner, other = await town.peer("owner"), await town.peer("other")
    owner.keep_all(town.chain(*NIGHT))
    await other.ask_connected()
    town.cut_off(owner)
    town.clear_board()
    for _ in NIGHT:  # the newest at once, the others in turn
        await other.refresh()
    held = [number for number in range(1, 6) if town.world.network.board[notices_key(other.run, number)]]
    assert held == [1, 2, 3, 4, 5]


async def test_a_peers_presence_names_its_newest_notice_within_the_bounds_of_the_kind(town: Town) -> None:
    owner = await town.peer("owner")
    owner.keep_all(town.chain(*NIGHT))
    for role in ("bootstrap", "generator"):
        await owner.announce_peer(role)  # type: ignore[arg-type]
    ((_, data),) = town.world.network.board[peers_key(owner.run)].values()
    record = owner.swarm.open(data, ("peer",)).record
    assert record.notices == 5
    assert len(data) < MAX_ENVELOPE_BYTES["peer"]


async def test_without_notices_a_presence_has_the_bytes_that_it_always_had(town: Town) -> None:
    owner = await town.peer("owner")
    await owner.announce_peer("peer")
    ((_, data),) = town.world.network.board[peers_key(owner.run)].values()
    assert b"notices" not in data


async def test_a_peer_whose_only_tip_was_taken_back_asks_for_the_one_before(town: Town) -> None:
    """It came when the bad card was the tip; the maker's good card is hidden on the board by its bad one."""
    elder, newcomer, slot = await town.peer("elder"), await town.peer("newcomer"), "expert-0"
    cards = grown(town, 3)
    for node in (elder, newcomer):
        node.keep_all(cards if node is elder else cards[-2:])
        assert standing_at(node) == cards[-2].id
    bad = cards[-2]
    revoked = RevokeCard(slot=slot, card=bad.id, place=bad.record.seq, floor=bad.record.epoch + 1)
    for node in (elder, newcomer):
        node.keep_all(town.chain(revoked) if node is elder else elder.chain.notices)
    assert standing_at(newcomer) == ""
    await newcomer.refresh()
    assert standing_at(newcomer) == standing_at(elder) == cards[-4].id


def grown(town: Town, count: int) -> list[Envelope[Any]]:
    """So many cards, each with the attestation that makes it the tip."""
    found: list[Envelope[Any]] = []
    at = {"run": town.world.run.id, "issued_at": time.time(), "expires_at": time.time() + 900}
    for _ in range(count):
        one = card(A, found[-2] if found else None, **at)
        found += [one, attest(B, one, **at)]
    return found


def standing_at(node: RunNode) -> str:
    tip = node.board.tip("expert-0")
    return tip.card.id if tip else ""


async def test_who_hears_a_notice_whose_predecessors_it_missed_asks_for_them_at_once(town: Town) -> None:
    owner, sleeper = await town.peer("owner"), await town.peer("sleeper")
    town.cut_off(sleeper)
    chain = town.chain(*NIGHT)
    owner.keep_all(chain[:4])
    town.cut_off(sleeper, offline=False)
    heard = asyncio.Event()
    sleeper.listeners.append(lambda _: heard.set())
    owner.keep(chain[4])
    await owner.tell(chain[4])
    async with asyncio.timeout(30):
        await heard.wait()
    assert numbers(sleeper) == [5]


async def test_an_owner_that_says_hundreds_of_things_at_once_is_no_flood(town: Town) -> None:
    owner, other = await town.peer("owner"), await town.peer("other")
    gossiped: list[bytes] = []

    async def listen(sender: str, data: bytes) -> None:
        gossiped.append(data)

    await town.world.network.swarms[other.peer_id].subscribe(cards_topic(owner.run), listen)
    chain = town.chain(*NIGHT * 60)
    owner.keep_all(chain)
    for notice in chain:
        await owner.tell(notice)
    await other.refresh()
    assert numbers(other) == [300]
    assert len(gossiped) < MESSAGES_AT_ONCE / 2


# lies


class Teller:
    """A peer that answers every question for records with what `records` makes up."""

    def __init__(self, records: Callable[[str], list[bytes]]):
        self.records = records

    def shown_to(self, *_: str) -> Teller:
        return self

    def knows(self, peer: str) -> bool:
        return False


async def test_ten_thousand_forged_notices_change_nothing_and_are_left_after_a_few(town: Town) -> None:
    victim, honest = await town.peer("victim"), await town.peer("honest")
    honest.keep_all(town.chain(*NIGHT))
    forged = chain_of(town.world.run.id, NIGHT * 20, STRANGER, town.began_s)

    town.world.network.join(STRANGER, Teller(lambda _: [one.data for one in forged] * 100))  # type: ignore[arg-type]
    await victim.reading.catch_up(STRANGER.peer_id, ["expert-0"])
    assert victim.refused["records: not looked at after too many bad ones"] >= 1
    assert sum(victim.refused.values()) < 100
    await victim.ask_connected()
    await victim.refresh()
    assert numbers(victim) == [5]
    assert not victim.chain.waiting


async def test_who_says_it_knows_more_than_there_is_is_asked_once_and_others_all_the_same(town: Town) -> None:
    victim, honest = await town.peer("victim"), await town.peer("honest")
    town.cut_off(victim)
    honest.keep_all(town.chain(*NIGHT))
    await honest.announce_peer("peer")
    town.cut_off(victim, offline=False)
    liars = [Identity.generate() for _ in range(12)]
    asked: list[str] = []

    def nothing(key: str) -> list[bytes]:
        asked.append(key)
        return []

    swarms = [town.world.network.join(liar, Teller(nothing)) for liar in liars]  # type: ignore[arg-type]
    now = time.time()
    for liar, swarm in zip(liars, swarms, strict=True):
        head = {"run": victim.run, "seq": 1, "issued_at": now, "expires_at": now + 600, "notices": 9000}
        await swarm.store_record(seal(liar, PeerRecord(**head)))
    for _ in range(5):
        await victim.read_peers()
    assert numbers(victim) == [5]
    assert len(asked) <= len(liars)


async def test_who_says_it_knows_more_and_tells_nothing_is_left_alone_whatever_it_names_then(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, liar = await town.peer("victim"), Identity.generate()
    asked: list[str] = []

    async def silent(self: NoticeReading, peer: str) -> None:
        asked.append(peer)
        raise UnreachableError("it says nothing")

    monkeypatch.setattr(NoticeReading, "ask", silent)
    for number in range(9000, 9005):
        await victim.reading.notices.hear({liar.peer_id: number})
    assert asked == [liar.peer_id]


async def test_a_notice_by_another_key_is_counted_and_ignored(town: Town) -> None:
    node = await town.peer("node")
    (forged,) = chain_of(town.world.run.id, [Pause()], STRANGER, town.began_s)
    node.keep(forged)  # past the reading's own check
    assert numbers(node) == [0]
    assert node.state.paused is None
    assert node.refused["notice: not the owner's"] == 1


async def test_a_notice_for_another_run_is_refused(town: Town) -> None:
    node = await town.peer("node")
    (foreign,) = chain_of("cd" * 32, [Pause()], town.world.owner, town.began_s)
    node.reading.receive(foreign.data)
    assert numbers(node) == [0]


# forks


async def fork(town: Town) -> tuple[RunNode, RunNode]:
    """Two peers heard two different third notices."""
    one, two = await town.peer("one"), await town.peer("two")
    town.cut_off(two)
    one.keep_all(town.chain(*NIGHT[:3]))
    rival = chain_of(town.world.run.id, [*NIGHT[:2], Pause(reason="x")], town.world.owner, town.began_s)
    two.keep_all(rival)
    town.cut_off(two, offline=False)
    return one, two


async def test_two_chains_that_contradict_one_another_are_found_and_nothing_is_lost(town: Town) -> None:
    one, two = await fork(town)
    await two.ask_connected()
    await one.ask_connected()
    assert numbers(one, two) == [3, 3]
    assert one.fork == two.fork
    assert "contradicts itself" in one.fork
    assert one.spec.training.total_steps == 900  # it keeps what it had
    assert two.spec.training.total_steps != 900


async def test_a_fork_is_known_after_a_restart_and_told_to_newcomers(town: Town) -> None:
    one, two = await fork(town)
    await two.ask_connected()
    again = RunNode(two.host, town.world.run)
    assert again.fork == two.fork != ""
    await one.ask_connected()
    third = await town.peer("third")
    assert third.fork == two.fork


@pytest.mark.parametrize(
    "damage", [b"", b"\xc1", msgpack.packb([b"a", b"b"]), msgpack.packb([b"a"]), msgpack.packb(1)]
)
async def test_a_damaged_memory_of_a_fork_is_deleted(town: Town, damage: bytes) -> None:
    node = await town.peer("node")
    node.ledger.put("fork", damage)
    assert RunNode(node.host, town.world.run).fork == ""
    assert node.ledger.get("fork") is None


# the disk


async def test_a_damaged_notice_is_named_deleted_and_asked_for_again(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    owner, other = await town.peer("owner"), await town.peer("other")
    for node in (owner, other):
        node.keep_all(town.chain(*NIGHT) if node is owner else owner.chain.notices)
    names = [key for key, _ in other.ledger.items("notice/")]
    other.ledger.put(names[1], b"damaged")
    other.ledger.put(names[3], owner.chain.notices[0].data)  # another's place
    again = RunNode(other.host, town.world.run)
    assert names[1] in caplog.text
    assert numbers(again) == [1]
    assert not {names[1], names[3]} & {key for key, _ in other.ledger.items("notice/")}
    await again.ask_connected()
    assert numbers(again) == [5]


async def test_what_is_sealed_under_a_key_that_is_not_here_yet_stays_on_the_disk(town: Town) -> None:
    node = await town.peer("node")
    node.keep_all(town.chain(*NIGHT))
    node.ledger.put("fork", msgpack.packb([node.chain.notices[0].data] * 2))
    node.ledger.put("tip/expert-0", msgpack.packb([b"sealed"]))
    node.ledger.put("past/expert-0/1-1", msgpack.packb([b"sealed"]))
    before = dict(node.ledger.items())

    def no_key(data: bytes, kinds: tuple[str, ...]) -> Envelope[Any]:
        raise MissingKeyError("it is sealed under another key")

    word = OwnersWord(node.run, node.signed_spec, node.ledger, no_key)
    Board(node.run, node.signed_spec, node.ledger, word=word)
    assert word.chain.number == 0
    assert dict(node.ledger.items()) == before


async def test_another_owners_notices_on_the_disk_are_not_believed(town: Town) -> None:
    node = await town.peer("node")
    for notice in chain_of(town.world.run.id, NIGHT, STRANGER, town.began_s):
        node.ledger.put(f"notice/{notice.record.seq:05}", notice.data)
    assert numbers(RunNode(node.host, town.world.run)) == [0]


# clocks


async def test_a_notice_from_the_future_counts_and_says_whose_clock_is_behind_and_by_how_much(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    node = await town.peer("node")
    town.began_s = time.time() + 500
    with caplog.at_level(logging.WARNING):
        node.keep_all(town.chain(Pause(reason="night")))
    assert node.state.paused is not None
    assert "notice 1" in caplog.text
    assert "this machine's clock" in caplog.text
    assert any(f"{seconds} s" in caplog.text for seconds in (499, 500))


# the state


async def test_the_state_is_made_once_until_a_notice_comes_or_a_date_passes(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await town.peer("node")
    before = node.state
    assert node.state is before
    now_s = time.time()
    node.keep_all(town.chain(Admit(peer=STRANGER.peer_id, rights=("train",), until=now_s + 50)))
    after = node.state
    assert after is not before
    assert node.state is after
    monkeypatch.setattr(time, "time", lambda: now_s + 51)
    assert not node.state.is_named(STRANGER.peer_id)
    assert node.state is not after


async def test_a_revoked_peers_presence_gives_it_no_part(town: Town) -> None:
    node, other = await town.peer("node"), await town.peer("other")
    await other.announce_peer("peer")
    await node.read_peers()
    assert other.peer_id in node.known_attestors()
    node.keep_all(town.chain(Revoke(peer=other.peer_id)))
    assert other.peer_id not in node.known_attestors()
    assert not node.knows(other.peer_id)


async def test_a_job_gets_the_runspec_of_the_notice_that_it_names(town: Town) -> None:
    from paris_p2p.run_file import read_effective

    node = await town.peer("node")
    assert node.spec_file_for() is None
    node.keep_all(town.chain(Pause(), Extend(total_steps=7), Extend(total_steps=9)))
    assert node.spec_file_for(1) is None  # a pause changes no number
    steps = []
    for number in (2, 3, None, 99):
        path = node.spec_file_for(number)
        assert path is not None
        assert path.stat().st_mode & 0o077 == 0
        steps.append(read_effective(path, node.signed_spec).training.total_steps)
    assert steps == [7, 9, 9, 9]


async def test_shards_that_a_notice_took_out_are_served_on_and_need_not_be_kept(town: Town) -> None:
    node = await town.peer("node")
    old = node.signed_spec.gate_shards[0].blob.id
    shards = tuple(
        AddedShard(split=split, cluster=k, blob=BlobRef(id=f"{k}{n}" * 32, size_bytes=1), clips=1)
        for k in (0, 1)
        for n, split in enumerate(("train", "gate"), 1)
    )
    node.keep_all(town.chain(AddExpert(parent=0, child=1, parts=1)))
    assert old in node.data_blobs()
    node.keep_all(town.chain(AddClips(shards=shards)))
    assert "expert-1" in node.spec.slots
    assert old not in node.data_blobs()
    assert node.serves(old)
    assert node.things(old) == {"gate"}  # cards of before are judged on it
    assert {shard.blob.id for shard in shards} <= node.data_blobs()
    assert node.things(shards[0].blob.id) == {"data"}
    assert not node.serves("ef" * 32)


async def test_a_peer_of_the_first_version_is_not_disturbed_by_what_it_does_not_know(town: Town) -> None:
    """It reads other DHT keys, and refuses single records of gossip that are of another kind."""
    owner = await town.peer("owner")
    topics: list[bytes] = []

    async def first_version(sender: str, data: bytes) -> None:
        topics.append(data)

    swarm = town.world.network.join(STRANGER)
    await swarm.subscribe(cards_topic(owner.run), first_version)
    for notice in town.chain(*NIGHT):
        owner.keep(notice)
        await owner.tell(notice)
    await gossip()
    keys = [key for key, held in town.world.network.board.items() if held]
    assert all("/notices/" in key for key in keys)  # a refused entry hides nothing of another kind
    assert len(topics) == 5
