"""What a machine has is read from its driver and its kernel, and the profile that follows takes no more
than that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paris_p2p.option_sources import load_options
from paris_p2p.peer.machine import Gpu, Machine, auto_profile, read_machine
from paris_p2p.peer.profiles import Profile
from paris_p2p.peer.settings import StartOptions
from paris_p2p.peer_settings import PeerSettings

TWO_CARDS = "0, GPU-aa11-22, 24564, NVIDIA GeForce RTX 4090\n1, GPU-bb33-44, 81559, NVIDIA H100 80GB, HBM3\n"
CARD_24 = Gpu(0, "NVIDIA GeForce RTX 4090", 24564 << 20)
DISK = 100_000_000_000


def machine(listed: str | None, monkeypatch: pytest.MonkeyPatch, visible: str | None = None) -> Machine:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return read_machine(lambda: listed, cgroup=())


def test_cards_are_read_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine(TWO_CARDS, monkeypatch).gpus == (CARD_24, Gpu(1, "NVIDIA H100 80GB, HBM3", 81559 << 20))


@pytest.mark.parametrize(
    "listed",
    [None, "", "No devices were found", "0, GPU-x, [N/A], A card", "NVIDIA-SMI has failed, as, it, says"],
)
def test_a_driver_that_is_not_there_or_says_no_numbers_is_no_card(
    listed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine(listed, monkeypatch).gpus == ()


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("", []),
        ("1", ["H100"]),
        ("1,0", ["H100", "4090"]),
        ("GPU-bb33", ["H100"]),
        ("0,9,1", ["4090"]),
        ("-1", []),
    ],
)
def test_the_cards_that_cuda_is_shown_count_and_in_its_order(
    visible: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = machine(TWO_CARDS, monkeypatch, visible).gpus
    assert [gpu.index for gpu in gpus] == list(range(len(names)))
    assert all(name in gpu.name for gpu, name in zip(gpus, names, strict=True))


def test_a_containers_memory_is_the_machines(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1500000000\n")
    (tmp_path / "none").write_text("max\n")
    files = (tmp_path / "memory.max", tmp_path / "none", tmp_path / "missing")
    assert read_machine(lambda: None, cgroup=files).memory_bytes == 1_500_000_000


def over(profile: Profile, typed: dict[str, Any]) -> PeerSettings:
    return load_options(StartOptions, typed, profile=profile.options()).peer_settings()


@pytest.mark.parametrize(
    ("here", "device", "expected"),
    [
        (Machine(16, 64 * 10**9, (CARD_24,)), "auto", ("cuda", 2, 32e9, 0.9 * CARD_24.memory_bytes)),
        (Machine(16, 64 * 10**9, (CARD_24,)), "cpu", ("cpu", 15, 32e9, 0)),
        (Machine(2, 24 * 10**9), "auto", ("cpu", 1, 12e9, 0)),
        (Machine(1, 2 * 10**9), "auto", ("cpu", 1, 1.5e9, 0)),
        (Machine(4, 8 * 10**9, (Gpu(0, "an old card", 2 << 30),)), "auto", ("cpu", 3, 4e9, 0)),
    ],
)
def test_auto_takes_what_the_machine_can_spare(
    here: Machine, device: str, expected: tuple[str, int, float, float], tmp_path: Path
) -> None:
    profile = auto_profile(here, device=device, free_disk_bytes=DISK)
    settings = over(profile, {"data_dir": tmp_path})
    assert (settings.device, settings.threads) == expected[:2]
    assert settings.max_memory_bytes == pytest.approx(expected[2])
    assert settings.max_vram_bytes == pytest.approx(expected[3], rel=1e-6)
    assert settings.max_disk_bytes == 0.5 * DISK
    assert (
        settings.upload_limit_bytes_per_s == settings.download_limit_bytes_per_s == 0
    )  # a machine does not know its line


def test_main_memory_and_the_gpus_are_two_options(tmp_path: Path) -> None:
    profile = auto_profile(Machine(16, 64 * 10**9, (CARD_24,)), free_disk_bytes=DISK)
    settings = over(profile, {"data_dir": tmp_path, "max_memory": "8GB"})
    assert settings.max_memory_bytes == 8e9
    assert settings.max_vram_bytes > 20e9
    assert over(profile, {"data_dir": tmp_path, "max_vram": "6GB"}).max_vram_bytes == 6e9
    assert PeerSettings(data_dir=tmp_path).max_vram_bytes == 0
