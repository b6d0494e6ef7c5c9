"""A round's bytes: one form, bounded, and of one run and slot."""

from __future__ import annotations

import msgpack
import pytest

from paris_p2p.crew_records import (
    MAX_COUNTED,
    MAX_ROUND_BYTES,
    Counted,
    CrewRound,
    MergedUpdate,
    RefusedUpdate,
)
from paris_p2p.errors import RecordError, VersionError
from paris_p2p.identity import Identity
from paris_p2p.round_file import decode_round, encode_round

RUN, SLOT = "1" * 64, "expert-2"
PEER = Identity.generate().peer_id
MADE = CrewRound(
    run=RUN,
    slot=SLOT,
    lineage=("a" * 64, "b" * 64),
    steps_before=10,
    clips_before=80,
    steps=20,
    clips=160,
    merged_before="e" * 64,
    merged="c" * 64,
    updates=(MergedUpdate(envelope=b"signed", late=0, scale=65536),),
    refused=(RefusedUpdate(update="d" * 64, peer=PEER, reason="norm"),),
    counted=(Counted(peer=PEER, next=80),),
)


def test_a_round_comes_back_as_it_was() -> None:
    assert decode_round(encode_round(MADE), RUN, SLOT) == MADE


def test_hashes_and_peers_travel_as_bytes() -> None:
    assert len(encode_round(MADE)) < 550


@pytest.mark.parametrize(("run", "slot"), [("2" * 64, SLOT), (RUN, "router")])
def test_a_round_of_another_run_or_slot_is_refused(run: str, slot: str) -> None:
    with pytest.raises(RecordError, match="the round is of expert-2"):
        decode_round(encode_round(MADE), run, slot)


def test_another_form_of_the_same_round_is_refused() -> None:
    raw = msgpack.unpackb(encode_round(MADE))
    with pytest.raises(RecordError, match="one form"):
        decode_round(msgpack.packb(raw | {"full": False}), RUN, SLOT)
    with pytest.raises(RecordError, match="one form"):
        decode_round(msgpack.packb(raw | {"later": 1}), RUN, SLOT)


def test_bytes_that_are_too_many_or_no_round_are_refused_unread() -> None:
    with pytest.raises(RecordError, match="over the limit"):
        decode_round(b"\x90" * (MAX_ROUND_BYTES + 1), RUN, SLOT)
    with pytest.raises(RecordError, match="holds no round"):
        decode_round(msgpack.packb({"kind": "card"}), RUN, SLOT)
    with pytest.raises(RecordError):
        decode_round(b"\x91" * 1000, RUN, SLOT)


def test_a_newer_round_says_that_this_version_is_too_old() -> None:
    raw = msgpack.unpackb(encode_round(MADE))
    with pytest.raises(VersionError, match="update paris-p2p"):
        decode_round(msgpack.packb(raw | {"oldest_reader": 1000}), RUN, SLOT)


def test_a_slot_with_as_many_contributors_as_it_counts_still_fits() -> None:
    many = tuple(Counted(peer=PEER, next=(1 << 53) - 1) for _ in range(MAX_COUNTED))
    data = encode_round(MADE.model_copy(update={"counted": many}))
    assert len(decode_round(data, RUN, SLOT).counted) == MAX_COUNTED
