"""What the requests of the stream protocol /paris/blob/1 ask for, read from heads that strangers sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

from paris_p2p.records import RequestKind
from paris_p2p.swarm.seam import MAX_CHUNKS_PER_REQUEST


class Ask(NamedTuple):
    """What a request asks for, as the door sees it."""

    action: RequestKind
    run: str
    thing: str


# What a request of each name asks for. No request is answered that the door was not asked about.
OPERATIONS: dict[str, Callable[[dict[str, Any]], Ask]] = {
    "clock": lambda request: Ask("clock", "", ""),
    "where": lambda request: Ask("where", _text(request, "run"), _text(request, "peer")),
    "spec": lambda request: Ask("spec", _text(request, "run"), _text(request, "run")),
    "records": lambda request: Ask("records", _text(request, "run"), _text(request, "key")),
    "manifest": lambda request: Ask("blobs", _text(request, "run"), _text(request, "blob")),
    "have": lambda request: Ask("blobs", _text(request, "run"), _text(request, "blob")),
    "chunks": lambda request: Ask("blobs", _text(request, "run"), _text(request, "blob")),
    "join": lambda request: Ask("join", _text(request, "run"), ""),
    "hello": lambda request: Ask("hello", _text(request, "run"), ""),
    "key": lambda request: Ask("key", _text(request, "run"), ""),
    "stock": lambda request: Ask("stock", _text(request, "run"), ""),
    "history": lambda request: Ask("history", _text(request, "run"), ""),
    "dial": lambda request: Ask("dial", _text(request, "run"), ""),
    "take": lambda request: Ask("take", _text(request, "run"), ""),
}
# What is said to a peer rather than read from it, and how long its answer may be: of `join` a RunSpec and the
# newest notices, of `key` all keys of a run, of `stock` the names of its blobs, of `history` a page of past
# tips.
CONVERSATIONS: Mapping[RequestKind, int] = {
    "join": (4 << 20) + (2 << 20),
    "hello": 1 << 13,
    "key": 1 << 18,
    "stock": 1 << 20,
    "history": 1 << 20,
}
MAX_SAID_BYTES = 1 << 13  # of a request's body
MAX_TAKEN_BYTES = 4 << 20  # that one `take` brings, to be counted and dropped


def are_indexes(value: Any) -> TypeGuard[list[int]]:
    """Says whether these can be the chunks that a request asks for."""
    return isinstance(value, list) and 0 < len(value) <= MAX_CHUNKS_PER_REQUEST and all(map(_is_index, value))


def said(request: dict[str, Any]) -> bytes | None:
    """Returns what a request of CONVERSATIONS says; None when that is no text of at most MAX_SAID_BYTES."""
    body = request.get("body", b"")
    return body if isinstance(body, bytes) and len(body) <= MAX_SAID_BYTES else None


def _text(request: dict[str, Any], name: str) -> str:
    return str(request.get(name, ""))[:256]


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32
