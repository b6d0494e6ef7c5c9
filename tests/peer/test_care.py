"""A peer gives its machine back when it is wanted: the training ends, its memory is free, and the peer says
why and when it goes on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pytest

from paris_p2p.errors import UsageError
from paris_p2p.peer.caretaker import MachineSensors
from paris_p2p.peer.process import Worker
from paris_p2p.peer.traffic_book import TRAFFIC_FILE
from paris_p2p.rules.care import CareClocks
from paris_p2p.sensors.fakes import FakeBattery, FakeGpus, FakeIdle, FakeLoad
from tests.peer.heavy_trainer import HELD_BYTES
from tests.peer.world import Peer, World

BERLIN = ZoneInfo("Europe/Berlin")


@dataclass
class FakeMachine:
    """A machine whose sensors and clocks a test moves."""

    unix_s: float = field(default_factory=time.time)
    monotonic_s: float = 0.0
    battery: FakeBattery = field(default_factory=FakeBattery)
    gpus: FakeGpus = field(default_factory=FakeGpus)
    idle: FakeIdle = field(default_factory=FakeIdle)
    load: FakeLoad = field(default_factory=FakeLoad)

    @property
    def sensors(self) -> MachineSensors:
        return MachineSensors(self.gpus, self.battery, self.idle, self.load, self.clocks)

    def clocks(self) -> CareClocks:
        return CareClocks(self.unix_s, self.monotonic_s)

    async def pass_s(self, peer: Peer, for_s: float) -> None:
        """Lets so much time pass for the peer's care of its machine."""
        for _ in range(round(for_s / 10)):
            self.unix_s, self.monotonic_s = self.unix_s + 10, self.monotonic_s + 10
            await peer.volunteer.care.look()


def trains(peer: Peer) -> Callable[[], bool]:
    return lambda: peer.volunteer.lead is not None and peer.volunteer.lead.training.steps > 0


def rests(peer: Peer) -> Callable[[], bool]:
    return lambda: peer.volunteer.lead is None and peer.volunteer.phase == "resting"


async def test_on_battery_the_slot_is_released_and_with_power_it_is_taken_again(tmp_path: Path) -> None:
    machine = FakeMachine()
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0", sensors=machine.sensors, on_battery=False)
        await world.until(trains(peer))
        machine.battery.unplug()
        await peer.volunteer.care.look()
        await world.until(rests(peer))
        assert all(claim.record.released for claim in peer.node.board.claims("expert-0"))
        status = await peer.volunteer.status()
        assert "this machine runs on its battery; goes on a minute after" in status.why
        assert status.care is not None
        assert (status.care.rests, status.care.reasons, status.care.until_s) == (True, ("battery",), None)
        assert any(line.startswith("resting: this machine runs on its battery") for line in peer.said)
        machine.battery.plug_in()
        await machine.pass_s(peer, 100)
        await world.until(trains(peer))
        assert "rested enough: training goes on" in peer.said


async def test_a_sensor_that_fails_in_an_unknown_way_does_not_end_the_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, asked = FakeMachine(), 0
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0", sensors=machine.sensors, on_battery=False)
        await world.until(trains(peer))

        def broken() -> None:
            nonlocal asked
            asked += 1
            raise ValueError("a driver's new word")

        def asked_twice() -> bool:
            peer.volunteer.care._look_now.set()
            return asked >= 2

        monkeypatch.setattr(machine.battery, "read", broken)
        await world.until(asked_twice)
        assert trains(peer)()


async def test_a_rest_that_ends_does_not_undo_a_persons_own_pause(tmp_path: Path) -> None:
    machine = FakeMachine()
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0", sensors=machine.sensors, only_idle_s=600.0)
        await world.until(trains(peer))
        await peer.volunteer.pause()
        machine.idle.touched(1.0)
        await peer.volunteer.care.look()
        assert "rests: somebody used this machine" in await peer.volunteer.resume()
        await world.until(rests(peer))
        await peer.volunteer.pause()
        machine.idle.touched(3600.0)
        await machine.pass_s(peer, 100)
        assert peer.volunteer.care.rest is None
        await world.until(lambda: peer.volunteer.phase == "paused")
        assert peer.volunteer.lead is None


async def test_a_rest_frees_the_memory_of_a_real_process_within_seconds(tmp_path: Path) -> None:
    machine = FakeMachine()
    async with World(tmp_path) as world:
        peer = await world.add(
            "a",
            slot="expert-0",
            sensors=machine.sensors,
            only_idle_s=600.0,
            trainer=lambda _: Worker("tests.peer.heavy_trainer", nice=5),
        )
        await world.until(trains(peer))
        pid = peer.volunteer.lead.trainer_pid if peer.volunteer.lead else None
        assert pid is not None
        trainer = psutil.Process(pid)
        assert trainer.memory_info().rss > HELD_BYTES
        assert trainer.nice() >= 5
        steps = peer.volunteer.lead.training.steps if peer.volunteer.lead else 0
        machine.idle.touched(0.0)
        await peer.volunteer.care.look()
        await world.until(lambda: not psutil.pid_exists(pid))
        await world.until(rests(peer))
        tip = peer.node.board.tip("expert-0")  # it may be attested already
        cards = [*peer.node.board.pending("expert-0"), *([tip.card] if tip else [])]
        assert max(card.record.steps for card in cards) >= steps  # nothing that was learned is lost


