"""Measures which latents a network learns best from: PCA's, scaled by channel or together, or an
autoencoder's.

    .venv/bin/python -m bench.latents [--work bench-out/latents] [--jobs 2]

The same network, clips, steps and settings each time: the monolith of bench/ddm_vs_monolith's `core`, two
seeds; and its experts on the fitted autoencoder's latents. Clips for the validation captions are held against
the real validation clips, at the best of three guidances. About an hour and a quarter on two cores,
resumable.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from bench.ddm_vs_monolith.arms import run_of
from bench.ddm_vs_monolith.compare import PLAN, TITLES
from bench.ddm_vs_monolith.data import SHARD_BYTES, Bench, HeldOut, prepare_clips
from bench.ddm_vs_monolith.features_job import embed, through_codec
from bench.ddm_vs_monolith.findings import as_factor
from bench.ddm_vs_monolith.results import Results
from bench.ddm_vs_monolith.sample_job import make
from bench.ddm_vs_monolith.settings import CORE, EXPERTS, MONOLITH
from bench.ddm_vs_monolith.train_job import plan_of, slot_folder, train_slot
from bench.row import machine
from paris_p2p.codec.pca import PcaCodec
from paris_p2p.data.prepared import SPLITS_FILE_NAME, Prepared, PreparedShard, Split
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.device import set_threads
from paris_p2p.disk import write_atomic
from paris_p2p.score.distances import Components, frechet_distance
from paris_p2p.score.intervals import Clips, Interval, Rows, resampled, tree_of

COMPONENTS = 32
LEARNING_RATE = 8e-3  # what the trials of both chose in `core`
SCALED: tuple[Split, ...] = ("train", "gate", "validation")
# a fitted codec's channels begin alike and stay so
OWN_SCALES, ONE_SCALE, FITTED = "pca", "pca-one-scale", "train"
ARMS, SEEDS = (MONOLITH, EXPERTS), (0, 1)
FIRST = (OWN_SCALES, MONOLITH.name)
TRAINED = (FIRST, (ONE_SCALE, MONOLITH.name), (FITTED, MONOLITH.name), (FITTED, EXPERTS.name))  # latents, arm
Table = dict[str, NDArray[Any]]


def bench_of(kind: str, work: Path) -> Bench:
    scale = CORE.model_copy(
        update={"name": "latents", "codec": FITTED if kind == FITTED else "pca", "arms": ARMS}
    )
    return Bench(scale, work / kind, Results(work / "results"))


def scale_alike(own: Bench, alike: Bench) -> None:
    """Copies prepared clips so that channels keep their sizes among each other.

    All together have unit variance.
    """
    shutil.copytree(own.folder / "codec", alike.folder / "codec", dirs_exist_ok=True)
    factors = _one_deviation(alike.folder / "codec")[:, None, None, None]  # C 1 1 1
    shards: list[PreparedShard] = []
    for split in SCALED:
        held = HeldOut(own, split)
        for k in range(own.scale.experts):
            rows = [row for row, clip in enumerate(held.clips) if clip.cluster == k]
            shards += write_shards(
                alike.folder / "shards", split, k, _scaled(held.samples(rows, k), factors), SHARD_BYTES
            )
    shutil.copy(own.folder / SPLITS_FILE_NAME, alike.folder / SPLITS_FILE_NAME)
    Prepared.load(own.folder).model_copy(update={"shards": tuple(shards)}).write(alike.folder)


def _scaled(samples: Iterator[Sample], factors: NDArray[np.float32]) -> Iterator[Sample]:
    for sample in samples:
        latent = (sample.latent.astype(np.float32) * factors).astype(sample.latent.dtype)
        yield Sample(sample.key, latent, sample.tokens, sample.mask, sample.pooled, sample.info)


def _one_deviation(codec: Path) -> NDArray[np.float32]:
    """Gives the codec in a folder one deviation for all channels. Returns what its latents are multiplied
    by: [C].
    """
    pca = PcaCodec.load(codec)
    one = pca.std.square().mean().sqrt()
    PcaCodec(pca.patch_pixels, pca.mean, pca.components, one.expand_as(pca.std).contiguous()).save(codec)
    factors: NDArray[np.float32] = (pca.std / one).numpy()
    return factors


def measure(kind: str, arm: str, rng_seed: int, work: Path) -> None:
    """Trains an arm on one kind of latents and keeps what its clips look like.

    What is done is not done again.
    """
    bench, out = bench_of(kind, work), _sides_path(work, kind, arm, rng_seed)
    if out.exists():
        return
    set_threads(bench.threads)
    plan = plan_of(bench, arm)
    run = run_of(bench, plan, rng_seed, LEARNING_RATE, plan.steps)
    for slot in plan.slots:
        train_slot(bench, plan, run, slot, slot_folder(bench, arm, rng_seed, slot))
    held = HeldOut(bench, "validation")
    rows = held.pick(bench.scale.validation_clips)
    sides = {"real": embed(bench, held.pixels(rows)), "codec": embed(bench, through_codec(bench, held, rows))}
    sampling = bench.scale.main_sampling(arm)
    for guidance in bench.scale.guidances:
        sides[f"{guidance:g}"] = embed(
            bench, make(bench, plan, rng_seed, sampling, guidance, held, rows).pixels
        )
    table = {
        f"{side}/{name}": features for side, tables in sides.items() for name, features in tables.items()
    }
    table["sources"] = np.unique([row["source"] for row in held.made(rows)], return_inverse=True)[1]
    write_atomic(out, save(table))


def _sides_path(work: Path, kind: str, arm: str, rng_seed: int) -> Path:
    return work / kind / f"{arm}-{rng_seed}.safetensors"


def compare(work: Path) -> list[str]:
    """Returns a markdown table; ratios are of the same captions and source videos, resampled together."""
    tables = {one: [load_file(_sides_path(work, *one, seed)) for seed in SEEDS] for one in TRAINED}
    sources = np.concatenate([table["sources"] for table in tables[FIRST]])
    seeds = np.repeat(np.arange(len(SEEDS)), len(sources) // len(SEEDS))
    seen = _projected(tables)
    best = {one: _best(table) for one, table in seen.items()}
    rows = []
    for (kind, arm), table in seen.items():
        guidance = best[kind, arm]
        cells = [f"{kind}, {arm}", f"{bench_of(kind, work).prepared.codec_psnr_db:.1f} dB", guidance]
        for name in CORE.features:
            real, coded, mine = table[f"real/{name}"], table[f"codec/{name}"], table[f"{guidance}/{name}"]
            apart = ", ".join(
                f"{frechet_distance(real[seeds == seed], mine[seeds == seed]):.2f}"
                for seed in range(len(SEEDS))
            )
            cells += [f"{frechet_distance(real, coded):.2f}", apart, f"{frechet_distance(coded, mine):.2f}"]
            first = seen[FIRST][f"{best[FIRST]}/{name}"]
            cells.append(
                "1"
                if (kind, arm) == FIRST
                else as_factor(_ratio(real, mine, first, Clips(real, sources, seeds)))
            )
        rows.append("| " + " | ".join(cells) + " |")
    heads = ("codec alone", "generated, by seed", "to clips through the codec", f"over {', '.join(FIRST)}")
    columns = [
        "latents, arm",
        "codec",
        "guidance",
        *(f"{TITLES[name]}: {head}" for name in CORE.features for head in heads),
    ]
    return [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *rows,
        *_monolith_over_experts(seen, best, sources, seeds),
    ]


def _monolith_over_experts(
    seen: dict[tuple[str, str], Table],
    best: dict[tuple[str, str], str],
    sources: NDArray[Any],
    seeds: NDArray[Any],
) -> Iterator[str]:
    """Compares the monolith with the experts on the fitted autoencoder's latents."""
    one, three = (FITTED, MONOLITH.name), (FITTED, EXPERTS.name)
    for name in CORE.features:
        monolith, experts = seen[one][f"{best[one]}/{name}"], seen[three][f"{best[three]}/{name}"]
        for reference in ("real", "codec"):
            held = seen[one][f"{reference}/{name}"]
            ratio = _ratio(held, monolith, experts, Clips(held, sources, seeds))
            yield (
                f"\nmonolith over experts, {FITTED}, {TITLES[name]}, to {reference} clips: {as_factor(ratio)}"
            )
    yield f"\n{machine()}, {time.strftime('%Y-%m-%d')}"


