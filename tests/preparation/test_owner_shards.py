"""Tests that an owner's folder gives a run's shards as plain files, and takes new ones in as the run asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.bare_run import bare_run
from paris_p2p.errors import SealError
from paris_p2p.identity import Identity
from paris_p2p.keyring import GateKey, Keyring, RunKey, save_keyring
from paris_p2p.owner_records import AddedShard
from paris_p2p.preparation.owner_shards import OPEN_FOLDER, OwnerShards
from paris_p2p.spec import GateSpec, ShardRef, sign_run
from tests.data.shards import LATENT, TEXT, write_shard

OWNER, KEY, GATE = Identity.from_private_bytes(bytes(32)), RunKey(b"k" * 32), GateKey(b"g" * 32)


def shards_of(folder: Path, *, private: bool, gate: bool, keys: Keyring | None = None) -> OwnerShards:
    secret = {"private": True, "members_only": True, "key_hash": KEY.hash} if private else {}
    run = sign_run(OWNER, bare_run(LATENT, TEXT, gate=GateSpec(key_hash=GATE.hash if gate else ""), **secret))
    if keys is not None:
        save_keyring(folder / "node" / "runs" / run.id, keys)
    return OwnerShards(folder, run)


def ref_of(added: AddedShard) -> ShardRef:
    return ShardRef(blob=added.blob, clips=added.clips, cluster=added.cluster)


@pytest.mark.parametrize(("private", "gate"), [(False, False), (False, True), (True, True), (True, False)])
def test_shards_are_sealed_where_the_run_asks_for_it_and_read_back_as_they_were(
    tmp_path: Path, private: bool, gate: bool
) -> None:
    shards = shards_of(tmp_path, private=private, gate=gate, keys=Keyring((KEY,), GATE))
    for split, sealed in (("train", private), ("gate", private or gate)):
        path = write_shard(tmp_path / f"{split}.tar", 0, 3)
        added = shards.add(path, split, 1, 3)
        assert (added.split, added.cluster, added.clips) == (split, 1, 3)
        assert (shards.store.path(added.blob.id).read_bytes() == path.read_bytes()) is not sealed
        assert shards.add(path, split, 1, 3) == added
        with shards.opened([ref_of(added)]) as (plain,):
            assert plain.read_bytes() == path.read_bytes()
            assert (tmp_path / OPEN_FOLDER).exists() is sealed
        assert not (tmp_path / OPEN_FOLDER).exists()


def test_a_folder_that_lost_its_keys_says_so(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", 0, 3)
    with pytest.raises(SealError, match=r"gate clips are sealed and .* lacks the key; restore"):
        shards_of(tmp_path, private=False, gate=True).add(path, "gate", 0, 3)
    added = shards_of(tmp_path, private=False, gate=True, keys=Keyring((), GATE)).add(path, "gate", 0, 3)
    lost = shards_of(tmp_path, private=False, gate=True, keys=Keyring((KEY,)))
    with pytest.raises(SealError, match="which is not in"), lost.opened([ref_of(added)]):
        pass
