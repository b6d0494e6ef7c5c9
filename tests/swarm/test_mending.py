"""Real daemons that cannot start, die, or lose their parent; bootstrap peers that are not there; clocks
that are off.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from hivemind.dht.routing import DHTID

from paris_p2p.errors import ClockError, DaemonError, PortInUseError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.kinds import claims_key
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm import link
from paris_p2p.swarm.addresses import split_peer
from paris_p2p.swarm.real import RealSwarm, open_swarm
from tests.swarm.swarms import BLOB, CHUNKS, RUN, OnLoopback, Source, claim

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(60)]
KEY = claims_key(RUN, "expert-0")


async def test_a_killed_daemon_is_restarted_and_the_peer_serves_records_gossip_and_blobs_as_before(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        network, me = OnLoopback(tmp_path, stack), Identity.generate()
        first = await network.join(me, Source())
        other = await network.join()
        heard = asyncio.Event()

        async def hear(sender: str, data: bytes) -> None:
            heard.set()

        await first.subscribe("topic", hear)
        await first.store_record(claim(me, 1))
        old_pid, old_addresses = first.daemon_pid, first.addresses()  # type: ignore[attr-defined]
        os.kill(old_pid, signal.SIGKILL)
        await first.mended.wait()  # type: ignore[attr-defined]

        assert first.daemon_restarts == 1
        assert "status -9" in first.last_words
        assert first.addresses() == old_addresses
        await other.connect(first.addresses())
        assert [item async for item in other.fetch_chunks(first.peer_id, BLOB, [1])] == [(1, CHUNKS[1])]
        third = await network.join()  # knows nothing but the bootstrap peer, which must have kept the record
        assert [envelope.signer for envelope in await third.read_records(KEY, RUN)] == [me.peer_id]
        for _ in range(40):
            await other.publish("topic", b"hint")
            if await _is_set_soon(heard):
                break
        assert heard.is_set()


async def test_a_peer_whose_daemon_died_comes_back_to_its_bootstrap_peer(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        network = OnLoopback(tmp_path, stack)
        first, other = await network.join(source=Source()), await network.join()
        os.kill(other.daemon_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        await other.mended.wait()  # type: ignore[attr-defined]
        assert first.peer_id in {peer.peer_id for peer in await other.peers()}
        assert await other.fetch_spec(first.peer_id, RUN) == b"a spec"


async def test_a_peer_with_an_impossible_node_id_does_not_end_the_keeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "KEEP_EVERY_S", 0.2)
    async with AsyncExitStack() as stack:
        network, elsewhere = OnLoopback(tmp_path / "here", stack), OnLoopback(tmp_path / "elsewhere", stack)
        first: Any = await network.join()
        stranger: Any = await elsewhere.join()
        stranger._keeper.link.board._node.protocol.node_info.node_id = b"\xff" * 21
        await stranger._keeper.dial(first.peer_id, [split_peer(address)[0] for address in first.addresses()])
        asked = asyncio.Event()
        _calls(monkeypatch, first._keeper.link.board._node.protocol, "call_ping", asked)
        await asyncio.wait_for(asked.wait(), 10)
        honest: Any = await network.join()
        await _until(lambda: first._keeper.link.board.knows(honest.peer_id))
        assert not first._keeper.link.board.knows(stranger.peer_id)
        assert not any(task.done() for task in first._keeper._tasks)


async def test_an_unforeseen_error_is_logged_and_the_link_is_kept_and_mended_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link, "KEEP_EVERY_S", 0.1)
    async with AsyncExitStack() as stack:
        swarm: Any = await OnLoopback(tmp_path, stack).join()
        failures = 0

        async def fail(_: Any) -> None:
            nonlocal failures
            failures += 1
            raise AssertionError("a surprise")

        monkeypatch.setattr(swarm._keeper, "_look_up_addresses", fail)  # of the keeping and of opening again
        await _until(lambda: failures >= 2)
        os.kill(swarm.daemon_pid, signal.SIGKILL)
        await _until(lambda: swarm.daemon_pid == 0 and "surprise" in swarm.last_words)
        monkeypatch.undo()
        await swarm.mended.wait()
        assert "a surprise" in caplog.text
        assert swarm.refused["keeping the link: an error in the log"] >= 3
        assert await swarm.peers() == []


async def test_a_bootstrap_node_that_comes_back_is_met_again_by_peers_that_never_lost_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "KEEP_EVERY_S", 0.5)
    identity, home = Identity.generate(), tmp_path / "bootstrap"
    async with AsyncExitStack() as stack:
        async with open_swarm(identity, PeerSettings(data_dir=home, host="127.0.0.1")) as bootstrap:
            where = bootstrap.addresses()
            me = Identity.generate()
            first, other = [
                await stack.enter_async_context(
                    open_swarm(
                        who, PeerSettings(data_dir=tmp_path / name, host="127.0.0.1"), bootstrap_peers=where
                    )
                )
                for who, name in ((me, "a"), (Identity.generate(), "b"))
            ]
            await first.connect(other.addresses())
            await _until(lambda: {identity.peer_id, other.peer_id} <= first._keeper.known.keys())
        while identity.peer_id in {peer.peer_id for swarm in (first, other) for peer in await swarm.peers()}:
            await asyncio.sleep(0.05)
        assert [peer.peer_id for peer in await first.peers()] == [other.peer_id]  # an island, and content

        port = int(where[0].split("/")[4])
        again = await stack.enter_async_context(
            open_swarm(identity, PeerSettings(data_dir=home, host="127.0.0.1", port=port))
        )
        await _until(lambda: all(again._keeper.link.board.knows(swarm.peer_id) for swarm in (first, other)))  # type: ignore[union-attr]
        assert await first.store_record(claim(me, 1))
        held = again._storage.get(DHTID.generate(source=KEY))
        assert held is not None
        assert list(held.value.data) == [f"{me.peer_id}:claim"]
        newcomer = await stack.enter_async_context(
            open_swarm(
                Identity.generate(),
                PeerSettings(data_dir=tmp_path / "c", host="127.0.0.1"),
                bootstrap_peers=where,
            )
        )
        assert [envelope.signer for envelope in await newcomer.read_records(KEY, RUN)] == [me.peer_id]


async def test_one_that_others_dial_waits_for_them_where_it_can_dial_nobody(tmp_path: Path) -> None:
    me, settings = Identity.generate(), PeerSettings(data_dir=tmp_path, host="127.0.0.1")
    behind_a_router = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
    own = f"/ip4/127.0.0.1/tcp/2/p2p/{me.peer_id}"  # an invite names it, too
    async with open_swarm(me, settings, bootstrap_peers=(own, behind_a_router)) as swarm:
        assert await swarm.peers() == []
    with pytest.raises(UnreachableError, match="nobody answered"):
        async with open_swarm(me, settings, bootstrap_peers=(behind_a_router,)):
            pass


async def test_absent_peers_are_dialled_beside_the_keeping_ever_more_rarely_and_all_when_nobody_is_left() -> (
    None
):
    unused: Any = None
    keeper, dialled, silent = link.LinkKeeper("me", unused, unused, unused, unused), [], asyncio.Event()
    keeper.given, keeper.met = {"bootstrap": ["a"], "other": ["b"]}, {"neighbour": ["c"]}

    async def dial(peer: str, addresses: Sequence[str]) -> None:
        dialled.append(peer)
        await silent.wait()
        raise UnreachableError("away")

    async def turn(*connected: str) -> list[str]:
        dialled.clear()
        keeper._look_for_absent(set(connected))
        for _ in range(3):
            await asyncio.sleep(0)
        return sorted(dialled)

    keeper.dial = dial  # type: ignore[method-assign]
    assert await turn("neighbour") == ["bootstrap", "other"]
    assert await turn("neighbour") == []  # the first dials still hang
    silent.set()
    assert await turn("neighbour") == await turn("neighbour") == []
    now, waits = asyncio.get_running_loop().time(), []
    for _ in range(9):
        waits.append(keeper._absent["bootstrap"].next_s - now)
        keeper._absent["bootstrap"].next_s = 0.0
        assert await turn("neighbour", "other") == ["bootstrap"]
    assert link.KEEP_EVERY_S <= waits[0] <= 2 * link.KEEP_EVERY_S
    assert link.MAX_REDIAL_S / 2 <= waits[-1] <= link.MAX_REDIAL_S + 1
    assert await turn() == ["bootstrap", "neighbour", "other"]
    assert await turn("bootstrap", "other") == []
    assert keeper._absent == {}


async def test_a_port_that_another_program_has_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)):
            async with open_swarm(
                Identity.generate(), PeerSettings(data_dir=tmp_path, host="127.0.0.1", port=port)
            ):
                pass


async def test_two_nodes_cannot_share_a_port(tmp_path: Path) -> None:
    async with open_swarm(
        Identity.generate(), PeerSettings(data_dir=tmp_path / "a", host="127.0.0.1")
    ) as first:
        port = int(first.addresses()[0].split("/")[4])
        with pytest.raises(PortInUseError, match=str(port)):
            async with open_swarm(
                Identity.generate(), PeerSettings(data_dir=tmp_path / "b", host="127.0.0.1", port=port)
            ):
                pass


async def test_a_daemon_that_cannot_start_is_explained_in_its_own_words(tmp_path: Path) -> None:
    settings = PeerSettings(data_dir=tmp_path, host="127.0.0.1", announce=("/nonsense/1",))
    with pytest.raises(DaemonError, match="nonsense"):
        async with open_swarm(Identity.generate(), settings):
            pass


async def test_bootstrap_peers_that_do_not_answer_are_named(tmp_path: Path) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
    with pytest.raises(UnreachableError, match=nobody):
        async with open_swarm(
            Identity.generate(), PeerSettings(data_dir=tmp_path, host="127.0.0.1"), bootstrap_peers=[nobody]
        ):
            pass


async def test_a_peer_that_answers_with_another_key_is_not_the_bootstrap_peer(tmp_path: Path) -> None:
    async with open_swarm(
        Identity.generate(), PeerSettings(data_dir=tmp_path / "a", host="127.0.0.1")
    ) as first:
        where, _ = split_peer(first.addresses()[0])
        impostor = f"{where}/p2p/{Identity.generate().peer_id}"
        with pytest.raises(UnreachableError):
            async with open_swarm(
                Identity.generate(),
                PeerSettings(data_dir=tmp_path / "b", host="127.0.0.1"),
                bootstrap_peers=[impostor],
            ):
                pass


async def test_a_clock_that_is_off_is_said_at_the_start(tmp_path: Path) -> None:
    settings = [PeerSettings(data_dir=tmp_path / name, host="127.0.0.1") for name in "ab"]
    async with open_swarm(Identity.generate(), settings[0], clock=lambda: time.time() + 10) as first:
        with pytest.raises(ClockError, match="behind"):
            async with open_swarm(Identity.generate(), settings[1], bootstrap_peers=first.addresses()):
                pass


async def test_no_daemon_outlives_its_swarm_or_a_start_that_failed(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await OnLoopback(tmp_path, stack).join()
        assert len(_daemons(psutil.Process())) == 1
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
    settings = PeerSettings(data_dir=tmp_path / "lost", host="127.0.0.1")
    with pytest.raises(UnreachableError):
        async with open_swarm(Identity.generate(), settings, bootstrap_peers=[nobody]):
            pass
    assert _daemons(psutil.Process()) == []


async def test_p2pd_is_gone_soon_after_its_node_was_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from paris_p2p.identity import Identity; from paris_p2p.peer_settings import PeerSettings; "
        "from paris_p2p.swarm.real import open_swarm\n"
        "async def main():\n"
        "    async with open_swarm(Identity.generate(), PeerSettings(data_dir=Path(sys.argv[1]), "
        "host='127.0.0.1')) as swarm:\n"
        "        print(swarm.daemon_pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert node.stdout is not None
    daemon = psutil.Process(int(await node.stdout.readline()))
    node.kill()
    await node.wait()
    gone, alive = await asyncio.to_thread(psutil.wait_procs, [daemon], 5)
    assert alive == []
    assert gone == [daemon]


def _daemons(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if child.name() == "p2pd"]


async def _until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.05)


def _calls(monkeypatch: pytest.MonkeyPatch, whose: Any, name: str, event: asyncio.Event) -> None:
    """Set the event when that method is called."""
    method = getattr(whose, name)

    def call(*args: Any, **named: Any) -> Any:
        event.set()
        return method(*args, **named)

    monkeypatch.setattr(whose, name, call)


async def _is_set_soon(event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(0.25):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def test_two_peers_meet_over_ipv6_and_keep_their_port_over_a_restart(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    async with AsyncExitStack() as stack:

        async def join(name: str, bootstrap: tuple[str, ...], source: Source | None = None) -> RealSwarm:
            settings = PeerSettings(data_dir=tmp_path / name, host="::1")
            return await stack.enter_async_context(
                open_swarm(Identity.generate(), settings, bootstrap_peers=bootstrap, source=source)
            )

        first = await join("first", (), Source())
        assert first.addresses()[0].startswith("/ip6/::1/tcp/")
        second = await join("second", first.addresses())
        assert [item async for item in second.fetch_chunks(first.peer_id, BLOB, [1])] == [(1, CHUNKS[1])]
        before = first.addresses()
        os.kill(first.daemon_pid, signal.SIGKILL)
        await first.mended.wait()
        assert first.addresses() == before
