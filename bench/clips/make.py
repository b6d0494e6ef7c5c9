"""Makes clips of every world in one folder, part by part; a part that is done is not made again.

OUT/*.mp4, captions.csv (file, caption, source: the episode), attributes.jsonl (domain, scene, every
attribute, the mentioned ones).
"""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.clips import attributes, captions, light
from bench.clips.worlds import WORLDS, check_installed
from paris_p2p.disk import write_atomic

PART_CLIPS = 24  # made in one go: opening a game costs as much as some clips of it
QUANTISER, PIXEL_FORMAT = 6, "yuv444p"  # of H.264: about 50 dB, colours at full resolution
LIGHT, WORDING = 0, 1  # what a draw is for: its place in the random counters
PARTS = ".parts"
SETTINGS = "settings.json"
Row = dict[str, Any]
Report = Callable[[int, int], None]  # clips done, of all


@dataclass(frozen=True)
class Part:
    """Names clips of one scene that one worker makes in one go, and all that decides what is in them."""

    out: Path
    rng_seed: int
    domain: str
    scene: str
    number: int
    clips: int

    @property
    def name(self) -> str:
        return f"{self.domain}-{self.scene}-{self.number:03d}-{self.clips}"

    @property
    def done_path(self) -> Path:
        return self.out / PARTS / f"{self.name}.jsonl"

    @property
    def entropy(self) -> tuple[int, ...]:
        """Returns what its randomness is counted from: the seed, and which part it is by the tables'
        order.
        """
        domain = list(WORLDS).index(self.domain)
        return self.rng_seed, domain, WORLDS[self.domain].scenes.index(self.scene), self.number


def make(
    out: Path, clips: int, rng_seed: int, domains: tuple[str, ...], workers: int, report: Report
) -> list[Row]:
    """Makes what is missing of `clips` clips, equally many of each domain and scene.

    WorldError or ValueError when it cannot be.
    """
    check_installed(domains)
    out = out.absolute()
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    _same_settings(out, rng_seed)
    parts = plan(out, clips, rng_seed, domains)
    missing = [part for part in parts if not part.done_path.exists()]
    done, total = (
        sum(part.clips for part in parts) - sum(part.clips for part in missing),
        sum(part.clips for part in parts),
    )
    report(done, total)
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="clips-") as scratch,
        ProcessPoolExecutor(workers, spawn, initializer=begin_worker, initargs=(Path(scratch),)) as pool,
    ):
        try:
            for finished in as_completed([pool.submit(record, part) for part in missing]):
                done += finished.result()
                report(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows = [json.loads(line) for part in parts for line in part.done_path.read_text().splitlines()]
    _write_tables(out, rows)
    return rows


def plan(
    out: Path, clips: int, rng_seed: int, domains: tuple[str, ...], part_clips: int = PART_CLIPS
) -> list[Part]:
    """Returns the parts, one scene after another in turn, so that a broken-off run has some of everything."""
    scenes = [
        (domain, scene, share)
        for domain, of_domain in zip(domains, split(clips, len(domains)), strict=True)
        for scene, share in zip(
            WORLDS[domain].scenes, split(of_domain, len(WORLDS[domain].scenes)), strict=True
        )
    ]
    parts = [
        Part(out, rng_seed, domain, scene, number, min(part_clips, share - number * part_clips))
        for domain, scene, share in scenes
        for number in range(-(-share // part_clips))
    ]
    return sorted(parts, key=lambda part: part.number)


def split(total: int, ways: int) -> list[int]:
    """Returns whole numbers that differ by at most one and add up to `total`."""
    return [total // ways + (way < total % ways) for way in range(ways)]


def record(part: Part) -> int:
    """Makes one part's clips; its list of them is written last, under its final name at once."""
    from examples.gameplay import write_video

    rows: list[Row] = []
    for number, (episode, lit) in enumerate(filmed_of(part)):
        name = f"{part.domain}-{part.scene}-{part.number:03d}-{number:02d}.mp4"
        write_video(part.out / name, list(lit), QUANTISER, PIXEL_FORMAT)
        rows.append(_row(part, name, number, episode, lit))
    write_atomic(part.done_path, "".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def filmed_of(part: Part) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (episode, lit frames [T, H, W, 3]) of each of a part's clips."""
    rng_seed = int(np.random.SeedSequence(part.entropy).generate_state(1)[0] >> 8)  # games take 24 to 31 bits
    with closing(WORLDS[part.domain].player(part.scene, rng_seed)) as played:
        for episode, clip in itertools.islice(_numbered(played), part.clips):
            lamp = light.draw(np.random.default_rng((*part.entropy, LIGHT, episode)))
            yield episode, lamp.on(np.stack(clip))


def _numbered(played: Iterator[list[list[np.ndarray]]]) -> Iterator[tuple[int, list[np.ndarray]]]:
    return ((number, clip) for number, episode in enumerate(played) for clip in episode)


def _row(part: Part, name: str, number: int, episode: int, frames: np.ndarray) -> Row:
    seen = attributes.measure(frames)
    caption, mentioned = captions.write(seen, np.random.default_rng((*part.entropy, WORDING, number)))
    return {
        "file": name,
        "caption": caption,
        "source": f"{part.domain}-{part.scene}-{part.number:03d}-{episode:03d}",
        "domain": part.domain,
        "scene": part.scene,
        "attributes": seen,
        "mentioned": list(mentioned),
    }


def begin_worker(scratch: Path) -> None:
    """Gives a worker one thread and a folder.

    VizDoom makes `_vizdoom` where it runs, and fails if another does.
    """
    os.chdir(tempfile.mkdtemp(dir=scratch))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
        os.environ[name] = "1"


def _same_settings(out: Path, rng_seed: int) -> None:
    path, wanted = out / PARTS / SETTINGS, json.dumps({"rng_seed": rng_seed, "part_clips": PART_CLIPS})
    if path.exists() and path.read_text() != wanted:
        raise ValueError(
            f"{out} was begun with {path.read_text()}, now it is {wanted}: use another folder, "
            "or the same --seed"
        )
    path.write_text(wanted)


def _write_tables(out: Path, rows: list[Row]) -> None:
    with (out / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ("file", "caption", "source"), extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    (out / "attributes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
