"""What a machine is like, from files and answers of a test's making, and what each thing found means."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import ntplib
import pytest

from paris_p2p.doctor.disks import DiskFacts, file_system_of, judge_disk, read_disk, write_speed
from paris_p2p.doctor.finding import EXIT_STATUS, Diagnosis, Finding, Verdict, worst_of
from paris_p2p.doctor.graphics import (
    AMD,
    NVIDIA,
    CardFacts,
    GraphicsFacts,
    TorchFacts,
    judge_graphics,
    look_at_graphics,
    read_bus,
)
from paris_p2p.doctor.identities import has_node, judge_identity, read_identity
from paris_p2p.doctor.main_memory import MemoryFacts, judge_memory, read_memory
from paris_p2p.doctor.process_limits import LimitFacts, judge_limits, read_limits
from paris_p2p.doctor.processor import ProcessorFacts, judge_processor, read_processor
from paris_p2p.doctor.side_by_side import Check, look_side_by_side
from paris_p2p.doctor.software import SoftwareFacts, judge_software, read_software
from paris_p2p.doctor.time_servers import ClockFacts, judge_clock, judge_offset, read_clock, told_by_peers
from paris_p2p.errors import StoreError
from paris_p2p.store.data_dir import DataDirLock

GB = 10**9


def verdicts(findings: Sequence[Finding]) -> dict[str, Verdict]:
    return {one.check: one.verdict for one in findings}


def only(findings: Sequence[Finding], check: str) -> Finding:
    (found,) = (one for one in findings if one.check == check)
    return found


# side by side


def test_a_check_that_hangs_or_breaks_holds_up_nothing_and_is_unknown() -> None:
    good = Finding(check="quick", verdict="good", found="here")
    released = threading.Event()

    def hangs() -> Finding:
        released.wait(30)
        return good

    def breaks() -> Finding:
        raise ZeroDivisionError("a bug")

    def refuses() -> Finding:
        raise StoreError("the disk is gone")

    began_s = time.monotonic()
    checks = [Check("slow", hangs, 0.05), Check("bug", breaks, 9), Check("disk", refuses, 9)]
    found = look_side_by_side([*checks, Check("quick", lambda: good, 9)])
    released.set()
    assert time.monotonic() - began_s < 5
    assert verdicts(found) == {"slow": "unknown", "bug": "unknown", "disk": "unknown", "quick": "good"}
    assert "within 0.05 s" in only(found, "slow").found
    assert "the disk is gone" in only(found, "disk").found


def test_a_report_is_as_bad_as_its_worst_finding_and_notes_cost_nothing() -> None:
    def of(*words: Verdict) -> Verdict:
        return worst_of([Finding(check="it", verdict=word, found="") for word in words])

    assert [EXIT_STATUS[of(*words)] for words in ((), ("note", "unknown"), ("poor", "good"))] == [0, 0, 2]
    assert EXIT_STATUS[of("poor", "cannot")] == 1
    report = Diagnosis(at=1.0, version="0", verdict="good", exit_status=0, findings=())
    assert Diagnosis.model_validate_json(report.model_dump_json()) == report


# software


def test_every_package_that_the_wheel_declares_is_here_and_right() -> None:
    facts = read_software()
    assert len(facts.packages) > 20
    assert {"torch", "hivemind"} <= {name for name, _, _ in facts.packages}
    assert "pytest" not in {name for name, _, _ in facts.packages}  # of an extra
    assert set(verdicts(judge_software(facts)).values()) == {"good"}


def test_a_missing_package_an_old_python_and_another_system_cannot_take_part() -> None:
    def version_of(name: str) -> str:
        if name == "einops":
            raise PackageNotFoundError(name)
        return "2.2.0" if name == "torch" else "999"

    facts = replace(read_software(version_of), python="3.10.1", system="Windows", processor="AMD64")
    found = judge_software(facts)
    assert verdicts(found) == {"python": "cannot", "packages": "cannot", "system": "cannot"}
    packages = only(found, "packages")
    assert "einops is missing" in packages.found
    assert "pip install einops" in packages.mend
    wrong = SoftwareFacts("3.12.0", ">=3.11", (("torch", "2.2.0", ">=2.6"), ("einops", "0.8", ">=0.8")))
    assert only(judge_software(wrong), "packages").verdict == "poor"
    assert "'torch>=2.6'" in only(judge_software(wrong), "packages").mend


# processor


def test_a_processor_is_read_with_its_containers_share(tmp_path: Path) -> None:
    cpuinfo, quota = tmp_path / "cpuinfo", tmp_path / "cpu.max"
    cpuinfo.write_text("model name\t: Old   Chip\nflags\t\t: sse2 avx\nmodel name\t: Old   Chip\n")
    quota.write_text("150000 100000\n")
    facts = read_processor(lambda: False, cpuinfo, quota)
    assert (facts.name, facts.quota_cores, facts.bf16) == ("Old Chip", 1.5, False)
    found = judge_processor(facts)
    assert found.verdict == "poor"
    assert "no AVX2" in found.found
    quota.write_text("max 100000\n")
    assert read_processor(None, cpuinfo, quota).quota_cores is None
    good = ProcessorFacts("New", 4, frozenset({"avx2", "fma", "avx512f"}), bf16=True)
    assert judge_processor(good).verdict == "good"
    assert judge_processor(replace(good, cores=1)).verdict == "poor"


# memory


@pytest.mark.parametrize("names", [("memory.max", "memory.current"), ("limit_in_bytes", "usage_in_bytes")])
def test_a_containers_limit_counts_as_the_machines_memory(tmp_path: Path, names: tuple[str, str]) -> None:
    version_1 = names[0] == "limit_in_bytes"
    folder = tmp_path / "memory" if version_1 else tmp_path
    folder.mkdir(exist_ok=True)
    for name, value in zip(names, (2 * 10**8, 10**8), strict=True):
        (folder / (f"memory.{name}" if version_1 else name)).write_text(f"{value}\n")
    facts = read_memory(tmp_path)
    assert (facts.usable_bytes, facts.free_bytes) == (2 * 10**8, 10**8)
    found = judge_memory(facts)
    assert found.verdict == "cannot"
    assert "container" in found.mend


def test_memory_is_judged_by_what_is_there_and_what_is_free() -> None:
    assert judge_memory(MemoryFacts(8 * GB, 5 * GB)).verdict == "good"
    assert judge_memory(MemoryFacts(8 * GB, GB // 10)).verdict == "poor"
    assert judge_memory(MemoryFacts(2 * GB, 2 * GB)).verdict == "poor"
    assert judge_memory(MemoryFacts(GB // 2, GB // 2)).verdict == "cannot"


# disk


def test_the_disk_of_a_folder_that_is_not_there_yet_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    facts = read_disk(tmp_path / "not" / "yet")
    assert facts.write_bytes_per_s is not None
    assert facts.write_bytes_per_s > 0
    assert list(tmp_path.iterdir()) == []
    assert facts.kind == file_system_of(tmp_path) != ""
    assert read_disk(tmp_path, trial=False).write_bytes_per_s is None


def test_a_trial_of_the_disk_ends_in_time(tmp_path: Path) -> None:
    assert write_speed(tmp_path, limit_s=0.0) > 0  # one piece


@pytest.mark.parametrize(
    ("facts", "bad"),
    [
        (DiskFacts(Path("/d"), "ext4", 50 * GB, 1e8), {}),
        (DiskFacts(Path("/d"), "ext4", GB, 1e8), {"disk": "poor"}),
        (DiskFacts(Path("/d"), "ext4", 10**7, 1e6), {"disk": "cannot", "disk-speed": "poor"}),
        (DiskFacts(Path("/d"), "ext4", 50 * GB, None, "Read-only file system"), {"disk-speed": "cannot"}),
        (DiskFacts(Path("/d"), "nfs4", 50 * GB, 1e8), {"file-system": "poor"}),
        (DiskFacts(Path("/d"), "fuse.sshfs", 50 * GB, 1e8), {"file-system": "poor"}),
        (DiskFacts(Path("/d"), "tmpfs", 50 * GB, 1e8), {"file-system": "poor"}),
        (DiskFacts(Path("/d"), "overlay", 50 * GB, 1e8), {"file-system": "note"}),
    ],
)
def test_a_disk_is_judged_by_room_speed_and_kind(facts: DiskFacts, bad: dict[str, Verdict]) -> None:
    found = judge_disk(facts)
    assert {name: verdict for name, verdict in verdicts(found).items() if verdict != "good"} == bad
    assert all(one.mend and one.wanted for one in found if one.verdict != "good")


# clock


def test_the_clock_is_the_middle_of_what_servers_say_and_silence_is_no_fault() -> None:
    answers = {"a": 0.2, "b": 5.0, "c": 0.3}

    def ask(server: str) -> float:
        if server in answers:
            return answers[server]
        raise ntplib.NTPException("no answer")

    assert judge_clock(read_clock(tuple("abc"), ask)).verdict == "good"
    assert judge_clock(read_clock(tuple("bxy"), ask)).verdict == "cannot"
    assert judge_clock(read_clock(tuple("xyz"), ask)).verdict == "unknown"
    late = judge_clock(ClockFacts((2.0,), 3))
    assert (late.verdict, late.numbers["offset_s"]) == ("poor", 2.0)
    assert "behind" in late.found
    assert "ahead" in judge_clock(ClockFacts((-2.0,), 3)).found


def test_silent_time_servers_are_no_question_where_peers_told_the_time() -> None:
    silent, wrong = judge_clock(ClockFacts((), 3)), judge_clock(ClockFacts((9.0,), 3))
    peers = judge_offset("clock-of-peers", 0.01, "2 peers")
    assert [one.verdict for one in told_by_peers([silent, peers])] == ["note", "good"]
    assert told_by_peers([silent]) == [silent]
    assert told_by_peers([wrong, peers]) == [wrong, peers]


# limits


def test_the_limits_of_this_process_are_read(tmp_path: Path) -> None:
    facts = read_limits(tmp_path, tmp_path / "no-systemd", tmp_path)
    assert facts.files > 0
    assert facts.tmp_writable
    assert facts.linger is None
    assert only(judge_limits(facts), "linger").verdict == "note"


@pytest.mark.parametrize(
    ("changed", "bad"),
    [
        ({}, {}),
        ({"files": 256}, {"open-files": "poor"}),
        ({"files": 1024}, {"open-files": "note"}),
        ({"tmp_writable": False}, {"tmp": "poor"}),
        ({"tmp_free_bytes": 10**6}, {"tmp": "poor"}),
        ({"tmp_noexec": True}, {"tmp": "note"}),
        ({"linger": False}, {"linger": "note"}),
    ],
)
def test_each_limit_is_judged_and_says_what_mends_it(
    changed: dict[str, object], bad: dict[str, Verdict]
) -> None:
    good = LimitFacts(65536, 65536, 10 * GB, True, False, "ada", True)
    found = judge_limits(LimitFacts(**{**good.__dict__, **changed}))
    assert {name: verdict for name, verdict in verdicts(found).items() if verdict != "good"} == bad
    assert all(one.mend for one in found if one.verdict != "good")


# GPUs

CARD = CardFacts("RTX", 24 * GB, 23 * GB)
TORCH = TorchFacts("2.6.0", "12.4", 1, True)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (GraphicsFacts(), {"gpu": "note"}),
        (GraphicsFacts((AMD,)), {"gpu": "note"}),
        (GraphicsFacts((NVIDIA,), why_none="no NVIDIA driver is installed"), {"gpu": "poor"}),
        (GraphicsFacts((NVIDIA,), (CARD,), "550", torch=TORCH), {"gpu": "good", "cuda": "good"}),
        (
            GraphicsFacts((NVIDIA,), (CARD,), "550", torch=TorchFacts("2.6.0+cpu", "", 0)),
            {"gpu": "good", "cuda": "poor"},
        ),
        (
            GraphicsFacts((NVIDIA,), (CARD,), "390", torch=TorchFacts("2.6.0", "12.4", 0, why="too old")),
            {"gpu": "good", "cuda": "poor"},
        ),
        (
            GraphicsFacts((NVIDIA,), (replace(CARD, free_bytes=2 * GB, holders=((7, "blender", 9 * GB),)),)),
            {"gpu": "poor"},
        ),
    ],
)
def test_each_way_in_which_a_gpu_cannot_train_has_its_own_words(
    facts: GraphicsFacts, expected: dict[str, Verdict]
) -> None:
    assert verdicts(judge_graphics(facts)) == expected


def test_what_holds_a_gpus_memory_is_named_with_a_limit_that_fits_beside_it() -> None:
    busy = replace(CARD, free_bytes=10 * GB, holders=((7, "blender", 13 * GB), (8, "x", None)))
    (found,) = judge_graphics(GraphicsFacts((NVIDIA,), (busy,)))
    assert "blender (process 7, 13.0 GB)" in found.found
    assert "--max-vram 9GB" in found.mend


def test_the_bus_tells_of_a_gpu_that_no_driver_knows(tmp_path: Path) -> None:
    for name, kind, maker in (("a", "0x030000", NVIDIA), ("b", "0x020000", "0x8086"), ("c", "", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "class").write_text(kind)
        (tmp_path / name / "vendor").write_text(maker)
    assert read_bus(tmp_path) == (NVIDIA,)
    asked: list[str] = []

    def ask_torch() -> TorchFacts:
        asked.append("torch")
        return TORCH

    assert look_at_graphics(lambda: ((), "", "none"), ask_torch).torch is None
    assert look_at_graphics(lambda: ((CARD,), "550", ""), ask_torch).torch is TORCH
    assert asked == ["torch"]  # never loaded where there is no GPU


# identity


def test_a_key_that_others_read_and_a_node_that_runs_are_seen_without_changing_anything(
    tmp_path: Path,
) -> None:
    assert judge_identity(read_identity(tmp_path)).verdict == "good"
    assert list(tmp_path.iterdir()) == []
    key = tmp_path / "identity.key"
    key.write_bytes(b"x")
    key.chmod(0o644)
    found = judge_identity(read_identity(tmp_path))
    assert (found.verdict, found.mend) == ("poor", f"chmod 600 {key}")
    with DataDirLock(tmp_path):
        assert has_node(tmp_path)
    assert not has_node(tmp_path)
    with DataDirLock(tmp_path):  # a look leaves the lock to be taken
        pass
