"""The one seam to the other peers: what the project may ask of a swarm, and a swarm of the project.

`real.open_swarm` is the network, `fake.FakeNetwork` the same contract in memory; one test-suite runs against
both.

DHT entries: key = kinds.dht_key(record), subkey = `<signer's peer id>:<kind>` (so that a peer's card and
its attestation, which share a key, do not replace each other), value = the envelope's bytes, expiry = exactly
the record's expires_at.

Errors of every `fetch_*`: UnreachableError when the peer cannot be dialled, is silent, refuses or talks
nonsense; BusyError, which is one, when it serves others, or ends its chunks half-way, as where the place went
to another; MissingBlobError when it says that it has no such blob. Of what is fetched only the size is
verified here: hashes and signatures are the caller's to check.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from paris_p2p.envelope import Envelope
from paris_p2p.records import RequestKind
from paris_p2p.swarm.peer_measures import PeerMeasure

GossipHandler = Callable[[str, bytes], Awaitable[None]]  # (peer id of the sender, data)
SILENCE_S = 10.0  # a peer that sends nothing for this long is given up
MAX_CHUNK_BYTES = 16 << 20
MAX_CHUNKS_PER_REQUEST = 1024
MAX_GOSSIP_BYTES = 2048


@dataclass(frozen=True)
class PeerInfo:
    """Describes a peer we have a connection to; `direct` is False when every path goes through a relay."""

    peer_id: str
    addresses: tuple[str, ...]
    direct: bool


@dataclass(frozen=True)
class LineLimits:
    """Says how fast blobs may go each way (bytes a second, 0: no limit), and whether any may begin."""

    upload_bytes_per_s: float = 0.0
    download_bytes_per_s: float = 0.0
    is_upload_closed: bool = False
    is_download_closed: bool = False


@dataclass(frozen=True)
class Transfer:
    """Counts bytes of blobs moved since the start, smoothed rates, and the seconds in which chunks were on
    their way to peers that have a part in a run here.
    """

    uploaded_bytes: int = 0
    downloaded_bytes: int = 0
    upload_bytes_per_s: float = 0.0
    download_bytes_per_s: float = 0.0
    uploading_s: float = 0.0
    uploaded_relayed_bytes: int = 0  # of uploaded_bytes, what went through a relay
    downloaded_relayed_bytes: int = 0


class Shown(Protocol):
    """Is what one peer gets to see of this one: what it may not see answers as what is not here does.

    Methods may block on the disk: they are called in a thread, but for `tells_where` and `converse`.
    """

    def tells_where(self) -> bool:
        """Tells whether it may know how peers reach one another: whom this peer is connected to (`where`),
        whether it can be dialled (`dial`), and how fast it is (`take`).
        """
        ...

    def spec(self, run_id: str, /) -> bytes | None: ...

    def manifest_bytes(self, blob_id: str, /) -> bytes | None: ...

    def have(self, blob_id: str, /) -> bytes:
        """Returns a bitmap, bit i (lowest first) = chunk i; b"" when nothing is known."""
        ...

    def read_chunk(self, blob_id: str, index: int, room: memoryview | None = None, /) -> bytes | memoryview:
        """Reads a chunk; MissingBlobError when it is not here.

        It stands in the front of `room`, if that is large enough and the source makes use of it.
        """
        ...

    def records(self, key: str, /) -> list[bytes]:
        """Returns the envelopes this peer knows for a DHT key."""
        ...

    async def converse(self, action: RequestKind, run: str, body: bytes, /) -> bytes | None:
        """Answers one of CONVERSATIONS (blob_requests.py); None where there is nothing to say.

        Raises BusyError when others have to be answered first.
        """
        ...


class BlobSource(Protocol):
    """Says what other peers may ask of this one."""

    def shown_to(self, peer: str, action: RequestKind, run: str, thing: str, /) -> Shown | None:
        """Returns what `peer` may see for one request; every request passes here before it is answered.

        `thing` is a run id (spec), a DHT key (records), a blob id (blobs), a peer id (where) or "";
        `run` is the run that the request names, "" where it names none. None refuses the request.
        """
        ...

    def knows(self, peer: str, /) -> bool:
        """Says whether a place is kept for this peer when all are taken.

        It has a part in a run here, or served good bytes.
        """
        ...


class Swarm(Protocol):
    """Is what one peer may ask of the other peers."""

    @property
    def peer_id(self) -> str: ...

    @property
    def transfer(self) -> Transfer: ...

    @property
    def daemon_restarts(self) -> int: ...

    @property
    def last_words(self) -> str:
        """Returns what the daemon said before it last died; empty if it never did."""
        ...

    async def daemon_metrics(self) -> str:
        """Returns what p2pd measures of itself, as text for Prometheus; empty where it measures nothing, or
        does not answer.
        """
        ...

    @property
    def refused(self) -> dict[str, int]:
        """Counts records, gossip and requests that were refused, by reason."""
        ...

    def addresses(self) -> tuple[str, ...]:
        """Returns multiaddrs ending in /p2p/<peer id>, for invites."""
        ...

    @property
    def given_peers(self) -> frozenset[str]:
        """Returns the peers that a person named to this one: bootstrap nodes, relays, those of an invite."""
        ...

    def limit_line(self, limits: LineLimits) -> None:
        """Changes the limits of blobs from now on, also for transfers on their way."""
        ...

    def serve(self, source: BlobSource) -> None:
        """Answers other peers out of `source` from now on."""
        ...

    async def connect(self, addresses: Sequence[str]) -> None:
        """Dials one peer at its multiaddrs (with /p2p/); UnreachableError."""
        ...

    async def try_at(self, peer: str, addresses: Sequence[str]) -> None:
        """Dials a peer at addresses (without /p2p/) that nobody vouched for; UnreachableError.

        It is not come back to, and a connection to it that leads through a relay is given up first.
        """
        ...

    async def peers(self) -> list[PeerInfo]: ...

    async def store_record(self, envelope: Envelope[Any]) -> bool:
        """Puts a record on the bulletin board.

        Returns False when every node has a newer one of the same signer, or refused.
        """
        ...

    async def read_records(self, key: str, run: str) -> list[Envelope[Any]]:
        """Reads the verified, unexpired records under a key.

        Of each signer and kind it is the highest that was ever seen here.
        """
        ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossips a hint of at most MAX_GOSSIP_BYTES; nobody promises that it arrives."""
        ...

    async def subscribe(self, topic: str, handler: GossipHandler) -> None:
        """Calls `handler` for every message of others; it stays subscribed over restarts."""
        ...

    def unsubscribe(self, topic: str, handler: GossipHandler) -> None:
        """Calls `handler` no more."""
        ...

    def leave_run(self, run: str) -> None:
        """Ends this peer's part in the run: what it holds of it for others is a stranger's again."""
        ...

    async def fetch_spec(self, peer: str, run_id: str) -> bytes: ...

    async def fetch_records(self, peer: str, key: str) -> list[bytes]:
        """Fetches the envelopes, not yet verified, that a peer knows for a DHT key."""
        ...

    async def fetch_manifest(self, peer: str, blob_id: str) -> bytes: ...

    async def fetch_have(self, peer: str, blob_id: str) -> bytes: ...

    def fetch_chunks(
        self,
        peer: str,
        blob_id: str,
        indexes: Sequence[int],
        *,
        silence_s: float = SILENCE_S,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> AsyncGenerator[tuple[int, bytes | memoryview], None]:
        """Yields chunks over one stream, in the order asked for.

        Chunks that the peer does not have are left out. Close it (aclose) when leaving early. A
        memoryview holds until the next chunk is asked for.
        """
        ...

    async def measure_clock_offset(self, peer: str) -> float:
        """Returns the seconds by which the peer's clock is ahead of ours."""
        ...

    async def ask(self, peer: str, action: RequestKind, run: str, body: bytes) -> bytes:
        """Says something to a peer about a run (`join`, `hello`, `key`, `stock`), and returns its answer.

        UnreachableError and MissingBlobError as of the fetches; a peer that does not know the run, or does
        not want to know the asker, says the same.
        """
        ...

    def measured(self, peer: str) -> PeerMeasure:
        """Returns how far away and how fast a peer is, where it was asked lately."""
        ...

    async def seen_at(self, peer: str) -> tuple[str, ...]:
        """Returns the addresses at which a peer says that it is connected to this one."""
        ...

    async def dial_back(self, peer: str, run: str) -> dict[str, bool]:
        """Has a peer dial this one where it is seen, from a libp2p that is not connected yet.

        Returns whether this peer answered there, by `tcp` and `udp`, of the ports it listens at.
        BusyError, OlderPeerError, MissingBlobError where it does that for nobody it does not know.
        """
        ...

    async def give(self, peer: str, run: str, size_bytes: int) -> float:
        """Sends bytes that a peer counts and drops; returns the seconds until it had them. Raises as
        `dial_back` does.
        """
        ...

    async def disconnect(self, peer: str) -> None:
        """Ends the connection to a peer, which is not come back to by itself."""
        ...

    async def close(self) -> None: ...
