"""What a node tells Prometheus: each figure of its status, under bounded labels, and no name of a private
run.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from paris_p2p.errors import DaemonError, PortInUseError
from paris_p2p.monitoring.daemon_families import MAX_SAMPLES
from paris_p2p.monitoring.families import LABEL_LETTERS, MAX_REASONS_TOLD, REST, Families
from paris_p2p.monitoring.metric_table import METRICS
from paris_p2p.monitoring.metrics_page import exposition, serving_metrics
from paris_p2p.monitoring.peer_families import peer_families
from paris_p2p.node.governance import Governance
from paris_p2p.node.loop_watch import LoopStalls, LoopWatch
from paris_p2p.node.node_figures import PeerStatus
from paris_p2p.node.status import SlotStatus, Status, TrainingStatus
from paris_p2p.node.tallies import Tallies

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
P2PD = """# HELP libp2p_swarm_connections Connections
# TYPE libp2p_swarm_connections gauge
libp2p_swarm_connections{dir="inbound"} 3
# HELP process_cpu_seconds_total Time
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1.5
# HELP promhttp_metric_handler_requests_total Scrapes
# TYPE promhttp_metric_handler_requests_total counter
promhttp_metric_handler_requests_total{code="200"} 5
"""


def status_of(**more: Any) -> Status:
    slots = (
        SlotStatus(
            slot="expert-0", lead="a", tip="c", tip_age_s=7.0, clips=40, steps=10, loss=0.5, pending=2
        ),
        SlotStatus(slot="router"),
    )
    fields: dict[str, Any] = {
        "at": 100.0,
        "run": "ab" * 32,
        "name": "a run of mine",
        "owner": "o",
        "peer_id": "p",
        "role": "peer",
        "phase": "training",
        "why": "",
        "slots": slots,
        "peers": (PeerStatus(peer_id="x", path="direct"), PeerStatus(peer_id="y", path="relayed")),
        "training": TrainingStatus(slot="expert-0", epoch=1, clips_per_s=2.5),
        "uploaded_bytes": 100,
        "uploaded_relayed_bytes": 30,
        "downloaded_bytes": 50,
        "refused_cards": {"worse than its parent": 3},
        "checkpoint_s": 600.0,
        "tallies": Tallies().trainer_died().published(4.0).published(6.0),
        "loop": LoopStalls().late(0.2).late(0.5).late(0.05),
    }
    return Status(**{**fields, **more})


def samples(text: bytes) -> Samples:
    found = [one for family in text_string_to_metric_families(text.decode()) for one in family.samples]
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found}


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_each_figure_of_a_status_is_a_sample() -> None:
    found = samples(exposition(peer_families(status_of()), P2PD))
    slot = {"run": "ab" * 6, "slot": "expert-0"}
    assert of(found, "paris_slot_tip_age_seconds", **slot) == 7
    assert of(found, "paris_slot_gate_loss", **slot) == 0.5
    assert of(found, "paris_slot_clips", **slot) == 40
    assert of(found, "paris_slot_pending_cards", **slot) == 2
    assert of(found, "paris_training_clips_per_second", **slot) == 2.5
    assert ("paris_slot_tip_age_seconds", (("run", "ab" * 6), ("slot", "router"))) not in found
    assert of(found, "paris_slot_has_lead", run="ab" * 6, slot="router") == 0
    assert of(found, "paris_blob_bytes_total", direction="up", path="relayed") == 30
    assert of(found, "paris_blob_bytes_total", direction="up", path="direct") == 70
    assert of(found, "paris_connected_peers", path="relayed") == 1
    assert of(found, "paris_refused_total", what="card", reason="worse than its parent") == 3
    assert of(found, "paris_trainer_restarts_total") == 1
    assert (of(found, "paris_publish_seconds_sum"), of(found, "paris_publish_seconds_count")) == (10, 2)
    assert of(found, "paris_event_loop_stalls_total") == 2
    assert of(found, "paris_event_loop_stalled_seconds_total") == pytest.approx(0.7)
    assert of(found, "paris_event_loop_longest_stall_seconds") == 0.5
    assert of(found, "process_resident_memory_bytes") > 1e6  # this process's own


def test_what_p2pd_measures_stands_beside_it_under_other_names() -> None:
    found = samples(exposition(peer_families(status_of()), P2PD))
    assert of(found, "libp2p_swarm_connections", dir="inbound") == 3
    assert of(found, "p2pd_process_cpu_seconds_total") == 1.5
    assert of(found, "process_cpu_seconds_total") != 1.5
    assert not any(name.startswith("promhttp") for name, _ in found)
    assert of(found, "paris_p2pd_up") == 1
    assert of(samples(exposition(Families(), "")), "paris_p2pd_up") == 0


def test_text_of_p2pd_without_end_or_sense_is_bounded() -> None:
    flood = "".join(f'libp2p_x{{a="{n // 2}{"y" * 99}{n}"}} 1\n' for n in range(1200))  # alike once cut
    text = "# TYPE libp2p_x gauge\n" + flood + "# TYPE libp2p_y gauge\nlibp2p_y{ nonsense"
    found = samples(exposition(Families(), text))
    ours = [labels for name, labels in found if name == "libp2p_x"]
    assert 0 < len(ours) <= MAX_SAMPLES
    assert all(len(value) <= LABEL_LETTERS for labels in ours for _, value in labels)


def test_strangers_make_neither_more_series_nor_longer_ones() -> None:
    made_up = {f"a reason {number} \x1b[31m{'x' * 500}": number + 1 for number in range(1000)}
    found = samples(exposition(peer_families(status_of(refused_by_network=made_up)), ""))
    told = {dict(labels)["reason"]: value for (name, labels), value in found.items() if "refused" in name}
    network = {reason: value for reason, value in told.items() if reason != "worse than its parent"}
    assert len(network) == MAX_REASONS_TOLD + 1
    assert sum(network.values()) == sum(made_up.values())
    assert REST in network
    assert all(len(reason) <= LABEL_LETTERS and reason.isprintable() for reason in network)
    before = len(found)
    crowd = tuple(PeerStatus(peer_id=f"peer {number}", path="direct") for number in range(500))
    assert len(samples(exposition(peer_families(status_of(peers=crowd)), ""))) < before


def test_a_private_run_is_counted_and_not_named() -> None:
    status = status_of(governance=Governance(private=True), refused_by_network={"card of Alice": 2})
    text = exposition(peer_families(status), "")
    for word in (b"a run of mine", b"ab" * 6, b"Alice", b"worse than"):
        assert word not in text
    assert of(samples(text), "paris_slot_clips", run="private", slot="expert-0") == 40
    assert of(samples(text), "paris_refused_total", what="network", reason="any") == 2


def ages(**more: Any) -> float:
    return of(samples(exposition(peer_families(status_of(**more)), "")), "paris_slot_active", **SLOT)


SLOT = {"run": "ab" * 6, "slot": "expert-0"}


def test_a_slot_is_active_while_training_is_due() -> None:
    assert ages() == 1
    assert ages(governance=Governance(paused=True)) == 0
    assert ages(governance=Governance(ended=True)) == 0
    assert ages(slots=(SlotStatus(slot="expert-0", done=True),)) == 0
    assert ages(slots=(SlotStatus(slot="expert-0", rests_until_s=200.0),)) == 0
    assert ages(slots=(SlotStatus(slot="expert-0", rests_until_s=50.0),)) == 1


def test_only_metrics_of_the_table_are_told_and_each_has_a_unit_or_is_a_count() -> None:
    told = {family.name for family in peer_families(status_of()).metrics()}
    assert told <= set(METRICS)
    with pytest.raises(KeyError):
        Families().add("paris_no_such", 1)
    assert all(name.startswith("paris_") and kind.help.endswith(".") for name, kind in METRICS.items())


def ask(url: str, **headers: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as reply:
            return int(reply.status), reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def no_text() -> str:
    return ""


def url_in(said: list[str]) -> str:
    return next(word for line in said for word in line.split() if word.startswith("http"))


async def test_they_are_served_on_this_machine_to_its_programs_and_to_no_page_of_a_browser() -> None:
    said: list[str] = []

    async def gather() -> Families:
        return peer_families(status_of())

    async with serving_metrics("127.0.0.1:0", gather, no_text, said.append):
        url = url_in(said)
        status, text = await asyncio.to_thread(ask, url)
        assert status == 200
        assert "paris_slot_clips" in text
        assert (await asyncio.to_thread(ask, url, Host="evil.example"))[0] == 403
        assert (await asyncio.to_thread(ask, url, Origin="http://evil.example"))[0] == 403
        assert (await asyncio.to_thread(ask, url.replace("/metrics", "/status")))[0] == 404
        with pytest.raises(PortInUseError, match=r"--metrics 127\.0\.0\.1:\d+: .*; name another port"):
            async with serving_metrics(url.split("/")[2], gather, no_text, said.append):
                pass
    assert not any("warning" in line for line in said)


async def test_on_another_address_a_warning_says_who_can_read_them() -> None:
    said: list[str] = []

    async def gather() -> Families:
        return Families()

    async with serving_metrics("0.0.0.0:0", gather, no_text, said.append):
        assert any(line.startswith("warning: everybody who reaches 0.0.0.0") for line in said)
        url = url_in(said).replace("0.0.0.0", "127.0.0.1")
        assert (await asyncio.to_thread(ask, url, Host="node.example"))[0] == 200


async def test_while_p2pd_is_away_the_answer_is_not_now() -> None:
    said: list[str] = []

    async def gather() -> Families:
        raise DaemonError("p2pd is not running: it died")

    async with serving_metrics("127.0.0.1:0", gather, no_text, said.append):
        status, text = await asyncio.to_thread(ask, url_in(said))
    assert (status, text) == (503, "not now: p2pd is not running: it died\n")


async def test_nothing_is_served_unless_it_is_asked_for() -> None:
    said: list[str] = []
    async with serving_metrics("", lambda: pytest.fail("asked"), no_text, said.append):
        assert said == []


async def test_a_look_at_the_loop_that_comes_late_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 0.5, 1.9, 1.9])  # on time, then 0.9 s late
    naps = 0

    async def nap(_: float) -> None:
        nonlocal naps
        naps += 1
        if naps == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", nap)
    watch = LoopWatch(lambda: next(clock))
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert (watch.stalls.stalls, watch.stalls.longest_s) == (1, pytest.approx(0.9))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
