"""Whether a model can be evaluated on these clips at all: asked before anything is kept or computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paris_p2p.data.prepared import Prepared, SplitClip
from paris_p2p.errors import UsageError
from paris_p2p.evaluation.evidence import ModelFacts
from paris_p2p.evaluation.options import EvaluateOptions, check_named
from paris_p2p.evaluation.own_data import check_not_seen, check_own_data
from paris_p2p.fetched_run import FetchedRun, check_slots
from paris_p2p.generation.trained import trained_slots
from paris_p2p.spec import ROUTER


@dataclass(frozen=True)
class Baseline:
    """Another model for the same clips, and the folder its run was prepared in, where that is another one."""

    model: FetchedRun
    data: Path | None = None


def check_model(run: FetchedRun, prepared: Prepared, options: EvaluateOptions) -> None:
    """Raises UsageError or SlotMissingError when the model cannot make what is asked."""
    spec, called = run.spec, f"the model of run {run.spec.name!r} ({run.id[:16]}…)"
    check_slots(spec, run.weights, partial=True)
    if options.image_to_video and not spec.training.first_frame_rate:
        raise UsageError(
            f"{called} was not trained to go on from an image; evaluate it without --image-to-video"
        )
    if spec.training.first_frame_rate == 1 and not options.image_to_video:
        raise UsageError(f"{called} was trained only to go on from an image; add --image-to-video")
    if spec.latent.shape != prepared.latent.shape:
        raise UsageError(
            f"{called} has latents of {spec.latent.shape}, the prepared clips {prepared.latent.shape}: "
            "evaluate it on the clips of its own run"
        )
    check_named(options).routing.check_router(ROUTER in run.weights, len(run.experts))


def check_seen(
    model: FetchedRun,
    baseline: Baseline | None,
    prepared_folder: Path,
    prepared: Prepared,
    clips: list[SplitClip],
) -> None:
    """Raises UsageError unless both models were trained on the prepared folder, where the clips are held out;
    a baseline may be prepared elsewhere, if none of the clips to be evaluated was trained on there.
    """
    check_own_data(model, prepared_folder, prepared)
    if baseline is None:
        return
    if baseline.data is None:
        try:
            check_own_data(baseline.model, prepared_folder, prepared)
        except UsageError as error:
            raise UsageError(
                f"of the baseline: {error}; or name its own folder with --baseline-data"
            ) from error
        return
    there = Prepared.load(baseline.data)
    check_own_data(baseline.model, baseline.data, there)
    check_not_seen(clips, prepared.clip.frames / prepared.clip.fps, baseline.data, there)


def facts_of(run: FetchedRun) -> ModelFacts:
    """Returns what the report says of a model; CheckpointError when its weights do not say how far they were
    trained.
    """
    missing = check_slots(run.spec, run.weights, partial=True)
    trained = trained_slots(run.spec, run.weights)
    cards = {slot: run.cards.get(slot, "") for slot in trained}
    return ModelFacts(run.id, run.spec.name, cards, trained, missing)
