"""What a model has seen, by the lists of two folders that may have parted the same film otherwise."""

import json
from pathlib import Path

import pytest

from paris_p2p.data.prepared import SplitClip
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.own_data import check_not_seen
from paris_p2p.spec import ClipShape
from tests.made.made_prepared import prepare_made

FILM, OTHER = "f" * 64, "0" * 64
CLIP_S = 1.0


def clip(
    start_s: float, group: str, split: str = "test", content: str = FILM, path: str = "/clips/film.mp4"
) -> SplitClip:
    where = {"source": "film.mp4", "start_s": start_s, "path": path, "size_bytes": 9}
    return SplitClip(key=f"{content[:24]}-000000", split=split, cluster=0, caption="", group=group, **where)


@pytest.fixture
def check(tmp_path: Path):
    """check(a clip to be evaluated, a clip that was trained on elsewhere)."""
    there = prepare_made(tmp_path / "there")
    shape = ClipShape(frames=8, height=16, width=16, fps=16.0)  # clips of half a second

    def check(asked: SplitClip, seen: SplitClip) -> None:
        (tmp_path / "there" / "splits.json").write_text(json.dumps({"clips": [seen.model_dump()]}))
        check_not_seen([asked], CLIP_S, tmp_path / "there", there.model_copy(update={"clip": shape}))

    return check


@pytest.mark.parametrize("split", ["train", "gate"])
def test_the_same_seconds_of_a_film_are_seen_whatever_the_number_of_their_part(check, split):
    with pytest.raises(UsageError, match=r"1 of the 1 clips to be evaluated, one of 'film.mp4' among them"):
        check(clip(10.0, f"{FILM}/3"), clip(10.9, f"{FILM}/5", split))
    with pytest.raises(UsageError, match="show what are train or gate clips"):
        check(clip(10.0, f"{FILM}/3"), clip(9.6, f"{FILM}/2", split))


def test_other_seconds_of_a_film_are_not_seen_though_their_parts_number_is_the_same(check):
    check(clip(10.0, f"{FILM}/3"), clip(11.0, f"{FILM}/3", "train"))
    check(clip(10.0, f"{FILM}/3"), clip(9.5, f"{FILM}/3", "train"))
    check(clip(10.0, f"{FILM}/3"), clip(10.0, f"{FILM}/3", "validation"))


def test_a_file_that_is_one_source_in_either_folder_is_seen_at_any_second(check):
    for asked, seen in ((FILM, f"{FILM}/3"), (f"{FILM}/3", FILM), (f"{FILM}/3", "the owner's film")):
        with pytest.raises(UsageError, match="--rng-seed"):
            check(clip(10.0, asked), clip(90.0, seen, "train"))


def test_a_source_that_the_owner_named_is_seen_in_other_files_of_it(check):
    other = {"content": OTHER, "path": "/clips/other.mp4"}
    with pytest.raises(UsageError, match="--rng-seed"):
        check(clip(10.0, "a film"), clip(90.0, "a film", "train", **other))
    check(clip(10.0, "a film"), clip(90.0, "another film", "train", **other))


def test_a_file_of_a_folder_that_an_older_version_prepared_is_known_by_its_place(check):
    with pytest.raises(UsageError, match="--rng-seed"):
        check(clip(10.0, FILM), clip(0.0, "", "train", content=OTHER))
