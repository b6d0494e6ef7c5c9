"""A private run: it lives as an open one does, an outsider that sees every byte finds nothing in them, and
who is shut out reads nothing that comes after.
"""

from __future__ import annotations

import asyncio
import stat
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from hivemind.dht.routing import DHTID

from examples.studio.needles import Needle, Search, content_needle, hash_needle, text_needle
from paris_p2p.bootstrap.heard_runs import HeardRuns
from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import MissingKeyError, RecordError, RevokedError, UnreachableError
from paris_p2p.identity import Identity, peer_id_from_bytes
from paris_p2p.invite import Invite, make_token
from paris_p2p.key_box import gift_for, is_key, seal_gift
from paris_p2p.keyring import KEYS_FILE, Keyring, RunKey, save_keyring
from paris_p2p.kinds import claims_key, dht_key, key_box_key, tips_key
from paris_p2p.node.generator import catch_up
from paris_p2p.node.host import Host, spec_path
from paris_p2p.node.joining import Joining, Newcomer, join_run
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.owner_records import Admit, JoinAnswer, Revoke
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import AttestationRecord, ClaimRecord, PeerRecord
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealing import hint_of, open_blob
from paris_p2p.swarm.storage import RecordStorage, StorageLimits
from paris_p2p.swarm.verified import MAX_ENTRIES_PER_KEY
from paris_p2p.veil import open_sealed, seal_record
from tests.node.private_world import MEMBER, PrivateWorld
from tests.peer.world import Peer, World

SLOT = "expert-0"


async def a_tip(world: World, *peers: Peer) -> None:
    await world.until(lambda: all(peer.node.board.tip(SLOT) for peer in peers))


def needles_of(world: World, node: RunNode) -> list[Needle]:
    """Returns what the run is, in the words, numbers and hashes that its members see."""
    tips = [tip for slot in node.board.slots if (tip := node.board.tip(slot)) is not None]
    cards = [card for slot in node.board.slots.values() for card in slot.cards.values()]
    assert tips
    needles = [hash_needle("run id", "run id", bytes.fromhex(world.run.id))]
    needles += [text_needle("word", word) for word in (world.run.record.name, "CC0", "Apache-2.0")]
    needles += [text_needle("slot", slot) for slot in node.board.slots]
    needles += [text_needle("kind", kind) for kind in ("claimed_at", "train_loss", "attestation")]
    needles += [hash_needle("card", card.id[:16], bytes.fromhex(card.id)) for card in cards]
    for kind, words in (("train", b"train 0"), ("weights", b"weights expert-0"), ("resume", b"resume exp")):
        needles.append(content_needle(kind, kind, words))
    return needles


