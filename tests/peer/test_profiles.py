"""Every shipped profile loads, and its numbers follow from the arithmetic of peers/README.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.errors import PresetError, UsageError
from paris_p2p.model.presets import EXPERT_PRESETS, count_parameters, expert_config
from paris_p2p.peer.profiles import REFERENCE_TOKENS, known_profiles, load_profile
from paris_p2p.peer.settings import load_start
from paris_p2p.spec import LatentShape, TextShape

LATENT = LatentShape(channels=4, frames=4, height=32, width=32)  # REFERENCE_TOKENS in 1 x 2 x 2 patches
TEXT = TextShape(tokens=32, dim=768, pooled_dim=768)
NAMES = ["cpu", "cpu-2core", "gpu-8gb", "gpu-12gb", "gpu-16gb", "gpu-24gb", "gpu-48gb", "gpu-80gb"]


def needed_bytes(preset: str, clips: int) -> float:
    config = expert_config(preset, LATENT, TEXT)
    activations = 64 * int(config["width"]) * int(config["depth"]) * REFERENCE_TOKENS * clips
    return 20 * count_parameters(config) + activations


def test_the_shipped_profiles_are_found_in_order_of_size() -> None:
    assert list(known_profiles()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_becomes_settings(name: str, tmp_path: Path) -> None:
    settings = load_start({"data_dir": tmp_path, "profile": name})[0].peer_settings()
    assert settings.max_memory_bytes > 0
    assert settings.max_disk_bytes > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_micro_batches_fit_the_memory_and_larger_presets_would_not(name: str) -> None:
    profile = load_profile(name)
    gpu = profile.device == "cuda"
    room = 0.9 * profile.memory_gb * 1e9 - 0.6e9 if gpu else 0.9 * profile.max_memory - 1.3e9
    assert set(profile.presets) <= set(EXPERT_PRESETS)
    for preset in EXPERT_PRESETS:
        if preset in profile.presets:
            assert needed_bytes(preset, profile.presets[preset]) <= room
        elif gpu:
            assert needed_bytes(preset, 1) > room


def test_the_micro_batch_shrinks_with_longer_clips_but_never_to_nothing() -> None:
    profile = load_profile("gpu-12gb")
    assert profile.micro_batch_clips("dit-b-2") == 8
    assert profile.micro_batch_clips("dit-b-2", tokens=4 * REFERENCE_TOKENS) == 2
    assert profile.micro_batch_clips("dit-b-2", tokens=1 << 20) == 1


def test_a_preset_that_does_not_fit_is_refused_with_those_that_do() -> None:
    with pytest.raises(PresetError, match=r"'dit-xl-2' does not fit a GPU with 8 GB.*dit-b-2"):
        load_profile("gpu-8gb").micro_batch_clips("dit-xl-2")


def test_an_unknown_profile_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(PresetError, match=r"no profile 'gpu-9gb'; there are .*gpu-8gb"):
        load_profile("gpu-9gb")


def test_a_profile_of_ones_own_is_read_from_its_path(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(known_profiles()["cpu"].read_text().replace('max_disk = "20GB"', 'max_disk = "1TiB"'))
    assert load_profile(str(own)).max_disk == 1 << 40


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_dsk = '1GB'", "max_dsk"),
        ("max_disk = 'much'", "'max_disk' is wrong: .*is not a size"),
        ("= 3", "not valid TOML"),
        ("memory_gb = -1", "memory_gb"),
    ],
)
def test_a_mistake_in_a_profile_is_named(line: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    lines = [
        each
        for each in known_profiles()["cpu"].read_text().splitlines()
        if each.split(" ")[0] != line.split(" ")[0]
    ]
    own.write_text("\n".join([line, *lines]))
    with pytest.raises(UsageError, match=message):
        load_profile(str(own))
