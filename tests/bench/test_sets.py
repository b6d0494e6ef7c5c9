"""Sets are drawn by a seed, deal sources and stamps to one split each, and say in captions what is seen."""

from __future__ import annotations

import argparse
import itertools
import re
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.clips import captions
from bench.clips.errors import WorldError
from bench.sets import assembly, game_frames, making, picture_words, real
from bench.sets.assembly import Drawn, Recipe, assemble
from bench.sets.clip_parts import split_of
from bench.sets.command import add_set_options, make_by
from bench.sets.composites import KINDS, composites
from bench.sets.game_frames import check_games, part_of
from bench.sets.grounds import GROUNDS, draw_ground
from bench.sets.image_parts import draw_kind
from bench.sets.moving_stamps import CLIPS_AN_EPISODE, filmed
from bench.sets.parts import Kept, Known
from bench.sets.recipes import CLIPS, IMAGES
from bench.sets.stamps import Stamp, dealt_stamps, load_stamps, paste
from bench.when_experts_win import product_set
from bench.when_experts_win.product_set import TEST, TRAIN, UNSAID, VALIDATION, load

KIND = "stripes"
WANTED = {"train": 36, "validation": 12, "test": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of small stamps, as the package has them: coloured discs on nothing."""
    out = tmp_path_factory.mktemp("stamps")
    rows, columns = np.mgrid[:20, :30]
    disc = (np.hypot(rows - 10, columns - 12) < 8) * 255
    for number in range(24):
        colour = np.random.default_rng(number).integers(0, 256, 3)
        rgba = np.dstack([np.broadcast_to(colour, (20, 30, 3)), disc]).astype(np.uint8)
        group = out / ("symbols" if number < 4 else f"kind-{number % 3}")
        group.mkdir(exist_ok=True)
        Image.fromarray(rgba).save(group / f"{number:02d}.png")
    return out


@pytest.fixture(scope="module")
def stamps(folder: Path) -> dict[str, list[Stamp]]:
    return dealt_stamps(load_stamps(folder))


def test_a_folder_named_from_here_is_the_same_one_for_processes_that_work_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    parser, wished = argparse.ArgumentParser(), []
    add_set_options(parser)

    def stopped(wish: making.Wish, say: object) -> None:
        wished.append(wish)
        raise WorldError("far enough")

    monkeypatch.setattr(making, "make_set", stopped)
    for words in (["clips"], ["images", "--out", "mine", "--stamps", "cut-outs"]):
        with pytest.raises(SystemExit):
            make_by(parser.parse_args(words))
    assert [wish.work for wish in wished] == [
        tmp_path / "bench-out/sets/clips-0-work",
        tmp_path / "mine-work",
    ]
    assert wished[1].stamps == tmp_path / "cut-outs"


def test_a_set_keeps_the_seed_that_its_clips_are_drawn_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(drawn: object, recipe: Recipe, *_: object) -> None:
        raise RuntimeError(f"drawn with {recipe.drawn_seed}")

    monkeypatch.setattr(making, "film_clips", lambda *_: [])
    monkeypatch.setattr(making.Drawn, "read", lambda parts: parts)
    monkeypatch.setattr(making, "assemble", stopped)
    with pytest.raises(RuntimeError, match="drawn with 2"):
        making.make_set(making.Wish("clips", tmp_path, 0.01, tmp_path, 2, 1), print)


def test_stamps_that_are_not_installed_are_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="apt install tuxpaint-stamps-default"):
        load_stamps(tmp_path)


def test_making_a_set_ends_with_what_to_install(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_set_options(parser)
    wish = ["images", "--out", str(tmp_path / "set"), "--stamps", str(tmp_path), "--jobs", "1"]
    with pytest.raises(SystemExit, match="install"):
        make_by(parser.parse_args(wish))
    assert not (tmp_path / "set").exists()


def test_a_game_that_is_not_installed_is_told_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game_frames, "missing_packages", lambda world: ["crafter"] * (world == "crafter"))
    check_games(["vizdoom"])
    with pytest.raises(WorldError, match="made with crafter, which is not installed"):
        check_games(game_frames.GAME_WORLDS)


def test_stamps_are_cropped_and_signs_left_out(folder: Path) -> None:
    found = load_stamps(folder)
    assert len(found) == 20
    assert not [stamp for stamp in found if stamp.name.startswith("symbols")]
    assert found[0].pixels.shape == (15, 15, 4)
    assert max(found[0].scaled(9).shape) == 9


def test_each_stamp_is_of_one_split(stamps: dict[str, list[Stamp]]) -> None:
    names = [stamp.name for split in stamps.values() for stamp in split]
    assert len(names) == len(set(names)) == 20
    assert all(stamps[split] for split in WANTED)


@pytest.mark.parametrize(("top", "left"), [(-3, 2), (6, 6), (-9, 0), (0, 40), (2, -5)])
def test_a_stamp_covers_where_it_lies_and_nothing_else(top: int, left: int) -> None:
    picture, cut = np.zeros((8, 8, 3), np.float32), np.ones((5, 5, 4), np.float32)
    paste(picture, cut, top, left)
    expected = np.zeros((8, 8))
    for row, column in itertools.product(range(8), range(8)):
        expected[row, column] = top <= row < top + 5 and left <= column < left + 5
    assert np.array_equal(picture, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("kind", GROUNDS)
def test_a_ground_s_look_has_the_same_colours_at_another_place(kind: str) -> None:
    looks = [
        draw_ground(kind, 32, np.random.default_rng(look), np.random.default_rng(place))
        for look, place in ((1, 5), (1, 6), (2, 5))
    ]
    assert looks[0].shape == (32, 32, 3)
    means = [look.mean((0, 1)) for look in looks]
    assert np.array_equal(looks[0], looks[1]) == (kind == "gradient")  # which fills every picture
    assert np.abs(means[0] - means[1]).max() < 0.25
    assert np.abs(means[0] - means[2]).max() > np.abs(means[0] - means[1]).max()


def test_parts_of_a_frame_come_with_their_colours_in_any_order() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[..., 1] = 200
    parts = [part_of(frame, 32, np.random.default_rng(number)) for number in range(30)]
    assert {int(part.mean((0, 1)).argmax()) for part in parts} == {0, 1, 2}


def test_the_same_seed_composes_the_same_pictures_and_splits_share_none(
    stamps: dict[str, list[Stamp]],
) -> None:
    def some(split: str, seed: int) -> list[bytes]:
        with closing(composites(KIND, split, stamps["train"], seed)) as drawn:
            return [one.picture.tobytes() for one in itertools.islice(drawn, 9)]

    assert some("train", 0) == some("train", 0)
    assert not set(some("train", 0)) & set(some("test", 0))
    assert not set(some("train", 0)) & set(some("train", 1))


def test_a_picture_s_caption_says_what_it_is_listed_to_mention_and_only_that() -> None:
    rng = np.random.default_rng(0)
    seen = {"brightness": "dark", "colour": "purple", "place": "left", "size": "large", "count": "two"}
    every = {picture_words.write_caption(seen, rng) for _ in range(200)}
    assert len(every) == len(picture_words.TEMPLATES)
    words = {name: picture_words.WORDS[name].get(value, value) for name, value in seen.items()}
    for text, said in every:
        assert {name for name, word in words.items() if word in text.lower()} == set(said)


def test_captions_of_sets_are_few_and_name_no_kind() -> None:
    rng = np.random.default_rng(0)
    found: set[str] = set()
    for values, write in (
        (picture_words.VALUES, picture_words.write_caption),
        ({name: tuple(words) for name, words in captions.WORDS.items()}, captions.write_plainly),
    ):
        seen = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
        texts = {write(one, rng)[0] for one in seen for _ in range(3)}
        assert len(texts) <= 700
        found |= texts
    words = {word for text in found for word in re.findall("[a-z]+", text.lower())}
    assert not words & {*KINDS, "vizdoom", "crafter", "stamp", "stamps", "game", "ground", "dot", "stripe"}


def test_sources_go_to_one_split_each_in_the_wanted_shares() -> None:
    found = Counter(split_of(f"episode-{number}") for number in range(5000))
    assert found["test"] / 5000 == pytest.approx(0.14, abs=0.015)
    assert found["validation"] / 5000 == pytest.approx(0.06, abs=0.01)
    assert split_of("episode-7") == split_of("episode-7")


def test_stamps_move_and_the_same_seed_films_the_same(stamps: dict[str, list[Stamp]]) -> None:
    clips = [list(filmed(KIND, stamps["train"], (0, number))) for number in range(8)]
    assert {len(each) for each in clips} == {CLIPS_AN_EPISODE}
    first = clips[0][0]
    assert first.shape == (8, 64, 64, 3)
    assert np.array_equal(first, next(iter(filmed(KIND, stamps["train"], (0, 0)))))
    still = [bool((clip == clip[:1]).all()) for each in clips for clip in each]
    assert 0 < sum(still) < len(still) / 2


def test_a_part_is_there_when_its_list_is(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "part")
    pixels = np.zeros((1, 1, 4, 4, 3), np.uint8)
    known = [Known("A caption", "source", "train", "world", {"size": "small"}, ("size",))]
    assert not kept.is_done
    kept.write(pixels, known)
    assert kept.is_done
    assert kept.known() == known
    assert kept.made("sums", lambda seen: seen.sum((1, 2, 3, 4))).tolist() == [0]
    assert kept.made("sums", lambda seen: seen + 1).tolist() == [0]


@pytest.fixture(scope="module")
def assembled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Drawn, Path]:
    """Returns a set of pictures of two kinds, whose features are their mean colours' spread."""
    out = tmp_path_factory.mktemp("set")
    parts = []
    for kind, (split, count) in itertools.product(("gradient", KIND), WANTED.items()):
        parts.append(Kept(out / "work", f"{kind}-{split}"))
        draw_kind(folder, 0, kind, split, count, parts[-1])
    drawn = Drawn.read(parts)
    recipe = replace(IMAGES, clusters=2, codec="pca", codec_examples=40, held_out=24, probe=20, drawn_seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "cluster_features", lambda pixels, frames: coarse(pixels))
        assemble(drawn, recipe, out / "images", out / "work", lambda _: None)
    return drawn, out / "images"


def coarse(pixels: np.ndarray) -> np.ndarray:
    """Returns each clip's spread of brightness along rows and columns, and some constants: [N 8]."""
    luma = pixels.astype(np.float32).mean((1, 4)) / 255
    rough = [np.abs(np.diff(luma, axis=axis)).mean((1, 2)) for axis in (1, 2)]
    return np.stack([*rough, *[np.full(len(luma), 0.1)] * 6], 1).astype(np.float16)


def test_a_set_holds_what_was_drawn_through_the_codec_and_the_text_encoder(
    assembled: tuple[Drawn, Path],
) -> None:
    drawn, out = assembled
    made = load(out)
    assert [len(made.rows(split)) for split in (TRAIN, VALIDATION, TEST)] == [72, 24, 32]
    assert made.latents.shape == (128, 8, 1, 8, 8)
    assert made.about.made["drawn_seed"] == 3
    assert made.pooled.norm(dim=1).float().mean() == pytest.approx(1, abs=1e-3)
    assert len(made.tokens) == len({row.caption for row in drawn.known})
    test = made.rows(TEST)
    assert not set(made.source[test].tolist()) & set(made.source[made.rows(TRAIN)].tolist())
    values = made.about.attributes["place"]
    place = made.attributes[:, list(made.about.attributes).index("place")]
    for row, said in zip(drawn.known, place.tolist(), strict=True):
        assert (said == UNSAID) == ("place" not in row.said)
        assert said == UNSAID or values[said] == row.seen["place"]
    pixels = torch.from_numpy(drawn.pixels(test.numpy()))
    back = made.codec().decode(made.latents[test].float())
    assert (back.float() - pixels.float()).square().mean().sqrt() < 40


def test_networks_look_at_pixels_and_at_what_the_codec_gives_back(
    assembled: tuple[Drawn, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, out = assembled
    made = load(out)
    monkeypatch.setattr(
        real, "load_features", lambda name, device: lambda video: video.float().mean((1, 2, 3))
    )
    seen = real.look(made, ["colour"])
    rows = {name: made.real[f"rows/{name}"] for name in ("test", "probe", "floor")}
    assert len(rows["test"]) == len(rows["floor"]) == 24
    assert len({*rows["probe"].tolist(), *rows["floor"].tolist()}) == 44
    pixels = drawn.pixels(rows["floor"].astype(np.int64)).astype(np.float32)
    assert seen.real["floor/colour"] == pytest.approx(pixels.mean((1, 2, 3)), abs=1e-3)
    assert np.abs(seen.real["codec/colour"] - seen.real["raw/colour"]).mean() < 4
    assert seen.networks == ["colour"]


def test_latents_that_fill_several_files_are_read_back_as_one(
    assembled: tuple[Drawn, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load(assembled[1])
    monkeypatch.setattr(product_set, "MOST_BYTES", 50 * 8 * 64)
    product_set.save(made, tmp_path, int8=True)
    assert [path.name for path in product_set._more(tmp_path)] == [
        "latents-2.safetensors",
        "latents-3.safetensors",
    ]
    assert torch.equal(load(tmp_path).latents, made.latents)
    monkeypatch.undo()
    product_set.save(made, tmp_path, int8=True)
    assert product_set._more(tmp_path) == []


def test_recipes_ask_for_what_codecs_and_captions_can_give() -> None:
    for recipe in (IMAGES, CLIPS):
        assert recipe.clip.height % recipe.patch_pixels == 0
        assert recipe.feature_frames <= recipe.clip.frames
    assert set(CLIPS.attributes) <= set(captions.WORDS)
