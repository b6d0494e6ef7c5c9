"""Makes the same things with two trees of this project and compares them byte for byte.

    git worktree add ../before 0eef63d
    python -m bench.same_bytes ../before . --out /tmp/same-bytes

Each tree, in a process of its own, prepares the same clips, signs a run with the same key, trains every slot
from the same seeds, measures the checkpoints at the gate, seals a record of each kind and generates clips.
The command ends with status 1 when anything that both trees made differs. It knows the module names of both
layouts of the house, before and after the rooms of `training`, `generation` and `preparation`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

STEPS = 12  # optimizer steps of a slot
PROMPTS = ("a red square moves right", "a green square moves down")
ROUTINGS = ({"top_k": 1}, {"routing": "full", "guidance_form": "exact"}, {"top_k": 2, "sampler": "heun"})
OWNER, PEER = bytes(range(32)), bytes(range(32, 64))  # private keys, for this comparison alone


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when both trees made the same, 1 when they did not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("trees", nargs="*", type=Path, help="two checkouts: before and after")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is new or empty")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make:
        print(json.dumps(make(options.out)))
        return 0
    if len(options.trees) != 2:
        parser.error("name two trees, before and after")
    options.out.mkdir(parents=True, exist_ok=True)
    write_clips(options.out / "clips")
    before, after = (made_by(tree.resolve(), options.out) for tree in options.trees)
    return compare(before, after)


def made_by(tree: Path, out: Path) -> dict[str, str]:
    """Returns what one tree makes, hash by name; its folder has the same name as the other tree's."""
    folder = out / "work"
    if folder.exists():
        folder.rename(out / f"work-{len(list(out.glob('work-*')))}")
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__).resolve()), "--make", "--out", str(out)]
    print(f"making everything with {tree}", flush=True)
    answer = subprocess.run(command, cwd=out, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    made: dict[str, str] = json.loads(answer.stdout.splitlines()[-1])
    return made


def compare(before: dict[str, str], after: dict[str, str]) -> int:
    """Prints every name with its verdict; returns 1 when a hash differs or is missing on a side."""
    different = 0
    for name in sorted(before.keys() | after.keys()):
        same = before.get(name) == after.get(name)
        different += not same
        print(f"{'same     ' if same else 'DIFFERENT'}  {name:<44} {(after.get(name) or 'absent')[:16]}")
    print(f"{len(before.keys() | after.keys()) - different} the same, {different} different")
    return int(different > 0)


def write_clips(folder: Path) -> None:
    """Writes 24 captioned videos of a moving square, lossless."""
    import av
    import numpy as np

    folder.mkdir(exist_ok=True)
    colours = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}
    ways = {"right": (0, 3), "down": (3, 0)}
    for number in range(24):
        colour, way = list(colours)[number % 3], list(ways)[number // 3 % 2]
        path = folder / f"{number:03}.mkv"
        path.with_suffix(".txt").write_text(f"a {colour} square moves {way}\n")
        if path.exists():
            continue
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=Fraction(8))
            stream.width = stream.height = 64
            stream.pix_fmt = "bgr0"
            for t in range(10):
                frame = np.full((64, 64, 3), 16 + number, np.uint8)
                y, x = (offset + step * t for offset, step in zip((8 + number, 10), ways[way], strict=True))
                frame[y : y + 12, x : x + 12] = colours[colour]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))


def make(out: Path) -> dict[str, str]:
    """Makes everything with the tree this process imports `paris_p2p` from; returns hashes by name."""
    import torch

    torch.set_num_threads(1)
    folder = out / "work"
    folder.mkdir()
    made = {"records": hash_of(b"".join(sealed_records()))}
    made |= prepared(out / "clips", folder / "run")
    run = created(folder / "run")
    made |= run.hashes
    for slot in run.spec.slots:
        made |= run.train_and_check(slot, folder / slot)
    for number, wishes in enumerate(ROUTINGS):
        made |= run.generated(folder / f"generated-{number}", wishes)
    return made


