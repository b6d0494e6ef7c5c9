"""Runs the go-libp2p daemon p2pd as a child of this process, with our flags, and ends it with us.

hivemind's own start hides why p2pd could not start; here its words are kept (docs/architecture.md, "Processes
of a peer").
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import psutil

from paris_p2p.errors import DaemonError, PortInUseError, UsageError
from paris_p2p.identity import Identity, load_peer_key, write_private_file
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm.addresses import EVERYWHERE
from paris_p2p.swarm.interfaces import near_interfaces
from paris_p2p.swarm.socket_folder import CONTROL, STREAMS, new_socket_folder

log = logging.getLogger(__name__)
START_LIMIT_S = 30.0
# It grows with what strangers say (GossipSub keeps every topic that was ever named to it), and has no limit
# of its own.
MAX_MEMORY_BYTES = 768 << 20
_SOFT_MEMORY_BYTES = 512 << 20  # from here on Go looks harder for what it can free
STOP_LIMIT_S = 3.0
MAX_RPC_BYTES = 5 << 19  # a DHT message; the door (swarm/door.py) takes 2 MiB at most
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class DaemonOptions:
    """Holds what p2pd is started with; one port for TCP and QUIC, 0 for any free one."""

    key_path: Path
    host: str
    port: int = 0
    announce: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    relay_service: bool = False
    lan_only: bool = False  # it listens at private addresses, and uses no other
    measures: bool = False  # it tells what it measures of itself, on 127.0.0.1

    def arguments(self, control: Path, metrics_port: int = 0) -> list[str]:
        """Returns p2pd's flags.

        Bootstrap peers are not among them: p2pd ends itself when none of those answers at once.
        """
        listen = []
        for host in self._hosts():
            where = f"/ip{ipaddress.ip_address(host).version}/{host}"
            listen.append(f"{where}/tcp/{self.port}")
            if not self._is_loopback:  # QUIC is for hole punching, and half as fast as TCP where both work
                listen.append(f"{where}/udp/{self.port}/quic-v1")
        reaches_out = not (self._is_loopback or self.lan_only)
        flags = {
            "listen": f"/unix{control}",
            "id": str(self.key_path),
            "hostAddrs": ",".join(listen),
            "dhtServer": "1",
            "pubsub": "1",
            "pubsubRouter": "gossipsub",
            "connManager": "1",
            "idleTimeout": "30s",
            "relay": "1",
            "relayService": str(int(self.relay_service)),
            # of each circuit; 16 MiB unless said, where a circuit carries 128 KiB
            "relayBufferSize": str(1 << 17),
            "persistentConnMaxMsgSize": str(MAX_RPC_BYTES),
            "autonat": str(int(reaches_out)),  # also turns hole punching on
            "natPortMap": str(int(reaches_out)),
        }
        if metrics_port:
            flags["metricsAddr"] = f"127.0.0.1:{metrics_port}"
        if self.announce:
            flags["announceAddrs"] = ",".join(self.announce)
        if self.relays:  # with discovery on, a relay slot takes minutes
            flags |= {"autoRelay": "1", "relayDiscovery": "0", "trustedRelays": ",".join(self.relays)}
        return [f"-{name}={value}" for name, value in flags.items()]

    def _hosts(self) -> list[str]:
        if not self.lan_only or self.host not in EVERYWHERE:
            return [self.host]
        # p2pd is asked where it listens, and tells others: what it must not use it is not given
        return [*(str(interface.ip) for interface in near_interfaces()), "127.0.0.1"]

    @property
    def _is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback


def daemon_options(identity: Identity, settings: PeerSettings, relay_service: bool) -> DaemonOptions:
    """Returns what p2pd is started with, once its key is in the data directory; UsageError."""
    key_path = settings.data_dir / "identity.key"
    if not key_path.exists():
        write_private_file(key_path, identity.libp2p_private_key())
    if load_peer_key(key_path).peer_id != identity.peer_id:
        raise UsageError(
            f"{key_path} is another peer's key than {identity.peer_id}; use one data directory per peer"
        )
    port = settings.port
    if settings.lan_only and not port and settings.host in EVERYWHERE:
        port = free_local_port()  # one for all addresses
    return DaemonOptions(
        key_path,
        settings.host,
        port,
        settings.announce,
        settings.relays,
        relay_service,
        lan_only=settings.lan_only,
        measures=bool(settings.metrics),
    )


class Daemon:
    """A running p2pd, which `start_daemon` makes and `stop` ends."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, metrics_port: int = 0):
        self.process, self.folder = process, folder
        self.metrics_port = metrics_port  # on 127.0.0.1; 0: it measures nothing
        self.control = folder / CONTROL
        self.streams = folder / STREAMS
        self._lines: deque[str] = deque(maxlen=8)
        self._ready = asyncio.Event()
        self._reader = asyncio.create_task(self._read_output())

    @property
    def last_words(self) -> str:
        return " | ".join(self._lines)[-500:]

    async def wait_ready(self) -> None:
        """Waits until p2pd listens; PortInUseError or DaemonError with p2pd's own words."""
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait(
                [ready, self._reader], timeout=START_LIMIT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
        if self._ready.is_set():
            return
        if "address already in use" in self.last_words:
            raise PortInUseError(
                f"p2pd cannot listen: {self.last_words}; stop the other program or choose another --port"
            )
        what = "did not start" if self._reader.done() else f"was not ready after {START_LIMIT_S:.0f} s"
        raise DaemonError(
            f"p2pd {what}; it said: {self.last_words or 'nothing'}. Check --port, --host, "
            "announced addresses and relays"
        )

    async def wait_dead(self) -> str:
        """Waits until p2pd has ended, and says in words how."""
        code = await self.process.wait()
        await asyncio.wait({self._reader})
        return f"p2pd ended with status {code}: {self.last_words or 'no words'}"

    def memory_bytes(self) -> int:
        """Returns what p2pd takes of main memory; 0 when it has ended."""
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def end_if_too_large(self) -> bool:
        """Kills p2pd when it takes more memory than it may; its keeper then starts another."""
        size_bytes = self.memory_bytes()
        if size_bytes <= MAX_MEMORY_BYTES:
            return False
        self.kill(f"it took {size_bytes >> 20} MiB of memory, {MAX_MEMORY_BYTES >> 20} MiB are the limit")
        return True

    def kill(self, why: str) -> None:
        """Kills p2pd, and adds to its last words why; its keeper then starts another."""
        self._lines.append(why)
        with suppress(ProcessLookupError):
            self.process.kill()

    async def stop(self) -> None:
        """Ends p2pd, at the latest after a few seconds, and removes its sockets."""
        for end in (self.process.terminate, self.process.kill):
            with suppress(ProcessLookupError):
                end()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_LIMIT_S):
                    await self.process.wait()
                    break
        else:  # one that a stuck disk holds in the kernel dies when that lets it go
            log.warning("p2pd, process %d, was killed and has not ended yet", self.process.pid)
            self._reader.cancel()
        await asyncio.wait({self._reader})  # not awaited: who is cancelled meanwhile must not end it
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _read_output(self) -> None:
        output, rest = self.process.stdout, b""
        while output is not None and (data := await output.read(1 << 14)):
            *lines, rest = (rest + data[-(1 << 14) :]).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").strip()[:500]
                if text:
                    self._lines.append(text)
                if text.startswith("Peer ID:"):
                    self._ready.set()
            rest = rest[-4096:]
        if rest:
            self._lines.append(rest.decode(errors="replace")[:500])


