"""A p2pd that dies, whatever is asked of it then, ends nobody who asks: they get a DaemonError, and the
link is mended.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hivemind.dht.node import DHTNode
from hivemind.p2p import P2P
from hivemind.p2p.p2p_daemon_bindings.utils import (
    ControlFailure,
    DispatchFailure,
    P2PDaemonError,
    P2PHandlerError,
)

from paris_p2p.errors import DaemonError, DaemonGoneError, ParisError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.kinds import claims_key
from paris_p2p.swarm.daemon import Daemon, DaemonOptions
from paris_p2p.swarm.dht import BulletinBoard, open_board
from paris_p2p.swarm.gossip import Gossip
from paris_p2p.swarm.link import Link, LinkKeeper, _until_dead
from paris_p2p.swarm.p2pd import Control
from paris_p2p.swarm.storage import RecordStorage, StorageLimits
from paris_p2p.swarm.verified import RecordView
from tests.swarm.swarms import BLOB, CHUNKS, RUN, OnLoopback, Source, claim
from tests.swarm.test_searches import Client, Door

KEY = claims_key(RUN, "expert-0")
DEATHS = [
    ConnectionResetError(104, "Connection reset by peer"),
    BrokenPipeError(32, "Broken pipe"),
    ConnectionRefusedError(111, "Connection refused"),
    FileNotFoundError(2, "No such file or directory"),
    OSError(107, "Transport endpoint is not connected"),
    asyncio.IncompleteReadError(b"", 1),
    EOFError(),
    P2PDaemonError("gone"),
    P2PHandlerError("gone"),
    ControlFailure("gone"),
    DispatchFailure("gone"),
]
each_death = pytest.mark.parametrize("death", DEATHS, ids=lambda death: type(death).__name__)
QUESTIONS: dict[str, Callable[[Control, Path], Coroutine[Any, Any, Any]]] = {
    "identify": lambda control, _: control.identify(),
    "connect": lambda control, _: control.connect(PEER, ["/ip4/127.0.0.1/tcp/1"], 5.0),
    "peers": lambda control, _: control.peers(),
    "disconnect": lambda control, _: control.disconnect(PEER),
    "publish": lambda control, _: control.publish("topic", b"data"),
    "open a stream": lambda control, _: control.open_stream(PEER, "/paris/blob/1", 5.0),
    "handle streams": lambda control, folder: control.handle_streams("/x", folder / "s", _unused),
    "messages": lambda control, _: _all_messages(control),
}
WITHIN_NO_TIME: dict[str, Callable[[Control, Path], Coroutine[Any, Any, Any]]] = {
    "connect": lambda control, _: control.connect(PEER, ["/ip4/127.0.0.1/tcp/1"], 0.01),
    "open a stream": lambda control, _: control.open_stream(PEER, "/paris/blob/1", 0.01),
}
PEER = Identity.generate().peer_id


async def _unused(*_: Any) -> None: ...


async def _all_messages(control: Control) -> None:
    async for _ in control.messages("topic"):
        pass


@each_death
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_question_to_a_p2pd_that_is_gone_is_a_daemon_error(
    death: Exception, question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: Any, **__: Any) -> None:
        raise death

    monkeypatch.setattr(asyncio, "open_unix_connection", gone)
    with pytest.raises((DaemonError, UnreachableError)):
        await QUESTIONS[question](Control(tmp_path / "control"), tmp_path)


@each_death
@pytest.mark.parametrize("question", [name for name in QUESTIONS if name != "messages"])
async def test_a_question_that_p2pd_dies_over_is_a_daemon_error(
    death: Exception, question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _answers(monkeypatch, death), pytest.raises((DaemonError, UnreachableError)):
        await QUESTIONS[question](Control(tmp_path / "control"), tmp_path)


@pytest.mark.parametrize("death", [one for one in DEATHS if isinstance(one, OSError | EOFError)], ids=repr)
async def test_gossip_ends_with_p2pd_and_is_heard_again_of_the_next(
    death: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gossip = Gossip("me")
    gossip.subscribe("topic", _unused)
    with _answers(monkeypatch, death):
        gossip.attach(Control(tmp_path / "control"))
        listener = gossip._listeners["topic"]
        await asyncio.wait({listener})
    assert listener.exception() is None
    with _answers(monkeypatch, death):
        gossip.attach(Control(tmp_path / "control"))
    assert gossip._listeners["topic"] is not listener
    await gossip.detach()


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_question_that_a_living_p2pd_never_answers_is_an_error_in_time(
    question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of one under SIGSTOP, or that a stuck disk holds."""
    monkeypatch.setattr("paris_p2p.swarm.p2pd.ANSWER_LIMIT_S", 0.01)
    async with _mute(tmp_path / "control") as control:
        with pytest.raises((DaemonError, UnreachableError), match=r"no answer within"):
            await (QUESTIONS | WITHIN_NO_TIME)[question](control, tmp_path)


