"""Runs hivemind's Kademlia in our event loop, as a bulletin board of verified records (docs/protocol.md)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2P
from hivemind.p2p.p2p_daemon_bindings.datastructures import PeerID
from hivemind.utils.logging import use_hivemind_log_handler
from hivemind.utils.multiaddr import Multiaddr

from paris_p2p.envelope import Envelope
from paris_p2p.errors import DaemonError, DaemonGoneError
from paris_p2p.identity import peer_id_to_bytes
from paris_p2p.kinds import dht_key
from paris_p2p.swarm.daemon_words import asking_daemon
from paris_p2p.swarm.door import Door
from paris_p2p.swarm.entries import OnRecord
from paris_p2p.swarm.parcels import node_id_of
from paris_p2p.swarm.storage import RecordStorage, StorageLimits
from paris_p2p.swarm.verified import RecordView, subkey_of

log = logging.getLogger(__name__)
RPC_LIMIT_S = 3.0
OPERATION_LIMIT_S = 20.0
CLOSE_LIMIT_S = 2.0  # for searches under way; most take less
_WENT = "p2pd ended while the DHT was asked; it is being restarted"


class BulletinBoard:
    """One DHT node on one daemon, by which records are stored and read.

    `conversation` are hivemind's tasks that read from the daemon and write to it. When the daemon dies,
    all who ask get a DaemonError.
    """

    def __init__(self, p2p: P2P, node: DHTNode, door: Door, conversation: Sequence[asyncio.Task[Any]] = ()):
        self._p2p, self._node, self._door, self._conversation = p2p, node, door, tuple(conversation)
        self._closed = False
        for task in self._conversation:
            task.add_done_callback(_broken_off)
        self._searches: set[asyncio.Task[Any]] = set()  # under way, also those that nobody waits for any more

    async def store(self, envelope: Envelope[Any]) -> bool:
        record = envelope.record
        try:
            async with asyncio.timeout(OPERATION_LIMIT_S):
                return bool(
                    await self._whole(
                        self._node.store(
                            dht_key(record),
                            envelope.data,
                            float(record.expires_at),
                            subkey=subkey_of(envelope),
                        )
                    )
                )
        except TimeoutError:
            log.warning(
                "the DHT took longer than %.0f s to store under %s", OPERATION_LIMIT_S, dht_key(record)
            )
            return False

    async def read(self, key: str, run: str, view: RecordView) -> list[Envelope[Any]]:
        """Reads the run's records under a key from all nodes that answer in time; a thread verifies them."""
        try:
            async with asyncio.timeout(OPERATION_LIMIT_S):
                found = await self._whole(self._node.get(key, latest=True))
        except TimeoutError:
            view.count("DHT read took too long")
            return []
        if found is None or not isinstance(found.value, dict):
            return []
        entries = [
            (subkey, e.expiration_time, e.value)
            for subkey, e in found.value.items()
            if isinstance(e.value, bytes)
        ]
        opened: list[Envelope[Any]] = await self._door.run(view.open_all, key, run, entries)
        return opened

    async def meet(self, peers: Iterable[str]) -> None:
        """Makes peers known to this node and this node to them, then looks around near our own id."""
        await self._greet([PeerID(peer_id_to_bytes(peer)) for peer in peers if not self.knows(peer)])

    async def meet_again(self, peers: Iterable[str]) -> None:
        """Does as `meet` for peers that were away and may have forgotten this node and what it gave them."""
        ids = [PeerID(peer_id_to_bytes(peer)) for peer in peers]
        for peer in ids:
            self._node.blacklist.register_success(
                peer
            )  # or it would be left out for as long again as it was away
            # hivemind hands its records only to a node that is new to it.
            await self._node.protocol.update_routing_table(None, peer, responded=False)
        await self._greet(ids)

    async def _greet(self, peers: Sequence[PeerID]) -> None:
        # hivemind asserts that an answered node id is one: a peer that answers another must not keep us from
        # the rest.
        found = await asyncio.gather(
            *(self._node.protocol.call_ping(peer) for peer in peers), return_exceptions=True
        )
        if any(isinstance(node_id, DHTID) for node_id in found):
            with suppress(TimeoutError):
                async with asyncio.timeout(OPERATION_LIMIT_S):
                    await self._whole(self._node.find_nearest_nodes([self._node.node_id]))

    async def until_deaf(self) -> None:
        """Waits until hivemind hears no more of the daemon, or says no more to it: mostly because it died."""
        await asyncio.wait(self._conversation, return_when=asyncio.FIRST_COMPLETED)

    def knows(self, peer: str) -> bool:
        return self._node.protocol.routing_table.get(peer_id=PeerID(peer_id_to_bytes(peer))) is not None

    async def _whole(self, search: Coroutine[Any, Any, Any]) -> Any:
        """Awaits a search of hivemind's to its own end; DaemonError where `close` ended it.

        Cancelled half-way it would leave tasks of its own behind. That it was cancelled is not to reach those
        who wait for it: they would take it for their own end.
        """
        if self._closed:
            search.close()
            raise DaemonGoneError(_WENT)
        task = asyncio.create_task(search)
        self._searches.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task})
        if task.cancelled():
            raise DaemonGoneError(_WENT)
        with asking_daemon():
            return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._searches.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a search of the DHT failed: %r", error)

    async def close(self) -> None:
        """Leaves without a word to p2pd, which may be dead: hivemind would wait for its answer for ever."""
        self._closed, self._node.is_alive = True, False
        if self._searches:
            _, late = await asyncio.wait(self._searches, timeout=CLOSE_LIMIT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._door.close()
        await self._p2p.shutdown()


async def open_board(
    socket: Path,
    peer_id: str,
    view: RecordView,
    on_record: OnRecord | None,
    storage: RecordStorage,
    *,
    client_only: bool = False,
) -> BulletinBoard:
    """Joins as the DHT node whose id follows from the peer id, and serves what is in `storage`.

    It knows no other node yet.
    """
    use_hivemind_log_handler("nowhere")  # its messages go where this program's go
    logging.getLogger("hivemind").setLevel(logging.ERROR)
    async with AsyncExitStack() as undo:  # what failed half-way leaves nothing open
        try:
            with asking_daemon():
                async with asyncio.timeout(OPERATION_LIMIT_S):
                    p2p = await P2P.replicate(Multiaddr(f"/unix{socket}"))
                    undo.push_async_callback(p2p.shutdown)
                    door = Door(p2p, view, storage, on_record)
                    undo.callback(door.close)
                    node = await DHTNode.create(
                        p2p=door,
                        node_id=node_id_of(peer_id_to_bytes(peer_id)),
                        wait_timeout=RPC_LIMIT_S,
                        cache_locally=False,
                        cache_nearest=0,
                        cache_on_store=False,
                        client_mode=client_only,
                    )
        except TimeoutError as error:
            raise DaemonError(f"p2pd started, and was silent for {OPERATION_LIMIT_S:.0f} s") from error
        undo.pop_all()
    node.protocol.storage = storage
    # Others may ask to have something cached, which hivemind bounds in keys alone; nothing is.
    node.protocol.cache = RecordStorage(StorageLimits(total_bytes=0), Counter())
    control = p2p._client.control
    return BulletinBoard(p2p, node, door, (control._read_task, control._write_task))


def _broken_off(task: asyncio.Task[Any]) -> None:
    """Takes note of how the conversation with p2pd ended, which is nobody's news: its death is told."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("the conversation with p2pd was broken off: %r", error)
