"""A bootstrap node on a fake network: it copies tips, whatever it failed to hear and if peers fall silent."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest

from bench.attacks.junk import JunkRuns
from paris_p2p.bootstrap import mirror, serve
from paris_p2p.bootstrap.config import FORGET_ENDED_S
from paris_p2p.bootstrap.heard_runs import MAX_HEARD_OF_ONE, HeardRuns
from paris_p2p.bootstrap.mirror import FullDisk, Mirror
from paris_p2p.bootstrap.serve import BootstrapNode
from paris_p2p.envelope import seal
from paris_p2p.errors import DaemonError, DiskFullError, TwinError, UnreachableError
from paris_p2p.identity import Identity, load_or_create_peer_key
from paris_p2p.node.host import Host, spec_path
from paris_p2p.node.run_node import RunNode
from paris_p2p.owner_records import End
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef, PeerRecord
from paris_p2p.rules import places
from paris_p2p.rules.places import MAX_OF_PEER, MAX_RUNS
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.fake import FakeSwarm
from tests.peer.world import TIMING, Peer, World
from tests.swarm.swarms import stray


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once, and what failed is tried again soon."""
    monkeypatch.setattr(serve, "_PAUSE_S", 0.01)
    monkeypatch.setattr(mirror, "_PAUSE_S", 0.01)
    monkeypatch.setattr(mirror, "_AGAIN_S", 0.1)
    monkeypatch.setattr(mirror, "_LEAST_REFRESH_S", 0.1)