def hash_of(data: bytes) -> str:
    """Returns the BLAKE3 of bytes, in hex."""
    from blake3 import blake3

    return str(blake3(data).hexdigest())


def found(*names: str) -> Any:
    """Returns the first of these modules that the tree itself has; an installed copy is not meant."""
    package = Path(str(importlib.import_module("paris_p2p").__file__)).parent
    for name in names:
        if (package.parent / f"{name.replace('.', '/')}.py").is_file():
            return importlib.import_module(name)
    raise SystemExit(f"{package} has none of {', '.join(names)}")


def sealed_records() -> list[bytes]:
    """Returns one sealed record of each kind."""
    from paris_p2p import records
    from paris_p2p.envelope import seal
    from paris_p2p.identity import Identity

    who, run, blob = Identity.from_private_bytes(PEER), "ab" * 32, records.BlobRef(id="cd" * 32, size_bytes=5)
    head: dict[str, Any] = {"run": run, "seq": 3, "issued_at": 1000.0, "expires_at": 2000.0}
    slot = head | {"slot": "expert-1"}
    card = {"parent": "", "weights": blob, "resume": blob, "steps": 7, "clips": 70, "train_loss": 0.5}
    made: list[Any] = [
        records.ClaimRecord(**slot, epoch=2, claimed_at=900.0),
        records.CardRecord(**slot, epoch=2, **card),
    ]
    measured = {"card": "ef" * 32, "epoch": 2, "loss": 0.5, "reference_loss": 1.0, "gate_clips": 8}
    made += [
        records.AttestationRecord(**slot, **measured, best="ef" * 32, fixed_loss=0.75),
        records.RefusalRecord(**slot, **measured, reason="worse"),
        records.HolderRecord(**head, what="ef" * 32),
        records.PeerRecord(**head, role="owner"),
    ]
    return [seal(who, record).data for record in made]


def prepared(clips: Path, out: Path) -> dict[str, str]:
    """Prepares the clips; returns the hashes of all files but those that say when and where."""
    prepare = found("paris_p2p.preparation.prepare", "paris_p2p.work.prepare").prepare
    options = found("paris_p2p.preparation.networks", "paris_p2p.work.prepare_networks").PrepareOptions
    prepare(clips, out, options(experts=2, frames=8, height=64, width=64, fps=8.0, threads=1))
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and "cache" not in path.parts]
    return {f"prepared {path.relative_to(out)}": hash_of(path.read_bytes()) for path in files}