async def test_whether_p2pd_answers_is_asked_again_while_it_takes_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.swarm.p2pd._CONNECT_AGAIN_S", 0.0)
    deaths = [ConnectionRefusedError(111, "refused"), OSError(107, "not connected"), OSError(24, "too many")]

    async def fail(*_: Any, **__: Any) -> None:
        raise deaths.pop(0)

    monkeypatch.setattr(asyncio, "open_unix_connection", fail)
    await Control(tmp_path / "control").until_answers()  # that this process has no more files is not p2pd's
    assert not deaths


async def test_who_asks_a_p2pd_that_is_not_replaced_after_all_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where this process can open no more files: nobody waits for ever for a death that does not come."""
    monkeypatch.setattr("paris_p2p.swarm.link.REOPEN_LIMIT_S", 0.01)
    keeper = LinkKeeper(PEER, DaemonOptions(tmp_path, "127.0.0.1"), Gossip(PEER), ("/x", _unused), _no_board)
    nothing: Any = None
    keeper.link = Link(nothing, Control(tmp_path / "none"), nothing, nothing)
    keeper._up.set()
    with pytest.raises(DaemonGoneError, match="No such file"):
        await keeper.ask(lambda link: link.control.peers())


class Undying:
    """A process that no signal ends, as while a stuck disk holds it in the kernel."""

    stdout, pid = None, 1

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    async def wait(self) -> None:
        await asyncio.Event().wait()


async def test_a_p2pd_that_not_even_sigkill_ends_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in "daemon", "link":
        monkeypatch.setattr(f"paris_p2p.swarm.{room}.STOP_LIMIT_S", 0.01)
    monkeypatch.setattr("paris_p2p.swarm.link.DEAF_LIMIT_S", 0.01)
    process, node, nothing = (cast(Any, one) for one in (Undying(), Silent(), None))
    daemon, ended = Daemon(process, tmp_path / "sockets"), asyncio.create_task(asyncio.sleep(0))
    board = BulletinBoard(Client(), node, Door(), (ended,))  # type: ignore[arg-type]
    words = await _until_dead(Link(daemon, Control(tmp_path / "none"), board, nothing))
    assert "has not ended yet: it ended the conversation about the DHT" in words
    await daemon.stop()


class Broken:
    """A DHT node whose searches all fail."""

    is_alive, node_id = True, 1

    def __init__(self, death: Exception):
        self.death = death

    async def _fail(self, *_: Any, **__: Any) -> None:
        raise self.death

    get = store = find_nearest_nodes = _fail


@each_death
async def test_a_search_of_the_dht_that_meets_a_dead_p2pd_is_a_daemon_error(death: Exception) -> None:
    node: Any = Broken(death)
    board = BulletinBoard(Client(), node, Door())  # type: ignore[arg-type]
    with pytest.raises(DaemonError):
        await board.read(KEY, RUN, RecordView())
    with pytest.raises(DaemonError):
        await board.store(claim(Identity.generate(), 1))


class Silent:
    """A DHT node whose searches never end."""

    is_alive = True

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def _search(self, *_: Any, **__: Any) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    get = store = _search


@pytest.mark.parametrize("what", ["read", "store"])
async def test_who_waits_for_a_search_of_a_dead_p2pd_is_not_cancelled_with_it(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a task of the node takes it for its own end, and the node ends with it."""
    monkeypatch.setattr("paris_p2p.swarm.dht.CLOSE_LIMIT_S", 0.0)
    node: Any = Silent()
    board = BulletinBoard(Client(), node, Door())  # type: ignore[arg-type]

    def question() -> Coroutine[Any, Any, Any]:
        record = claim(Identity.generate(), 1)
        return board.read(KEY, RUN, RecordView()) if what == "read" else board.store(record)

    asking = asyncio.create_task(question())
    await node.asked.wait()
    await board.close()
    with pytest.raises(DaemonError, match="while the DHT was asked"):
        await asking
    with pytest.raises(DaemonError, match="while the DHT was asked"):
        await question()


