"""Keys, peer ids and signatures: libp2p's formats, and files that nobody else can read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import ReadOnlyError, RecordError, SignatureError, UsageError
from paris_p2p.identity import (
    PEER_ID_BYTES,
    Identity,
    load_or_create_peer_key,
    load_owner_key,
    load_peer_key,
    peer_id_from_bytes,
    peer_id_to_bytes,
    save_owner_key,
    verify,
    write_private_file,
)

KNOWN = Identity.from_private_bytes(bytes(range(32)))


def test_the_peer_id_is_libp2ps_for_a_known_key() -> None:
    # RFC 8032's public key of the private key 00 01 … 1f, behind libp2p's protobuf and identity multihash.
    public = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert KNOWN.peer_id_bytes.hex() == "0024080112" + "20" + public
    assert KNOWN.peer_id.startswith("12D3KooW")
    assert len(KNOWN.peer_id) == 52


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_a_peer_id_is_enough_to_check_a_signature(private: bytes, message: bytes) -> None:
    identity = Identity.from_private_bytes(private)
    assert peer_id_from_bytes(peer_id_to_bytes(identity.peer_id)) == identity.peer_id
    verify(identity.peer_id, message, identity.sign(message))
    with pytest.raises(SignatureError):
        verify(identity.peer_id, message + b"!", identity.sign(message))


def test_a_signature_is_nobody_elses() -> None:
    with pytest.raises(SignatureError, match="forged or damaged"):
        verify(Identity.generate().peer_id, b"words", KNOWN.sign(b"words"))


@given(st.text(max_size=80))
def test_any_text_is_a_peer_id_or_a_record_error(text: str) -> None:
    with pytest.raises(RecordError):
        peer_id_to_bytes(text)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_peer_id_or_a_record_error(raw: bytes) -> None:
    if len(raw) != PEER_ID_BYTES or not raw.startswith(KNOWN.peer_id_bytes[:6]):
        with pytest.raises(RecordError):
            peer_id_from_bytes(raw)


@pytest.mark.parametrize(
    "peer_id",
    [
        "",
        "1" * 64,
        "z" * 10_000,
        KNOWN.peer_id[:-1],
        KNOWN.peer_id + "1",
        KNOWN.peer_id + "\n",
        " " + KNOWN.peer_id,
        "QmYyQSo1c1Ym7orWxLYvCrM2",
    ],
)
def test_what_is_almost_a_peer_id_is_refused(peer_id: str) -> None:
    with pytest.raises(RecordError, match="is not an Ed25519 peer id"):
        peer_id_to_bytes(peer_id)


def test_a_peer_key_is_made_once_private_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity.key"
    first = load_or_create_peer_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_peer_key(path).peer_id == first.peer_id
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("at", [0, 5, 40, 67])
def test_a_damaged_peer_key_is_refused_with_what_to_do(tmp_path: Path, at: int) -> None:
    raw = bytearray(KNOWN.libp2p_private_key())
    raw[at] ^= 1
    path = tmp_path / "identity.key"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match="move it away"):
        load_peer_key(path)


def test_an_owner_key_survives_with_and_without_a_passphrase(tmp_path: Path) -> None:
    for name, passphrase in (("open", None), ("closed", "a long phrase")):
        save_owner_key(KNOWN, tmp_path / name, passphrase)
        assert load_owner_key(tmp_path / name, passphrase).peer_id == KNOWN.peer_id
    assert b"ENCRYPTED" in (tmp_path / "closed").read_bytes()


def test_an_owner_key_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    save_owner_key(KNOWN, tmp_path / "closed", "right")
    (tmp_path / "noise").write_bytes(b"noise")
    for name, passphrase in (("closed", "wrong"), ("closed", None), ("noise", None)):
        with pytest.raises(UsageError, match="passphrase"):
            load_owner_key(tmp_path / name, passphrase)
    with pytest.raises(UsageError, match="No such file"):
        load_owner_key(tmp_path / "absent", None)


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private_file(path, b"old")
    with pytest.raises(ReadOnlyError, match="File exists"):
        write_private_file(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_key_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ReadOnlyError, match="choose another folder"):
        write_private_file(tmp_path / "file" / "key", b"new")
