"""What is kept of the records that DHT nodes and peers hand out."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import pytest

from paris_p2p.envelope import encode, seal_payload
from paris_p2p.errors import RecordError, VersionError
from paris_p2p.identity import Identity
from paris_p2p.kinds import claims_key, tips_key
from paris_p2p.swarm import verified
from paris_p2p.swarm.verified import RecordView, open_stored, subkey_of
from tests.swarm.swarms import RUN, card, claim

KEY = claims_key(RUN, "expert-0")


def test_an_expired_entry_may_be_held_but_is_not_known() -> None:
    view, old = RecordView(), claim(Identity.generate(), 1)
    entry = (subkey_of(old), old.record.expires_at, old.data)
    assert view.check(*entry).id == old.id
    assert view.merge(KEY, RUN, [entry], old.record.expires_at + 1) == []
    assert view.refused == {}


def test_what_was_seen_stays_known_until_it_expires_though_no_node_has_it() -> None:
    view, seen = RecordView(), claim(Identity.generate(), 1)
    view.merge(KEY, RUN, [(subkey_of(seen), seen.record.expires_at, seen.data)], time.time())
    assert [envelope.id for envelope in view.merge(KEY, RUN, [], time.time())] == [seen.id]
    assert view.known(KEY, seen.record.expires_at) == []


def test_a_card_of_a_later_epoch_wins_over_a_higher_seq_of_an_earlier_one() -> None:
    view, me = RecordView(), Identity.generate()
    stale, current = card(me, 9, epoch=1), card(me, 8, epoch=3)
    for envelope in (stale, current, stale):
        view.remember(tips_key(RUN, "expert-0"), envelope)
    assert [envelope.id for envelope in view.known(tips_key(RUN, "expert-0"), time.time())] == [current.id]


def test_a_record_for_a_newer_reader_is_held_for_newer_peers_and_not_read() -> None:
    me, view = Identity.generate(), RecordView()
    raw = {**claim(me, 1).record.model_dump(), "oldest_reader": 99, "new_field": 1}
    newer = seal_payload(me, "claim", RUN, encode(raw), claim(me, 1).record)
    entry = (f"{me.peer_id}:claim", raw["expires_at"], newer.data)
    assert view.check(*entry).signer == me.peer_id
    assert view.merge(KEY, RUN, [entry], time.time()) == []
    assert view.refused == {"record: for a newer reader": 1}


def test_a_record_for_a_newer_reader_that_would_live_too_long_is_not_held() -> None:
    me = Identity.generate()
    raw = {**claim(me, 1).record.model_dump(), "oldest_reader": 99}
    raw["expires_at"] = raw["issued_at"] + 1e6
    with pytest.raises(VersionError):
        open_stored(seal_payload(me, "claim", RUN, encode(raw), claim(me, 1).record).data)


def test_a_record_of_another_run_is_held_and_not_read_as_this_runs() -> None:
    me, view = Identity.generate(), RecordView()
    other = claim(me, 1)
    entry = (subkey_of(other), other.record.expires_at, other.data)
    assert view.check(*entry).id == other.id
    assert view.merge(KEY, "00" * 32, [entry], time.time()) == []


def test_entries_that_are_refused_are_counted_under_a_few_names_whatever_they_say() -> None:
    view = RecordView()
    for number in range(100):
        signed = claim(Identity.generate(), 1)
        moved = (f"stranger {number}", signed.record.expires_at, signed.data)
        assert (
            view.merge(KEY, RUN, [moved, (subkey_of(signed), float(number), signed.data)], time.time()) == []
        )
    assert view.refused == {"record: malformed": 200}


def test_a_foreign_signature_is_refused() -> None:
    good = claim(Identity.generate(), 1)
    stranger = dataclasses.replace(
        good, data=seal_payload(Identity.generate(), "claim", RUN, good.payload, good.record).data
    )
    with pytest.raises(RecordError, match="subkey"):
        RecordView().check(subkey_of(good), good.record.expires_at, stranger.data)


def test_memory_is_bounded_in_keys_and_in_entries_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_KEYS", 2)
    monkeypatch.setattr(verified, "MAX_ENTRIES_PER_KEY", 2)
    view = RecordView()
    for _ in range(4):
        view.remember(KEY, claim(Identity.generate(), 1))
    assert len(view.known(KEY, time.time())) == 2
    assert view.refused["too many records under one key"] == 2
    for slot in ("a", "b"):
        view.remember(slot, claim(Identity.generate(), 1))
    assert view.known(KEY, time.time()) == []


def test_later_signers_are_seen_though_made_up_ones_filled_a_key_for_months(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verified, "MAX_ENTRIES_PER_KEY", 4)
    me, now_s = Identity.generate(), time.time()
    view, key = RecordView(me.peer_id), tips_key(RUN, "expert-0")
    own, steady, late = card(me, 1), card(Identity.generate(), 1), card(Identity.generate(), 1)
    view.remember(key, own)
    view.take(key, [steady], now_s)
    for _ in range(8):
        view.take(key, [card(Identity.generate(), 1), steady], now_s)  # a signer that is seen again stays
    seen = {one.id for one in view.take(key, [late], now_s)}
    assert {own.id, steady.id, late.id} <= seen
    assert len(seen) == 4


def test_what_expired_goes_before_what_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_ENTRIES_PER_KEY", 2)
    view, old = RecordView(), claim(Identity.generate(), 1)
    lasting, new = card(Identity.generate(), 1), card(Identity.generate(), 1)
    for envelope in (lasting, old):
        view.remember("any", envelope)
    known = view.take("any", [new], old.record.expires_at + 1)
    assert {one.id for one in known} == {lasting.id, new.id}
    assert view.refused == {}


def test_the_seam_and_its_fake_do_without_hivemind_and_torch() -> None:
    program = (
        "import sys, paris_p2p.swarm.seam, paris_p2p.swarm.fake; print([m for m in ('hivemind', "
        "'torch') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
