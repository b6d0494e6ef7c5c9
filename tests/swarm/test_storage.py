"""A DHT node's memory of records is bounded, and nobody's flood keeps others out."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hivemind.dht.routing import DHTID
from hivemind.utils import MSGPackSerializer

from paris_p2p.crew_records import MAX_PEERS
from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.kinds import claims_key, dht_key
from paris_p2p.swarm import real, storage
from paris_p2p.swarm.storage import RecordStorage, StorageLimits
from paris_p2p.swarm.verified import MAX_ENTRIES_PER_KEY, subkey_of
from tests.rules.made_crews import update, worker
from tests.swarm.swarms import RUN, OnLoopback, claim, stray

SMALL = StorageLimits(total_bytes=60_000, run_bytes=25_000, others_bytes=10_000, entries_per_key=16)


def put(into: RecordStorage, envelope: Envelope[Any]) -> bool:
    value = MSGPackSerializer.dumps(envelope.data)
    return into.store_subkey(key_of(envelope), subkey_of(envelope), value, envelope.record.expires_at)


def key_of(envelope: Envelope[Any]) -> DHTID:
    return DHTID.generate(source=dht_key(envelope.record))


def test_a_flood_of_invented_runs_is_turned_away_and_takes_no_room_of_ours_or_of_those_that_were_here() -> (
    None
):
    refused: Counter[str] = Counter()
    held = RecordStorage(SMALL, refused)
    held.take_part(RUN)
    ours, before = stray(RUN), stray()
    assert put(held, ours)
    assert put(held, before)
    kept = sum(put(held, stray()) for _ in range(200))
    assert 5 < kept < 20
    assert held.used_bytes <= SMALL.others_bytes + SMALL.run_bytes
    assert refused == {"DHT storage: no room": 200 - kept}
    assert held.get(key_of(ours)) is not None
    assert held.get(key_of(before)) is not None
    assert all(
        put(held, stray(RUN, slot=f"expert-{number}")) for number in range(1, 10)
    )  # there is room for ours as before
    assert put(held, stray(before.record.run, lifetime_s=3100.0))  # and the others may renew their own


def test_a_run_that_this_peer_joins_later_is_no_longer_among_the_others() -> None:
    held = RecordStorage(SMALL, Counter())
    while put(held, stray()):
        pass
    assert not put(held, stray(RUN))
    held.take_part(RUN)
    assert put(held, stray(RUN))


def test_one_run_cannot_take_all_the_room_nor_one_key_all_of_its_run() -> None:
    held = RecordStorage(SMALL, Counter())
    other = "cd" * 32
    held.take_part(RUN)
    held.take_part(other)
    assert sum(put(held, stray(RUN, Identity.generate())) for _ in range(20)) == SMALL.entries_per_key
    kept = sum(put(held, stray(RUN, slot=f"expert-{number}")) for number in range(1, 50))
    assert 5 < kept < 49
    assert 0.9 * SMALL.run_bytes < held.used_bytes <= SMALL.run_bytes
    assert put(held, stray(other))


def put_as(into: RecordStorage, peer: str, envelope: Envelope[Any]) -> bool:
    token = into.bringing.set(peer)
    try:
        return put(into, envelope)
    finally:
        into.bringing.reset(token)


def held_of(held: RecordStorage, *envelopes: Envelope[Any]) -> int:
    return sum((found := held.get(key_of(e))) is not None and subkey_of(e) in found.value for e in envelopes)


def test_a_peer_that_came_first_and_filled_the_room_of_strangers_gives_way_to_those_who_come_later() -> None:
    held = RecordStorage(SMALL, Counter())
    while put_as(held, "greedy", stray()):
        pass
    full_bytes = held.used_bytes
    later = {peer: [stray(), stray()] for peer in "abc"}
    assert all(put_as(held, peer, envelope) for peer, own in later.items() for envelope in own)
    assert not any(put_as(held, "greedy", stray()) for _ in range(20))  # it takes nothing back
    assert held_of(held, *(envelope for own in later.values() for envelope in own)) == 6
    assert held.used_bytes <= full_bytes


def test_a_peer_that_filled_a_key_or_a_run_with_made_up_signers_gives_way_there() -> None:
    held = RecordStorage(SMALL, Counter())
    held.take_part(RUN)
    while put_as(held, "greedy", stray(RUN, Identity.generate())):
        pass
    honest = [stray(RUN, Identity.generate()) for _ in range(3)]
    assert all(put_as(held, peer, envelope) for peer, envelope in zip("abc", honest, strict=True))
    assert held_of(held, *honest) == 3
    number = 0
    while put_as(held, "greedy", stray(RUN, slot=f"expert-{(number := number + 1)}")):
        pass
    assert put_as(held, "d", stray(RUN, slot="router"))
    assert put(held, mine := stray(RUN, Identity.generate()))  # and whatever this peer has to say finds room
    assert held_of(held, mine) == 1


def test_many_peers_of_one_address_have_the_share_of_one_address() -> None:
    held = RecordStorage(SMALL, Counter(), address_of=lambda peer: peer.split("/")[0])
    number = 0
    while put_as(held, f"crowd/{number}", stray()):
        number += 1
    ours = [stray() for _ in range(4)]
    assert all(put_as(held, "home/a", envelope) for envelope in ours)
    assert not any(put_as(held, f"crowd/{number}", stray()) for number in range(100, 120))
    assert held_of(held, *ours) == 4


def test_a_run_that_is_left_goes_back_among_the_others() -> None:
    held, refused = RecordStorage(SMALL, Counter()), stray()
    held.take_part(RUN)
    assert put_as(held, "a", stray(RUN))
    used_bytes = held.used_bytes
    held.leave(RUN)
    assert held.used_bytes == used_bytes
    while put_as(held, "a", refused := stray()):
        pass
    assert held_of(held, refused) == 0
    assert held.used_bytes <= SMALL.others_bytes


def test_expired_records_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    held = RecordStorage(SMALL, Counter())
    while put(held, stray(lifetime_s=1000.0)):
        pass
    later = time.time() + 2000
    monkeypatch.setattr(storage.time, "time", lambda: later)
    fresh = stray(lifetime_s=1000.0)
    assert put(held, fresh)
    assert [key for key, _ in held.items()] == [key_of(fresh)]
    later += 2000
    assert held.get(key_of(fresh)) is None
    assert not put(
        held, stray(lifetime_s=91 * 86400.0)
    )  # signed for a date far ahead: it would outlive all that is honest


def test_only_a_later_expiry_replaces_and_saying_it_again_takes_no_more_room() -> None:
    held, first, later = RecordStorage(SMALL, Counter()), stray(RUN), stray(RUN, lifetime_s=3100.0)
    assert put(held, later)
    used = held.used_bytes
    assert not any(put(held, again) for again in (first, later) * 3)
    assert held.used_bytes == used
    found = held.get(key_of(first))
    assert found is not None
    assert found.expiration_time == later.record.expires_at
    assert found.value.get(subkey_of(later)).value == MSGPackSerializer.dumps(later.data)


def test_what_a_search_merges_into_the_value_it_was_given_is_not_held() -> None:
    held, mine = RecordStorage(SMALL, Counter()), stray(RUN)
    put(held, mine)
    found = held.get(key_of(mine))
    assert found is not None
    for number in range(1000):
        found.value.store(f"stranger {number}", b"x" * 2000, time.time() + 1000)
    again = held.get(key_of(mine))
    assert again is not None
    assert list(again.value.data) == [subkey_of(mine)]


def test_values_that_are_no_records_and_values_without_subkey_are_not_held() -> None:
    held = RecordStorage(SMALL, Counter())
    assert not held.store(DHTID.generate(source="key"), MSGPackSerializer.dumps(b"x"), time.time() + 9)
    assert not held.store_subkey(DHTID.generate(source="key"), "x", b"\xc1", time.time() + 9)
    assert not held.store_subkey(
        DHTID.generate(source="key"), "x", MSGPackSerializer.dumps(b"x"), time.time() + 9
    )
    assert held.used_bytes == 0


def test_a_new_node_is_handed_one_message_with_this_peers_runs_first() -> None:
    held = RecordStorage(replace(SMALL, handed_over_bytes=1500), Counter())
    held.take_part(RUN)
    for _ in range(5):
        put(held, stray())
    ours = stray(RUN)
    put(held, ours)
    handed = [key for key, _ in held.items()]
    assert handed[0] == key_of(ours)
    assert 1 < len(handed) < 6


def test_a_new_node_is_handed_no_more_entries_than_one_message_may_bring() -> None:
    held = RecordStorage(replace(SMALL, handed_over_entries=2), Counter())
    for _ in range(5):
        put(held, stray())
    assert len([key for key, _ in held.items()]) == 2


def test_the_bytes_that_are_counted_are_those_that_python_takes() -> None:
    held = RecordStorage(StorageLimits(), Counter())
    records = [stray() for _ in range(300)] + [stray(RUN, Identity.generate()) for _ in range(300)]
    tracemalloc.start()
    try:
        for envelope in records:
            assert put(held, envelope)
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.7 * held.used_bytes < taken_bytes < 1.1 * held.used_bytes


@pytest.mark.swarm
@pytest.mark.timeout(60)
async def test_a_node_that_is_flooded_keeps_within_bounds_and_serves_its_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "StorageLimits", lambda: SMALL)
    async with AsyncExitStack() as stack:
        network, me = OnLoopback(tmp_path, stack), Identity.generate()
        victim: Any = await network.join(me)
        flooder, newcomer = await network.join(), await network.join()
        await victim.store_record(claim(me, 1))
        for _ in range(40):
            await flooder.store_record(stray())
        assert victim.refused["DHT storage: no room"] > 20
        node = victim._keeper.link.board._node
        assert node.protocol.storage.used_bytes < SMALL.others_bytes + SMALL.run_bytes
        cached = stray()
        value = MSGPackSerializer.dumps(cached.data)
        asked = flooder._keeper.link.board._node.protocol.call_store  # type: ignore[attr-defined]
        where, expires_at = [key_of(cached)], [cached.record.expires_at]
        assert await asked(
            node.peer_id, where, [value], expires_at, subkeys=[subkey_of(cached)], in_cache=True
        ) == [False]
        assert [
            envelope.signer for envelope in await newcomer.read_records(claims_key(RUN, "expert-0"), RUN)
        ] == [me.peer_id]
        assert await victim.store_record(claim(me, 2, lifetime_s=200.0))


@pytest.mark.parametrize("kind", ["worker", "update"])
def test_a_key_holds_the_records_of_as_many_workers_as_any_crew_has_over_all_their_renewals(
    kind: str,
) -> None:
    """One key of a slot, a thousand signers, each with its tenth record: a renewal takes no more room."""
    held = RecordStorage(StorageLimits(), Counter())
    held.take_part(RUN)
    now = time.time()
    signers = [
        Identity.from_private_bytes(number.to_bytes(32, "big"))
        for number in range(1, MAX_ENTRIES_PER_KEY + 1)
    ]
    assert len(signers) > 8 * MAX_PEERS
    for renewal in range(3):
        head = {"seq": 10 + renewal, "issued_at": now, "expires_at": now + 3000 + renewal}
        for signer in signers:
            made = worker(signer, joined_at=now, run=RUN, **head)
            if kind == "update":
                made = update(signer, "cd" * 32, run=RUN, **head)
            assert put(held, made)
    assert len(held.values(key_of(made))) == len(signers)
    assert held.answer_bytes(key_of(made)) < StorageLimits().key_bytes
