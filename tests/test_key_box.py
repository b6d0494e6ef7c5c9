"""Keys on their way: each peer gets what its rights open, and takes only what the owner named."""

from __future__ import annotations

import pytest

from paris_p2p.errors import RecordError
from paris_p2p.identity import Identity
from paris_p2p.key_box import KeyGift, doors_with, gift_for, open_gift, seal_gift, with_gift
from paris_p2p.keyring import GateKey, Keyring, RunKey

ME, OTHER = Identity.generate(), Identity.generate()
RING = Keyring(tuple(RunKey.generate() for _ in range(3)), GateKey.generate())
NAMED = [key.hash for key in RING.keys]
assert RING.gate is not None
GATE = RING.gate.hash


def given(*rights: str, first: int = 1) -> KeyGift:
    gift = gift_for(RING, frozenset(rights), first)
    assert gift is not None
    return open_gift(ME, seal_gift(ME.peer_id, gift))


def test_what_is_sealed_to_a_peer_opens_for_it_alone() -> None:
    box = seal_gift(ME.peer_id, KeyGift(keys=(RING.keys[0].secret,)))
    assert open_gift(ME, box).keys == (RING.keys[0].secret,)
    assert RING.keys[0].secret not in box
    for stranger, data in ((OTHER, box), (ME, box[:-1]), (ME, b""), (ME, b"x" * 200)):
        with pytest.raises(RecordError, match="does not open"):
            open_gift(stranger, data)


@pytest.mark.parametrize(
    "rights", [("train",), ("generate", "store"), ("train", "generate", "store", "admit")]
)
def test_who_may_read_gets_all_keys_but_the_gates(rights: tuple[str, ...]) -> None:
    assert with_gift(Keyring(), given(*rights), NAMED, GATE) == Keyring(RING.keys)


def test_who_may_attest_gets_the_gates_key_too() -> None:
    assert with_gift(Keyring(), given("attest"), NAMED, GATE) == RING


def test_who_may_only_store_gets_what_opens_no_record_of_the_run() -> None:
    gift = given("store")
    assert (gift.keys, gift.gate) == ((), b"")
    assert doors_with(None, gift, NAMED) == RING.for_storage
    assert with_gift(Keyring(), gift, NAMED, GATE) == Keyring()


@pytest.mark.parametrize("rights", [(), ("admit",)])
def test_who_may_nothing_gets_nothing(rights: tuple[str, ...]) -> None:
    assert gift_for(RING, frozenset(rights)) is None


def test_in_an_open_run_attestors_get_the_gates_key_and_others_nothing() -> None:
    ring = Keyring((), RING.gate)
    assert gift_for(ring, frozenset({"train", "generate", "store"})) is None
    gift = gift_for(ring, frozenset({"train", "attest"}))
    assert gift is not None
    assert with_gift(Keyring(), gift, (), GATE) == ring


def test_a_sleeper_gets_the_keys_that_it_lacks() -> None:
    asleep = Keyring(RING.keys[:1])
    assert with_gift(asleep, given("train", first=2), NAMED, "") == Keyring(RING.keys)
    assert with_gift(asleep, given("train"), NAMED, "") == Keyring(RING.keys)
    # those that no notice here names yet wait for it
    assert with_gift(asleep, given("train"), NAMED[:2], "") == Keyring(RING.keys[:2])
    assert with_gift(asleep, given("train", first=3), NAMED, "") == asleep
    doors = RING.as_of(1).for_storage
    assert doors_with(doors, given("store", first=2), NAMED) == RING.for_storage


def test_another_key_than_the_owner_named_is_not_taken() -> None:
    false = RunKey.generate()
    with pytest.raises(RecordError, match="key 1 is not the one"):
        with_gift(Keyring(), KeyGift(keys=(false.secret,)), NAMED, "")
    with pytest.raises(RecordError, match="key 2 is not the one"):
        with_gift(RING.as_of(1), KeyGift(first=2, keys=(false.secret,)), NAMED, "")
    with pytest.raises(RecordError, match="gate's key is not the one"):
        with_gift(Keyring(), KeyGift(gate=false.secret), NAMED, GATE)
    door = false.door
    with pytest.raises(RecordError, match="door key 2 is not the one"):
        doors_with(
            RING.as_of(1).for_storage,
            KeyGift(first=2, doors=((door.secret, bytes.fromhex(door.mark)),)),
            NAMED,
        )