@asynccontextmanager
async def mirroring(
    world: World,
    of: Peer,
    monkeypatch: pytest.MonkeyPatch,
    heard_before: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[RunNode]:
    """A bootstrap node that has joined the world's run."""
    quickly(monkeypatch)
    identity, home = Identity.generate(), world.root / "bootstrap"
    host = Host(settings=PeerSettings(data_dir=home), identity=identity, store=BlobStore(home / "blobs"))
    host.swarm = world.network.join(identity, host)
    bootstrap = BootstrapNode(host, frozenset(), lambda _: None)
    bootstrap.heard.waiting |= {**heard_before, world.run.id: of.node.peer_id}
    running = asyncio.create_task(bootstrap.run())
    try:
        await world.until(lambda: running.done() or bootstrap.runs)
        yield bootstrap.runs[world.run.id]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def copied(world: World, node: RunNode, slot: str) -> bool:
    """Does the node hold the newest checkpoint that the others agree on?"""
    tip = world.peers[0].node.board.tip(slot)
    return tip is not None and node.host.store.has(tip.card.record.resume.id)


async def test_a_tip_it_never_heard_of_is_found_on_the_bulletin_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        maker = await world.add("a", slot="expert-0")
        await world.add("b", slot="router")
        async with mirroring(world, maker, monkeypatch) as node:
            monkeypatch.setattr(node.reading, "receive", lambda data: None)  # all gossip passes it by
            seen = (tip := node.board.tip("expert-0")) and tip.card.id
            await world.until(lambda: (tip := node.board.tip("expert-0")) is not None and tip.card.id != seen)
            await world.until(lambda: copied(world, node, "expert-0"))


async def test_a_maker_that_fell_silent_holds_up_no_other_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        maker = await world.add("a", slot="expert-0")
        async with mirroring(world, maker, monkeypatch) as node:
            fetch, asked = node.fetch, asyncio.Event()

            async def silent_for_experts(refs: Sequence[BlobRef], what: str, *more: Any) -> list[Path]:
                if (tip := node.board.tip("expert-0")) is not None and tip.card.id == what:
                    asked.set()
                    await asyncio.Event().wait()
                return await fetch(refs, what, *more)

            monkeypatch.setattr(node, "fetch", silent_for_experts)
            await world.add("b", slot="router")
            await asyncio.wait_for(asked.wait(), 30)
            await world.until(lambda: copied(world, node, "router"))
            assert not copied(world, node, "expert-0")


async def test_a_silent_signer_of_invented_runs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, fetch_spec = Identity.generate().peer_id, FakeSwarm.fetch_spec
    asked: list[str] = []

    async def ask(swarm: FakeSwarm, peer: str, run_id: str) -> bytes:
        if peer == silent:
            asked.append(run_id)
            await asyncio.Event().wait()
        return await fetch_spec(swarm, peer, run_id)

    monkeypatch.setattr(FakeSwarm, "fetch_spec", ask)
    invented = {f"{number:064x}": silent for number in range(4)}
    async with World(tmp_path) as world:
        maker = await world.add("a", slot="expert-0")
        await world.add("b", slot="router")
        async with mirroring(world, maker, monkeypatch, invented) as node:
            await world.until(lambda: copied(world, node, "expert-0"))
            assert len(asked) == 1  # one at a time of each signer
            assert world.run.id in node.host.members


async def test_a_join_that_takes_too_long_is_given_up_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_SPEC_LIMIT_S", 0.1)
    quickly(monkeypatch)
    asked: set[str] = set()

    async def never(swarm: FakeSwarm, peer: str, run_id: str) -> bytes:
        asked.add(run_id)
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(FakeSwarm, "fetch_spec", never)
    async with World(tmp_path) as world:
        identity, home = Identity.generate(), tmp_path / "bootstrap"
        host = Host(settings=PeerSettings(data_dir=home), identity=identity, store=BlobStore(home / "blobs"))
        host.swarm = world.network.join(identity, host)
        bootstrap, stranger = BootstrapNode(host, frozenset(), lambda _: None), Identity.generate()
        for _ in range(100):
            bootstrap.notice(stray(signer=stranger))
        assert len(bootstrap.heard.waiting) == MAX_HEARD_OF_ONE
        running = asyncio.create_task(bootstrap.run())
        try:
            await world.until(lambda: len(asked) >= 3)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_run_that_tells_strangers_nothing_is_asked_for_ever_more_rarely_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    members = [Identity.generate(), Identity.generate()]
    records = [stray("ab" * 32, member) for member in members]
    asked: list[str] = []

    async def refuse(_: FakeSwarm, peer: str, run_id: str) -> bytes:
        asked.append(peer)
        raise UnreachableError(f"peer {peer} does not know run {run_id}")

    monkeypatch.setattr(FakeSwarm, "fetch_spec", refuse)
    async with World(tmp_path) as world, node_of(world, monkeypatch) as bootstrap:

        def hears_all() -> bool:
            for record in records:
                bootstrap.notice(record)
            return set(asked) == {member.peer_id for member in members}

        await world.until(hears_all)
        for _ in range(20):
            hears_all()
            await asyncio.sleep(0.02)
        assert sorted(asked) == sorted(member.peer_id for member in members)
    assert sum("was not joined" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("fault", ["of an owner that has as many", "cannot be opened"])
async def test_a_run_that_is_fetched_in_vain_is_not_fetched_with_each_word_of_it(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fetched: list[str] = []
    fetch = FakeSwarm.fetch_spec

    async def counted(swarm: FakeSwarm, peer: str, run_id: str) -> bytes:
        fetched.append(peer)
        return await fetch(swarm, peer, run_id)

    def broken(*_: object) -> None:
        raise RuntimeError(fault)

    monkeypatch.setattr(FakeSwarm, "fetch_spec", counted)
    if fault == "cannot be opened":
        monkeypatch.setattr(serve, "opened", broken)
    else:
        monkeypatch.setattr(serve, "refusal", lambda _, place: fault if place.owner else "")
    async with World(tmp_path) as world:
        source, stranger = JunkRuns(world.run.record), Identity.generate()
        run = source.add("in vain")
        world.network.join(stranger, source)
        async with node_of(world, monkeypatch) as bootstrap:
            for _ in range(30):
                bootstrap.notice(stray(run.id, stranger))
                await asyncio.sleep(0.02)
            await world.until(lambda: not bootstrap._joining)
            assert len(fetched) == 1
            assert run.id not in bootstrap.places
    assert sum(run.id[:16] in line for line in caplog.messages) == 1


def test_a_peer_that_did_not_tell_of_a_run_is_left_alone_for_ever_longer() -> None:
    heard, record = HeardRuns(), stray(signer=Identity.generate())
    run, peer, now_s = record.record.run, record.signer, 1000.0
    waits = []
    for time_of_it in range(30):
        assert heard.note(record, now_s)
        assert list(heard.to_ask({}, lambda *_: False)) == [(run, peer)]
        heard.answered(run)
        assert heard.failed(run, peer, now_s) == (time_of_it == 0)
        began_s = now_s
        while not heard.note(record, now_s):
            now_s += 1.0
        del heard.waiting[run]
        waits.append(now_s - began_s)
    assert waits[:3] == [10.0, 20.0, 40.0]
    assert max(waits) == waits[-1] == 600.0


@asynccontextmanager
async def node_of(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str = "bootstrap"
) -> AsyncIterator[BootstrapNode]:
    """A bootstrap node that runs, on the data directory of this name."""
    quickly(monkeypatch)
    home = world.root / name
    identity = load_or_create_peer_key(home / "identity.key")
    host = Host(settings=PeerSettings(data_dir=home), identity=identity, store=BlobStore(home / "blobs"))
    host.swarm = world.network.join(identity, host)
    bootstrap = BootstrapNode(host, frozenset(), lambda _: None)
    running = asyncio.create_task(bootstrap.run())
    try:
        yield bootstrap
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await host.swarm.close()


async def test_a_damaged_run_of_before_is_deleted_and_comes_back_from_its_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with World(tmp_path) as world:
        maker = await world.add("a", slot="expert-0")
        path = spec_path(tmp_path / "bootstrap", world.run.id)
        path.parent.mkdir(parents=True)
        path.write_bytes(world.run.data[:-9])
        async with node_of(world, monkeypatch) as bootstrap:
            await world.until(lambda: not path.exists())
            bootstrap.notice(stray(world.run.id, maker.node.host.identity))
            await world.until(lambda: world.run.id in bootstrap.runs)
            assert path.read_bytes() == world.run.data
    assert f"the RunSpec {path} is damaged" in caplog.text


async def test_a_stranger_that_came_first_with_many_runs_keeps_no_honest_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        maker, source, stranger = (
            await world.add("a", slot="expert-0"),
            JunkRuns(world.run.record),
            Identity.generate(),
        )
        world.network.join(stranger, source)
        async with node_of(world, monkeypatch) as bootstrap:
            for number in range(MAX_RUNS):
                junk = source.add(f"junk {number}")
                await world.until(lambda: len(bootstrap.heard.waiting) < MAX_HEARD_OF_ONE)
                bootstrap.notice(stray(junk.id, stranger))
            await world.until(lambda: not bootstrap.heard.waiting and not bootstrap._joining)
            assert len(bootstrap.runs) == MAX_OF_PEER
            bootstrap.notice(stray(world.run.id, maker.node.host.identity))
            await world.until(lambda: world.run.id in bootstrap.runs)


async def test_a_full_node_leaves_junk_for_an_honest_run_and_forgets_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_RUNS", 2)
    async with World(tmp_path) as world:
        maker, source, stranger = (
            await world.add("a", slot="expert-0"),
            JunkRuns(world.run.record),
            Identity.generate(),
        )
        world.network.join(stranger, source)
        async with node_of(world, monkeypatch) as bootstrap:
            for number in range(2):
                junk = source.add(f"junk {number}")
                bootstrap.notice(stray(junk.id, stranger))
            await world.until(lambda: len(bootstrap.runs) == 2)
            before = set(bootstrap.runs)
            bootstrap.notice(stray(world.run.id, maker.node.host.identity))
            await world.until(lambda: world.run.id in bootstrap.runs)
            [left] = before - set(bootstrap.runs)
            assert left not in bootstrap.host.members
            assert not (bootstrap.host.settings.data_dir / "runs" / left).exists()


@pytest.mark.parametrize("error", [ValueError("a fault of ours"), DiskFullError("no space left")])
async def test_a_run_that_cannot_be_mirrored_ends_neither_the_node_nor_the_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with World(tmp_path) as world:
        maker, source, stranger = (
            await world.add("a", slot="expert-0"),
            JunkRuns(world.run.record),
            Identity.generate(),
        )
        junk = source.add("junk")
        world.network.join(stranger, source)
        look, failed = Mirror._look, list[str]()

        async def fails_for_one(mirror: Mirror) -> float:
            if mirror.node.run == junk.id:
                failed.append(mirror.node.run)
                raise error
            return await look(mirror)

        monkeypatch.setattr(Mirror, "_look", fails_for_one)
        async with node_of(world, monkeypatch) as bootstrap:
            bootstrap.notice(stray(junk.id, stranger))
            await world.until(lambda: bool(failed))
            bootstrap.notice(stray(world.run.id, maker.node.host.identity))
            await world.until(lambda: world.run.id in bootstrap.runs)


async def test_a_run_whose_place_went_to_another_while_it_was_opened_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, opening, go_on = serve.opened, asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slowly(*run: Any) -> AsyncIterator[RunNode]:
        opening.set()
        await go_on.wait()
        async with opened(*run) as node:
            yield node

    monkeypatch.setattr(serve, "opened", slowly)
    async with World(tmp_path) as world:
        source, stranger = JunkRuns(world.run.record), Identity.generate()
        junk = source.add("junk")
        world.network.join(stranger, source)
        async with node_of(world, monkeypatch) as bootstrap:
            bootstrap.notice(stray(junk.id, stranger))
            await opening.wait()
            await bootstrap._leave(junk.id, "its place went to a run of somebody with fewer")
            go_on.set()
            await world.until(lambda: not bootstrap._joining)
            assert junk.id not in bootstrap.runs
            assert junk.id not in bootstrap.host.members


async def test_a_run_that_nobody_spoke_of_for_long_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        source, stranger = JunkRuns(world.run.record), Identity.generate()
        junk = source.add("junk")
        world.network.join(stranger, source)
        async with node_of(world, monkeypatch) as bootstrap:
            bootstrap.notice(stray(junk.id, stranger))
            await world.until(lambda: junk.id in bootstrap.runs)
            bootstrap.places[junk.id] = replace(bootstrap.places[junk.id], heard_s=-1e9)
            bootstrap._news.set()
            await world.until(lambda: junk.id not in bootstrap.runs)


@pytest.mark.parametrize("set_s", [-30 * 86400.0, 30 * 86400.0])
async def test_a_clock_that_is_set_frees_no_place_of_a_run_and_keeps_none(
    tmp_path: Path, set_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        source, stranger = JunkRuns(world.run.record), Identity.generate()
        quiet, spoken_of = source.add("quiet"), source.add("spoken of")
        world.network.join(stranger, source)
        async with node_of(world, monkeypatch) as bootstrap:
            for run in (quiet, spoken_of):
                bootstrap.notice(stray(run.id, stranger))
            await world.until(lambda: {quiet.id, spoken_of.id} <= bootstrap.runs.keys())
            clocks = SimpleNamespace(time=lambda: time.time() + set_s, monotonic=time.monotonic)
            monkeypatch.setattr("paris_p2p.bootstrap.serve.time", clocks)
            for run_id, ago_s in ((quiet.id, 3 * 86400.0), (spoken_of.id, 0.0)):
                place = bootstrap.places[run_id]
                bootstrap.places[run_id] = replace(place, heard_s=place.heard_s - ago_s)
            bootstrap._news.set()
            await world.until(lambda: quiet.id not in bootstrap.runs)
            assert spoken_of.id in bootstrap.runs
            assert spoken_of.id in bootstrap.places


async def test_a_run_that_is_spoken_of_while_it_is_left_is_not_joined_before_its_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        source, stranger = JunkRuns(world.run.record), Identity.generate()
        junk = source.add("junk")
        world.network.join(stranger, source)
        async with node_of(world, monkeypatch) as bootstrap:
            bootstrap.notice(stray(junk.id, stranger))
            await world.until(lambda: junk.id in bootstrap.runs)
            leave_run = bootstrap.host.swarm.leave_run

            def spoken_of(run_id: str) -> None:
                leave_run(run_id)
                bootstrap.notice(stray(junk.id, stranger))
                assert junk.id not in bootstrap.heard.waiting

            monkeypatch.setattr(bootstrap.host.swarm, "leave_run", spoken_of)
            await bootstrap._leave(junk.id, "a test")
            bootstrap.notice(stray(junk.id, stranger))
            await world.until(lambda: junk.id in bootstrap.runs)
            assert spec_path(bootstrap.host.settings.data_dir, junk.id).exists()


async def test_a_node_that_is_started_again_knows_its_runs_before_anybody_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        source, stranger = JunkRuns(world.run.record), Identity.generate()
        junk = source.add("a run")
        world.network.join(stranger, source)
        async with node_of(world, monkeypatch) as bootstrap:
            bootstrap.notice(stray(junk.id, stranger))
            await world.until(lambda: junk.id in bootstrap.runs)
        source.specs.clear()
        async with node_of(world, monkeypatch) as bootstrap:
            await world.until(lambda: junk.id in bootstrap.runs)
            assert bootstrap.host.shown_to("", "spec", "", junk.id).spec(junk.id) == junk.data
            place = bootstrap.places[junk.id]  # still of the peer that brought it
            assert (place.peer, place.network) == (stranger.peer_id, "127.0.0.1")


async def test_a_node_whose_key_another_node_signs_with_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        maker = await world.add("a", slot="expert-0")
        quickly(monkeypatch)
        home = tmp_path / "bootstrap"
        identity = load_or_create_peer_key(home / "identity.key")
        host = Host(settings=PeerSettings(data_dir=home), identity=identity, store=BlobStore(home / "blobs"))
        host.swarm = world.network.join(identity, host)
        bootstrap = BootstrapNode(host, frozenset(), lambda _: None)
        bootstrap.heard.waiting[world.run.id] = maker.node.peer_id
        running = asyncio.create_task(bootstrap.run())
        await world.until(lambda: bootstrap.runs)
        now = time.time() + 0.5
        head = {
            "run": world.run.id,
            "slot": "",
            "seq": int(now * 1000),
            "issued_at": now,
            "expires_at": now + 60,
        }
        bootstrap.runs[world.run.id].keep(seal(identity, PeerRecord(**head, role="bootstrap")))
        with pytest.raises(TwinError, match="was not signed here"):
            await asyncio.wait_for(running, 30)
        assert not bootstrap.host.members


async def test_runs_read_the_bulletin_board_in_turns_and_a_slow_one_keeps_no_run_from_copying() -> None:
    reading, most, looks, goes_on = 0, 0, asyncio.Semaphore(0), asyncio.Event()

    async def refresh() -> None:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await goes_on.wait()
        reading -= 1
        looks.release()

    class Run:
        """A run without slots; it counts its readings, and the looks at what is to be copied."""

        run, spec = "a" * 64, SimpleNamespace(data_blobs=(), timing=TIMING)
        state, ledger = SimpleNamespace(ended=None, slots_ever=()), None

        def __init__(self) -> None:
            self.disk_news, self.own = asyncio.Event(), self
            self.refresh, self.host = refresh, None

        def check(self) -> None: ...

        async def next_foreign(self) -> None:
            await asyncio.Event().wait()

        async def fetch(self, *_: object) -> None: ...

        async def announce_peer(self, _: str) -> None: ...

        async def announce_holding(self, _: str) -> None: ...

        async def forget_superseded(self) -> None:
            looks.release()

    disk, turns = FullDisk(lambda _: None), asyncio.Semaphore(2)
    mirrors = [Mirror(cast(RunNode, Run()), disk, turns, lambda tips, ended_s: None) for _ in range(5)]
    tasks = [asyncio.create_task(one.run()) for one in mirrors]
    async with asyncio.timeout(30):
        for _ in mirrors:
            await looks.acquire()  # all look, though readings hang
        assert most == 2
        goes_on.set()
        for _ in mirrors:
            await looks.acquire()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 2


async def test_what_a_bootstrap_node_could_not_announce_is_due_at_once_and_not_when_the_next_would_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paris_p2p.bootstrap.mirror._AGAIN_S", 0.0)
    left: dict[str, int] = {"peer": 1, "card": 1}  # how often it fails yet

    async def tell(what: str) -> None:
        left[what] -= 1
        if left[what] >= 0:
            raise DaemonError("p2pd is being restarted")

    async def nothing() -> None: ...

    node = SimpleNamespace(
        announce_peer=lambda _: tell("peer"), announce_holding=tell, disk_news=asyncio.Event()
    )
    mirror = Mirror(
        cast(RunNode, node), FullDisk(lambda _: None), asyncio.Semaphore(1), lambda tips, ended_s: None
    )
    with pytest.raises(DaemonError):
        await mirror._announce_presence()
    await mirror._hold("card", nothing, whole=True)
    assert mirror._left_s("peer", 300.0) <= 0
    assert mirror._left_s("card", 600.0) <= 0
    assert await mirror._announce_presence() > 0
    await mirror._hold("card", nothing, whole=True)
    assert mirror._left_s("peer", 300.0) > 0
    assert mirror._left_s("card", 600.0) > 0


async def test_a_run_that_its_owner_ended_is_forgotten_when_the_operator_said_and_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        maker = await world.add("a", slot="expert-0")
        async with node_of(world, monkeypatch) as bootstrap:
            bootstrap.notice(stray(world.run.id, maker.node.host.identity))
            await world.until(lambda: world.run.id in bootstrap.runs)
            await world.say(End(reason="it is good"))
            await world.until(lambda: bootstrap.places[world.run.id].forgotten_from_s < math.inf)
            forgotten_s = bootstrap.places[world.run.id].forgotten_from_s
            assert (
                abs(forgotten_s - FORGET_ENDED_S - time.monotonic()) < 600
            )  # counted from when it was heard
            bootstrap.forget_ended_s = 0.0
            bootstrap.runs[world.run.id].disk_news.set()
            folder = bootstrap.host.settings.data_dir / "runs" / world.run.id
            await world.until(lambda: not folder.exists() and not bootstrap._leaving)
            assert world.run.id not in bootstrap.runs
            bootstrap.notice(stray(world.run.id, maker.node.host.identity))
            assert world.run.id not in bootstrap.heard.waiting
        async with node_of(world, monkeypatch) as again:  # nor after a restart
            again.notice(stray(world.run.id, maker.node.host.identity))
            assert world.run.id not in again.heard.waiting
