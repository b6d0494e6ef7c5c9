"""A run's keys: derived apart, checked by what the owner named, and kept for this user alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from paris_p2p.errors import RecordError
from paris_p2p.keyring import (
    KEYS_FILE,
    DoorKey,
    GateKey,
    Keyring,
    RunKey,
    check_secrets,
    load_keyring,
    save_keyring,
)


def ring_of(count: int) -> Keyring:
    return Keyring(tuple(RunKey.generate() for _ in range(count)), GateKey.generate())


def test_keys_that_are_saved_are_loaded_and_nobody_else_may_read_them(tmp_path: Path) -> None:
    ring = ring_of(3)
    save_keyring(tmp_path / "run", ring)
    assert load_keyring(tmp_path / "run") == ring
    assert stat.S_IMODE((tmp_path / "run" / KEYS_FILE).stat().st_mode) == 0o600
    assert load_keyring(tmp_path / "another") == Keyring()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x81\xa4keys\x91\xc4\x01x", b"text"])
def test_a_damaged_file_of_keys_is_named_with_what_to_do(tmp_path: Path, data: bytes) -> None:
    (tmp_path / KEYS_FILE).write_bytes(data)
    with pytest.raises(RecordError, match=r"damaged.*backup.*join again"):
        load_keyring(tmp_path)


def test_every_purpose_has_a_key_of_its_own() -> None:
    ring = ring_of(2)
    derived = [
        secret
        for key in ring.keys
        for secret in (key.secret, key.door.secret, key.records, key.blobs, key.hint, key.door.hint)
    ]
    derived += [ring.address_door, ring.address_run]
    assert len(set(derived)) == len(derived)


def test_a_key_is_taken_only_if_the_owner_named_it() -> None:
    one, two = RunKey.generate(), RunKey.generate()
    assert check_secrets([one.secret, two.secret], [one.hash, two.hash]) == (one, two)
    with pytest.raises(RecordError, match="key 2 is not the one"):
        check_secrets([one.secret, one.secret], [one.hash, two.hash])
    with pytest.raises(RecordError, match="key 1 is not the one"):
        check_secrets([one.secret[:31]], [one.hash])


def test_a_storage_node_can_check_its_key_by_what_the_owner_named() -> None:
    key = RunKey.generate()
    assert key.door.hash == key.hash
    assert DoorKey(RunKey.generate().door.secret, key.door.mark).hash != key.hash
    # What it gets tells nothing of the keys to records and blobs.
    assert key.secret not in (key.door.secret, bytes.fromhex(key.door.mark))


def test_a_key_that_is_here_is_not_added_again() -> None:
    ring = ring_of(2)
    assert ring.with_key(ring.keys[0].secret) is ring
    assert ring.with_key(RunKey.generate().secret).as_of(2) == ring
