"""Takes hivemind's DHT messages apart and puts them together, for the door (`swarm/door.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.p2p.p2p_daemon_bindings.datastructures import PeerID
from hivemind.proto import dht_pb2 as pb
from hivemind.utils import MSGPackSerializer

from paris_p2p.errors import RecordError
from paris_p2p.identity import peer_id_from_bytes
from paris_p2p.swarm.entries import MAX_ENTRIES, BoardEntry, read_dictionary, read_entry
from paris_p2p.swarm.verified import MAX_ENTRIES_PER_KEY

MAX_NEAREST = 20  # hivemind's bucket size


def node_id_of(peer_id: bytes) -> DHTID:
    """Returns a peer's place in the DHT, which follows from its id: nobody chooses one or has several."""
    return DHTID.generate(source=peer_id)


def name_of(peer_id: PeerID) -> str:
    return peer_id_from_bytes(peer_id.to_bytes())  # RecordError for a key of another kind


def keep_own_id(message: Any, peer_id: PeerID) -> None:
    """Removes the node's id from a question when it is not the asker's own.

    Such a peer is answered, and not added to the routing table.
    """
    if message.peer.node_id and message.peer.node_id != node_id_of(peer_id.to_bytes()).to_bytes():
        message.peer.node_id = b""


def keep_own_nearest(result: Any) -> None:
    """Keeps of the nodes that an answer names those whose ids are their own."""
    pairs = list(
        zip(result.nearest_node_ids[:MAX_NEAREST], result.nearest_peer_ids[:MAX_NEAREST], strict=False)
    )
    good = [(node, peer) for node, peer in pairs if len(peer) <= 64 and node == node_id_of(peer).to_bytes()]
    del result.nearest_node_ids[:], result.nearest_peer_ids[:]
    result.nearest_node_ids.extend(node for node, _ in good)
    result.nearest_peer_ids.extend(peer for _, peer in good)


def read_store(request: Any) -> list[tuple[int, BoardEntry]]:
    """Reads the entries of a request, each with the number of the key that brought it."""
    entries: list[tuple[int, BoardEntry]] = []
    sent = zip(request.keys, request.subkeys, request.values, request.expiration_time, strict=True)
    for number, (key, subkey, value, expires_at) in enumerate(sent):
        found = (
            read_dictionary(key, value)
            if subkey == DHTProtocol.IS_DICTIONARY
            else [_entry(key, subkey, value, expires_at)]
        )
        entries += [(number, entry) for entry in found if entry is not None]
        if len(entries) > MAX_ENTRIES:
            raise RecordError(f"more than {MAX_ENTRIES} entries in one message")
    return entries


def _entry(key: bytes, subkey: bytes, value: bytes, expires_at: float) -> BoardEntry | None:
    """Reads one entry; None for what is no record: a value without subkey, mostly."""
    try:
        return read_entry(key, subkey, value, expires_at)
    except RecordError:
        return None


def read_found(key: bytes, value: bytes) -> list[tuple[int, BoardEntry]]:
    return [(0, entry) for entry in read_dictionary(key, value)[:MAX_ENTRIES_PER_KEY]]


def store_request(entries: Sequence[BoardEntry]) -> Any:
    return pb.StoreRequest(
        keys=[entry.key for entry in entries],
        subkeys=[MSGPackSerializer.dumps(entry.subkey) for entry in entries],
        values=[MSGPackSerializer.dumps(entry.data) for entry in entries],
        expiration_time=[entry.expires_at for entry in entries],
        in_cache=[False] * len(entries),
    )
