"""Is a model any good? Clips are made for the captions of held-out ones and compared with those, and router
and experts are asked what they know of them.

    clips = some of the held-out ones               refused: too few, or what the model was trained on
    for each side, real and every model:
        make the clips                              of a model, 16 at a time
        ask its router and its experts
        look at them with every network, and at their motion

Everything that takes long is kept in the report's folder, part by part, so a second call goes on.
"""

from __future__ import annotations

from pathlib import Path

from paris_p2p.data.prepared import Prepared, split_clips
from paris_p2p.device import pick_device, set_threads
from paris_p2p.evaluation.evidence import BASELINE, MODEL, Evidence
from paris_p2p.evaluation.held_out import Held, choose_balanced, choose_held_out
from paris_p2p.evaluation.opened_model import model_fingerprint
from paris_p2p.evaluation.options import BEFORE_OPTIONS, NOT_OF_THE_CLIPS, EvaluateOptions
from paris_p2p.evaluation.parts import claim_folder
from paris_p2p.evaluation.scoring_networks import load_scoring_networks
from paris_p2p.evaluation.sides import Measuring, older_of
from paris_p2p.evaluation.suitable import Baseline, check_model, check_seen, facts_of
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.progress import Progress


def gather(
    model: FetchedRun,
    prepared_folder: Path,
    out: Path,
    options: EvaluateOptions,
    baseline: Baseline | None,
    progress: Progress,
) -> Evidence:
    """Makes and keeps everything; UsageError, DataError. A second call with the same arguments goes on where
    the first one stopped.
    """
    set_threads(options.threads)
    device, prepared = pick_device(options.device), Prepared.load(prepared_folder)
    clips = choose_held_out(prepared_folder, options)
    models = {MODEL: model} | ({BASELINE: baseline.model} if baseline else {})
    for run in models.values():
        check_model(run, prepared, options)
    check_seen(model, baseline, prepared_folder, prepared, clips)
    facts = {name: facts_of(run) for name, run in models.items()}
    networks = load_scoring_networks(options, device)
    kept = options.model_dump(exclude=set(NOT_OF_THE_CLIPS))
    older = older_of(MODEL, model, options)
    kept["autoguide"] = "" if older is None else model_fingerprint(older)
    settings = {**kept, MODEL: model_fingerprint(model), "data": prepared.fingerprint}
    claim_folder(out, settings, BEFORE_OPTIONS)
    held = Held(prepared_folder, prepared, options.split, options.rng_seed, options.image_to_video)
    measuring = Measuring(out, held, clips, options, networks, device, progress)
    real = measuring.real()
    sides = [measuring.model(name, run) for name, run in models.items()]
    train = choose_balanced(
        list(split_clips(prepared_folder, "train")), options.probe_clips, options.rng_seed
    )
    return Evidence(
        prepared=prepared,
        clips=clips,
        real=real,
        models=sides,
        probe=measuring.probe(train, set(real.features)),
        captions=measuring.captions(),
        aesthetic=networks.head_name,
        facts=facts,
        networks=networks.hashes,
        sampled=options.in_words(),
    )