def _projected(tables: dict[tuple[str, str], list[Table]]) -> dict[tuple[str, str], Table]:
    """Projects everything on the real clips' components: latents and arm -> side/network -> [seeds N, D]."""
    of = {name: Components.fit(tables[FIRST][0][f"real/{name}"], COMPONENTS) for name in CORE.features}
    return {
        one: {
            key: of[key.partition("/")[2]](np.concatenate([table[key] for table in some]))
            for key in some[0]
            if key != "sources"
        }
        for one, some in tables.items()
    }


def _best(table: Table) -> str:
    """Returns the guidance with the least mean logarithm of the distances, as the protocol's trials
    choose.
    """

    def loss(guidance: str) -> float:
        distances = [
            frechet_distance(table[f"real/{name}"], table[f"{guidance}/{name}"]) for name in CORE.features
        ]
        return float(np.log(distances).mean())

    return min((f"{guidance:g}" for guidance in CORE.guidances), key=loss)


def _ratio(real: NDArray[Any], mine: NDArray[Any], first: NDArray[Any], clips: Clips) -> Interval:
    def statistic(rows: Rows) -> float:
        return frechet_distance(real[rows], mine[rows]) / frechet_distance(real[rows], first[rows])

    return resampled(statistic, [np.arange(len(real))], (tree_of(clips),), PLAN)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("bench-out/latents"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="one of them, its latents prepared already: pca/monolith/0")
    options = parser.parse_args()
    if options.only:
        kind, arm, seed = options.only.split("/")
        measure(kind, arm, int(seed), options.work)
        return 0
    own, alike = bench_of(OWN_SCALES, options.work), bench_of(ONE_SCALE, options.work)
    prepare_clips(own)
    if not (alike.folder / "prepared.json").exists():
        scale_alike(own, alike)
    prepare_clips(bench_of(FITTED, options.work))
    waiting = [f"{kind}/{arm}/{seed}" for seed in SEEDS for kind, arm in TRAINED]
    command = [sys.executable, "-m", "bench.latents", "--work", str(options.work), "--only"]
    with ThreadPoolExecutor(options.jobs) as pool:
        ended = list(pool.map(lambda one: subprocess.run([*command, one], check=False).returncode, waiting))
    if any(ended):
        return 1
    print("\n".join(compare(options.work)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
