"""Makes one set of a run's preview clips in a process of its own, at the lowest priority: a JSON job on
stdin, one JSON line on stdout. It dies with its parent.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field

from paris_p2p.errors import ParisError
from paris_p2p.spec import RunSpec
from paris_p2p.training.child import Line, open_line
from paris_p2p.training.messages import Message

CLIP_FILE = "clip.gif"  # of a video; the writer puts a number into the name of each
PICTURE_FILE = "clip.png"


class PreviewJob(Message):
    """Names what previews are made of: plain local files, and the prompts."""

    run: str
    spec_path: Path  # the RunSpec's envelope bytes
    effective: RunSpec | None = None
    weights: dict[str, Path]  # by slot
    cards: dict[str, str]
    behind: dict[str, int] = {}
    codec: dict[str, Path] = {}  # by the name of each file
    text: dict[str, Path] = {}
    prompts: tuple[str, ...] = Field(min_length=1, max_length=64)
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance: float = 4.0
    device: str = "cpu"
    threads: int = 1
    out: Path  # a new folder


class PreviewMade(Message):
    """Tells what was made, and what it took."""

    files: tuple[str, ...] = ()  # names in the job's folder, one a prompt
    processor_s: float = 0.0
    elapsed_s: float = 0.0
    error: str = ""


def main() -> int:
    """Makes the clips of one job; returns 1 where that failed, which the line says."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    line = open_line()
    job = PreviewJob.model_validate_json(line.receive())
    began_s = time.monotonic()
    try:
        files, error = make_previews(job), ""
    except ParisError as problem:
        files, error = (), str(problem)
    return _tell(line, files, error, began_s)


def make_previews(job: PreviewJob) -> tuple[str, ...]:
    """Makes the clips, each prompt's with the same noise every time, and returns their names."""
    from paris_p2p.fetched_run import FetchedRun
    from paris_p2p.generation.generate import GenerateJob, generate
    from paris_p2p.run_file import read_run

    job.out.mkdir(parents=True)
    run = FetchedRun(
        signed=read_run(job.spec_path, job.run, mend="join the run again"),
        weights=job.weights,
        cards=job.cards,
        codec_folder=_laid_out(job.codec, job.out / ".codec"),
        text_folder=_laid_out(job.text, job.out / ".text") if job.text else None,
        effective=job.effective,
        behind=job.behind,
    )
    name = PICTURE_FILE if run.spec.clip.frames == 1 else CLIP_FILE
    try:
        wished = GenerateJob(
            prompts=job.prompts,
            out=job.out / name,
            steps=job.steps,
            guidance=job.guidance,
            rng_seed=0,
            batch_clips=1,
            device=job.device,
            threads=job.threads,
        )
        return tuple(path.name for path in generate(run, wished).paths)
    finally:
        for folder in (job.out / ".codec", job.out / ".text"):
            shutil.rmtree(folder, ignore_errors=True)


def _laid_out(files: dict[str, Path], folder: Path) -> Path:
    """Makes a folder with these files under their names: links, or copies where the disk has none."""
    folder.mkdir()
    for name, path in files.items():
        try:
            os.link(path, folder / name)
        except OSError:
            shutil.copyfile(path, folder / name)
    return folder


def _tell(line: Line, files: tuple[str, ...], error: str, began_s: float) -> int:
    used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = sum(one.ru_utime + one.ru_stime for one in used)
    elapsed_s = time.monotonic() - began_s
    line.send(PreviewMade(files=files, processor_s=processor_s, elapsed_s=elapsed_s, error=error[:2000]))
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main())
