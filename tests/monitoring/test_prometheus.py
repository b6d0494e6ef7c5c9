"""A real Prometheus scrapes a small swarm with the configuration of the project, and every panel of the
dashboards gets an answer.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from paris_p2p.monitoring.watched import watched_peer
from paris_p2p.training.messages import GateJob, GateResult
from tests.monitoring.dashboards import ALERTS, BOARDS, CONFIG, alerts, queries
from tests.peer.world import World, good_gate

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Debian's prometheus is not installed here"
)
# Panels about what this swarm of one process has none of: p2pd, a bootstrap node, relays, trouble.
EMPTY_HERE = ("libp2p", "Relayed by this node", "Runs held", "Tips held", "Disk against its cap", "Refused")
EMPTY_HERE += ("Clips a second, by the tips",)  # its points are minutes apart


async def good_gate_of_fixed_noise(job: GateJob) -> GateResult:
    return (await good_gate(job)).model_copy(update={"fixed_loss": 0.5})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def prometheus(folder: Path, targets: Sequence[str]) -> AsyncIterator[str]:
    """Runs Prometheus with the project's configuration, but for where the nodes are and how often it looks;
    yields its URL.
    """
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(ALERTS, folder / ALERTS.name)
    port = free_port()
    words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("prometheus", *words, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def ask(url: str, path: str, **words: str) -> Any:
    """Returns the data of an answer of Prometheus's API; None while it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call() -> Any:
        try:
            with opener.open(f"{url}/api/v1/{path}?{urllib.parse.urlencode(words)}", timeout=20) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:  # 503 until it has started
                return None if error.code == 503 else {"status": error.read().decode()}
        except OSError:
            return None

    answer = await asyncio.to_thread(call)
    assert answer is None or answer["status"] == "success", answer
    return answer and answer["data"]


async def until(found: Any) -> Any:
    async with asyncio.timeout(120):
        while not (answer := await found()):
            await asyncio.sleep(0.1)
    return answer


async def test_prometheus_scrapes_a_swarm_and_every_panel_is_answered(tmp_path: Path) -> None:
    said: list[str] = []
    async with World(tmp_path / "world") as world, AsyncExitStack() as stack:
        for name, slot in (("a", "expert-0"), ("b", "router")):
            peer = await world.add(name, slot=slot, gate=good_gate_of_fixed_noise)
            peer.node.host.store.max_bytes = 10**9
            settings = peer.node.host.settings.model_copy(update={"metrics": "127.0.0.1:0"})
            status = peer.volunteer.status
            await stack.enter_async_context(watched_peer(settings, status, peer.swarm, said.append))
        targets = [line.split("/")[2] for line in said if line.startswith("metrics")]
        assert len(targets) == 2
        url = await stack.enter_async_context(prometheus(tmp_path, targets))

        async def value(query: str) -> float:
            data = await ask(url, "query", query=query)
            return float(data["result"][0]["value"][1]) if data and data["result"] else 0.0

        assert await until(lambda: value('sum(up{job="paris"}) == 2'))
        await until(lambda: value("min(max by (slot) (paris_slot_clips)) > 0"))
        await until(lambda: value("sum(paris_publish_seconds_count) > 0"))
        held = {slot: world.peers[0].node.board.tip(slot) for slot in ("expert-0", "router")}
        clips = await value('max(paris_slot_clips{slot="expert-0"})')
        assert 0 < clips <= held["expert-0"].card.record.clips  # type: ignore[union-attr]
        assert await value("max(paris_checkpoint_interval_seconds)") == 1.0
        run = world.run.id[:12]
        every = [one for path in BOARDS for one in queries(path) if not one[0].startswith(EMPTY_HERE)]

        async def unanswered() -> list[str]:
            filled = [query.replace("$run", run).replace("$instance", ".*") for _, query in every]
            return [query for query in filled if not (await ask(url, "query", query=query))["result"]]

        left = [""]
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while any("p2pd_" not in query for query in left):
                    left = await unanswered()
        assert [query for query in left if "p2pd_" not in query] == []
        rules = (await ask(url, "rules"))["groups"][0]["rules"]
        assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(alerts(), "ok")
