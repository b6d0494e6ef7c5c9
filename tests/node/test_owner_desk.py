"""The owner's desk: notices that are handed over are taken in order, told, and known to be heard."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from paris_p2p.errors import UsageError
from paris_p2p.handed_word import Asked, HandedWord
from paris_p2p.identity import Identity
from paris_p2p.node.owner_desk import OwnerDesk, slot_places, word_on_disk
from paris_p2p.node.run_node import opened
from paris_p2p.owner_records import Extend, Pause, Resume, Revoke
from paris_p2p.preparation.what_to_say import card_revocation
from paris_p2p.swarm.fake import FakeNetwork
from tests.made.owner_home import host_at, make_home, owners_node
from tests.node.private_world import PrivateWorld
from tests.rules.made import A, B, C, attest, card, claim
from tests.rules.made_notices import chain_of


def handed(run: str, notices: list[object]) -> bytes:
    word = HandedWord(run=run, notices=tuple(one.data for one in notices))  # type: ignore[attr-defined]
    return word.model_dump_json().encode()


async def test_notices_are_told_to_others_and_known_to_be_there(tmp_path: Path) -> None:
    run, network = make_home(tmp_path / "run"), FakeNetwork()
    told = chain_of(run.id, [Pause(), Resume(), Pause(reason="night")], at_s=time.time() - 60)
    async with owners_node(tmp_path / "run", run, network) as node:
        desk = OwnerDesk(node)
        await desk.tell(handed(run.id, [*told[:2]]))
        assert (await desk.holders(Asked(number=2).model_dump_json().encode())).connected == 0
        async with opened(host_at(tmp_path / "peer", network), run) as peer:
            await desk.tell(handed(run.id, [*told[1:]]))
            holders = await desk.holders(Asked(number=3).model_dump_json().encode())
            assert holders.have == (peer.peer_id,)
            assert peer.chain.notices == tuple(told)
        word = await desk.word()
        assert word.notices == tuple(notice.data for notice in told)
        assert not word.fork
    kept = word_on_disk(tmp_path / "run" / "node", run, node.word.open)
    assert kept.notices == word.notices


async def test_notices_that_do_not_follow_are_refused_and_make_no_fork(tmp_path: Path) -> None:
    run, other = make_home(tmp_path / "run"), make_home(tmp_path / "other", name="other")
    now_s = time.time() - 60
    told, contrary = (
        chain_of(run.id, [Pause(), Resume()], at_s=now_s),
        chain_of(run.id, [Resume()], at_s=now_s),
    )
    async with owners_node(tmp_path / "run", run, FakeNetwork()) as node:
        desk = OwnerDesk(node)
        with pytest.raises(UsageError, match="notice 1 is missing before"):
            await desk.tell(handed(run.id, [told[1]]))
        await desk.tell(handed(run.id, [*told]))
        with pytest.raises(
            UsageError, match="these notices are not taken: the run's owner contradicts itself"
        ):
            await desk.tell(handed(run.id, [*contrary]))
        assert node.chain.fork is None
        with pytest.raises(UsageError, match="this node is of run"):
            await desk.tell(handed(other.id, []))
        for nonsense in (b"", b"[]", b'{"run": 1}', b"[" * 1000):
            with pytest.raises(UsageError, match="what was handed over"):
                await desk.tell(nonsense)
        with pytest.raises(UsageError, match="there is no notice 9; there are 2"):
            await desk.holders(Asked(number=9).model_dump_json().encode())


async def test_of_a_members_only_run_only_its_members_count_as_those_who_have_it(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, member = await world.add("owner", role="owner"), await world.add("a")
        out, stores = await world.add("out"), await world.add("stores", rights=("store",))
        world.network.join(Identity.generate())  # as a bootstrap node
        await world.until(lambda: owner.node.state.is_member(member.node.peer_id))
        await world.until(lambda: owner.node.state.is_member(out.node.peer_id))
        await world.until(lambda: owner.node.state.is_member(stores.node.peer_id))
        notice = world.notice(Revoke(peer=out.node.peer_id, next_key=world.ring.keys[0].hash))
        owner.node.keep(notice)
        await owner.node.tell(notice)
        await world.until(lambda: member.node.chain.number == 1)
        holders = await OwnerDesk(owner.node).holders(Asked(number=1).model_dump_json().encode())
        assert holders.connected == 2  # the one that stores reads who was revoked
        assert member.node.peer_id in holders.have
        owner.node.keep(world.notice(Extend(total_steps=9)))
        holders = await OwnerDesk(owner.node).holders(Asked(number=2).model_dump_json().encode())
        assert holders.connected == 1  # and nothing of the training


async def test_a_node_that_never_ran_has_kept_nothing(tmp_path: Path) -> None:
    run = make_home(tmp_path)
    assert word_on_disk(tmp_path / "node", run, None).notices == ()  # type: ignore[arg-type]


async def test_a_floor_is_above_every_epoch_but_not_above_a_strangers_claim(tmp_path: Path) -> None:
    run, now_s = make_home(tmp_path, created_at=time.time() - 86400.0), time.time()
    head = {"run": run.id, "issued_at": now_s, "expires_at": now_s + 60.0}
    first = card(A, **head)
    second = card(A, first, **head)
    waiting = card(B, second, epoch=4, **head)
    async with owners_node(tmp_path, run, FakeNetwork()) as node:
        assert slot_places(node, "expert-0", now_s).floor == 1
        absurd = claim(C, epoch=1 << 50, run=run.id, claimed_at=now_s)
        for one in (first, attest(B, first, **head), second, attest(B, second, **head), waiting, absurd):
            node.keep(one)
        places = slot_places(node, "expert-0", now_s)
        assert [(one.card, one.seq, one.epoch) for one in places.cards] == [
            (second.id, 2, 1),
            (first.id, 1, 1),
        ]
        assert places.floor == 5
        # taken back, the slot goes on from the card before
        (taken,) = chain_of(run.id, [card_revocation(places, "", 0)], at_s=now_s)
        await OwnerDesk(node).tell(handed(run.id, [taken]))
        tip = node.board.tip("expert-0")
        assert tip is not None
        assert tip.card.id == first.id
        assert slot_places(node, "expert-0", now_s).floor == 5
