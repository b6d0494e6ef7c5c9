"""A run's own part of the swarm: what a node does with its records passes here, and nowhere else.

In an open run, and in one that is for members only, records stand in the swarm as they are. Those of a
private run leave this machine sealed, under names that tell nothing (veil.py), also in questions to single
peers: a stranger that is asked learns no more than one that is not.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from paris_p2p import veil
from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import MissingKeyError, RecordError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.keyring import DoorRing, Keyring
from paris_p2p.kinds import cards_topic, sealed_key
from paris_p2p.records import Signed
from paris_p2p.swarm.limits import kind_of
from paris_p2p.swarm.seam import GossipHandler, PeerInfo, Swarm

log = logging.getLogger(__name__)
IN_PERSON = ("certificate", "token")  # kinds that have no place in the swarm: they travel inside others
_REMEMBERED = 4096  # opened records
_AT_ONCE = 16  # records that are opened on the event loop; more go to a thread


class RunSwarm(Protocol):
    """Is one run's part of the swarm; names of DHT keys are the plain ones of kinds.py."""

    @property
    def public_id(self) -> str:
        """Returns what other peers know the run by."""
        ...

    def sign(self, record: Signed, keys: int | None = None) -> Envelope[Any]:
        """Signs a record as this node; in a private run under the last of its first `keys` keys.

        None: under the newest key that the run has by now.
        """
        ...

    def open(self, data: bytes, kinds: tuple[str, ...]) -> Envelope[Any]:
        """Verifies and opens a record of the run, as it came or was kept; RecordError."""
        ...

    async def store(self, envelope: Envelope[Any]) -> bool:
        """Puts a record on the bulletin board, as Swarm.store_record does."""
        ...

    async def read(self, key: str) -> list[Envelope[Any]]:
        """Reads the records under a key, as Swarm.read_records does."""
        ...

    async def gossip(self, envelope: Envelope[Any]) -> None: ...

    async def subscribe(self, handler: GossipHandler) -> None: ...

    def unsubscribe(self, handler: GossipHandler) -> None: ...

    async def ask_records(self, peer: str, key: str) -> list[bytes]:
        """Asks one peer for what it knows under a key; what comes is yet to be opened."""
        ...

    async def peers(self) -> list[PeerInfo]:
        """Lists the connected peers, of this run and others."""
        ...

    def asked(self, key: str) -> str:
        """Returns the plain key that another peer asks for; "" where it asks for none of this run."""
        ...

    def spec_to_send(self, data: bytes) -> bytes:
        """Returns the signed RunSpec as members get it."""
        ...


class PlainRunSwarm:
    """Is the part of a run whose records anybody may read."""

    def __init__(self, run: str, identity: Identity, swarm: Callable[[], Swarm]):
        self.public_id, self._identity, self._swarm = run, identity, swarm

    def sign(self, record: Signed, keys: int | None = None) -> Envelope[Any]:
        return seal(self._identity, record)

    def open(self, data: bytes, kinds: tuple[str, ...]) -> Envelope[Any]:
        return open_envelope(data, run=self.public_id, kinds=kinds)

    async def store(self, envelope: Envelope[Any]) -> bool:
        return await self._swarm().store_record(envelope)

    async def read(self, key: str) -> list[Envelope[Any]]:
        return await self._swarm().read_records(key, self.public_id)

    async def gossip(self, envelope: Envelope[Any]) -> None:
        await self._swarm().publish(cards_topic(self.public_id), envelope.data)

    async def subscribe(self, handler: GossipHandler) -> None:
        await self._swarm().subscribe(cards_topic(self.public_id), handler)

    def unsubscribe(self, handler: GossipHandler) -> None:
        self._swarm().unsubscribe(cards_topic(self.public_id), handler)

    async def ask_records(self, peer: str, key: str) -> list[bytes]:
        return await self._swarm().fetch_records(peer, key)

    async def peers(self) -> list[PeerInfo]:
        return await self._swarm().peers()

    def asked(self, key: str) -> str:
        return key if key.split("/")[2:3] == [self.public_id] else ""

    def spec_to_send(self, data: bytes) -> bytes:
        return data