class Run:
    """Holds a signed run of the prepared folder, and its checkpoints."""

    def __init__(self, folder: Path, signed: Any):
        self.folder, self.signed, self.spec, self.run = folder, signed, signed.record, signed.id
        self.prepared = importlib.import_module("paris_p2p.data.prepared").Prepared.load(folder)
        self.spec_path = folder / "run.spec"
        self.hashes = {"run.spec": hash_of(self.spec_path.read_bytes())}
        self.weights: dict[str, Path] = {}

    def train_and_check(self, slot: str, out: Path) -> dict[str, str]:
        """Trains a slot twice (a start and a resumption) and measures the result at the gate."""
        messages = found("paris_p2p.training.messages", "paris_p2p.work.messages")
        train = found("paris_p2p.training.train", "paris_p2p.work.train").train
        gate = found("paris_p2p.training.gate", "paris_p2p.work.gate")
        common = self._job(slot, "train") | {"out_dir": out, "checkpoint_s": 0}
        events: list[Any] = []
        for steps in (STEPS // 2, STEPS):
            out.mkdir(exist_ok=True)
            resume = events[-1] if (events := [e for e in events if e.event == "checkpoint_ready"]) else None
            more = {} if resume is None else {"resume_path": resume.resume_path, "resume_steps": resume.steps}
            more |= {} if resume is None else {"resume_clips": resume.clips}
            train(messages.TrainJob(**common, **more, max_steps=steps), events.append, lambda: None)
        ready = [event for event in events if event.event == "checkpoint_ready"][-1]
        self.weights[slot] = ready.weights_path
        names = ("weights_path", "resume_path", "steps", "clips")
        job = messages.GateJob(
            **self._job(slot, "gate"), card="12" * 32, **{name: getattr(ready, name) for name in names}
        )
        result = (gate.check_card if hasattr(gate, "check_card") else gate.check)(job)
        return {
            f"{slot} weights": hash_of(ready.weights_path.read_bytes()),
            f"{slot} resume": hash_of(ready.resume_path.read_bytes()),
            f"{slot} gate": hash_of(result.model_dump_json().encode()),
        }

    def generated(self, out: Path, wishes: dict[str, Any]) -> dict[str, str]:
        """Generates two clips of each prompt; returns the hashes of the files."""
        generate = found("paris_p2p.generation.generate", "paris_p2p.work.generate")
        cards = {slot: f"{number:064x}" for number, slot in enumerate(self.spec.slots)}
        how = {"prompts": PROMPTS, "clips_per_prompt": 2, "steps": 6, "rng_seed": 7, "device": "cpu"}
        job = how | wishes | {"threads": 1, "out": out / "clips.npy"}
        if "scheduler" in generate.GenerateJob.model_fields and "sampler" in job:
            job["scheduler"] = job.pop("sampler")  # the same field's later name
        out.mkdir()
        files = {"codec_folder": self.folder / "codec", "text_folder": None, "features_folder": None}
        if "weights" in generate.GenerateJob.model_fields:
            spec = {"run": self.run, "spec_path": self.spec_path}
            generate.generate(generate.GenerateJob(**job, **spec, weights=self.weights, cards=cards, **files))
        else:
            fetched = found("paris_p2p.fetched_run").FetchedRun
            run = fetched(signed=self.signed, weights=self.weights, cards=cards, **files)
            generate.generate(run, generate.GenerateJob(**job))
        return {
            f"generated {'-'.join(str(value) for value in wishes.values())} {path.name}": hash_of(
                path.read_bytes()
            )
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }

    def _job(self, slot: str, split: str) -> dict[str, Any]:
        shards = self.prepared.shards_for(split)
        mine = [shard for shard in shards if slot in ("router", f"expert-{shard.cluster}")]
        return {
            "run": self.run,
            "slot": slot,
            "spec_path": self.spec_path,
            "shard_paths": tuple(self.folder / shard.path for shard in mine),
            "shard_clusters": tuple(shard.cluster for shard in mine),
            "device": "cpu",
            "threads": 1,
        }


def created(folder: Path) -> Run:
    """Signs the run with a fixed key at a fixed time."""
    import time

    room = found("paris_p2p.preparation.create", "paris_p2p.work.create")
    from paris_p2p.identity import Identity, save_owner_key
    from paris_p2p.spec import GateSpec, TimingSpec, TrainingSpec

    save_owner_key(Identity.from_private_bytes(OWNER), folder / room.KEY_FILE, None)
    (folder / "node").mkdir()
    key = folder / "node" / "identity.key"
    key.touch(0o600)
    key.write_bytes(Identity.from_private_bytes(PEER).libp2p_private_key())
    training = TrainingSpec(batch_clips=4, learning_rate=1e-3, router_batch_clips=4, warmup_steps=5)
    words = dict.fromkeys(("name", "purpose", "data_licence", "weights_licence"), "same bytes")
    options = room.CreateOptions(
        **words, expert="micro", router="nano", training=training, gate=GateSpec(clips=6), timing=TimingSpec()
    )
    if "seal_gate" in room.CreateOptions.model_fields:  # under a new key each time: not the same bytes
        options = options.model_copy(update={"seal_gate": False})
    clock: Callable[[], float] = time.time
    time.time = lambda: 1_700_000_000.0
    try:
        signed = room.create_run(folder, options, None)
    finally:
        time.time = clock
    return Run(folder, signed)


if __name__ == "__main__":
    raise SystemExit(main())
