"""Makes the folders that the benchmark grows a run in: two worlds first, the third's clips beside them."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

from bench.clips.make import make
from paris_p2p.data.addition import Addition, additions_of, listed_clips
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared, PreparedShard, Split
from paris_p2p.envelope import Envelope
from paris_p2p.preparation.create import CreateOptions, create_run, load_run
from paris_p2p.preparation.into import IntoOptions, prepare_into
from paris_p2p.preparation.prepare import PrepareOptions, prepare
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec, TrainingSpec

OLD, NEW = ("vizdoom", "crafter"), "metaworld"
SIDE_PIXELS, FRAMES, FPS = 32, 8, 16.0
HELD_OUT: tuple[Split, ...] = ("validation", "test")
THREADS = 2


def worlds_of(clips: Path) -> dict[str, str]:
    """Returns each recorded file's world."""
    lines = (clips / "attributes.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["file"]: row["domain"] for row in map(json.loads, lines)}


def record(out: Path, count: int, rng_seed: int) -> Path:
    """Records clips of all three worlds, and links them into `two` and `third`; goes on where it ended."""
    clips = out / "clips"
    make(clips, count, rng_seed, (*OLD, NEW), THREADS, lambda done, total: None)
    worlds = worlds_of(clips)
    with (clips / "captions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, wanted in (("two", OLD), ("third", (NEW,))):
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        mine = [row for row in rows if worlds[row["file"]] in wanted]
        for row in mine:
            (folder / row["file"]).parent.mkdir(parents=True, exist_ok=True)
            os.link(clips / row["file"], folder / row["file"])
        with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(mine)
    return clips


def prepare_two(out: Path, preset: str) -> Envelope[RunSpec]:
    """Prepares the two worlds and signs a run of two experts; returns at once where that is done."""
    folder = out / "run"
    options = PrepareOptions(
        experts=2, frames=FRAMES, height=SIDE_PIXELS, width=SIDE_PIXELS, fps=FPS, threads=THREADS
    )
    if not (folder / RUN_FILE).exists():
        prepare(out / "two", folder, options)
        training = TrainingSpec(
            batch_clips=8,
            router_batch_clips=16,
            learning_rate=1e-3,
            router_learning_rate=1e-3,
            warmup_steps=50,
            ema_decay=0.99,
        )
        words = {"name": "growth", "purpose": "benchmark", "data_licence": "MIT", "weights_licence": "MIT"}
        create_run(
            folder,
            CreateOptions(
                **words,
                expert=preset,
                router="micro",
                training=training,
                gate=GateSpec(clips=32),
                timing=TimingSpec(),
            ),
            None,
        )
    return load_run(folder)


def prepare_third(out: Path) -> Addition:
    """Prepares the third world's clips into the run; returns at once where that is done."""
    done = additions_of(out / "run")
    return done[0] if done else prepare_into(out / "third", out / "run", IntoOptions(threads=THREADS))


def fresh_copy(out: Path) -> Path:
    """Returns a copy of the run's folder, which grows and is regrouped; `run` stays as it was prepared."""
    shutil.rmtree(out / "grown", ignore_errors=True)
    return Path(shutil.copytree(out / "run", out / "grown", ignore=shutil.ignore_patterns("cache")))


def held_out(folder: Path) -> dict[str, ClipSet]:
    """Returns the held-out clips of each of the clusters that the run began with, and of the new world."""
    prepared = Prepared.load(folder)
    sets: dict[str, tuple[PreparedShard, ...]] = {
        f"old {k}": tuple(s for s in prepared.shards if s.split in HELD_OUT and s.cluster == k)
        for k in range(prepared.experts)
    }
    sets[NEW] = tuple(s for one in additions_of(folder) for s in one.shards if s.split in HELD_OUT)
    return {
        name: ClipSet(
            [folder / shard.path for shard in shards],
            [shard.cluster for shard in shards],
            latent=prepared.latent,
            text=prepared.text_shape,
        )
        for name, shards in sets.items()
    }


def clusters_of(out: Path, folder: Path) -> dict[str, dict[int, int]]:
    """Returns how many clips of each world fell into which cluster, by the lists in `folder`."""
    worlds = worlds_of(out / "clips")
    counts: dict[str, dict[int, int]] = {}
    for clip in listed_clips(folder):
        row = counts.setdefault(worlds[clip.source], {})
        row[clip.cluster] = row.get(clip.cluster, 0) + 1
    return counts