class SealedRunSwarm:
    """Is the part of a private run.

    `ring` returns the keys that are here, and `in_force` how many the run has by now: what this node says is
    sealed under the last of them. `next_seq` counts what it seals, over restarts. `askable` yields the plain
    keys that others may ask for. `missing` is called with the signer of a record whose key is not here.
    """

    def __init__(
        self,
        run: str,
        identity: Identity,
        swarm: Callable[[], Swarm],
        *,
        ring: Callable[[], Keyring | DoorRing],
        in_force: Callable[[], int],
        next_seq: Callable[[], int],
        askable: Callable[[], Iterable[str]],
        missing: Callable[[str], None] = lambda signer: None,
    ):
        self.run, self._identity, self._swarm = run, identity, swarm
        self._ring, self._in_force, self._next_seq = ring, in_force, next_seq
        self._askable, self._missing = askable, missing
        self.refused: Counter[str] = Counter()
        self._lock = threading.Lock()  # records are opened in threads, too
        self._opened: OrderedDict[bytes, Envelope[Any]] = OrderedDict()  # by the bytes that came
        self._questions: dict[str, str] = {}  # veiled key -> plain key
        self.public_id = ring().veiled_run

    def sign(self, record: Signed, keys: int | None = None) -> Envelope[Any]:
        """Signs and seals a record, under the run's newest key if no other is asked for.

        UnreachableError where that key is not here yet: under an older one, peers could read it that the
        owner shut out.
        """
        ring, due = self._ring(), self._in_force() if keys is None else keys
        if len(ring.doors) < due:
            self._missing(self._identity.peer_id)
            raise UnreachableError(
                f"the run has a new key, number {due}, and no member has given it to this peer yet; "
                "they are asked until one does"
            )
        if isinstance(ring, Keyring):
            ring = ring.as_of(due)
        return veil.seal_record(self._identity, record, ring, self._next_seq())

    def open(self, data: bytes, kinds: tuple[str, ...]) -> Envelope[Any]:
        if set(kinds) <= set(IN_PERSON):
            return open_envelope(data, run=self.run, kinds=kinds)
        if (known := self._opened.get(data)) is not None:
            if known.record.kind not in kinds:
                raise RecordError(f"expected a record of kind {' or '.join(kinds)}, got {known.record.kind}")
            return known
        ring = self._ring()
        outer = open_envelope(data, run=ring.veiled_run, kinds=("sealed",))
        try:
            return self._remember(veil.open_outer(outer, ring, self.run, kinds))
        except MissingKeyError:
            self._missing(outer.signer)
            raise

    async def store(self, envelope: Envelope[Any]) -> bool:
        outer = open_envelope(envelope.data, run=self.public_id, kinds=("sealed",))
        return await self._swarm().store_record(outer)

    async def read(self, key: str) -> list[Envelope[Any]]:
        found = await asyncio.gather(
            *(
                self._swarm().read_records(name, self.public_id)
                for name in veil.shelves_under(self._ring(), key)
            )
        )
        outer = [envelope for some in found for envelope in some]
        new = sum(envelope.data not in self._opened for envelope in outer)
        return self._open_all(outer) if new <= _AT_ONCE else await asyncio.to_thread(self._open_all, outer)

    async def gossip(self, envelope: Envelope[Any]) -> None:
        await self._swarm().publish(veil.topic_of(self._ring()), envelope.data)

    async def subscribe(self, handler: GossipHandler) -> None:
        await self._swarm().subscribe(veil.topic_of(self._ring()), handler)

    def unsubscribe(self, handler: GossipHandler) -> None:
        self._swarm().unsubscribe(veil.topic_of(self._ring()), handler)

    async def ask_records(self, peer: str, key: str) -> list[bytes]:
        return await self._swarm().fetch_records(peer, veil.question_of(self._ring(), key))

    async def peers(self) -> list[PeerInfo]:
        return await self._swarm().peers()

    def asked(self, key: str) -> str:
        if not key.startswith(sealed_key(self.public_id, "")):
            return ""
        if key not in self._questions:
            known, ring = set(self._questions.values()), self._ring()
            new = {veil.question_of(ring, plain): plain for plain in self._askable() if plain not in known}
            self._questions |= new
        return self._questions.get(key, "")

    def spec_to_send(self, data: bytes) -> bytes:
        ring = self._ring()
        return veil.seal_spec(data, ring.as_of(self._in_force())) if isinstance(ring, Keyring) else b""

    def _open_all(self, outer: Sequence[Envelope[Any]]) -> list[Envelope[Any]]:
        """Opens records whose outer parts were verified; counts those that do not open."""
        opened, ring = [], self._ring()
        for envelope in outer:
            try:
                known = self._opened.get(envelope.data)
                opened.append(known or self._remember(veil.open_outer(envelope, ring, self.run)))
            except MissingKeyError:
                self.refused["record: its key is not here"] += 1
                self._missing(envelope.signer)
            except RecordError as error:
                log.debug("a sealed record was refused: %s", error)
                self.refused[f"record: sealed, {kind_of(error)}"] += 1
        return opened

    def _remember(self, envelope: Envelope[Any]) -> Envelope[Any]:
        with self._lock:
            self._opened[envelope.data] = envelope
            while len(self._opened) > _REMEMBERED:
                self._opened.popitem(last=False)
        return envelope
