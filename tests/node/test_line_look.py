"""A look at the line and at a run on a fake network: what peers tell, and what a look may never cost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from paris_p2p.doctor.line_reach import ReachFacts, judge_reach
from paris_p2p.envelope import seal
from paris_p2p.identity import Identity
from paris_p2p.node.joining import GENERATOR_DIR
from paris_p2p.node.line_look import MOST_BYTES, LineRun, look_at_line
from paris_p2p.node.run_look import (
    LINE_QUESTION,
    Onlooker,
    RunLook,
    _run_of,
    line_questions,
    line_run_of,
    onlooker_for,
)
from paris_p2p.records import BlobRef, PeerRecord
from paris_p2p.store.data_dir import DataDirLock
from paris_p2p.swarm.fake import FakeNetwork, FakeSwarm
from tests.node.members_world import MembersWorld
from tests.swarm.swarms import BLOB, RUN, Source

REF = BlobRef(id=BLOB, size_bytes=3)


def joined(network: FakeNetwork, source: Source | None = None) -> FakeSwarm:
    return network.join(Identity.generate(), source)


async def test_peers_tell_how_they_see_a_machine_whether_it_is_reached_and_how_fast() -> None:
    network = FakeNetwork()
    me, others = joined(network), [joined(network, Source()) for _ in range(3)]
    reach = await look_at_line(me, LineRun(RUN, REF))
    assert (reach.direct, reach.dialled["tcp"], len(reach.sightings)) == (3, (True,) * 3, 3)
    assert reach.up_bytes_per_s is not None
    assert len(reach.clock_offsets_s) == 3
    assert sum(other.transfer.downloaded_bytes for other in others) <= MOST_BYTES
    assert reach.down_bytes_per_s is None
    assert any("too small" in note for note in reach.line_notes)
    assert ReachFacts.model_validate_json(reach.model_dump_json()) == reach


async def test_a_machine_behind_nat_hears_that_nobody_got_through() -> None:
    network = FakeNetwork()
    me = joined(network)
    me.behind_nat = True
    joined(network, Source())
    reach = await look_at_line(me, LineRun(RUN))
    assert reach.dialled["tcp"] == (False,)
    assert {one.check for one in judge_reach(reach) if one.verdict == "poor"} == {"port"}


async def test_a_stranger_to_a_closed_run_learns_nothing_and_is_told_why(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        node = await world.owners_node()
        stranger = world.host("stranger")
        reach = await look_at_line(stranger.swarm, line_run_of(node))
        assert (reach.sightings, reach.dialled["tcp"]) == ((), ())
        assert (reach.up_bytes_per_s, reach.down_bytes_per_s) == (None, None)
        assert any("members" in why for why in reach.refusals)


async def test_nobody_there_is_told_at_once() -> None:
    began_s = time.monotonic()
    reach = await look_at_line(joined(FakeNetwork()))
    assert time.monotonic() - began_s < 5
    assert {one.check for one in judge_reach(reach) if one.verdict == "cannot"} == {"peers"}


async def test_a_running_peer_looks_at_its_own_line_when_asked(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        node = await world.owners_node()
        answer = await line_questions(node)[LINE_QUESTION](b"{}")
        assert isinstance(answer, ReachFacts)


async def test_a_guests_look_spends_no_use_of_an_invite(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        await world.owners_node()
        invite = world.token(uses=1)
        guest = world.host("guest")
        look = RunLook(guest, Onlooker(tmp_path / "guest", "guest"))
        assert await _run_of(guest, invite, look) is None
        assert "no use of the invite was spent" in look.why_not
        assert (await world.join(world.host("machine"), invite)).run == world.run.id


async def test_a_record_under_this_key_that_was_not_signed_here_is_a_twin(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        await world.owners_node()
        me = Identity.generate()
        host = world.host("machine", me)
        node = await world.join(host, world.token())
        await node.announce_peer("peer")
        own, guest = (RunLook(host, Onlooker(tmp_path, looks), node) for looks in ("itself", "guest"))
        assert await own.twin() is None
        now_s = time.time() + 1
        ahead = {"seq": int(now_s * 1000) + 9, "issued_at": now_s, "expires_at": now_s + 700}
        await node.host.swarm.store_record(seal(me, PeerRecord(run=node.run, **ahead)))
        twin = await own.twin()
        assert twin is not None
        assert "peer record" in twin.what
        assert await guest.twin() is None


def test_a_look_is_taken_as_the_machine_or_beside_its_peer_or_as_a_guest(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    for folder in (home, home / GENERATOR_DIR):
        (folder / "runs" / RUN).mkdir(parents=True)
        (folder / "runs" / RUN / "run.spec").write_bytes(b"x")
    (home / "port").write_text("4001\n")
    assert onlooker_for(home, RUN, 0, away) == Onlooker(home, "itself")
    assert onlooker_for(home, "cd" * 32, 0, away) == Onlooker(away, "guest", 4001)
    with DataDirLock(home):
        assert onlooker_for(home, RUN, 0, away) == Onlooker(home / GENERATOR_DIR, "generator")
        assert onlooker_for(home, "cd" * 32, 0, away) == Onlooker(away, "guest", 0)  # its port is taken


async def test_versions_are_read_with_presence(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        owner = await world.owners_node()
        await owner.announce_peer("owner")
        node = await world.join(world.host("machine"), world.token())
        await node.read_peers()
        assert set(node.versions) == {owner.peer_id}
        assert all(node.versions.values())


@pytest.mark.parametrize("role", ["peer", "owner", "bootstrap", "generator"])
def test_a_presence_with_the_longest_version_fits_into_what_older_nodes_take(role: str) -> None:
    longest = {"notices": 16384, "v": (1 << 16) - 1, "role": role}
    now_s = time.time()
    head = {"run": RUN, "seq": int(now_s * 1000), "issued_at": now_s, "expires_at": now_s + 600}
    assert len(seal(Identity.generate(), PeerRecord.model_validate(head | longest)).data) <= 256
