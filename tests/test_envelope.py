"""Envelopes: nothing gets in that was not signed for this kind and run, and no bytes break the reader."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope, decode, encode, open_envelope, seal, seal_payload
from paris_p2p.errors import RecordError, SignatureError, VersionError
from paris_p2p.identity import Identity
from paris_p2p.kinds import DEFAULT_MAX_ENVELOPE_BYTES, SIGNED_LIFETIME_S
from paris_p2p.records import (
    READER,
    AttestationRecord,
    BlobRef,
    CardRecord,
    ClaimRecord,
    HolderRecord,
    PeerRecord,
    Signed,
)

ME = Identity.from_private_bytes(b"e" * 32)
RUN, OTHER_RUN = "ab" * 32, "cd" * 32
HEADER: dict[str, Any] = {
    "run": RUN,
    "slot": "router",
    "seq": 3,
    "issued_at": 1.8e9,
    "expires_at": 1.8e9 + 60,
}
CLAIM = ClaimRecord(**HEADER, epoch=2, claimed_at=1.8e9)

counts, losses = st.integers(0, (1 << 53) - 1), st.floats(0, 1e6)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
slots = st.one_of(st.just("router"), st.integers(0, 999).map("expert-{}".format))
blobs = st.builds(BlobRef, id=hashes, size_bytes=counts)


def headers(kind: str, slot: st.SearchStrategy[str]) -> dict[str, st.SearchStrategy[Any]]:
    lifetime = SIGNED_LIFETIME_S[kind]
    return {
        "run": st.just(RUN),
        "slot": slot,
        "seq": counts,
        "issued_at": st.just(1.8e9),
        "expires_at": st.just(1.8e9 + lifetime),
    }


records: st.SearchStrategy[Signed] = st.one_of(
    st.builds(
        ClaimRecord,
        **headers("claim", slots),
        epoch=counts,
        claimed_at=st.floats(0, 4e9),
        released=st.booleans(),
    ),
    st.builds(
        CardRecord,
        **headers("card", slots),
        epoch=counts,
        parent=st.one_of(st.just(""), hashes),
        weights=blobs,
        resume=blobs,
        clips=counts,
        steps=counts,
        train_loss=losses,
    ),
    st.builds(
        AttestationRecord,
        **headers("attestation", slots),
        epoch=counts,
        card=hashes,
        loss=losses,
        reference_loss=losses,
        best=hashes,
        gate_clips=counts,
    ),
    st.builds(HolderRecord, **headers("holder", st.just("")), what=hashes),
    st.builds(PeerRecord, **headers("peer", st.just("")), role=st.sampled_from(["peer", "bootstrap"])),
)
plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 64) - 1),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=40),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def signed(raw: dict[str, Any], kind: str = "claim", run: str = RUN, by: Identity = ME) -> bytes:
    """An envelope around any payload, with a signature that is good."""
    return seal_payload(by, kind, run, msgpack.packb(raw), CLAIM).data


@settings(max_examples=80, deadline=None)
@given(records)
def test_a_record_survives_the_wire(record: Signed) -> None:
    sealed = seal(ME, record)
    opened = open_envelope(sealed.data, run=RUN)
    assert opened == sealed
    assert opened.record == record
    assert opened.signer == ME.peer_id
    assert opened.id == sealed.id


def test_records_fit_their_limits_at_their_largest() -> None:
    most, ref = (1 << 53) - 1, BlobRef(id=RUN, size_bytes=(1 << 53) - 1)
    header = HEADER | {"slot": "expert-999", "seq": most}
    card = CardRecord(
        **header, epoch=most, parent=RUN, weights=ref, resume=ref, clips=most, steps=most, train_loss=1.1
    )
    assert len(seal(ME, card).data) <= 1024
    for role in ("bootstrap", "generator"):
        assert len(seal(ME, PeerRecord(**(header | {"slot": ""}), role=role)).data) <= 256


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        plain.map(msgpack.packb),
        st.tuples(st.binary(), st.binary(), st.binary()).map(msgpack.packb),
    )
)
def test_any_bytes_are_refused_as_a_record_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        open_envelope(data, run=RUN)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(SIGNED_LIFETIME_S)),
    st.dictionaries(st.sampled_from([*CLAIM.model_dump(), "x"]), plain, max_size=6),
)
def test_a_signed_payload_of_anything_is_a_record_or_a_record_error(kind: str, wrong: dict[str, Any]) -> None:
    raw = CLAIM.model_dump() | wrong | {"kind": kind}
    try:
        opened: Envelope[Any] = open_envelope(signed(raw, kind), run=RUN)
    except RecordError:
        return
    assert opened.record.run == RUN


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_one_wrong_bit_anywhere_is_refused(data: st.DataObject) -> None:
    raw = bytearray(seal(ME, CLAIM).data)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RecordError):
        open_envelope(bytes(raw), run=RUN)


@pytest.mark.parametrize("depth", [20, 200, 1000, 1900])
def test_deep_nesting_is_refused_before_anybody_prints_it(depth: int) -> None:
    nested = b"\x91" * depth + b"\x01"
    payload = b"\x81" + msgpack.packb("kind") + nested
    with pytest.raises(RecordError):
        decode(payload)
    with pytest.raises(RecordError):
        open_envelope(seal_payload(ME, "claim", RUN, payload, CLAIM).data, run=RUN)


def test_an_unknown_field_of_a_newer_peer_is_ignored_and_kept_in_the_bytes() -> None:
    raw = CLAIM.model_dump() | {"colour": "green", "deep": {"er": [1, 2]}}
    opened = open_envelope(signed(raw), run=RUN)
    assert opened.record == CLAIM
    assert decode(opened.payload)["colour"] == "green"


def test_a_record_for_a_newer_reader_is_refused_as_such() -> None:
    with pytest.raises(VersionError, match="update paris-p2p"):
        open_envelope(signed(CLAIM.model_dump() | {"oldest_reader": READER + 1}), run=RUN)
    with pytest.raises(VersionError):
        open_envelope(signed(CLAIM.model_dump() | {"oldest_reader": "new"}), run=RUN)


def test_a_payload_signed_as_one_kind_is_refused_as_another() -> None:
    with pytest.raises(SignatureError):
        open_envelope(signed(CLAIM.model_dump(), kind="card"), run=RUN)


def test_a_payload_signed_for_one_run_is_refused_in_another() -> None:
    with pytest.raises(SignatureError):
        open_envelope(seal(ME, CLAIM).data, run=OTHER_RUN)
    with pytest.raises(RecordError, match="belongs to run"):
        open_envelope(signed(CLAIM.model_dump(), run=OTHER_RUN), run=OTHER_RUN)


def test_somebody_elses_name_on_a_record_is_refused() -> None:
    payload, _, signature = msgpack.unpackb(seal(ME, CLAIM).data)
    forged = msgpack.packb((payload, Identity.generate().peer_id_bytes, signature))
    with pytest.raises(SignatureError):
        open_envelope(forged, run=RUN)


def test_only_the_kinds_asked_for_are_accepted() -> None:
    with pytest.raises(RecordError, match="expected a record of kind card"):
        open_envelope(seal(ME, CLAIM).data, run=RUN, kinds=("card",))
    with pytest.raises(RecordError, match="expected a record of kind"):
        open_envelope(signed(CLAIM.model_dump() | {"kind": "wish"}, kind="wish"), run=RUN)


@pytest.mark.parametrize("expires_at", [1.8e9, 1.8e9 - 1, 1.8e9 + SIGNED_LIFETIME_S["claim"] + 1])
def test_a_record_lives_no_longer_than_its_kind_may(expires_at: float) -> None:
    with pytest.raises(RecordError, match="may live 3600 s"):
        open_envelope(signed(CLAIM.model_dump() | {"expires_at": expires_at}), run=RUN)


def test_an_envelope_over_its_kinds_limit_is_neither_made_nor_read() -> None:
    big = CLAIM.model_dump() | {"colour": "g" * DEFAULT_MAX_ENVELOPE_BYTES}
    with pytest.raises(RecordError, match="over its limit"):
        signed(big)
    peer = PeerRecord(**(HEADER | {"slot": ""})).model_dump() | {"colour": "g" * 200}
    payload = msgpack.packb(peer)
    data = msgpack.packb(
        (payload, ME.peer_id_bytes, ME.sign(b"paris-p2p/1\0peer\0" + RUN.encode() + b"\0" + payload))
    )
    with pytest.raises(RecordError, match="over its limit"):
        open_envelope(data, run=RUN)
    with pytest.raises(RecordError, match="over the limit"):
        open_envelope(bytes(5 << 20), run=RUN)


def test_text_that_looks_like_an_id_stays_text() -> None:
    raw = {"purpose": ME.peer_id, "name": RUN, "run": RUN, "owner_node": ME.peer_id}
    again = decode(encode(raw))
    assert again == raw | {"run": bytes.fromhex(RUN), "owner_node": ME.peer_id_bytes}
