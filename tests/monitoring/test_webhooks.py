"""Webhooks are told of trouble: retried when they fail, given up when they refuse, never waited for, and no
secret or private name gets out.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.errors import DaemonError, UsageError
from paris_p2p.monitoring import webhooks
from paris_p2p.monitoring.alarm_watch import AlarmWatch, Sight, alarms_told
from paris_p2p.monitoring.alarm_words import alarm_message, run_name
from paris_p2p.monitoring.sights import peer_sight
from paris_p2p.monitoring.webhooks import MAX_TRIES, MAX_WAITING, WebhookQueue, read_webhooks
from paris_p2p.node.governance import Governance
from paris_p2p.node.status import SlotStatus
from paris_p2p.option_sources import load_options
from paris_p2p.peer.settings import StartOptions
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.alarms import Alarm, AlarmKey
from tests.monitoring.test_metrics import status_of

SECRET = "hunter2-token"
ALARM = Alarm(AlarmKey("tip late", "ab" * 32, "expert-0"), begins=True, figure=2400.0)
PUBLIC = {"ab" * 32: run_name("ab" * 32, "a run of mine", private=False, names_told=False)}
PRIVATE_RUN = {"ab" * 32: run_name("ab" * 32, "a secret run", private=True, names_told=False)}


class Receiver:
    """A small HTTP server that answers as it is told, one word for each request, and then with 204."""

    def __init__(self, *answers: str):
        self.answers, self.heard, self.url = deque(answers), list[dict[str, Any]](), ""
        self.came = asyncio.Condition()

    async def until(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(60), self.came:
            await self.came.wait_for(lambda: len(self.heard) >= count)
        return self.heard

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split()[0])
            body = json.loads(await reader.readexactly(length))
            answer = self.answers.popleft() if self.answers else "204"
            async with self.came:
                self.heard.append(body)
                self.came.notify_all()
            if answer == "hang":
                await reader.read()  # until the other side goes
            elif answer != "hang up":
                where = f"location: {self.url}elsewhere\r\n" if answer.startswith("3") else ""
                writer.write(
                    f"HTTP/1.1 {answer} x\r\n{where}content-length: 0\r\nconnection: close\r\n\r\n".encode()
                )
                await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def receiving(*answers: str) -> AsyncIterator[Receiver]:
    receiver = Receiver(*answers)
    server = await asyncio.start_server(receiver.take, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{SECRET}/"
    try:
        yield receiver
    finally:
        server.close()


@asynccontextmanager
async def queue_to(url: str, **more: Any) -> AsyncIterator[tuple[WebhookQueue, list[str], list[float]]]:
    """A queue that runs, what it says, and the pauses that it makes, which take no time."""
    said, pauses = list[str](), list[float]()

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        await asyncio.sleep(0)

    queue = WebhookQueue(url, said.append, sleep=sleep, **more)
    running = asyncio.create_task(queue.run())
    try:
        yield queue, said, pauses
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def settled(queue: WebhookQueue) -> None:
    async with asyncio.timeout(60):
        while queue.waiting:
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


async def test_a_message_is_a_small_json_object_with_a_text_that_chats_show() -> None:
    async with receiving() as receiver, queue_to(receiver.url) as (queue, said, _):
        queue.put(alarm_message(ALARM, PUBLIC, 0.0))
        (heard,) = await receiver.until(1)
        await settled(queue)
    assert heard == {
        "version": 1,
        "kind": "tip late",
        "state": "begins",
        "run": "ab" * 6,
        "run_name": "a run of mine",
        "slot": "expert-0",
        "figure": 2400.0,
        "at": "1970-01-01T00:00:00Z",
        "text": "paris-p2p: expert-0 of run 'a run of mine' has no new checkpoint for 40 minutes",
    }
    assert said == []


async def test_one_that_fails_is_tried_again_ever_more_rarely_and_gets_all_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        receiving("500", "hang up", "429") as receiver,
        queue_to(receiver.url) as (queue, said, pauses),
    ):
        queue.put(alarm_message(ALARM, PUBLIC, 0.0))
        queue.put(alarm_message(Alarm(ALARM.key, begins=False), PUBLIC, 1.0))
        heard = await receiver.until(5)
        await settled(queue)
    assert [one["state"] for one in heard] == ["begins"] * 4 + ["over"]
    assert len(pauses) == 3
    assert pauses[0] < pauses[2]
    assert len(said) == 2  # once that it fails, once that it works
    assert said[0].startswith("http://127.0.0.1/… does not take a message: status 500; trying again")
    assert said[1] == "http://127.0.0.1/… takes messages again"
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("paris")]
    assert SECRET not in " ".join([*said, *ours])


async def test_one_that_hangs_is_given_up_in_time_and_holds_up_no_other() -> None:
    async with (
        receiving("hang", "hang") as slow,
        receiving() as quick,
        queue_to(slow.url, limit_s=0.2) as (waiting, said, _),
        queue_to(quick.url) as (other, _, _),
    ):
        waiting.put(alarm_message(ALARM, PUBLIC, 0.0))
        other.put(alarm_message(ALARM, PUBLIC, 0.0))
        await quick.until(1)
        await slow.until(3)
        await settled(waiting)
    assert said[0] == "http://127.0.0.1/… does not take a message: no answer within 0.2 s; trying again"


@pytest.mark.parametrize("answer", ["301", "307", "400", "404", "410"])
async def test_a_redirect_is_not_followed_and_a_refusal_is_not_asked_twice(answer: str) -> None:
    async with receiving(answer) as receiver, queue_to(receiver.url) as (queue, said, pauses):
        queue.put(alarm_message(ALARM, PUBLIC, 0.0))
        await receiver.until(1)
        await settled(queue)
        assert len(receiver.heard) == 1
    assert pauses == []
    assert f"status {answer}" in said[0]
    assert ("redirect" in said[0]) == answer.startswith("3")


async def test_one_that_is_never_there_is_left_in_the_end_and_the_queue_is_bounded() -> None:
    async with queue_to(f"http://127.0.0.1:1/{SECRET}") as (queue, said, pauses):
        queue.put(alarm_message(ALARM, PUBLIC, 0.0))
        await settled(queue)
    assert len(pauses) == MAX_TRIES
    assert said[-1].endswith(f"did not take a message in {MAX_TRIES} tries; it is left out")
    assert SECRET not in " ".join(said)
    for number in range(3 * MAX_WAITING):
        queue.put(alarm_message(ALARM, PUBLIC, float(number)))
    assert len(queue.waiting) == MAX_WAITING
    assert queue.waiting[-1].at == "1970-01-01T00:03:11Z"  # the newest is kept


def test_a_private_run_has_no_name_unless_it_is_wanted() -> None:
    hidden = alarm_message(ALARM, PRIVATE_RUN, 0.0).model_dump_json()
    assert "secret" not in hidden
    assert "abab" not in hidden
    assert "expert-0 of a private run has no new checkpoint" in hidden
    wanted = {"ab" * 32: run_name("ab" * 32, "a secret run", private=True, names_told=True)}
    assert "a secret run" in alarm_message(ALARM, wanted, 0.0).text
    status = status_of(name="a secret run", governance=Governance(private=True))
    assert peer_sight(status, names_told=False).names["ab" * 32].name == ""
    assert peer_sight(status, names_told=True).names["ab" * 32].name == "a secret run"


def test_words_of_strangers_cannot_steer_a_chat_or_a_terminal() -> None:
    names = {"ab" * 32: run_name("ab" * 32, "x\x1b[31m\u202e" + "y" * 500, private=False, names_told=False)}
    text = alarm_message(ALARM, names, 0.0).text
    assert text.isprintable()
    assert len(text) < 250


class Kept:
    """Stands in for a queue."""

    def __init__(self) -> None:
        self.got = list[Any]()

    def put(self, message: Any) -> None:
        self.got.append(message)


async def test_a_status_becomes_messages_and_a_restart_tells_none_twice(tmp_path: Path) -> None:
    late = (SlotStatus(slot="expert-0", lead="a", tip="c", tip_age_s=5000.0),)

    async def look() -> Sight:
        return peer_sight(status_of(slots=late, disk_free_bytes=10**12), names_told=False)

    for expected in (["tip late"], []):
        queue = Kept()
        watch = AlarmWatch(tmp_path, look, [queue])  # type: ignore[list-item]
        for now_s in range(0, 300, 15):
            await watch.look(float(now_s))
        assert [message.kind for message in queue.got] == expected
    (tmp_path / "alarms.json").write_text("[{]")
    assert AlarmWatch(tmp_path, look, []).told.told == frozenset()


async def test_a_look_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, done = 0, asyncio.Event()

    async def look() -> Sight:
        nonlocal looks
        looks += 1
        if looks == 3:
            done.set()
        raise DaemonError("away") if looks == 1 else ValueError("a fault")

    monkeypatch.setattr("paris_p2p.monitoring.alarm_watch.LOOK_EVERY_S", 0.0)
    settings = PeerSettings(data_dir=tmp_path, notify=("http://127.0.0.1:1/",))
    async with alarms_told(settings, look, lambda _: None):
        await asyncio.wait_for(done.wait(), 30)


async def test_without_a_webhook_nothing_is_looked_at(tmp_path: Path) -> None:
    async with alarms_told(PeerSettings(data_dir=tmp_path), lambda: pytest.fail("looked"), lambda _: None):
        pass


def test_a_webhook_is_named_on_the_line_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hook"
    file.write_text("https://chat.example/x\n")
    assert read_webhooks([f"@{file}", "http://a.example"]) == ("https://chat.example/x", "http://a.example")
    file.write_text(f"ftp://{SECRET}")
    with pytest.raises(UsageError, match="what it holds is no URL") as raised:
        read_webhooks([f"@{file}"])
    assert SECRET not in str(raised.value)
    with pytest.raises(UsageError, match="it cannot be read"):
        read_webhooks([f"@{tmp_path}/none"])


@pytest.mark.parametrize(
    "text", ["ftp://x/", "x", "http:/", "https:///p", "http://a b", "http://a:99999/", "@"]
)
def test_only_urls_of_http_are_taken_and_a_wrong_one_is_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match=r"--notify: .*https://") as raised:
        load_options(StartOptions, {"notify": [f"{text}{SECRET}" if text != "@" else text]})
    assert SECRET not in str(raised.value)


def test_pauses_grow_to_a_bound() -> None:
    assert webhooks.FIRST_PAUSE_S * 2**MAX_TRIES > webhooks.MOST_PAUSE_S
    assert sum(min(webhooks.MOST_PAUSE_S, 5.0 * 2.0**n) for n in range(MAX_TRIES)) > 3600
