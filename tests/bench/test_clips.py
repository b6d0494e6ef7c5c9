"""The benchmark's captions say what the pixels show and no more; a seed gives the same footage."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from bench.clips import captions, light
from bench.clips.attributes import BANDS, HUES, measure
from bench.clips.make import Row, begin_worker, make, plan, split
from bench.clips.worlds import WORLDS, World, WorldError, check_installed
from examples.gameplay import FPS, FRAMES, SIDE_PIXELS
from paris_p2p.data.decode import ClipShape
from paris_p2p.data.sources import find_sources
from tests.data.videos import decode_clips

CLIPS = 10
FORBIDDEN = (
    "doom",
    "craft",
    "world",
    "robot",
    "arm",
    "gripper",
    "table",
    "drawer",
    "door",
    "maze",
    "corridor",
    "monster",
    "demon",
    "gun",
    "weapon",
    "shoot",
    "fire",
    "acid",
    "floor",
    "wall",
    "room",
    "grass",
    "water",
    "tree",
    "sand",
    "stone",
    "tile",
    "player",
    "agent",
    "game",
    "task",
    "policy",
    "simulat",
    "person",
    "camera",
    "walk",
    "medkit",
)


def no_report(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    out = tmp_path_factory.mktemp("made")
    return out, make(out, CLIPS, 3, ("vizdoom",), 1, no_report)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def every_caption() -> set[str]:
    rng = np.random.default_rng(0)
    values = [list(words) for words in captions.WORDS.values()]
    seen = [dict(zip(captions.WORDS, chosen, strict=True)) for chosen in itertools.product(*values)]
    return {captions.write(one, rng)[0] for one in seen for _ in range(5)}


def test_no_caption_has_a_word_of_a_world() -> None:
    for text in every_caption():
        spoken = re.findall(r"[a-z]+", text.lower())
        assert not [word for word in spoken if word.startswith(FORBIDDEN)], text
        assert not [name for name in WORLDS if name in text.lower()], text


def test_the_same_seed_words_a_clip_alike_and_there_are_many_wordings() -> None:
    seen = measure(np.zeros((FRAMES, 8, 8, 3), np.uint8))
    texts = [captions.write(seen, np.random.default_rng(number)) for number in range(200)]
    assert texts == [captions.write(seen, np.random.default_rng(number)) for number in range(200)]
    assert len({text for text, _ in texts}) > 100


def test_a_caption_says_what_it_is_listed_to_mention_and_only_that() -> None:
    seen = {name: next(iter(words)) for name, words in captions.WORDS.items()}
    for number in range(100):
        text, mentioned = captions.write(seen, np.random.default_rng(number))
        words = {name: captions.WORDS[name][value] for name, value in seen.items()}
        said = [
            name
            for name, of_name in words.items()
            if any(re.search(rf"\b{word}\b", text.lower()) for word in of_name)
        ]
        assert said == list(mentioned), text


def test_every_value_that_is_measured_has_words() -> None:
    for name in ("brightness", "contrast"):
        assert set(captions.WORDS[name]) == {value for _, value in BANDS[name]}
    assert set(captions.WORDS["colour"]) == {value for _, value in HUES} | {"grey"}


@pytest.mark.parametrize(("level", "name"), [(20, "dark"), (90, "medium"), (200, "bright")])
def test_brightness_is_the_mean_luma_s_band(level: int, name: str) -> None:
    seen = measure(np.full((FRAMES, 16, 16, 3), level, np.uint8))
    assert (seen["brightness"], seen["colour"], seen["motion"], seen["contrast"]) == (
        name,
        "grey",
        "still",
        "low",
    )


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 20, 30), "red"),
        ((180, 90, 20), "orange"),
        ((20, 160, 40), "green"),
        ((20, 60, 200), "blue"),
        ((160, 20, 200), "purple"),
    ],
)
def test_the_colour_is_the_hue_with_most_chroma(rgb: tuple[int, int, int], name: str) -> None:
    frames = np.full((FRAMES, 16, 16, 3), 128, np.uint8)
    frames[:, :, :12] = rgb
    assert measure(frames)["colour"] == name


@pytest.mark.parametrize(
    ("side", "area"),
    [
        ("top", np.s_[:, :32]),
        ("bottom", np.s_[:, 32:]),
        ("left", np.s_[:, :, :32]),
        ("right", np.s_[:, :, 32:]),
    ],
)
def test_the_lighter_side_is_found(side: str, area: tuple[slice, ...]) -> None:
    frames = np.full((FRAMES, 64, 64, 3), 60, np.uint8)
    frames[area] = 160
    assert measure(frames)["lighter"] == side


@pytest.mark.parametrize(
    ("name", "shift"), [("right", (0, 2)), ("left", (0, -2)), ("down", (2, 0)), ("up", (-2, 0))]
)
def test_a_texture_that_is_shifted_moves_that_way(name: str, shift: tuple[int, int]) -> None:
    texture = smooth_noise(96)
    frames = np.stack(
        [np.roll(texture, (t * shift[0], t * shift[1]), axis=(0, 1))[16:80, 16:80] for t in range(FRAMES)]
    )
    assert measure(frames)["motion"] == name


@pytest.mark.parametrize(
    ("name", "zooms"),
    [("outward", range(128, 128 - 8 * FRAMES, -8)), ("inward", range(128 - 8 * FRAMES, 128, 8))],
)
def test_a_picture_that_is_zoomed_moves_outward_or_inward(name: str, zooms: range) -> None:
    texture = smooth_noise(128)
    frames = []
    for side in zooms:
        rows = np.linspace(64 - side / 2, 63 + side / 2, 64).round().astype(int).clip(0, 127)
        frames.append(texture[np.ix_(rows, rows)])
    assert measure(np.stack(frames))["motion"] == name


def smooth_noise(side: int) -> np.ndarray:
    """Returns a texture [side, side, 3] whose waves are longer than what it is shifted by."""
    spectrum = np.fft.fft2(np.random.default_rng(0).normal(size=(side, side)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    waves = np.fft.ifft2(spectrum * np.exp(-((frequency * 16) ** 2))).real
    grey = (255 * (waves - waves.min()) / np.ptp(waves)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def test_the_light_sets_the_brightness_whatever_is_filmed() -> None:
    pictures = [(smooth_noise(64) / divisor).astype(np.uint8) for divisor in (1, 2, 3)]
    for level, name in zip(light.LEVELS, ("dark", "medium", "bright"), strict=True):
        lit = light.Light(level, (1.0, 1.0, 1.0), 0.5, mirrored=False)
        assert {measure(lit.on(np.stack([picture] * FRAMES)))["brightness"] for picture in pictures} == {name}


def test_the_same_seed_gives_the_same_bytes_and_a_broken_off_run_ends_alike(
    made: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    out, rows = made
    shutil.copytree(out, tmp_path / "again")
    parts = plan(tmp_path / "again", CLIPS, 3, ("vizdoom",))
    parts[0].done_path.unlink()
    (tmp_path / "again" / rows[0]["file"]).write_bytes(b"half a video")
    (tmp_path / "again" / "captions.csv").unlink()
    make(tmp_path / "again", CLIPS, 3, ("vizdoom",), 1, no_report)
    assert contents(tmp_path / "again") == contents(out)
    with pytest.raises(ValueError, match="another folder"):
        make(tmp_path / "again", CLIPS, 4, ("vizdoom",), 1, no_report)


def test_what_is_made_is_found_and_decoded_as_any_owner_s_clips_are(made: tuple[Path, list[Row]]) -> None:
    out, rows = made
    looked = find_sources(out)
    sources = looked.sources
    assert looked.skipped == []
    found = [(source.name, source.caption, source.group) for source in sources]
    assert found == sorted((row["file"], row["caption"], row["source"]) for row in rows)
    for source in sources:
        with source.open() as file:
            (clip,) = decode_clips(
                file, ClipShape(frames=FRAMES, height=SIDE_PIXELS, width=SIDE_PIXELS, fps=FPS), 1
            )
        assert clip.frames.shape == (FRAMES, SIDE_PIXELS, SIDE_PIXELS, 3)


def test_what_is_written_is_what_was_measured(made: tuple[Path, list[Row]]) -> None:
    out, rows = made
    assert [json.loads(line) for line in (out / "attributes.jsonl").read_text().splitlines()] == rows
    agreeing = [
        measure(_read(out / row["file"]))[name] == value
        for row in rows
        for name, value in row["attributes"].items()
    ]
    assert np.mean(agreeing) > 0.9  # the video format rounds


def _read(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_clips_of_one_episode_share_a_source_and_no_source_is_in_two_scenes(
    made: tuple[Path, list[Row]],
) -> None:
    _, rows = made
    scenes = {
        scene: {row["source"] for row in rows if row["scene"] == scene} for scene in WORLDS["vizdoom"].scenes
    }
    assert sum(len(sources) for sources in scenes.values()) == len(set().union(*scenes.values())) < len(rows)


def test_worlds_and_scenes_get_equal_shares(tmp_path: Path) -> None:
    parts = plan(tmp_path, 8000, 0, tuple(WORLDS))
    by_scene = {(part.domain, part.scene): 0 for part in parts}
    for part in parts:
        by_scene[part.domain, part.scene] += part.clips
    for domain, share in zip(WORLDS, split(8000, 3), strict=True):
        counts = [count for (name, _), count in by_scene.items() if name == domain]
        assert sum(counts) == share
        assert max(counts) - min(counts) <= 1
    assert len({part.name for part in parts}) == len(parts) == len({part.entropy for part in parts})


def test_a_world_that_is_not_installed_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORLDS, "elsewhere", World(("no_such_package",), ("a",), WORLDS["vizdoom"].player))
    with pytest.raises(WorldError, match=r"no_such_package.*pip install -e '.\[bench\]'.*--domains vizdoom"):
        check_installed(("vizdoom", "elsewhere"))


def test_every_worker_runs_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VizDoom makes a folder where it runs, and fails when another one makes it at that moment."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    folders = set()
    for _ in range(2):
        begin_worker(tmp_path)
        folders.add(Path.cwd())
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {tmp_path}
