"""Makes what an owner says of experts: splits and drops, with shards that nobody has."""

from __future__ import annotations

from typing import Literal

from blake3 import blake3

from paris_p2p.owner_records import AddClips, AddedShard, AddExpert, AnyChange
from paris_p2p.records import BlobRef

Split = Literal["train", "gate"]


def blob(name: str) -> BlobRef:
    return BlobRef(id=blake3(name.encode()).hexdigest(), size_bytes=10)


def part(*shards: tuple[Split, int], name: str = "new") -> AddClips:
    return AddClips(
        shards=tuple(
            AddedShard(split=split, cluster=k, blob=blob(f"{name} {split} {k}"), clips=4)
            for split, k in shards
        )
    )


def both(parent: int, child: int, name: str = "new") -> list[AnyChange]:
    """Returns a split in two parts: the train shards and the gate shards."""
    train, gate = (part((s, parent), (s, child), name=name) for s in ("train", "gate"))
    return [AddExpert(parent=parent, child=child, parts=2), train, gate]
