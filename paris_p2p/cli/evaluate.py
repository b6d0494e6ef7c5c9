"""`paris-run evaluate`: is a model any good?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.choices import HeldOut
from paris_p2p.cli.console import echo, parse_invite, progress_bars
from paris_p2p.cli.groups import (
    DeviceOption,
    FetchFlags,
    OfflineOption,
    SamplingFlags,
    ThreadsOption,
    fetch_settings,
    option,
)
from paris_p2p.cli.typed import checked_options
from paris_p2p.cli.verb import verb
from paris_p2p.disk import named_path
from paris_p2p.errors import UsageError
from paris_p2p.pasted import invites_in
from paris_p2p.shown import put

if TYPE_CHECKING:
    from paris_p2p.peer_settings import PeerSettings

MEASURES = "What is measured"


@dataclass(frozen=True)
class EvaluateFlags(SamplingFlags):
    """Holds the options of what is made and measured."""

    split: Annotated[
        HeldOut, option("test, or validation for what is still being tuned.", panel=MEASURES)
    ] = "test"
    clips: Annotated[
        int,
        option("Held-out clips at most, and as many generated ones.", "N", panel=MEASURES, min=4),
    ] = 1000
    probe_clips: Annotated[
        int,
        option("Train clips that the probe of prompt fidelity learns from.", "N", panel=MEASURES, min=0),
    ] = 1000
    features: Annotated[
        list[str] | None,
        option(
            "A network as for prepare, or i3d:FILE; may be repeated.",
            "NAME",
            panel=MEASURES,
            show_default="efficientnet-lite0 and transnetv2",
        ),
    ] = None
    i3d_sha256: Annotated[
        str,
        option(
            "SHA-256 of the i3d: file, which is code: another one is refused before it runs.",
            "HEX",
            "--sha256",
            panel=MEASURES,
        ),
    ] = ""
    aesthetic: Annotated[
        Path | None,
        option(
            "LAION's aesthetic head as safetensors; needs --features clip:.",
            "FILE",
            panel=MEASURES,
            parser=typed.file("LAION's aesthetic head"),
        ),
    ] = None
    rng_seed: Annotated[int, option("Seed of the choice of clips and of the noise.", "N", min=0)] = 0
    image_to_video: Annotated[
        bool, option("Let each clip go on from the real one's first frame.", None, "--image-to-video")
    ] = False
    device: DeviceOption = "auto"
    threads: ThreadsOption = 0


@dataclass(frozen=True)
class ComparedFlags:
    """Holds what is compared with what, and where the report goes."""

    data: Annotated[
        Path,
        option(
            "What `paris-run prepare` wrote; its clips must still be where they were.",
            "FOLDER",
            "--data",
            parser=typed.prepared("--data, the folder of `paris-run prepare`,"),
        ),
    ]
    out: Annotated[
        Path, option("The folder of the report; a second call goes on there.", "FOLDER", "--out", "-o")
    ]
    baseline: Annotated[str | None, option("Another model for the same clips, like a monolith.", "MODEL")] = (
        None
    )
    baseline_data: Annotated[
        Path | None,
        option(
            "What `paris-run prepare` wrote for the baseline, where that is another folder than --data.",
            "FOLDER",
            parser=typed.prepared("--baseline-data, the baseline's folder of `paris-run prepare`,"),
        ),
    ] = None
    losses: Annotated[
        Path | None,
        option(
            'JSON lines of {"model": …, "clips": …, "loss": …} to draw, in place of the run\'s own history.',
            "FILE",
            parser=typed.file("a file of losses"),
        ),
    ] = None
    offline: OfflineOption = False


def add_evaluate(app: typer.Typer) -> None:
    """Adds the command to `paris-run`."""
    verb(
        app,
        "paris-run evaluate model --data prepared --out report --clips 200",
        "paris-run evaluate @invite.txt --data prepared --out report --baseline other",
    )(evaluate_command)


def evaluate_command(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A folder that `paris-run export` wrote, or an invite (paris:…, @FILE, or - for stdin).",
            metavar="MODEL",
        ),
    ],
    compared: ComparedFlags,
    flags: FetchFlags,
    wished: EvaluateFlags,
) -> None:
    """Measure a model against the clips that were held out: is it any good?

    It generates clips for held-out captions and compares them with the real ones.
    """
    from paris_p2p.evaluation.gather import gather
    from paris_p2p.evaluation.history_curves import history_curves
    from paris_p2p.evaluation.options import EvaluateOptions, check_named
    from paris_p2p.evaluation.report import made_by, read_losses, write_evaluation
    from paris_p2p.evaluation.suitable import Baseline
    from paris_p2p.generation.exported import open_export
    from paris_p2p.node.joining import GENERATOR_DIR
    from paris_p2p.peer.settings import check_device

    if compared.baseline_data is not None and compared.baseline is None:
        raise UsageError("--baseline-data goes with --baseline, which is not given; name the baseline too")
    check_device(wished.device)
    fields = asdict(wished) | {"i3d_sha256": wished.i3d_sha256.lower()}
    if not wished.features:
        del fields["features"]
    with checked_options(wished):
        options = EvaluateOptions(**fields)
    check_named(options)
    if compared.losses is not None:
        read_losses(compared.losses)
    settings, out, other = fetch_settings(flags), compared.out, None
    with progress_bars() as progress:
        fetch = partial(
            _model_folder, out=out, settings=settings, offline=compared.offline, progress=progress
        )
        if compared.baseline:
            other = Baseline(open_export(fetch(compared.baseline)), compared.baseline_data)
        opened = open_export(fetch(model))
        evidence = gather(opened, compared.data, out, options, other, progress)
        made = made_by(_command_line(context), options)
        home = settings.data_dir
        known = history_curves(opened.id, (compared.data / "node", home, home / GENERATOR_DIR))
        write_evaluation(out, evidence, compared.losses, made, progress, known=known)
    echo(f"wrote {out / 'report.html'} and {out / 'results.json'}")


def _command_line(context: typer.Context) -> list[str]:
    """Returns the command as somebody else would type it: arguments, then every option that was changed."""
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
    model: str, out: Path, settings: PeerSettings, offline: bool, progress: Callable[[str, int, int], None]
) -> Path:
    """Returns the exported model itself, or one exported beside the report from what an invite brings: once,
    so that a second call goes on with the same weights while the run trains on.
    """
    pasted = model == "-" or model.startswith("@") or next(invites_in(model), "")
    if not pasted or os.path.exists(model):
        return typed.model_folder(named_path(model))
    from paris_p2p.generation.export import export, plain_words
    from paris_p2p.node.generator import fetch_run
    from paris_p2p.node.joining import GENERATOR_DIR

    invite = parse_invite(model, settings.data_dir / GENERATOR_DIR)
    folder = out.with_name(f"{out.name}-model-{invite.run[:16]}")
    if not folder.exists():
        with fetch_run(settings, invite, offline=offline, progress=progress) as run:
            export(run, folder)
        if run.spec.private:
            put(plain_words(folder), sys.stderr)
    return folder
