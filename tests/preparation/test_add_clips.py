"""Tests that prepared additions become notices once, whole, and sealed where the run asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.bare_run import bare_run
from paris_p2p.data.addition import Addition
from paris_p2p.data.prepared import PreparedShard
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DataError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.keyring import GateKey, Keyring, RunKey, save_keyring
from paris_p2p.owner_records import MAX_SHARDS, AddClips, AddedShard, AnyChange, DropExpert, Pause
from paris_p2p.preparation.add_clips import add_clips_changes
from paris_p2p.preparation.owner_shards import OwnerShards
from paris_p2p.records import BlobRef
from paris_p2p.rules.growth import grown
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import MAX_GATE_SHARDS, GateSpec, RunSpec, ShardRef, sign_run
from tests.data.shards import LATENT, TEXT, write_shard

OWNER, KEY, GATE = Identity.from_private_bytes(bytes(32)), RunKey(b"k" * 32), GateKey(b"g" * 32)
CLIPS = {"train": 4, "gate": 2, "validation": 1, "test": 1}


def a_run(folder: Path, **changes: object) -> Envelope[RunSpec]:
    run = sign_run(OWNER, bare_run(LATENT, TEXT, experts=2, **changes))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN_FILE).write_bytes(run.data)
    return run


def add(folder: Path, number: int, *, cluster: int = 0, shards: int = 1) -> Addition:
    """Writes an addition whose shards hold random clips of one cluster."""
    made = []
    for split, clips in CLIPS.items():
        for i in range(shards if split == "train" else 1):
            name = f"shards/addition-{number:03d}/{split}/cluster-{cluster}/{i:06d}.tar"
            path = write_shard(folder / name, cluster, clips, 1000 * number + 10 * i + len(split))
            made.append(
                PreparedShard(
                    split=split,  # type: ignore[arg-type]
                    cluster=cluster,
                    path=name,
                    clips=clips,
                    size_bytes=path.stat().st_size,
                )
            )
    addition = Addition(
        number=number,
        fingerprint=str(number),
        run="run",
        clusters=(),
        shards=tuple(made),
        clips=CLIPS,  # type: ignore[arg-type]
        sources=CLIPS,  # type: ignore[arg-type]
        files=8,
    )
    (folder / addition.folder).mkdir(parents=True)
    addition.write(folder)
    return addition


def named(changes: list[AddClips]) -> list[AddedShard]:
    return [shard for change in changes for shard in change.shards]


def test_train_and_gate_shards_are_named_and_lie_in_the_owners_store(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    addition = add(tmp_path, 1, cluster=1)
    (change,) = add_clips_changes(tmp_path, [])
    assert [(s.split, s.cluster, s.clips) for s in change.shards] == [("train", 1, 4), ("gate", 1, 2)]
    store = OwnerShards(tmp_path, run).store
    paths = [shard.path for shard in addition.shards if shard.split in ("train", "gate")]
    stored = [store.path(shard.blob.id).read_bytes() for shard in change.shards]
    assert stored == [(tmp_path / path).read_bytes() for path in paths]
    assert grown(run.record, [change]).shards_for("expert-1", "train")[-1].blob == change.shards[0].blob


def test_what_was_said_is_not_said_again_and_later_additions_are(tmp_path: Path) -> None:
    a_run(tmp_path)
    add(tmp_path, 1)
    first = add_clips_changes(tmp_path, [Pause()])
    add(tmp_path, 2)
    second = add_clips_changes(tmp_path, [*first, Pause()])
    assert not {s.blob.id for s in named(first)} & {s.blob.id for s in named(second)}
    with pytest.raises(UsageError, match=r"all 2 additions in .* were said already; prepare more clips with"):
        add_clips_changes(tmp_path, [*first, *second])
    assert len(named(add_clips_changes(tmp_path, []))) == 4


def test_a_large_addition_is_several_notices_and_what_of_it_was_said_is_left_out(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    add(tmp_path, 1, shards=20)
    changes = add_clips_changes(tmp_path, [])
    assert [len(change.shards) for change in changes] == [MAX_SHARDS, 21 - MAX_SHARDS]
    assert len(grown(run.record, changes).train_shards) == len(run.record.train_shards) + 20
    assert add_clips_changes(tmp_path, changes[:1]) == changes[1:]


def test_private_shards_are_sealed_once_whatever_key_comes_after(tmp_path: Path) -> None:
    secret = {"private": True, "members_only": True, "key_hash": KEY.hash}
    run = a_run(tmp_path, gate=GateSpec(key_hash=GATE.hash), **secret)
    keys = tmp_path / "node" / "runs" / run.id
    save_keyring(keys, Keyring((KEY,), GATE))
    addition = add(tmp_path, 1)
    (change,) = add_clips_changes(tmp_path, [])
    save_keyring(keys, Keyring((KEY, RunKey(b"n" * 32)), GATE))
    assert add_clips_changes(tmp_path, []) == [change]
    with pytest.raises(UsageError, match="said already"):
        add_clips_changes(tmp_path, [change])
    shards = OwnerShards(tmp_path, run)
    refs = [ShardRef(blob=s.blob, clips=s.clips, cluster=s.cluster) for s in change.shards]
    plain = [(tmp_path / s.path).read_bytes() for s in addition.shards if s.split in ("train", "gate")]
    assert all(shards.store.path(ref.blob.id).read_bytes() not in plain for ref in refs)
    with shards.opened(refs) as paths:
        assert [path.read_bytes() for path in paths] == plain


def test_shards_that_were_lost_from_the_store_come_back(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    add(tmp_path, 1)
    (change,) = add_clips_changes(tmp_path, [])
    store = OwnerShards(tmp_path, run).store
    store.delete(change.shards[0].blob.id)
    assert add_clips_changes(tmp_path, []) == [change]
    assert OwnerShards(tmp_path, run).store.has(change.shards[0].blob.id)


def test_what_cannot_be_added_is_refused_in_words(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with pytest.raises(UsageError, match="has no addition; prepare more clips with"):
        add_clips_changes(tmp_path, [])
    addition = add(tmp_path, 1, cluster=1)
    dropped: list[AnyChange] = [DropExpert(expert=1)]
    with pytest.raises(DataError, match="has clips for expert-1, which the run no longer has; delete"):
        add_clips_changes(tmp_path, dropped)
    blobs = [BlobRef(id=f"{i:064x}", size_bytes=1) for i in range(MAX_GATE_SHARDS)]
    full = [
        AddClips(
            shards=tuple(
                AddedShard(split="gate", cluster=0, blob=blob, clips=1) for blob in blobs[i:][:MAX_SHARDS]
            )
        )
        for i in range(0, len(blobs), MAX_SHARDS)
    ]
    assert len(grown(run.record, full).gate_shards) == MAX_GATE_SHARDS
    with pytest.raises(UsageError, match="1 more gate shards beside 4096 do not fit"):
        add_clips_changes(tmp_path, full)
    (tmp_path / addition.shards[0].path).unlink()
    (tmp_path / addition.folder / "blobs.json").unlink()
    with pytest.raises(DataError, match=r"shards of addition 1 in .* are missing or cut"):
        add_clips_changes(tmp_path, [])
