"""One rule says who may ask for what: by its rights in the run that it asks about (docs/protocol.md,
"Asking").

A run that a peer may not ask about is not there for it: the answer is made from the other runs alone, by the
same code, so that it is what it would be if this one did not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from paris_p2p.owner_records import RIGHTS, Right
from paris_p2p.records import RequestKind
from paris_p2p.rules.run_state import RunState

Thing = Literal["", "data", "weights", "resume", "gate"]  # what a blob is to its run; "" is no blob
_ALL = frozenset(RIGHTS)
# Who comes to show what it may do; a conversation ends there unless it does (node/membership.py, joining.py).
_PROVES_ITSELF: frozenset[RequestKind] = frozenset({"join", "hello"})
# It says nothing of any run, and a peer that joins one asks it first.
_OF_NO_RUN: frozenset[RequestKind] = frozenset({"clock"})
_BLOB_RIGHTS: Mapping[Thing, frozenset[Right]] = {
    "data": frozenset({"train", "attest", "generate", "store"}),
    "weights": frozenset({"train", "attest", "generate", "store"}),
    "resume": frozenset({"train", "attest", "store"}),
    "gate": frozenset({"attest", "store"}),
    "": frozenset(),
}
_RIGHTS: Mapping[RequestKind, frozenset[Right]] = {
    "where": _ALL,
    "dial": _ALL,
    "take": _ALL,
    "spec": _ALL,
    "records": _ALL,
    "key": _ALL,
    "stock": frozenset({"store"}),
    "history": _ALL,
}


def may(peer: str, action: RequestKind, thing: Thing, state: RunState) -> bool:
    """Tells whether a run is there for `peer` when it asks for `thing`: the one rule of every handler.

    In an open run everybody has the rights to train, generate and store that was not revoked.
    """
    if action in _PROVES_ITSELF or action in _OF_NO_RUN:
        return True
    opened_by = _BLOB_RIGHTS[thing] if action == "blobs" else _RIGHTS[action]
    return not opened_by.isdisjoint(state.rights(peer))
