"""The demo's clips are the same for a seed, and their captions do not give the scenario's name away."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from examples.demo.clips import SCENARIOS, caption, write_clips
from examples.gameplay import FRAMES, SIDE_PIXELS


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_gives_the_same_files_and_another_gives_others(tmp_path: Path) -> None:
    for folder, rng_seed in (("one", 0), ("two", 0), ("other", 1)):
        assert write_clips(tmp_path / folder, 9, rng_seed) == 9
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_every_clip_is_a_whole_video_that_moves_with_its_caption_beside_it(tmp_path: Path) -> None:
    write_clips(tmp_path, 9)
    videos = sorted(tmp_path.glob("*.mp4"))
    assert {path.name.partition("-")[0] for path in videos} == set(SCENARIOS)
    for path in videos:
        assert path.with_suffix(".txt").read_text().strip()
        with av.open(str(path)) as container:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert frames.shape == (FRAMES, SIDE_PIXELS, SIDE_PIXELS, 3)
        assert frames.std(axis=0).max() > 0


def test_clips_are_as_long_as_asked(tmp_path: Path) -> None:
    write_clips(tmp_path, 3, frames=9)
    for path in tmp_path.glob("*.mp4"):
        with av.open(str(path)) as container:
            assert len(list(container.decode(video=0))) == 9


def test_nothing_is_left_where_it_was_called(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_clips(tmp_path / "clips", 3)
    assert [path.name for path in (tmp_path / "here").iterdir() if path.name != "_vizdoom"] == []


def test_captions_are_nearly_all_different_and_none_names_its_scenario() -> None:
    rng = np.random.default_rng(0)
    for name, scenario in SCENARIOS.items():
        captions = [caption(scenario, rng) for _ in range(300)]
        assert len(set(captions)) > 250
        assert not any(name.replace("_", " ") in text.lower() for text in captions)
