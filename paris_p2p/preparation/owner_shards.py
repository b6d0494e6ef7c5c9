"""The shards of a run in its owner's own folder: read from the node's store there, and put into it.

The store is the truth: what a RunSpec names lies there, sealed where the run asks for it, whatever became of
the files that it was made from. The owner's node may be running meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paris_p2p.envelope import Envelope
from paris_p2p.errors import SealError
from paris_p2p.keyring import GateKey, Keyring, RunKey, load_keyring
from paris_p2p.owner_records import AddedShard
from paris_p2p.records import BlobRef
from paris_p2p.spec import RunSpec, ShardRef
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import add_sealed
from paris_p2p.store.sealing import hint_of, open_blob

OPEN_FOLDER = "additions/open"  # opened copies, while they are read


class OwnerShards:
    """Gives a run's shards as plain files, and takes new ones in."""

    def __init__(self, folder: Path, run: Envelope[RunSpec]):
        self.folder, self.spec = folder, run.record
        self.store = BlobStore(folder / "node" / "blobs")
        # the owner's own keys, and the node's, which may lie behind
        rings = [load_keyring(place) for place in (folder, folder / "node" / "runs" / run.id)]
        gate = next((ring.gate for ring in rings if ring.gate is not None), None)
        self.ring = Keyring(max((ring.keys for ring in rings), key=len), gate)

    def add(self, path: Path, split: str, cluster: int, clips: int) -> AddedShard:
        """Takes a shard into the store, sealed where the run asks for it, and returns what a notice says of
        it.
        """
        key = self._key_for(split)
        ref = self.store.add_file(path) if key is None else add_sealed(self.store, path, key)
        return AddedShard(
            split="gate" if split == "gate" else "train", cluster=cluster, blob=ref, clips=clips
        )

    @contextmanager
    def opened(self, shards: Sequence[ShardRef]) -> Iterator[list[Path]]:
        """Yields plain files of shards, gone afterwards where they were sealed. SealError and more."""
        copies = self.folder / OPEN_FOLDER
        shutil.rmtree(copies, ignore_errors=True)  # of a call that was killed
        try:
            yield [self._plain(shard.blob, copies) for shard in shards]
        finally:
            shutil.rmtree(copies, ignore_errors=True)

    def _plain(self, ref: BlobRef, copies: Path) -> Path:
        blob = self.store.path(ref.id)
        hint = hint_of(blob)
        if hint is None:
            return blob
        gate = () if self.ring.gate is None else (self.ring.gate,)
        key = next((key for key in (*self.ring.keys, *gate) if key.hint == hint), None)
        if key is None:
            raise SealError(
                f"blob {ref.id[:16]}… is sealed under key {hint.hex()}, which is not in {self.folder}; "
                "restore the folder's keys from a backup"
            )
        copies.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = copies / f"{ref.id}.tar"
        with path.open("wb") as out:
            open_blob(blob, key, out)
        return path

    def _key_for(self, split: str) -> RunKey | GateKey | None:
        """Returns the key that a new shard is sealed under, None where it is not; SealError without it."""
        is_gate = split == "gate" and bool(self.spec.gate.key_hash)
        if not is_gate and not self.spec.private:
            return None
        key = self.ring.gate if is_gate else self.ring.current if self.ring.keys else None
        if key is None:
            raise SealError(
                f"the run's {split} clips are sealed and {self.folder} lacks the key; "
                "restore the folder's keys from a backup"
            )
        return key
