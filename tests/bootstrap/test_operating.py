"""An operator asks, watches and stops a bootstrap node: what strangers bring is counted, what the operator
named is told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from paris_p2p.bootstrap.life import operated
from paris_p2p.bootstrap.operator_status import OperatorStatus, operator_families, operator_lines
from paris_p2p.bootstrap.serve import BootstrapNode
from paris_p2p.bootstrap.storage_runs import StorageRuns
from paris_p2p.cli import paris
from paris_p2p.errors import UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.monitoring.metrics_page import exposition
from paris_p2p.node.host import Host, open_host
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.store.blobs import BlobStore
from tests.monitoring.dashboards import OURS, asked_for
from tests.monitoring.test_metrics import ask, of, samples, url_in
from tests.peer.world import World
from tests.swarm.swarms import stray


def storing(host: Host, held: int = 0) -> StorageRuns:
    found = StorageRuns(host, (), lambda _: None, 0.0)
    found.keepers = cast(Any, {str(number): None for number in range(held)})
    return found


@asynccontextmanager
async def holding(world: World, named: frozenset[str]) -> AsyncIterator[BootstrapNode]:
    """A bootstrap node that holds the world's run."""
    home = world.root / f"bootstrap-{len(named)}"
    host = Host(
        settings=PeerSettings(data_dir=home), identity=Identity.generate(), store=BlobStore(home / "blobs")
    )
    host.swarm = world.network.join(host.identity, host)
    node = BootstrapNode(host, named, lambda _: None)
    node.notice(stray(world.run.id, world.peers[0].node.host.identity))
    running = asyncio.create_task(node.run())
    try:
        await world.until(lambda: node.runs)
        yield node
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def status_of(node: BootstrapNode, private: int = 0) -> OperatorStatus:
    from paris_p2p.bootstrap.operator_status import operator_status

    return await operator_status(node.host, list(node.runs.values()), node.only, private)


async def test_a_run_that_strangers_brought_is_a_number_and_a_named_one_has_its_slots(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        maker = await world.add("a", slot="expert-0")
        await world.add("b", slot="router")
        async with holding(world, frozenset()) as brought:
            await world.until(lambda: maker.node.board.tip("expert-0"))
            status = await status_of(brought, private=2)
            found = samples(exposition(operator_families(status), ""))
            assert of(found, "paris_held_runs", kind="brought") == 1
            assert of(found, "paris_held_runs", kind="named") == 0
            assert of(found, "paris_held_runs", kind="private") == 2
            assert not any("slot" in dict(labels) for _, labels in found)
            assert "test run: " in operator_lines(status)[-1]
        async with holding(world, frozenset({world.run.id})) as named:
            (node,) = named.runs.values()
            await world.until(lambda: node.board.tip("expert-0"))
            found = samples(exposition(operator_families(await status_of(named)), ""))
            where = {"run": world.run.id[:12], "slot": "expert-0"}
            assert of(found, "paris_slot_clips", **where) > 0
            assert of(found, "paris_slot_active", **where) == 1
            assert of(found, "paris_held_runs", kind="named") == 1
            assert operator_lines(await status_of(named))[-1].endswith("(named by you)")


def paris_bootstrap(verb: str, home: Path, *words: str) -> Any:
    return CliRunner().invoke(paris.app, ["bootstrap", verb, "--data-dir", str(home), *words])


@pytest.mark.swarm
async def test_a_real_node_is_asked_measured_and_stopped(tmp_path: Path) -> None:
    said: list[str] = []
    settings = PeerSettings(data_dir=tmp_path / "home", host="127.0.0.1", metrics="127.0.0.1:0")
    async with open_host(settings, relay_service=True) as host:
        stopped = asyncio.Event()
        node = BootstrapNode(host, frozenset(), said.append)
        async with operated(node, storing(host), stopped.set):
            shown = await asyncio.to_thread(paris_bootstrap, "status", settings.data_dir)
            assert shown.exit_code == 0, shown.output
            assert shown.output.startswith(f"bootstrap node {host.identity.peer_id}, version ")
            assert host.swarm.addresses()[0] in shown.output
            told = await asyncio.to_thread(paris_bootstrap, "status", settings.data_dir, "--json")
            assert OperatorStatus.model_validate_json(told.output).peer_id == host.identity.peer_id
            status, text = await asyncio.to_thread(ask, url_in(said))
            assert status == 200
            found = samples(text.encode())
            assert of(found, "paris_p2pd_up") == 1
            assert of(found, "p2pd_process_resident_memory_bytes") > 1e6
            names = {name for name, _ in found}
            assert asked_for() - names - OURS == {"up"}  # of p2pd's and this process's own
            assert not stopped.is_set()
            ended = await asyncio.to_thread(paris_bootstrap, "stop", settings.data_dir)
            assert (ended.exit_code, ended.output) == (0, "stopping\n")
            assert stopped.is_set()


def test_without_a_node_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    for verb in ("status", "stop"):
        raised = paris_bootstrap(verb, tmp_path).exception
        assert isinstance(raised, UnreachableError)
        assert str(raised).startswith(f"no bootstrap node is running on {tmp_path}; start one with ")
        assert "`paris-bootstrap serve`" in str(raised)


def test_status_and_stop_find_the_folder_that_the_nodes_own_file_names(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "node.toml"
    file.write_text(f'data_dir = "{home}"\nport = 4001\n')
    raised = CliRunner().invoke(paris.app, ["bootstrap", "status", "--config", str(file)]).exception
    assert str(home) in str(raised)


def test_a_status_survives_json() -> None:
    status = OperatorStatus(
        at=1.0, peer_id="p", version="1", addresses=("/ip4/127.0.0.1/tcp/1/p2p/x",), runs=(), peers=()
    )
    assert OperatorStatus.model_validate_json(json.dumps(status.model_dump(mode="json"))) == status
    lines = operator_lines(status.model_copy(update={"refused_by_network": {"a": 2, "b": 1}}))
    assert lines[-1] == "refused 3 records and requests of others"
