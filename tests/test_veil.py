"""Sealed records: what is sealed opens as it was, for those who have the key, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p import veil
from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import MissingKeyError, RecordError, SignatureError
from paris_p2p.identity import Identity
from paris_p2p.keyring import DoorRing, Keyring, RunKey
from paris_p2p.kinds import (
    SIGNED_LIFETIME_S,
    dht_key,
    members_key,
    notices_key,
    tips_key,
)
from paris_p2p.owner_records import (
    MAX_KEPT,
    MAX_SHARDS,
    AddClips,
    AddedShard,
    Admit,
    MemberRecord,
    NoticeRecord,
    Pause,
    Revoke,
    RevokeCard,
)
from paris_p2p.records import (
    AttestationRecord,
    BlobRef,
    CardRecord,
    ClaimRecord,
    HolderRecord,
    PeerRecord,
    RefusalRecord,
    SealedRecord,
    Signed,
)
from paris_p2p.swarm.verified import RecordView, subkey_of
from paris_p2p.veil import open_sealed, open_spec, seal_record, seal_spec

RUN = "5a" * 32
ME, OTHER = Identity.generate(), Identity.generate()
RING = Keyring((RunKey.generate(),))
NOW = 1.8e9


def head(kind: str, slot: str = "", seq: int = 7) -> dict[str, Any]:
    return {
        "run": RUN,
        "slot": slot,
        "seq": seq,
        "issued_at": NOW,
        "expires_at": NOW + SIGNED_LIFETIME_S[kind],
    }


def claim(epoch: int = 3, **changes: Any) -> ClaimRecord:
    return ClaimRecord(**(head("claim", "expert-1") | changes), epoch=epoch, claimed_at=NOW)


def card(**changes: Any) -> CardRecord:
    blob = BlobRef(id="11" * 32, size_bytes=1 << 40)
    return CardRecord(
        **(head("card", "expert-1") | changes),
        epoch=3,
        parent="77" * 32,
        weights=blob,
        resume=blob,
        clips=1 << 40,
        steps=1 << 30,
        train_loss=0.5,
    )


def notice(change: Any, number: int = 1) -> NoticeRecord:
    return NoticeRecord(**head("notice", "", number), previous=RUN, change=change)


EVERY_KIND: list[Signed] = [
    claim(),
    card(),
    AttestationRecord(
        **head("attestation", "router"),
        epoch=1,
        card="22" * 32,
        loss=0.1,
        reference_loss=0.2,
        best="22" * 32,
        gate_clips=9,
    ),
    RefusalRecord(**head("refusal", "expert-0"), epoch=1, card="22" * 32, reason="gate"),
    HolderRecord(**head("holder"), what="33" * 32),
    PeerRecord(**head("peer"), role="owner", notices=4),
    MemberRecord(**head("member"), certificate=b"c" * 1024, name="an office machine of the studio"),
    notice(Pause(reason="night")),
    notice(RevokeCard(slot="expert-1", card="44" * 32, place=5, floor=9)),
]


@pytest.mark.parametrize("record", EVERY_KIND, ids=lambda record: record.kind)
def test_a_record_of_every_kind_opens_as_it_was(record: Signed) -> None:
    sealed = seal_record(ME, record, RING, 99)
    opened = open_sealed(sealed.data, RING, RUN)
    assert (opened.record, opened.signer, opened.payload) == (record, ME.peer_id, sealed.payload)
    assert opened.id == sealed.id == seal(ME, record).id  # a card is called as in an open run
    assert opened.data == sealed.data
    assert len(sealed.data) <= 2048


@settings(max_examples=40, deadline=None)
@given(
    epoch=st.integers(0, 2**53 - 1),
    seq=st.integers(0, 2**53 - 1),
    outer=st.integers(0, 2**53 - 1),
    after_s=st.floats(1, 3600),
    keys=st.integers(1, 3),
)
def test_any_claim_opens_as_it_was(epoch: int, seq: int, outer: int, after_s: float, keys: int) -> None:
    ring = Keyring(tuple(RunKey.generate() for _ in range(keys)))
    record = claim(epoch, seq=seq, expires_at=NOW + after_s)
    assert open_sealed(seal_record(ME, record, ring, outer).data, ring, RUN).record == record


@pytest.mark.parametrize(
    "change",
    [
        AddClips(
            shards=tuple(
                AddedShard(
                    split="train",
                    cluster=255,
                    blob=BlobRef(id=f"{n:064x}", size_bytes=(1 << 53) - 1),
                    clips=(1 << 53) - 1,
                )
                for n in range(MAX_SHARDS)
            )
        ),
        Revoke(
            peer=ME.peer_id,
            since=NOW,
            keeps=tuple(Identity.generate().peer_id for _ in range(MAX_KEPT)),
            next_key="55" * 32,
        ),
        Pause(reason="ü" * 300),
        Admit(peer=ME.peer_id, rights=("train", "attest", "generate", "store", "admit"), name="n" * 64),
    ],
    ids=lambda change: change.act,
)
def test_the_largest_notices_fit_when_they_are_sealed(change: Any) -> None:
    record = notice(change, 1 << 14).model_copy(update={"oldest_reader": 4})
    assert open_sealed(seal_record(ME, record, RING, 1 << 50).data, RING, RUN).record == record


def test_an_outsider_can_bound_and_verify_the_outer_part_and_reads_nothing() -> None:
    sealed = seal_record(ME, card(), RING, 99)
    outer = open_envelope(sealed.data, run=RING.veiled_run)
    assert isinstance(outer.record, SealedRecord)
    assert (outer.signer, outer.record.seq) == (ME.peer_id, 99)
    assert outer.record.expires_at == card().expires_at
    view = RecordView()
    entry = subkey_of(outer), outer.record.expires_at, sealed.data
    assert view.open_all(dht_key(outer.record), RING.veiled_run, [entry]) == [outer]
    for plain in (RUN, card().weights.id, card().parent, sealed.id):
        assert bytes.fromhex(plain) not in sealed.data
        assert plain.encode() not in sealed.data
    assert b"expert" not in sealed.data
    assert b"card" not in sealed.data


def outer_of(sealed: Envelope[Any]) -> SealedRecord:
    record = open_envelope(sealed.data, run=RING.veiled_run).record
    assert isinstance(record, SealedRecord)
    return record


@pytest.mark.parametrize(
    "change",
    [
        {"shelf": "66" * 32},
        {"seq": 100},
        {"expires_at": NOW + 3599.0},
        {"issued_at": NOW + 1.0},
        {"hint": RING.doors[0].hint},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_body_under_another_outer_part_does_not_open(change: dict[str, Any]) -> None:
    moved = outer_of(seal_record(ME, claim(), RING, 99)).model_copy(update=change)
    with pytest.raises(RecordError, match="does not open"):
        open_sealed(seal(ME, moved).data, RING, RUN)


def test_a_body_under_another_name_does_not_open() -> None:
    with pytest.raises(RecordError, match="does not open"):
        open_sealed(seal(OTHER, outer_of(seal_record(ME, claim(), RING, 99))).data, RING, RUN)


def test_a_body_moved_to_another_run_with_the_same_keys_does_not_open() -> None:
    sealed = seal_record(ME, claim(), RING, 99)
    with pytest.raises(RecordError, match="belongs to run"):
        open_sealed(sealed.data, RING, "6b" * 32)
    other = Keyring((RunKey.generate(),))
    moved = outer_of(sealed).model_copy(update={"run": other.veiled_run, "hint": other.current.hint})
    with pytest.raises(RecordError, match="does not open"):
        open_sealed(seal(ME, moved).data, other, RUN)


def test_a_changed_byte_is_noticed_before_anything_is_opened() -> None:
    data = bytearray(seal_record(ME, claim(), RING, 99).data)
    data[len(data) // 2] ^= 1
    with pytest.raises((SignatureError, RecordError)):
        open_sealed(bytes(data), RING, RUN)


def test_a_plain_record_of_a_private_run_is_not_taken() -> None:
    with pytest.raises(RecordError):
        open_sealed(seal(ME, claim()).data, RING, RUN)


def test_what_is_sealed_later_does_not_open_without_the_later_key() -> None:
    later = RING.with_key(RunKey.generate().secret)
    sealed = seal_record(ME, claim(), later, 99)
    assert open_sealed(sealed.data, later, RUN).record == claim()
    with pytest.raises(MissingKeyError, match=later.current.hint.hex()):
        open_sealed(sealed.data, RING, RUN)
    # The names stay where they were, so that those without the key know what they miss.
    assert outer_of(sealed).shelf == outer_of(seal_record(ME, claim(), RING, 99)).shelf
    assert open_sealed(seal_record(ME, claim(), RING, 99).data, later, RUN).record == claim()
    assert later.as_of(1) == RING


def test_a_storage_node_reads_who_takes_part_and_nothing_else() -> None:
    ring = RING.for_storage
    assert isinstance(ring, DoorRing)
    assert ring.veiled_run == RING.veiled_run
    for record in EVERY_KIND:
        sealed = seal_record(ME, record, RING, 99)
        if veil.is_for_the_door(record):
            assert open_sealed(sealed.data, ring, RUN).record == record
        else:
            with pytest.raises(MissingKeyError):
                open_sealed(sealed.data, ring, RUN)
    assert veil.shelves_under(ring, members_key(RUN)) == veil.shelves_under(RING, members_key(RUN))
    assert veil.question_of(ring, notices_key(RUN, 3)) == veil.question_of(RING, notices_key(RUN, 3))
    with pytest.raises(RecordError, match="not for storage"):
        veil.shelves_under(ring, tips_key(RUN, "expert-0"))


def test_a_storage_node_cannot_say_what_members_say() -> None:
    ring = RING.for_storage
    with pytest.raises(MissingKeyError):
        seal_record(ME, claim(), ring, 99)
    peer = PeerRecord(**head("peer"), role="bootstrap")
    assert open_sealed(seal_record(ME, peer, ring, 99).data, RING, RUN).record == peer


def test_every_plain_key_has_one_veiled_key_for_each_kind_and_all_differ() -> None:
    keys = [dht_key(record) for record in EVERY_KIND] + [notices_key(RUN, n) for n in range(2, 6)]
    veiled = [name for key in dict.fromkeys(keys) for name in veil.shelves_under(RING, key)]
    asked = [veil.question_of(RING, key) for key in dict.fromkeys(keys)]
    assert len({*veiled, *asked}) == len(veiled) + len(asked)
    for record in EVERY_KIND:
        assert dht_key(outer_of(seal_record(ME, record, RING, 9))) in veil.shelves_under(
            RING, dht_key(record)
        )


def test_no_key_and_nonce_ever_meet_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[bytes, bytes]] = []
    inputs: list[tuple[bytes, bytes]] = []

    class Watched:
        def __init__(self, key: bytes):
            self.key = key

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            if (data, associated) not in inputs:  # the very same bytes again tell nothing new
                met.append((self.key, nonce))
                inputs.append((data, associated))
            return AESGCM(self.key).encrypt(nonce, data, associated)

    monkeypatch.setattr(veil, "AESGCM", Watched)
    later = RING.with_key(RunKey.generate().secret)
    for ring in (RING, later):
        for seq in (1, 2, 2):  # a clock that stood still, or a crash before the count was kept
            for signer in (ME, OTHER):
                for record in EVERY_KIND:
                    seal_record(signer, record, ring, seq)
        seal_spec(b"one", ring)
        seal_spec(b"two", ring)
    assert len(met) > 70
    assert len(set(met)) == len(met)


def test_a_run_spec_opens_for_members_alone() -> None:
    data = b"signed bytes" * 1000
    sealed = seal_spec(data, RING)
    assert open_spec(sealed, RING) == data
    assert b"signed" not in sealed
    with pytest.raises(MissingKeyError):
        open_spec(sealed, Keyring((RunKey.generate(),)))
    for damaged in (sealed[:-1], sealed[:100], sealed + b"x", b"", bytes(len(sealed))):
        with pytest.raises(RecordError):
            open_spec(damaged, RING)


def test_what_is_too_large_is_refused_when_it_is_sealed() -> None:
    record = MemberRecord(**head("member"), certificate=b"c" * 1024, name="n" * 64)
    assert len(seal_record(ME, record, RING, 9).data) < 2048
    with pytest.raises(RecordError, match=r"limit|large"):
        seal_record(ME, notice(Pause(reason="x" * 300)).model_copy(update={"previous": "9" * 2000}), RING, 9)


def test_a_record_that_pretends_to_a_longer_life_is_refused() -> None:
    long_lived = claim(expires_at=NOW + 3 * 3600)
    with pytest.raises(RecordError, match="may live"):
        open_sealed(seal_record(ME, long_lived, RING, 9).data, RING, RUN)