async def test_a_paced_trainer_is_stopped_for_a_part_of_the_time_and_still_stops_when_told(
    tmp_path: Path,
) -> None:
    async with World(tmp_path) as world:
        peer = await world.add(
            "a", slot="expert-0", trainer=lambda _: Worker("tests.peer.heavy_trainer"), gate=None
        )
        await world.until(trains(peer))
        pid = peer.volunteer.lead.trainer_pid if peer.volunteer.lead else None
        assert pid is not None
        peer.volunteer.care.pacer.share = 0.2
        trainer, seen = psutil.Process(pid), set[str]()
        async with asyncio.timeout(60):
            while not {psutil.STATUS_STOPPED, psutil.STATUS_SLEEPING} <= seen:
                seen.add(trainer.status())
                await asyncio.sleep(0.01)
        await peer.volunteer.pause()
        assert not psutil.pid_exists(pid)


async def test_a_night_by_the_clock_begins_and_ends_the_training(tmp_path: Path) -> None:
    evening = datetime(2026, 10, 24, 21, 59, 55, tzinfo=BERLIN).timestamp()
    machine = FakeMachine(unix_s=evening)
    async with World(tmp_path) as world:
        peer = await world.add(
            "a", slot="expert-0", sensors=machine.sensors, hours=("22:00-07:00",), time_zone="Europe/Berlin"
        )
        await world.until(rests(peer))
        assert peer.volunteer.why == "outside of its hours (22:00-07:00); goes on at 22:00"
        await machine.pass_s(peer, 70)
        await world.until(trains(peer))
        machine.unix_s += 9 * 3600.0 + 3400  # the machine slept: the clock was turned back meanwhile
        await peer.volunteer.care.look()
        assert peer.volunteer.care.rest is None  # three to seven, not three to eight
        await machine.pass_s(peer, 180)
        await world.until(rests(peer))
        assert "goes on at 22:00" in peer.volunteer.why


async def test_a_budget_lasts_over_a_restart_and_begins_anew_with_the_month(tmp_path: Path) -> None:
    machine = FakeMachine(unix_s=datetime(2026, 11, 30, 23, 58, tzinfo=BERLIN).timestamp())
    allowed = {"upload_budget": "1MB/month", "time_zone": "Europe/Berlin", "sensors": machine.sensors}
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0", **allowed)
        await world.until(trains(peer))
        peer.swarm._uploaded_bytes += 2_000_000
        await peer.volunteer.care.look()
        await world.until(rests(peer))
        assert peer.swarm.limits.is_upload_closed
        assert not peer.swarm.limits.is_download_closed
        peer.task.cancel()
        peer = await world.restart("a", peer, slot="expert-0", **allowed)
        await world.until(rests(peer))
        assert (
            "the upload budget of 1MB/month is used up; goes on Tue 2026-12-01 at 00:00" in peer.volunteer.why
        )
        status = await peer.volunteer.status()
        assert status.care is not None
        assert status.care.upload is not None
        assert status.care.upload.used_bytes >= 2_000_000
        await machine.pass_s(peer, 130)
        await world.until(trains(peer))
        assert not peer.swarm.limits.is_upload_closed


async def test_a_damaged_book_of_traffic_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / TRAFFIC_FILE).write_text('{"days": {"yesterday": [1]}}')
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0", upload_budget="1GB/day")
        await world.until(trains(peer))


async def test_heat_paces_the_gpu_and_a_limit_of_power_is_the_drivers_where_it_may_be(tmp_path: Path) -> None:
    machine = FakeMachine(gpus=FakeGpus(is_root=True))
    machine.gpus.heat(90.0)
    async with World(tmp_path) as world:
        peer = await world.add(
            "a",
            slot="expert-0",
            sensors=machine.sensors,
            max_gpu_temp_c=85.0,
            max_gpu_power_w=200.0,
            trainer=lambda _: Worker("tests.peer.heavy_trainer"),
        )
        await world.until(trains(peer))
        assert machine.gpus.limits_w == {"GPU-fake": 200.0}
        machine.gpus.heat(86.0)
        await machine.pass_s(peer, 30)
        assert peer.volunteer.care.pacer.share < 0.6
        status = await peer.volunteer.status()
        assert status.care is not None
        assert status.care.sensors.gpu_temperature_c == 86.0
        assert "GPU paced to" in status.care.line()
    assert machine.gpus.limits_w == {"GPU-fake": 450.0}


def words(**changes: str) -> bytes:
    return json.dumps({"words": changes}).encode()


async def test_settings_are_changed_on_a_running_peer_and_take_effect(tmp_path: Path) -> None:
    machine = FakeMachine()
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0", sensors=machine.sensors)
        await world.until(trains(peer))
        answer = await peer.volunteer.change(
            words(only_idle="5min", upload_limit="2MB", max_disk="1GB", max_memory="64GB", micro_batch="2")
        )
        told = {one.key: (one.value, one.source) for one in answer.settings}
        assert told["only_idle"] == ("5min", "paris-peer set")
        assert told["on_battery"] == ("yes", "default")
        assert answer.said == ("micro_batch: from the trainer's next start",)
        machine.idle.touched(2.0)
        await peer.volunteer.care.look()
        await world.until(rests(peer))
        assert peer.swarm.limits.upload_bytes_per_s == 2_000_000
        assert peer.node.host.store.max_bytes == 10**9
        await peer.volunteer.change(words(only_idle="no"))
        await peer.volunteer.care.look()
        await world.until(trains(peer))


async def test_a_setting_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        peer = await world.add("a", slot="expert-0")
        before = peer.volunteer.care.kept
        for wrong in (
            words(hours="late"),
            words(nonsense="1"),
            words(nice="20"),
            b"[]",
            b'{"words": {"a": 1}}',
        ):
            with pytest.raises(UsageError):
                await peer.volunteer.change(wrong)
        with pytest.raises(UsageError, match="hours=late: is no span of hours"):
            await peer.volunteer.change(words(nice="3", hours="late"))
        assert peer.volunteer.care.kept == before
