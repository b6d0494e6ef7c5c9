"""A node looks at itself every few seconds, and tells webhooks what rules/alarms.py finds worth telling."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paris_p2p.disk import write_atomic
from paris_p2p.errors import ParisError
from paris_p2p.monitoring.alarm_words import RunName, alarm_message
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.alarms import AlarmKey, AlarmsTold, WatchedNode, alarms_due
from paris_p2p.swarm.asking import end_tasks

if TYPE_CHECKING:
    from paris_p2p.monitoring.webhooks import WebhookQueue

log = logging.getLogger(__name__)
LOOK_EVERY_S = 15.0
TOLD_FILE = "alarms.json"  # in the data directory: what was told, so that a restart tells it no second time
_MAX_TOLD_BYTES = 1 << 18


@dataclass(frozen=True)
class Sight:
    """What a node sees now, and what its runs may be called."""

    node: WatchedNode
    names: Mapping[str, RunName]


TakeSight = Callable[[], Awaitable[Sight]]


class AlarmWatch:
    """Looks, and fills the queues."""

    def __init__(self, data_dir: Path, look: TakeSight, queues: list[WebhookQueue]):
        self._path, self._look, self._queues = data_dir / TOLD_FILE, look, queues
        self.told = AlarmsTold(told=_load(self._path))

    async def run(self) -> None:
        """Looks until cancelled: a task's outermost frame, whatever one look meets."""
        while True:
            try:
                await self.look(time.monotonic())
            except ParisError as error:
                log.info("trouble was not looked for this time: %s", error)
            except Exception:
                log.exception("trouble could not be looked for this time")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, now_s: float) -> None:
        """Looks once, and puts what is due into every queue."""
        sight = await self._look()
        due, self.told = alarms_due(sight.node, self.told, now_s)
        for alarm in due:
            message = alarm_message(alarm, sight.names, time.time())
            log.info("%s", message.text)
            for queue in self._queues:
                queue.put(message)
        if due:
            self._save()

    def _save(self) -> None:
        try:
            write_atomic(self._path, json.dumps([asdict(key) for key in sorted(self.told.told, key=repr)]))
        except OSError as error:  # as when the disk is full, which is what there is to tell
            log.warning("what was told could not be kept: %s", error.strerror)


def _load(path: Path) -> frozenset[AlarmKey]:
    try:
        with path.open("rb") as file:
            return frozenset(AlarmKey(**one) for one in json.loads(file.read(_MAX_TOLD_BYTES)))
    except (OSError, ValueError, TypeError):  # none, damaged, or of another version: it is told once more
        return frozenset()


@asynccontextmanager
async def alarms_told(
    settings: PeerSettings, look: TakeSight, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Tells the webhooks of the settings of trouble while inside; UsageError where a file holds none."""
    if not settings.notify:
        yield
        return
    from paris_p2p.monitoring.webhooks import WebhookQueue, read_webhooks  # httpx is megabytes

    queues = [WebhookQueue(url, say) for url in read_webhooks(settings.notify)]
    watch = AlarmWatch(settings.data_dir, look, queues)
    tasks = [asyncio.create_task(watch.run()), *(asyncio.create_task(queue.run()) for queue in queues)]
    try:
        yield
    finally:
        await end_tasks(tasks)
