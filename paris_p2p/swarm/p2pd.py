"""Requests to p2pd over its unix socket, for what hivemind's client lacks.

Source: libp2p/go-libp2p-daemon, specs/CONTROL.md. It serves pubsub, dialling with addresses as p2pd wants
them, and raw streams with large buffers; the DHT uses hivemind's own client.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from hivemind.proto import p2pd_pb2 as pb

from paris_p2p.errors import DaemonError, DaemonGoneError, RecordError, UnreachableError
from paris_p2p.identity import peer_id_from_bytes, peer_id_to_bytes
from paris_p2p.swarm.addresses import is_relayed, to_bytes, to_text
from paris_p2p.swarm.daemon_words import asking_daemon
from paris_p2p.swarm.seam import PeerInfo

STREAM_BUFFER_BYTES = 2 << 20
MAX_MESSAGE_BYTES = 4 << 20
# For what p2pd answers by itself, without a peer; longer than the caller's limit of any question for which it
# dials or waits for one.
ANSWER_LIMIT_S = 30.0
_CONNECT_AGAIN_S = 1.0
_OWN_LACKS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}  # of this process, not of p2pd
# (peer id, multiaddr it is connected from, …)
StreamHandler = Callable[[str, str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Streams(NamedTuple):
    """The two ends of an open stream, and whether it goes through a relay."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    relayed: bool = False


