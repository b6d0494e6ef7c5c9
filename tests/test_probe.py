"""The probe against a real daemon, against nobody, and where py-libp2p is not installed."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from paris_p2p import probe
from paris_p2p.errors import SwarmError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.probe_result import ProbeResult

needs_libp2p = pytest.mark.skipif(not probe.installed(), reason=probe.NOT_INSTALLED)
STRANGER = Identity.from_private_bytes(b"s" * 32).peer_id  # tests are named by it


class Node(NamedTuple):
    control: str  # multiaddr of the daemon's control socket
    peer_id: str
    tcp: str
    quic: str


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A p2pd on loopback, on ports of its own choice."""
    spec = importlib.util.find_spec("hivemind")
    assert spec is not None
    assert spec.origin is not None
    daemon = Path(spec.origin).parent / "hivemind_cli" / "p2pd"
    control = f"/unix{tmp_path}/p2pd.sock"
    addresses = "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/udp/0/quic-v1"
    process = subprocess.Popen(
        [daemon, f"-listen={control}", f"-hostAddrs={addresses}"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        peer_id = next(line.split()[-1] for line in lines if line.startswith("Peer ID:"))
        listening = list(islice((line.strip() for line in lines if line.startswith("/ip4/")), 2))
        tcp, quic = (
            f"{next(each for each in listening if kind in each)}/p2p/{peer_id}"
            for kind in ("/tcp/", "/quic-v1")
        )
        yield Node(control, peer_id, tcp, quic)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_without_py_libp2p_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libp2p", None)
    with pytest.raises(UsageError, match=r"pip install -e '.\[probe\]'"):
        probe.check_node(f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:31337",
        "/ip4/127.0.0.1/tcp/31337",
        f"/ip4/127.0.0.1/tcp/99999/p2p/{STRANGER}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{STRANGER} --x",
    ],
)
def test_an_address_that_cannot_be_dialled_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(UsageError, match=r"/ip4/1\.2\.3\.4/tcp/31337/p2p/12D3Koo"):
        probe.check_node(address)


def test_a_relayed_address_is_refused() -> None:
    with pytest.raises(UsageError, match="relayed"):
        probe.check_node(f"/ip4/1.2.3.4/tcp/1/p2p/{STRANGER}/p2p-circuit/p2p/{STRANGER}")


def test_a_probe_that_breaks_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "installed", lambda: True)
    broken = subprocess.CompletedProcess([], 3, b"no json", b"a\nImportError: gmp\n")
    monkeypatch.setattr(probe.subprocess, "run", lambda *_, **__: broken)
    with pytest.raises(SwarmError, match=r"exit 3\): ImportError: gmp"):
        probe.check_node(f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}")


def test_only_the_expected_peer_with_our_protocol_is_ok() -> None:
    good = ProbeResult(address="a", expected_peer_id="p", peer_id="p", reachable=True, protocol_version=1)
    assert good.ok
    assert not good.model_copy(update={"peer_id": "q"}).ok
    assert not good.model_copy(update={"protocol_version": 2}).ok
    assert "update the older of the two" in "\n".join(good.model_copy(update={"protocol_version": 2}).lines())


@needs_libp2p
@pytest.mark.swarm
@pytest.mark.parametrize("transport", ["tcp", "quic"])
async def test_a_node_of_ours_is_seen_with_its_peer_id_round_trip_and_protocol_version(
    node: Node, transport: str
) -> None:
    from hivemind.p2p import P2P
    from multiaddr import Multiaddr

    p2p = await P2P.replicate(Multiaddr(node.control))
    try:
        await p2p.add_binary_stream_handler("/paris/blob/1", _nothing)
        result = await asyncio.to_thread(probe.check_node, getattr(node, transport))
    finally:
        await p2p.shutdown()
    assert result.reason == ""
    assert (result.reachable, result.peer_id, result.protocol_version, result.ok) == (
        True,
        node.peer_id,
        1,
        True,
    )
    assert result.round_trip_ms > 0
    assert {"/ipfs/ping/1.0.0", "/paris/blob/1"} <= set(result.protocols)


@needs_libp2p
@pytest.mark.swarm
@pytest.mark.parametrize("transport", ["tcp", "quic"])
def test_another_peer_at_the_address_is_named(node: Node, transport: str) -> None:
    result = probe.check_node(getattr(node, transport).replace(node.peer_id, STRANGER))
    assert (result.reachable, result.peer_id, result.is_expected_peer, result.ok) == (
        True,
        node.peer_id,
        False,
        False,
    )


@needs_libp2p
@pytest.mark.swarm
def test_a_libp2p_node_that_is_not_ours_is_reachable_without_a_protocol_version(node: Node) -> None:
    result = probe.check_node(node.tcp.replace("/ip4/127.0.0.1/", "/dns4/localhost/"))
    assert (result.reachable, result.protocol_version, result.ok) == (True, 0, False)
    assert "not a paris-p2p node" in "\n".join(result.lines())


@needs_libp2p
def test_nobody_there_is_not_reachable_and_says_why() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    result = probe.check_node(f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}")
    assert not result.reachable
    assert "refused" in result.reason


@needs_libp2p
def test_a_listener_that_never_answers_does_not_hang_the_probe() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        result = probe.check_node(f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{STRANGER}", limit_s=2)
    assert not result.reachable
    assert "no answer within 2 s" in result.reason


async def _nothing(*_: object) -> None:
    """A stream handler that only has to be listed."""


@needs_libp2p
@pytest.mark.parametrize("too_soon", [0, 3, 4])
def test_a_stream_that_cannot_be_opened_at_once_is_tried_again_after_pauses(too_soon: int) -> None:
    import trio

    tried_s: list[float] = []

    async def step() -> dict[str, str]:
        tried_s.append(trio.current_time())
        if len(tried_s) <= too_soon:
            raise OSError("too soon")
        return {"agent": "here"}

    if too_soon > len(probe._RETRY_PAUSES_S):
        with pytest.raises(OSError, match="too soon"):
            trio.run(probe._patiently, step, (OSError,))
    else:
        assert trio.run(probe._patiently, step, (OSError,)) == {"agent": "here"}
    waited_s = [b - a for a, b in pairwise(tried_s)]
    assert all(waited >= pause_s for waited, pause_s in zip(waited_s, probe._RETRY_PAUSES_S, strict=False))