@each_death
@pytest.mark.parametrize("where", ["replicate", "create"])
async def test_a_p2pd_that_dies_as_the_board_opens_is_a_daemon_error_and_leaves_nothing_open(
    death: Exception, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = list[str]()

    class Opened:
        peer_id = "me"

        async def shutdown(self) -> None:
            ended.append("p2p")

    async def fail(*_: Any, **__: Any) -> None:
        raise death

    async def opened(*_: Any, **__: Any) -> Opened:
        return Opened()

    monkeypatch.setattr(P2P, "replicate", fail if where == "replicate" else opened)
    monkeypatch.setattr(DHTNode, "create", fail)
    storage = RecordStorage(StorageLimits(), RecordView().refused)
    with pytest.raises(DaemonError):
        await open_board(tmp_path / "control", PEER, RecordView(), None, storage)
    assert ended == ([] if where == "replicate" else ["p2p"])


@pytest.mark.swarm
@pytest.mark.timeout(120)
async def test_whatever_is_asked_while_p2pd_dies_fails_with_an_error_of_ours_and_then_works_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        network, me = OnLoopback(tmp_path, stack), Identity.generate()
        other: Any = await network.join(source=Source())
        swarm: Any = await network.join(me)
        await swarm.subscribe("topic", _unused)
        questions: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "peers": swarm.peers,
            "store": lambda: swarm.store_record(claim(me, 1)),
            "read": lambda: swarm.read_records(KEY, RUN),
            "publish": lambda: swarm.publish("topic", b"hint"),
            "connect": lambda: swarm.connect(other.addresses()),
            "try at": lambda: swarm.try_at(other.peer_id, [a.split("/p2p/")[0] for a in other.addresses()]),
            "disconnect": lambda: swarm.disconnect(other.peer_id),
            "spec": lambda: swarm.fetch_spec(other.peer_id, RUN),
            "ask": lambda: swarm.ask(other.peer_id, "history", RUN, b""),
            "clock": lambda: swarm.measure_clock_offset(other.peer_id),
            "chunks": lambda: _chunks(swarm, other.peer_id),
            "seen at": lambda: swarm.seen_at(other.peer_id),
        }
        for restarts in (1, 2):
            # What it was told and never read makes the kernel reset the connections when it dies.
            os.kill(swarm.daemon_pid, signal.SIGSTOP)
            tasks = {name: asyncio.create_task(ask()) for name, ask in questions.items()}
            for _ in range(20):
                await asyncio.sleep(0)
            os.kill(swarm.daemon_pid, signal.SIGKILL)
            await swarm.mended.wait()
            swarm.mended.clear()
            await asyncio.wait(tasks.values())
            for name, task in tasks.items():
                assert not task.cancelled(), name
                assert isinstance(task.exception(), ParisError | None), name
            assert swarm.daemon_restarts == restarts
            assert await _chunks(swarm, other.peer_id) == [(1, CHUNKS[1])]
            assert await swarm.store_record(claim(me, restarts + 1))
    assert "never retrieved" not in caplog.text