class Control:
    """Speaks to one daemon, by its socket; what it does not answer in time is a DaemonError."""

    def __init__(self, socket: Path):
        self.socket = socket

    async def identify(self) -> tuple[str, list[str]]:
        """Returns (peer id, listening and observed addresses without /p2p/)."""
        response = await self._ask(pb.Request(type=pb.Request.IDENTIFY))
        addresses = [to_text(address) for address in response.identify.addrs]
        return peer_id_from_bytes(response.identify.id), [address for address in addresses if address]

    async def until_answers(self) -> None:
        """Asks p2pd a cheap question, however long that takes, and returns once it answers anything.

        A connection that it does not take is tried again; that this process can open none says nothing.
        """
        while True:
            try:
                await self._exchanged(pb.Request(type=pb.Request.IDENTIFY))
                return
            except DaemonGoneError as error:
                if getattr(error.__cause__, "errno", None) in _OWN_LACKS:
                    return
            await asyncio.sleep(_CONNECT_AGAIN_S)

    async def connect(self, peer: str, addresses: Iterable[str], timeout_s: float) -> None:
        """Dials a peer; UnreachableError.

        With no addresses the daemon looks the peer up in its own routing table.
        """
        connect = pb.ConnectRequest(
            peer=peer_id_to_bytes(peer),
            addrs=[to_bytes(a) for a in addresses],
            timeout=max(1, round(timeout_s)),
        )
        await self._ask_about_peer(peer, pb.Request(type=pb.Request.CONNECT, connect=connect), timeout_s)

    async def peers(self) -> list[PeerInfo]:
        """Lists the peers there is a connection to, once for each connection."""
        response = await self._ask(pb.Request(type=pb.Request.LIST_PEERS))
        found: dict[str, list[str]] = {}
        for peer in response.peers:
            with suppress(RecordError):  # not an Ed25519 peer: nothing of this project
                found.setdefault(peer_id_from_bytes(peer.id), []).extend(
                    to_text(address) for address in peer.addrs
                )
        return [
            PeerInfo(peer, tuple(where), not all(is_relayed(address) for address in where))
            for peer, where in found.items()
        ]

    async def disconnect(self, peer: str) -> None:
        """Closes all connections to a peer, which may come back."""
        disconnect = pb.DisconnectRequest(peer=peer_id_to_bytes(peer))
        await self._ask(pb.Request(type=pb.Request.DISCONNECT, disconnect=disconnect))

    async def publish(self, topic: str, data: bytes) -> None:
        await self._ask(
            pb.Request(
                type=pb.Request.PUBSUB, pubsub=pb.PSRequest(type=pb.PSRequest.PUBLISH, topic=topic, data=data)
            )
        )

    async def messages(self, topic: str) -> AsyncGenerator[tuple[str, bytes], None]:
        """Subscribes to a topic and yields (author, data) of each message, until the daemon ends.

        p2pd has checked the author's signature.
        """
        request = pb.Request(
            type=pb.Request.PUBSUB, pubsub=pb.PSRequest(type=pb.PSRequest.SUBSCRIBE, topic=topic)
        )
        reader, writer = await self._open()
        try:
            with _in_time():
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    response = await self._exchange(reader, writer, request)
            _raise_if_failed(response)
            while True:
                message = await _read(reader, pb.PSMessage())
                with suppress(RecordError):
                    yield peer_id_from_bytes(getattr(message, "from")), message.data
        except (EOFError, OSError):
            return
        finally:
            await close_stream(writer)

    async def open_stream(self, peer: str, protocol: str, timeout_s: float) -> Streams:
        """Opens a stream to a peer, which is dialled first where needed; UnreachableError."""
        request = pb.Request(
            type=pb.Request.STREAM_OPEN,
            streamOpen=pb.StreamOpenRequest(
                peer=peer_id_to_bytes(peer), proto=[protocol], timeout=max(1, round(timeout_s))
            ),
        )
        reader, writer = await self._open()
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._exchange(reader, writer, request)
            _raise_if_failed(response)
        except (TimeoutError, DaemonError) as error:
            await close_stream(writer)
            raise _unreachable(peer, error, timeout_s) from error
        except BaseException:  # cancelled on the way: the socket must not be left open
            await close_stream(writer)
            raise
        return Streams(reader, writer, is_relayed(to_text(response.streamInfo.addr)))

    async def handle_streams(self, protocol: str, socket: Path, handler: StreamHandler) -> asyncio.Server:
        """Has p2pd bring incoming streams of `protocol` to `handler`, until the returned server is closed."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                info = await _read(reader, pb.StreamInfo())
                peer = peer_id_from_bytes(info.peer)
            except (EOFError, OSError, DaemonError, RecordError):
                await close_stream(writer)
                return
            await handler(peer, to_text(info.addr), reader, writer)

        with asking_daemon():
            server = await asyncio.start_unix_server(accept, path=socket, limit=1 << 16)
        address = _unix_address(socket)
        handle = pb.StreamHandlerRequest(addr=address, proto=[protocol], balanced=False)
        try:
            await self._ask(pb.Request(type=pb.Request.STREAM_HANDLER, streamHandler=handle))
        except BaseException:
            server.close()
            raise
        return server

    async def _ask_about_peer(self, peer: str, request: Any, timeout_s: float) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._exchanged(request)
            _raise_if_failed(response)
            return response
        except (TimeoutError, DaemonError) as error:
            raise _unreachable(peer, error, timeout_s) from error

    async def _ask(self, request: Any) -> Any:
        with _in_time():
            async with asyncio.timeout(ANSWER_LIMIT_S):
                response = await self._exchanged(request)
        _raise_if_failed(response)
        return response

    async def _exchanged(self, request: Any) -> Any:
        """Asks on a connection of its own, for as long as the caller lets it."""
        reader, writer = await self._open()
        try:
            return await self._exchange(reader, writer, request)
        finally:
            await close_stream(writer)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        with asking_daemon():
            return await asyncio.open_unix_connection(self.socket, limit=STREAM_BUFFER_BYTES)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Any
    ) -> Any:
        data = request.SerializeToString()
        with asking_daemon():
            writer.write(_varint(len(data)) + data)
            await writer.drain()
            return await _read(reader, pb.Response())


async def close_stream(writer: asyncio.StreamWriter) -> None:
    """Closes a stream without waiting for what is still unsent."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise DaemonError(
            f"p2pd gave no answer within {ANSWER_LIMIT_S:.0f} s; it is replaced if it stays silent"
        ) from error


def _unreachable(peer: str, error: Exception, timeout_s: float) -> UnreachableError:
    words = f"no answer within {timeout_s:.0f} s" if isinstance(error, TimeoutError) else str(error)
    return UnreachableError(f"peer {peer} cannot be reached: {words}")


def _raise_if_failed(response: Any) -> None:
    if response.type == pb.Response.ERROR:
        raise DaemonError(" ".join(response.error.msg.split())[:300])


async def _read(reader: asyncio.StreamReader, message: Any) -> Any:
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length, shift = length | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80 or shift > 28:
            break
    if length > MAX_MESSAGE_BYTES:
        raise DaemonError(f"p2pd announced a message of {length} bytes; the limit is {MAX_MESSAGE_BYTES}")
    try:
        message.ParseFromString(await reader.readexactly(length))
    except DecodeError as error:
        raise DaemonError(f"p2pd sent {length} bytes that are not its protocol") from error
    return message


def _varint(number: int) -> bytes:
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def _unix_address(socket: Path) -> bytes:
    path = str(socket).encode()
    return bytes([0x90, 0x03]) + _varint(len(path)) + path  # multiaddr /unix
