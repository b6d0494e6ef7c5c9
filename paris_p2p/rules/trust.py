"""One rule says who may ask for what (docs/protocol.md, "Asking")."""

from __future__ import annotations

from collections.abc import Iterable

from paris_p2p.records import RequestKind
from paris_p2p.spec import RunSpec

_UNBOUND: frozenset[RequestKind] = frozenset(
    {"clock"}
)  # says nothing of any run, and a peer that joins one asks it first


def may(peer: str, action: RequestKind, runs: Iterable[RunSpec], thing: str) -> bool:
    """Tells whether `peer` may ask for `thing`: the one rule that every answer to another peer passes.

    `runs` are those that `thing` belongs to here: the run of a RunSpec or of a record's key, every run that
    serves a blob, and for `where` (of which `thing` is a peer id) all runs of this host. One of them that
    lets the peer in suffices. What belongs to no run here is open: there is nothing to tell but that it is
    missing. Runs are readable by all who know them until private runs exist; claims and cards need no
    permission, because the attestors' signatures are what counts.
    """
    open_to = [not run.private for run in runs]
    return action in _UNBOUND or not open_to or any(open_to)
