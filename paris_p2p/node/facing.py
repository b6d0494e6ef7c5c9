"""What one peer sees of a host: the runs that let it in, and no others (docs/protocol.md, "Asking")."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from blake3 import blake3

from paris_p2p.errors import BusyError, MissingBlobError
from paris_p2p.identity import Identity
from paris_p2p.records import RequestKind
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.trust import Thing, may
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.limits import EventLimit
from paris_p2p.swarm.seam import Swarm


class Member(Protocol):
    """Says what the answering side asks of a run on this host."""

    run: str

    @property
    def public_id(self) -> str:
        """Returns what others ask for the run by: its id, or of a private run a keyed hash of it."""
        ...

    @property
    def state(self) -> RunState: ...

    @property
    def spec_data(self) -> bytes: ...

    def serves(self, blob_id: str) -> bool: ...

    def things(self, blob_id: str) -> Collection[Thing]:
        """Returns what a blob is to this run."""
        ...

    def knows(self, peer: str) -> bool: ...

    def expects(self, peer: str) -> bool:
        """Tells whether a peer is a member, or asks to be let in."""
        ...

    def kept_blobs(self) -> set[str]: ...

    def records_under(self, key: str) -> list[bytes]: ...

    async def answer(self, peer: str, action: RequestKind, body: bytes) -> bytes | None:
        """Answers a conversation; None where there is nothing to say."""
        ...


def join_name(run: str, admitter: str) -> str:
    """Returns what a newcomer calls a run by when it asks `admitter` to let it in.

    It cannot know the name that members use yet, and a peer that knows nothing of the run learns nothing
    from this one.
    """
    return blake3(f"paris-p2p/2 join\0{run}\0{admitter}".encode()).hexdigest()


class WordLimits:
    """Bounds what strangers may say: `hello` and `join` cost signatures."""

    def __init__(self) -> None:
        self._each = EventLimit(per_s=0.5, burst=10)
        self._all = EventLimit(per_s=40.0, burst=200)
        # Of a peer, before it is disconnected. An honest one greets those that are not in its run, too, once
        # a minute, and one that asks to be let in asks every ten seconds.
        self._failures = EventLimit(per_s=0.2, burst=100)

    def check(self, peer: str) -> None:
        """Raises BusyError when a peer, or all together, said too much lately."""
        if not self._each.allow(peer) or not self._all.allow(""):
            raise BusyError("too many ask to be let in")

    def failed(self, peer: str) -> bool:
        """Notes that a peer said something that opened nothing; tells whether it did so too often."""
        return not self._failures.allow(peer)


class Answering(Protocol):
    """Is a host, as the answering side sees it."""

    @property
    def identity(self) -> Identity: ...

    @property
    def store(self) -> BlobStore: ...

    @property
    def swarm(self) -> Swarm: ...

    @property
    def members(self) -> dict[str, Member]: ...

    @property
    def words(self) -> WordLimits: ...


class Facing:
    """Shows a host to one peer, for one request."""

    def __init__(self, host: Answering, peer: str, action: RequestKind, run: str):
        self._host, self._peer, self._action, self._run = host, peer, action, run

    def tells_where(self) -> bool:
        return not self._host.members or bool(self._runs())

    def spec(self, run_id: str) -> bytes | None:
        return next((run.spec_data for run in self._runs() if run.public_id == run_id), None)

    def records(self, key: str) -> list[bytes]:
        return [data for run in self._runs() for data in run.records_under(key)]

    def manifest_bytes(self, blob_id: str) -> bytes | None:
        return self._host.store.manifest_bytes(blob_id) if self._serves(blob_id) else None

    def have(self, blob_id: str) -> bytes:
        return self._host.store.have(blob_id) if self._serves(blob_id) else b""

    def read_chunk(self, blob_id: str, index: int, room: memoryview | None = None) -> bytes | memoryview:
        if not self._serves(blob_id):
            raise MissingBlobError(f"blob {blob_id[:16]}… is not served here")
        return self._host.store.read_chunk(blob_id, index, room)

    async def converse(self, action: RequestKind, run: str, body: bytes) -> bytes | None:
        proves = action in ("join", "hello")
        # Members greet as often as they need; one that joins again costs signatures as a stranger does.
        greets = action == "hello" and any(member.state.is_named(self._peer) for member in self._runs())
        if proves and not greets:
            try:
                self._host.words.check(self._peer)
            except BusyError:
                await self._count_failure()
                raise
        me = self._host.identity.peer_id
        answer = None
        for member in self._runs():
            if run == (join_name(member.run, me) if action == "join" else member.public_id):
                answer = await member.answer(self._peer, action, body)
        if proves and answer is None:
            await self._count_failure()
        return answer

    async def _count_failure(self) -> None:
        if self._host.words.failed(self._peer):
            await self._host.swarm.disconnect(self._peer)

    def _runs(self, thing: Thing = "") -> list[Member]:
        """Returns the runs that the peer may ask for this."""
        return [run for run in self._named() if may(self._peer, self._action, thing, run.state)]

    def _named(self) -> list[Member]:
        """Returns the runs here, or the one that the request names."""
        runs = tuple(self._host.members.values())
        by_id = self._run and self._action not in ("join", "spec")
        return [run for run in runs if not by_id or run.public_id == self._run]

    def _serves(self, blob_id: str) -> bool:
        for run in self._named():
            state = run.state
            # One that the peer has no part in is not looked into at all.
            lets_in = state.rights(self._peer) and run.serves(blob_id)
            if lets_in and any(may(self._peer, "blobs", thing, state) for thing in run.things(blob_id)):
                return True
        return False