async def start_daemon(options: DaemonOptions) -> Daemon:
    """Starts p2pd and waits until it listens; PortInUseError or DaemonError."""
    check_port_free(options.host, options.port)
    folder, metrics_port = new_socket_folder(), free_local_port() if options.measures else 0
    try:
        process = await asyncio.create_subprocess_exec(
            str(daemon_path()),
            *options.arguments(folder / CONTROL, metrics_port),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "GOLOG_LOG_LEVEL": "error", "GOMEMLIMIT": str(_SOFT_MEMORY_BYTES)},
            preexec_fn=_die_with_parent(),
            # The terminal's Ctrl-C and hang-up go to the node's own process group, and are its to handle: it
            # still needs the network. Not a session: the kernel would share the processor between the two
            # (autogroup), and streams slow down.
            process_group=0,
        )
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DaemonError(
            f"p2pd cannot be run here: {error}; it is a program for x86-64 Linux or macOS, reinstall hivemind"
        ) from error
    daemon = Daemon(process, folder, metrics_port)
    try:
        await daemon.wait_ready()
    except BaseException:  # also when cancelled: no child stays behind
        await daemon.stop()
        raise
    return daemon


def daemon_path() -> Path:
    """Finds p2pd inside hivemind's wheel, without importing hivemind."""
    spec = find_spec("hivemind")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        path = Path(folder) / "hivemind_cli" / "p2pd"
        if path.exists():
            return path
    raise DaemonError(
        "hivemind's p2pd is not installed; run `pip install hivemind==1.1.12` in this environment"
    )


def check_port_free(host: str, port: int) -> None:
    """Raises PortInUseError when another program listens there.

    p2pd itself binds with SO_REUSEPORT and would silently share the port.
    """
    if port == 0:
        return
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind((host, port))
            except OSError as error:
                where = f"cannot listen on {host}:{port}: {error.strerror}"
                if error.errno == errno.EADDRINUSE:
                    raise PortInUseError(
                        f"{where}; stop the program that listens there or choose another --port"
                    ) from error
                raise DaemonError(
                    f"{where}; choose an address of this machine with --host and a --port you may use"
                ) from error


def free_local_port() -> int:
    """Returns a TCP port of 127.0.0.1 that nobody listens on now: p2pd does not say which one it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_port(options: DaemonOptions, addresses: Sequence[str]) -> DaemonOptions:
    """Returns the options with the TCP port of `addresses`, so that a restart is found at the old place."""
    ports = [
        int(address.split("/")[4])
        for address in addresses
        if address.startswith("/ip") and "/tcp/" in address
    ]
    return replace(options, port=ports[0]) if options.port == 0 and ports else options


def _die_with_parent() -> Callable[[], None] | None:
    """Sends the child SIGTERM when the thread that started it ends; it runs before exec.

    p2pd also ends when our connection to it does.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up before the fork

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died in between
            os._exit(1)

    return arrange
