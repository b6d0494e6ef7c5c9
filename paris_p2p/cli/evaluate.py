"""`paris-run evaluate`: is a model any good?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from paris_p2p.cli.console import (
    checked_options,
    default_data_dir,
    echo,
    parse_invite,
    progress_bars,
    want_folder,
)
from paris_p2p.errors import UsageError
from paris_p2p.pasted import invites_in


def evaluate(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A folder that `export` wrote, or paris:…, @FILE, or - for stdin.", metavar="MODEL"
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="What `paris-run prepare` wrote; its clips must still be where they were."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the report goes; a second call goes on there.")
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Another model for the same clips, like a monolith.")
    ] = None,
    baseline_data: Annotated[
        Path | None,
        typer.Option(help="What `prepare` wrote for the baseline, where that is another folder than --data."),
    ] = None,
    split: Annotated[str, typer.Option(help="test, or validation for what is still being tuned.")] = "test",
    clips: Annotated[
        int, typer.Option(min=4, help="At most this many held-out clips, and as many generated ones.")
    ] = 1000,
    probe_clips: Annotated[
        int, typer.Option(min=0, help="Train clips that the probe of prompt fidelity learns from.")
    ] = 1000,
    features: Annotated[
        list[str] | None, typer.Option(help="As of prepare, and i3d:FILE; may be repeated.")
    ] = None,
    sha256: Annotated[
        str, typer.Option(help="Of the i3d: file, which is code: another one is refused before it runs.")
    ] = "",
    aesthetic: Annotated[
        Path | None, typer.Option(help="LAION's aesthetic head as safetensors; needs --features clip:.")
    ] = None,
    losses: Annotated[
        Path | None, typer.Option(help='JSON lines of {"model": …, "clips": …, "loss": …} to draw.')
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    guidance: Annotated[float, typer.Option(min=0)] = 4.0,
    guidance_form: Annotated[
        str, typer.Option(help="per_expert (as published), or exact: routed apart without text.")
    ] = "per_expert",
    routing: Annotated[str, typer.Option(help="top_k, full, threshold or uniform.")] = "top_k",
    top_k: Annotated[int, typer.Option(min=1)] = 1,
    rng_seed: Annotated[int, typer.Option(min=0)] = 0,
    image_to_video: Annotated[
        bool, typer.Option("--image-to-video", help="Each clip goes on from the real one's first frame.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for torch's own choice.")] = 0,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", envvar="PARIS_DATA_DIR")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Of an invite, use only what an earlier fetch brought.")
    ] = False,
) -> None:
    """Is it any good? Generate for held-out captions, measure against the real clips, write
    OUT/report.html and results.json.
    """
    from paris_p2p.evaluation.gather import Baseline, EvaluateOptions, check_named, gather
    from paris_p2p.evaluation.report import made_by, read_losses, write_evaluation
    from paris_p2p.peer.settings import check_device

    if baseline_data is not None and baseline is None:
        raise UsageError("--baseline-data is of a baseline's run, and no --baseline is given")
    check_device(device)
    want_folder(data, "--data, the folder of `paris-run prepare`,")
    wished = {"features": tuple(features)} if features else {}
    with checked_options(i3d_sha256="--sha256"):
        options = EvaluateOptions(
            split=split,
            clips=clips,
            probe_clips=probe_clips,
            steps=steps,
            guidance=guidance,
            guidance_form=guidance_form,
            routing=routing,
            top_k=top_k,
            rng_seed=rng_seed,
            image_to_video=image_to_video,
            i3d_sha256=sha256.lower(),
            aesthetic=aesthetic,
            device=device,
            threads=threads,
            **wished,
        )
    check_named(options)
    if losses is not None:
        read_losses(losses)
    with progress_bars() as progress:
        fetch = partial(_model_folder, out=out, data_dir=data_dir, offline=offline, progress=progress)
        other = Baseline(fetch(baseline), baseline_data) if baseline else None
        evidence = gather(fetch(model), data, out, options, other, progress)
        write_evaluation(out, evidence, losses, made_by(_command_line(context), options), progress)
    echo(f"wrote {out / 'report.html'} and {out / 'results.json'}")


def _command_line(context: typer.Context) -> list[str]:
    """The command as somebody else would type it: arguments, then every option that is not left alone."""
    words, options = ["paris-run", str(context.info_name)], []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif value is True:
            options.append(parameter.opts[0])
        elif value is not None and value is not False and value != parameter.default:
            options += [
                word
                for one in (value if isinstance(value, (list, tuple)) else (value,))
                for word in (parameter.opts[0], str(one))
            ]
    return words + options


def _model_folder(
    model: str, out: Path, data_dir: Path | None, offline: bool, progress: Callable[[str, int, int], None]
) -> Path:
    """The exported model itself, or one exported beside the report from what an invite brings, once."""
    pasted = model == "-" or model.startswith("@") or next(invites_in(model), "")
    if not pasted or Path(model).exists():
        return Path(model)
    from paris_p2p.generation.export import export as run_export
    from paris_p2p.node.generator import GENERATOR_DIR, fetch_run
    from paris_p2p.spec import PeerSettings

    settings = PeerSettings(data_dir=data_dir or default_data_dir())
    invite = parse_invite(model, settings.data_dir / GENERATOR_DIR)
    folder = out.with_name(f"{out.name}-model-{invite.run[:16]}")
    if not folder.exists():
        run_export(fetch_run(settings, invite, offline=offline, progress=progress), folder)
    return folder