async def _chunks(swarm: Any, peer: str) -> list[tuple[int, bytes]]:
    return [(index, bytes(data)) async for index, data in swarm.fetch_chunks(peer, BLOB, [1])]


@pytest.mark.swarm
@pytest.mark.timeout(60)
async def test_what_may_be_asked_twice_is_asked_of_the_next_p2pd_where_one_dies_over_it(
    tmp_path: Path,
) -> None:
    """So a node that opens a run just then does not end."""
    async with AsyncExitStack() as stack:
        network, me = OnLoopback(tmp_path, stack), Identity.generate()
        other: Any = await network.join()
        swarm: Any = await network.join(me)
        await swarm.store_record(claim(me, 1))
        os.kill(swarm.daemon_pid, signal.SIGSTOP)
        asked = [swarm.peers(), swarm.store_record(claim(me, 2)), swarm.read_records(KEY, RUN)]
        asking = asyncio.gather(*asked, swarm.publish("topic", b"hint"))
        for _ in range(20):
            await asyncio.sleep(0)
        os.kill(swarm.daemon_pid, signal.SIGKILL)
        peers, stored, found, _ = await asking
        assert [peer.peer_id for peer in peers] == [other.peer_id]
        assert stored
        assert [envelope.signer for envelope in found] == [me.peer_id]


@pytest.mark.swarm
@pytest.mark.timeout(60)
async def test_a_p2pd_that_lives_and_does_not_speak_to_the_dht_any_more_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paris_p2p.swarm.link.DEAF_LIMIT_S", 0.0)
    async with AsyncExitStack() as stack:
        swarm: Any = await OnLoopback(tmp_path, stack).join()
        swarm._keeper.link.board._conversation[0].cancel()  # hivemind's reading of what p2pd says
        await swarm.mended.wait()
        assert "it ended the conversation about the DHT" in swarm.last_words
        assert await swarm.store_record(claim(Identity.generate(), 1))


@pytest.mark.swarm
@pytest.mark.timeout(120)
async def test_a_p2pd_that_hangs_without_dying_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        network, me = OnLoopback(tmp_path, stack), Identity.generate()
        other: Any = await network.join(source=Source())
        with monkeypatch.context() as patched:
            for name, value in {"ASK_EVERY_S": 0.2, "CHANCE_S": 2.0, "LOOK_S": 0.2}.items():
                patched.setattr(f"paris_p2p.swarm.silence.{name}", value)
            swarm: Any = await network.join(me)
            hung = swarm.daemon_pid
            os.kill(hung, signal.SIGSTOP)
            await swarm.mended.wait()
        assert swarm.daemon_pid != hung
        assert "left 4 questions in a row without an answer" in swarm.last_words
        assert await swarm.store_record(claim(me, 1))
        assert await _chunks(swarm, other.peer_id) == [(1, CHUNKS[1])]


@asynccontextmanager
async def _mute(socket: Path) -> AsyncIterator[Control]:
    """A p2pd that takes every connection and never says anything."""
    writers = list[asyncio.StreamWriter]()
    server = await asyncio.start_unix_server(lambda _, writer: writers.append(writer), path=socket)
    yield Control(socket)
    server.close()
    for writer in writers:
        writer.transport.abort()


async def _no_board(_: Any) -> Any: ...


@contextmanager
def _answers(monkeypatch: pytest.MonkeyPatch, death: Exception) -> Iterator[None]:
    """Has every conversation with p2pd begin well and break off so."""

    class Reader:
        async def readexactly(self, count: int) -> bytes:
            raise death

    class Transport:
        def abort(self) -> None: ...

    class Writer:
        transport = Transport()

        def write(self, data: bytes) -> None: ...

        async def drain(self) -> None: ...

        async def wait_closed(self) -> None:
            raise death if isinstance(death, OSError) else ConnectionResetError(104, "reset")

    async def opened(*_: Any, **__: Any) -> tuple[Reader, Writer]:
        return Reader(), Writer()

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "open_unix_connection", opened)
        yield
