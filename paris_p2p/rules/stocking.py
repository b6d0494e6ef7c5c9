"""What a storage node of a private run holds: what its members ask for, shared so that none of them fills it
(docs/operators.md, "Storage for a private run").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from paris_p2p.owner_records import Stocked

LONE_SHARE = 8  # what one member alone asks for takes at most this part of the disk


def to_hold(stocks: Mapping[str, Sequence[Stocked]], owner_node: str, cap_bytes: int) -> list[Stocked]:
    """Returns the blobs to hold, those that matter most first, as far as `cap_bytes` go; 0 is no limit.

    `stocks` are what each member said that the run consists of. What the owner's node names comes first, then
    what most others name. A blob that one member alone names counts against that member's share.
    """
    named: dict[str, set[str]] = defaultdict(set)  # blob id -> members
    known: dict[str, Stocked] = {}
    for peer in sorted(stocks, key=lambda peer: (peer != owner_node, peer)):
        for one in stocks[peer]:
            known.setdefault(one.blob.id, one)
            named[one.blob.id].add(peer)

    def worth(one: Stocked) -> tuple[bool, int, str]:
        peers = named[one.blob.id]
        return owner_node not in peers, -len(peers), one.blob.id

    held, used_bytes, alone_bytes = list[Stocked](), 0, defaultdict[str, int](int)
    for one in sorted(known.values(), key=worth):
        size_bytes, peers = one.blob.size_bytes, named[one.blob.id]
        if cap_bytes and used_bytes + size_bytes > cap_bytes:
            continue
        if cap_bytes and len(peers) == 1 and owner_node not in peers:
            (peer,) = peers
            if alone_bytes[peer] + size_bytes > cap_bytes // LONE_SHARE:
                continue
            alone_bytes[peer] += size_bytes
        held.append(one)
        used_bytes += size_bytes
    return held