async def test_members_train_and_attest_while_an_outsider_finds_nothing(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        a, b = await world.add("a"), await world.add("b")
        await a_tip(world, owner, a, b)
        await world.until(lambda: {a.node.peer_id, b.node.peer_id} <= set(owner.node.state.admissions))
        wire = b"\n".join(world.network.wire)
        search = Search(needles_of(world, a.node))
        assert search.found_in(wire) == set()
        assert len(wire) > 20_000
        # The DHT holds sealed records alone.
        kinds = {subkey.rpartition(":")[2] for held in world.network.board.values() for subkey in held}
        assert kinds == {"sealed"}
        ledger = b"\n".join(data for _, data in a.node.ledger.items("tip/"))
        assert ledger
        assert search.found_in(ledger) == set()


async def test_the_same_search_finds_an_open_run(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        a = await world.add("a")
        await a_tip(world, owner, a)
        data = [entry for held in world.network.board.values() for _, entry in held.values()]
        found = Search(needles_of(world, a.node)).found_in(
            b"\n".join([*data, *map(str.encode, world.network.board)])
        )
        assert {needle.kind for needle in found} >= {"run id", "slot", "kind", "card"}


def note_of(world: PrivateWorld, slot: str = SLOT, seq: int = 1) -> ClaimRecord:
    now = time.time()
    times = {"issued_at": now, "expires_at": now + 100, "claimed_at": now}
    return ClaimRecord(run=world.run.id, slot=slot, seq=seq, epoch=1, **times)


async def test_a_revoked_peer_cannot_open_what_comes_after_and_a_sleeper_can(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        asleep, leaver = Identity.generate(), Identity.generate()
        a, b, c = (
            await world.add("a"),
            await world.add("b", identity=asleep),
            await world.add("c", identity=leaver, rights=("train", "generate")),
        )
        await a_tip(world, owner, a, b, c)
        await world.until(lambda: leaver.peer_id in a.node.state.admissions)
        await world.until(lambda: asleep.peer_id in owner.node.state.admissions)
        await b.die()
        c.task.cancel()  # it would stop by itself, for it is shut out
        await asyncio.gather(c.task, return_exceptions=True)

        new = RunKey.generate()
        notice = world.notice(Revoke(peer=leaver.peer_id, next_key=new.hash))
        world.ring = world.ring.with_key(new.secret)
        owner.node.keep(notice)
        owner.node.keys.keep(world.ring)
        await owner.node.tell(notice)
        await world.until(lambda: a.node.keys.ring.keys == world.ring.keys)
        assert c.node.chain.number == 1 or await heard(world, c)  # it may read that it was shut out
        assert len(c.node.keys.ring.keys) == 1

        said = [await owner.node.say(peer_record(owner.node)), a.node.sign(note_of(world))]
        for envelope in said:
            with pytest.raises(MissingKeyError):
                open_sealed(envelope.data, c.node.keys.ring, world.run.id)
            assert open_sealed(envelope.data, world.ring, world.run.id).record == envelope.record
        with pytest.raises(RecordError, match="key"):
            c.node.swarm.open(said[0].data, ("peer",))
        assert not await c.node.exchange.ask()
        assert await owner.node.exchange.answer(leaver.peer_id, b"") is None

        again = await world.restart("b", b)
        await world.until(lambda: again.node.keys.ring.keys == world.ring.keys)
        assert again.node.state.is_revoked(leaver.peer_id)


async def test_a_newcomer_after_a_revocation_gets_every_key_with_the_answer(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        new, comes = RunKey.generate(), Identity.generate()
        notices = [world.notice(Revoke(peer=Identity.generate().peer_id, next_key=new.hash))]
        world.ring = world.ring.with_key(new.secret)
        gift = gift_for(world.ring, frozenset(MEMBER))
        assert gift is not None
        answer = JoinAnswer(
            keys=seal_gift(comes.peer_id, gift), notices=tuple(notice.data for notice in notices)
        )
        host: Any = SimpleNamespace(identity=comes)
        joining = Joining(host, Invite(run=world.run.id, peers=()), Newcomer())
        ring, chain = joining._read(world.run, answer)
        assert chain.number == 1
        assert ring.keys == world.ring.keys


async def test_one_that_was_away_while_a_key_came_reads_all_when_it_opens(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, maker = await world.add("owner", role="owner"), await world.add("a")
        await a_tip(world, owner, maker)
        new = RunKey.generate()
        notice = world.notice(Revoke(peer=Identity.generate().peer_id, next_key=new.hash))
        world.ring = world.ring.with_key(new.secret)
        owner.node.keep(notice)
        owner.node.keys.keep(world.ring)
        await owner.node.tell(notice)
        said = await owner.node.say(note_of(world, seq=10**15))
        slept = Identity.generate()
        world.admit(tmp_path / "slept", slept, MEMBER, keys=1)
        host = Host(PeerSettings(data_dir=tmp_path / "slept"), slept, BlobStore(tmp_path / "slept" / "blobs"))
        host.swarm = world.network.join(slept, host)
        async with opened(host, world.run) as node:
            assert node.keys.ring.keys == world.ring.keys
            assert said.signer in {one.signer for one in node.board.claims(SLOT)}


async def heard(world: PrivateWorld, peer: Peer) -> bool:
    await world.until(lambda: peer.node.chain.number == 1)
    return True


def peer_record(node: RunNode) -> PeerRecord:
    return PeerRecord(**node.header("peer", "", 600.0), role="owner")


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_sleeper_finds_its_boxes_on_the_board_when_nobody_can_be_asked(
    tmp_path: Path, at_once: bool
) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        asleep = Identity.generate()
        b = await world.add("b", identity=asleep)
        await world.until(lambda: asleep.peer_id in owner.node.state.admissions)
        await b.die()
        for number in (2, 3):
            new = RunKey.generate()
            notice = world.notice(Revoke(peer=Identity.generate().peer_id, next_key=new.hash))
            world.ring = world.ring.with_key(new.secret)
            owner.node.keep(notice)
            owner.node.keys.keep(world.ring)
            await owner.node.tell(notice)
            if at_once and number == 2:
                continue
            await owner.node.exchange.leave_boxes()
            assert owner.node.ledger.get("boxes") == str(number).encode()
        await owner.die()
        del world.network.swarms[owner.node.peer_id]
        again = await world.restart("b", b)
        await world.until(lambda: again.node.keys.ring.keys == world.ring.keys)
        saved = tmp_path / "b" / "runs" / world.run.id / KEYS_FILE
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600


async def test_a_stranger_that_names_a_key_that_does_not_exist_has_nobody_look_for_it(
    tmp_path: Path,
) -> None:
    async with PrivateWorld(tmp_path) as world:
        key = Identity.generate()
        owner, _ = await world.add("owner", role="owner"), await world.add("a", identity=key)
        await world.until(lambda: key.peer_id in owner.node.state.admissions)
        made_up = replace(world.ring, keys=(*world.ring.keys, RunKey.generate()))
        owner.node.keys.wanted.clear()
        for signer, is_looked_for in ((Identity.generate(), False), (key, True)):
            said = seal_record(signer, note_of(world), made_up, 1)
            with pytest.raises(MissingKeyError):
                owner.node.swarm.open(said.data, ("claim",))
            assert owner.node.keys.wanted.is_set() == is_looked_for


async def test_nothing_is_sealed_under_an_old_key_once_a_new_one_is_named(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        a = await world.add("a")
        a.task.cancel()
        await asyncio.gather(a.task, return_exceptions=True)
        a.node.keep(world.notice(Revoke(peer=Identity.generate().peer_id, next_key=RunKey.generate().hash)))
        with pytest.raises(UnreachableError, match="new key, number 2"):
            a.node.sign(note_of(world))
        assert a.node.keys.wanted.is_set()


async def test_a_blob_of_no_card_yet_is_sealed_anew_where_the_run_got_a_key_meanwhile(tmp_path: Path) -> None:
    """Else those whom the owner shut out could read a checkpoint that could not be signed at first."""
    async with PrivateWorld(tmp_path) as world:
        a = await world.add("a")
        a.task.cancel()
        await asyncio.gather(a.task, return_exceptions=True)
        blobs, file = a.node.blobs, tmp_path / "weights"
        file.write_text("weights")
        first = blobs.add(file)
        assert await blobs.under_newest_key(first) == first
        new = RunKey.generate()
        a.node.keep(world.notice(Revoke(peer=Identity.generate().peer_id, next_key=new.hash)))
        with pytest.raises(MissingKeyError):
            await blobs.under_newest_key(first)
        a.node.keys.keep(a.node.keys.ring.with_key(new.secret))
        again = await blobs.under_newest_key(first)
        assert hint_of(blobs.store.path(again.id)) == new.hint
        async with blobs.opened([again]) as (plain,):
            assert plain.read_text() == "weights"


async def test_a_private_run_without_its_keys_says_so(tmp_path: Path) -> None:
    world, identity = PrivateWorld(tmp_path / "world"), Identity.generate()
    host = Host(PeerSettings(data_dir=tmp_path), identity, BlobStore(tmp_path / "blobs"))
    host.swarm = world.network.join(identity, host)
    with pytest.raises(MissingKeyError, match=r"private, and its keys are not in .*join again"):
        async with opened(host, world.run):
            pass
    folder = tmp_path / "runs" / world.run.id
    save_keyring(folder, Keyring((RunKey.generate(),)))
    with pytest.raises(RecordError, match="are not those of run"):
        async with opened(host, world.run):
            pass
    (folder / KEYS_FILE).write_bytes(b"damaged")
    with pytest.raises(RecordError, match=r"damaged.*backup"):
        async with opened(host, world.run):
            pass


async def test_two_private_runs_on_one_host_keep_apart(tmp_path: Path) -> None:
    one, two = PrivateWorld(tmp_path / "one"), PrivateWorld(tmp_path / "two")
    identity = Identity.generate()
    host = Host(PeerSettings(data_dir=tmp_path), identity, BlobStore(tmp_path / "blobs"))
    host.swarm = one.network.join(identity, host)
    for world in (one, two):
        world.admit(tmp_path, identity, ("train",))
    async with opened(host, one.run) as first, opened(host, two.run) as second:
        claim = first.sign(note_of(one))
        first.keep(claim)
        await first.tell(claim)
        assert first.board.claims(SLOT) == (claim,)
        assert second.board.claims(SLOT) == ()
        with pytest.raises(RecordError):
            second.swarm.open(claim.data, ("claim",))
        assert first.public_id != second.public_id
        assert {first.public_id, second.public_id}.isdisjoint({one.run.id, two.run.id})
        question = tips_key(one.run.id, SLOT)
        assert await first.swarm.read(question) == []
        assert first.records_under(question) == []  # asked in plain words it knows nothing


async def test_a_plain_record_is_nothing_in_a_private_run_nor_a_sealed_one_in_an_open_run(
    tmp_path: Path,
) -> None:
    async with PrivateWorld(tmp_path / "private") as world, World(tmp_path / "open") as open_world:
        a = (await world.add("a")).node
        b = (await open_world.add("b", role="owner")).node
        plain = seal(Identity.generate(), note_of(world))
        a.reading.receive(plain.data)
        assert plain.id not in {claim.id for claim in a.board.claims(SLOT)}
        sealed = a.sign(note_of(world, seq=1 << 50))
        before = dict(b.refused)
        b.reading.receive(sealed.data)
        assert b.refused != before


async def test_a_replayed_record_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        node = (await world.add("a", role="owner")).node
        old, new = node.sign(note_of(world, seq=1 << 50)), node.sign(note_of(world, seq=1 << 51))
        assert outer_seq(node, old) < outer_seq(node, new)
        await node.swarm.store(new)
        await node.swarm.store(old)
        assert new.id in {one.id for one in await node.swarm.read(claims_key(world.run.id, SLOT))}
        assert old.id not in {one.id for one in await node.swarm.read(claims_key(world.run.id, SLOT))}


def outer_seq(node: RunNode, envelope: Envelope[Any]) -> int:
    seq: int = open_envelope(envelope.data, run=node.public_id).record.seq
    return seq


async def test_what_a_lead_publishes_opens_for_members_alone(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        a = await world.add("a")
        await a_tip(world, owner, a)
        tip = owner.node.board.tip(SLOT)
        assert tip is not None
        path = owner.node.host.store.path(tip.card.record.weights.id)
        assert b"weights" not in path.read_bytes()
        with (tmp_path / "opened").open("wb") as out:
            open_blob(path, world.ring.keys[0], out)
        assert (tmp_path / "opened").read_bytes().startswith(b"weights expert-0")


async def test_a_member_that_lost_its_run_spec_gets_it_sealed_and_a_stranger_gets_none(
    tmp_path: Path,
) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        identity = Identity.generate()
        a = await world.add("a", identity=identity)
        await world.until(lambda: identity.peer_id in owner.node.state.admissions)
        await a.die()
        await a.stack.aclose()
        world.peers.remove(a)
        host = a.node.host
        spec_path(host.settings.data_dir, world.run.id).write_bytes(b"damaged")
        a.swarm.offline = False
        again = await join_run(host, Invite(run=world.run.id, peers=()))
        assert again.data == world.run.data
        assert world.run.payload not in b"".join(world.network.wire)
        stranger = Host(PeerSettings(data_dir=tmp_path / "s"), Identity.generate(), BlobStore(tmp_path / "s"))
        stranger.swarm = world.network.join(stranger.identity, stranger)
        for name in (world.run.id, world.ring.veiled_run):
            with pytest.raises(UnreachableError, match="does not know run"):
                await stranger.swarm.fetch_spec(owner.node.peer_id, name)


def test_a_sealed_record_names_no_run_that_a_bootstrap_node_could_ask_for(tmp_path: Path) -> None:
    world, heard = PrivateWorld(tmp_path), HeardRuns()
    sealed = seal_record(Identity.generate(), note_of(world), world.ring, 1)
    assert not heard.note(open_envelope(sealed.data, run=world.ring.veiled_run), 0.0)
    assert heard.waiting == {}
    assert heard.note(seal(Identity.generate(), note_of(world)), 0.0)  # as of an open run


def test_a_key_of_the_dht_holds_as_many_sealed_records_as_plain_ones(tmp_path: Path) -> None:
    """A card's attestations by as many signers as a key may have, of the usual size."""
    world = PrivateWorld(tmp_path)
    storage = RecordStorage(StorageLimits(), Counter())
    storage.take_part(world.ring.veiled_run)
    now, stored = time.time(), 0
    for number in range(MAX_ENTRIES_PER_KEY):
        record = AttestationRecord(
            run=world.run.id,
            slot=SLOT,
            seq=900 + number,
            issued_at=now,
            expires_at=now + 80 * 86400.0,
            epoch=3,
            card="22" * 32,
            loss=0.123,
            reference_loss=0.124,
            best="22" * 32,
            gate_clips=64,
            fixed_loss=0.5,
        )
        signer = Identity.generate()
        envelope = seal_record(signer, record, world.ring, int(now * 1000))
        key = DHTID.generate(source=dht_key(open_envelope(envelope.data, run=world.ring.veiled_run).record))
        packed = msgpack.packb(envelope.data)
        stored += storage.store_subkey(key, f"{signer.peer_id}:sealed", packed, record.expires_at)
    assert stored == MAX_ENTRIES_PER_KEY
    assert len(storage.values(key)) == MAX_ENTRIES_PER_KEY


async def test_an_id_that_is_nobodys_key_keeps_no_key_from_the_others(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, asleep = await world.add("owner", role="owner"), await world.add("asleep")
        await world.until(lambda: asleep.node.peer_id in owner.node.state.admissions)
        await asleep.die()
        nobody = nobodys_id()
        new = RunKey.generate()
        owner.node.keep(world.notice(Admit(peer=nobody, rights=("train",))))
        owner.node.keep(world.notice(Revoke(peer=Identity.generate().peer_id, next_key=new.hash)))
        owner.node.keys.keep(owner.node.keys.ring.with_key(new.secret))
        assert owner.node.state.is_member(nobody)
        await owner.node.exchange.leave_boxes()
        assert owner.node.ledger.get("boxes") == b"2"
        assert await owner.node.swarm.read(key_box_key(world.run.id, 2, asleep.node.peer_id))
        assert await owner.node.exchange.answer(nobody, b"") is None


def nobodys_id() -> str:
    """A peer id in form, of 32 bytes that are no point of the curve."""
    made = (peer_id_from_bytes(Identity.generate().peer_id_bytes[:6] + bytes([n]) * 32) for n in range(256))
    return next(peer for peer in made if not is_key(peer))


async def test_who_generates_gets_the_keys_first_that_the_run_got_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.node.generator._KEY_WAITS_S", (0.0, 0.0, 0.0))
    async with PrivateWorld(tmp_path) as world:
        owner, late = await world.add("owner", role="owner"), Identity.generate()
        new, out = RunKey.generate(), Identity.generate()
        owner.node.keep(world.notice(Revoke(peer=out.peer_id, next_key=new.hash)))
        owner.node.keys.keep(owner.node.keys.ring.with_key(new.secret))
        world.admit(tmp_path / "late", late, ("generate",))
        async with opened(host_of(world, "late", late), world.run) as node:
            await heard_by(world, node)
            await world.until(lambda: late.peer_id in owner.node.state.admissions)
            await catch_up(node)
            assert len(node.keys.ring.keys) == 2
        world.admit(tmp_path / "out", out, ("generate",))
        async with opened(host_of(world, "out", out), world.run) as node:
            node.keep(world.notices[0])
            with pytest.raises(RevokedError, match="the run's owner revoked this peer"):
                await catch_up(node)
            assert len(node.keys.ring.keys) == 1


async def test_who_generates_is_told_of_the_key_that_nobody_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.node.generator._KEY_WAITS_S", (0.0, 0.0))
    async with PrivateWorld(tmp_path) as world:
        alone = Identity.generate()
        world.admit(tmp_path / "alone", alone, ("generate",))
        async with opened(host_of(world, "alone", alone), world.run) as node:
            named = RunKey.generate().hash
            node.keep(world.notice(Revoke(peer=Identity.generate().peer_id, next_key=named)))
            with pytest.raises(MissingKeyError, match="a new key, number 2, and no member that was asked"):
                await catch_up(node)


async def heard_by(world: PrivateWorld, node: RunNode) -> None:
    await world.until(lambda: node.chain.number == len(world.notices))


def host_of(world: PrivateWorld, name: str, identity: Identity) -> Host:
    home = world.root / name
    host = Host(PeerSettings(data_dir=home), identity, BlobStore(home / "blobs"))
    host.swarm = world.network.join(identity, host)
    return host


async def test_a_lead_whose_key_is_late_keeps_its_slot_and_its_checkpoints(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, lead = await world.add("owner", role="owner"), await world.add("lead", slot="expert-0")
        await world.until(lambda: owner.node.board.tip("expert-0") is not None)
        given, lead.node.exchange.ask = lead.node.exchange.ask, no_key  # type: ignore[method-assign]
        led, new = lead.volunteer.lead, RunKey.generate()
        assert led is not None
        notice = world.notice(Revoke(peer=Identity.generate().peer_id, next_key=new.hash))
        lead.node.keep(notice)
        await world.until(lambda: led.outbox.state.waiting is not None and lead.node.keys.is_behind)
        made = led.outbox.state.waiting
        await world.until(lambda: led.outbox.state.waiting not in (None, made))  # and it trains on
        assert lead.volunteer.lead is led
        owner.node.keep(notice)
        owner.node.keys.keep(owner.node.keys.ring.with_key(new.secret))
        lead.node.exchange.ask = given  # type: ignore[method-assign]
        lead.node.exchange._ask_at_s = 0.0
        before = led.outbox.state.attested
        await world.until(lambda: led.outbox.state.attested > before)
        assert not any("gave up" in line for line in lead.said)


async def no_key() -> bool:
    return False


async def test_a_member_that_lost_its_keys_joins_again_by_an_invite_that_holds(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        identity, now_s = Identity.generate(), time.time()
        token = make_token(
            world.owner_node,
            world.run.id,
            ("train", "generate"),
            uses=1,
            now_s=now_s,
            until_s=now_s + 3600,
            admitters=(world.owner_node.peer_id,),
        )
        invite = Invite(run=world.run.id, peers=(), join=token.data)
        host = Host(PeerSettings(data_dir=tmp_path / "a"), identity, BlobStore(tmp_path / "a" / "blobs"))
        host.swarm = world.network.join(identity, host)
        assert await join_run(host, invite) == world.run
        keys = spec_path(tmp_path / "a", world.run.id).parent / KEYS_FILE
        kept = keys.read_bytes()
        assert await join_run(host, invite) == world.run
        keys.unlink()
        assert await join_run(host, invite) == world.run
        assert keys.read_bytes() == kept
        assert owner.node.admitter.admitted == 1
