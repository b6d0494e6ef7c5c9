"""Records and manifests: bounds that hold, names that follow from content, one DHT key for each record."""

from __future__ import annotations

import math
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from paris_p2p.crew_records import UpdateRecord, WorkerRecord
from paris_p2p.errors import ManifestError
from paris_p2p.identity import Identity
from paris_p2p.kinds import BOARD_KINDS, SIGNED_KINDS, dht_key
from paris_p2p.owner_records import KeyBoxRecord, MemberRecord, NoticeRecord, Pause
from paris_p2p.records import (
    MAX_MANIFEST_BYTES,
    AttestationRecord,
    BlobRef,
    CardRecord,
    ClaimRecord,
    HolderRecord,
    Manifest,
    PeerRecord,
    RefusalRecord,
    SealedRecord,
)

RUN = "ab" * 32
PEER = Identity.generate().peer_id
HEADER: dict[str, Any] = {"run": RUN, "slot": "expert-0", "seq": 1, "issued_at": 1.0, "expires_at": 2.0}
CARD: dict[str, Any] = HEADER | {
    "epoch": 1,
    "weights": BlobRef(id="01" * 32, size_bytes=1),
    "resume": BlobRef(id="02" * 32, size_bytes=2),
    "clips": 1,
    "steps": 1,
    "train_loss": 1.0,
}

manifests = st.builds(
    lambda size, chunk: Manifest(
        size_bytes=size,
        chunk_bytes=chunk,
        chunks=tuple(blake3(bytes([n % 256])).digest() for n in range(-(-size // chunk))),
    ),
    st.integers(0, 5000),
    st.integers(50, 2000),
)


@given(manifests)
def test_a_manifest_survives_the_wire_and_its_hash_names_the_blob(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data, blake3(data).hexdigest()) == manifest
    assert manifest.blob_id == blake3(data).hexdigest()
    assert sum(manifest.chunk_size(index) for index in range(len(manifest.chunks))) == manifest.size_bytes


@given(manifests, st.data())
def test_a_manifest_with_one_wrong_bit_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    raw = bytearray(manifest.to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ManifestError, match="does not match"):
        Manifest.from_bytes(bytes(raw), manifest.blob_id)


@given(
    st.one_of(
        st.binary(max_size=200), st.builds(lambda tail: b"paris-manifest/1" + tail, st.binary(max_size=140))
    )
)
def test_bytes_that_hash_right_are_a_manifest_or_a_manifest_error(data: bytes) -> None:
    try:
        manifest = Manifest.from_bytes(data, blake3(data).hexdigest())
    except ManifestError:
        return
    assert manifest.to_bytes() == data


def test_a_manifest_over_its_limit_is_refused() -> None:
    data = bytes(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data, blake3(data).hexdigest())


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_loss": math.nan},
        {"train_loss": math.inf},
        {"train_loss": -1.0},
        {"train_loss": "1.0"},
        {"issued_at": math.nan},
        {"expires_at": math.inf},
        {"expires_at": 5e9},
        {"seq": -1},
        {"seq": 1 << 53},
        {"seq": 1.0},
        {"seq": True},
        {"epoch": "1"},
        {"slot": ""},
        {"slot": "expert-01"},
        {"slot": "expert-1000"},
        {"slot": "expert-1\n"},
        {"slot": "x" * 10_000},
        {"run": "AB" * 32},
        {"run": "ab" * 31},
        {"parent": "zz" * 32},
        {"oldest_reader": 0},
        {"lowered": -1},
        {"lowered": 65},
        {"kind": "claim"},
    ],
    ids=str,
)
def test_a_card_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    CardRecord(**CARD)
    with pytest.raises(ValidationError):
        CardRecord(**(CARD | wrong))


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError):
        CardRecord(**CARD).seq = 2  # type: ignore[misc]


def test_every_kind_has_one_dht_key() -> None:
    records = {
        "claim": (ClaimRecord(**HEADER, epoch=1, claimed_at=1.0), f"paris/1/{RUN}/claims/expert-0"),
        "card": (CardRecord(**CARD), f"paris/1/{RUN}/tips/expert-0"),
        "attestation": (
            AttestationRecord(
                **HEADER, epoch=1, card=RUN, loss=1.0, reference_loss=1.0, best=RUN, gate_clips=1
            ),
            f"paris/1/{RUN}/tips/expert-0",
        ),
        "refusal": (
            RefusalRecord(**HEADER, epoch=1, card=RUN, reason="loss"),
            f"paris/1/{RUN}/refusals/expert-0",
        ),
        "holder": (
            HolderRecord(**(HEADER | {"slot": ""}), what="cd" * 32),
            f"paris/1/{RUN}/holders/{'cd' * 32}",
        ),
        "peer": (PeerRecord(**(HEADER | {"slot": ""})), f"paris/1/{RUN}/peers/0"),
        "notice": (
            NoticeRecord(**(HEADER | {"slot": ""}), previous=RUN, change=Pause(reason="night")),
            f"paris/1/{RUN}/notices/1",
        ),
        "member": (MemberRecord(**(HEADER | {"slot": ""}), certificate=b"c"), f"paris/1/{RUN}/members/0"),
        "keybox": (
            KeyBoxRecord(**(HEADER | {"slot": ""}), number=2, peer=PEER, box=b"b"),
            f"paris/1/{RUN}/keys/2/{PEER}",
        ),
        "update": (
            UpdateRecord(
                **HEADER, base=RUN, blob=CARD["weights"], steps=1, clips=1, first_clip=0, train_loss=1.0
            ),
            f"paris/1/{RUN}/updates/expert-0",
        ),
        "worker": (WorkerRecord(**HEADER, joined_at=1.0), f"paris/1/{RUN}/crews/expert-0"),
        "sealed": (
            SealedRecord(**(HEADER | {"slot": ""}), shelf="cd" * 32, hint=b"12345678", body=b"b"),
            f"paris/2/{RUN}/sealed/{'cd' * 32}",
        ),
    }
    assert set(records) == set(BOARD_KINDS)
    assert set(SIGNED_KINDS) - set(BOARD_KINDS) == {"certificate", "token"}  # handed over in person
    for kind, (record, key) in records.items():
        assert record.kind == kind
        assert dht_key(record) == key


def test_ids_are_read_from_raw_bytes_and_from_hex() -> None:
    assert BlobRef(id=bytes(32), size_bytes=0) == BlobRef(id="00" * 32, size_bytes=0)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        BlobRef(id=bytes(31), size_bytes=0)  # type: ignore[arg-type]
    assert Identity.generate().peer_id.startswith("12D3Koo")
