"""`paris-run`: turn a folder of captioned clips into a run, publish it, export its model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo, parse_invite, progress_bars, run_app, wrapped
from paris_p2p.cli.crew_words import crew_words
from paris_p2p.cli.dashboard import add_owner_dashboard
from paris_p2p.cli.evaluate import add_evaluate
from paris_p2p.cli.groups import (
    ConfigFlag,
    FetchFlags,
    InviteArgument,
    OfflineOption,
    fetch_settings,
    option,
)
from paris_p2p.cli.history_command import add_history
from paris_p2p.cli.letting_in import add_membership
from paris_p2p.cli.logs import long_running
from paris_p2p.cli.owner_flags import (
    GateFlags,
    IntoOption,
    PrepareFlags,
    PublishFlags,
    RunFlags,
    SkipFarFlag,
    TimingFlags,
    TrainingFlags,
)
from paris_p2p.cli.owner_key import PASSPHRASE_VARIABLE, ask_passphrase
from paris_p2p.cli.receipts_command import add_receipts
from paris_p2p.cli.say import add_say
from paris_p2p.cli.saying import kept_word
from paris_p2p.cli.state import add_state
from paris_p2p.cli.typed import checked_options
from paris_p2p.cli.verb import new_app, verb
from paris_p2p.cli.worth_words import worth_words
from paris_p2p.disk import explained, write_atomic
from paris_p2p.errors import UsageError

app = new_app(
    "paris-run",
    "Own a run: prepare clips, create and publish the run, say what changes, export and evaluate the model.",
)


@verb(
    app,
    "paris-run prepare clips/ --out prepared -k 4",
    "paris-run prepare pictures/ --out prepared --frames 1 --height 128 --width 128",
    "paris-run prepare more-clips/ --into prepared",
)
def prepare_command(
    clips: Annotated[
        Path,
        typer.Argument(
            parser=typed.folder("the folder of clips"),
            metavar="CLIPS",
            help="A folder of captioned videos or images, or of webdataset tars.",
        ),
    ],
    context: typer.Context,
    flags: PrepareFlags,
    out: Annotated[
        Path | None, option("The folder for latents, embeddings and clusters.", "FOLDER", "--out", "-o")
    ] = None,
    into: IntoOption = None,
    skip_far: SkipFarFlag = False,
) -> None:
    """Decode, split, encode and cluster captioned clips into a folder for `paris-run create`.

    With --into, more clips are prepared for a run that was created before.
    """
    from paris_p2p.peer.settings import check_device
    from paris_p2p.preparation.networks import PrepareOptions
    from paris_p2p.preparation.prepare import prepare
    from paris_p2p.preparation.sizes import size_advice

    check_device(flags.device)
    if into is not None:
        if out is not None:
            raise UsageError("give --out or --into, not both: a run's own folder takes what is added to it")
        _prepare_into(clips, into, flags, typed.typed_names(context, PrepareFlags), skip_far=skip_far)
        return
    if out is None or skip_far:
        raise UsageError(
            "--skip-far goes with --into"
            if skip_far
            else "give --out, a folder for what is prepared, "
            "or --into, the folder of a run that is to have more clips"
        )
    with checked_options(flags):
        options = PrepareOptions(**asdict(flags))
    advice = size_advice(options.codec, options.clip)
    if advice:
        echo(wrapped(f"note: {advice}"))
    with progress_bars() as progress:
        prepared = prepare(clips, out, options, progress)
    echo(wrapped(prepared.describe()))
    created = (out / "run.spec").exists()
    then = f"paris-run publish {out} (its run is created)" if created else f"paris-run create {out}"
    echo(wrapped(f"look at {out / 'clusters.png'}; then: {then}"))


def _prepare_into(clips: Path, run: Path, flags: PrepareFlags, said: set[str], *, skip_far: bool) -> None:
    from paris_p2p.preparation.into import IntoOptions, prepare_into

    free = set(IntoOptions.model_fields)
    fixed = sorted(said - free)
    if fixed:
        names = ", ".join("--" + name.replace("_", "-") for name in fixed)
        raise UsageError(f"{names} cannot go with --into: clips that join a run are made as its own were")
    with checked_options(flags):
        chosen = {name: value for name, value in asdict(flags).items() if name in free}
        options = IntoOptions(**chosen, skip_far=skip_far)
    with progress_bars() as progress:
        addition = prepare_into(clips, run, options, progress)
    echo(wrapped(addition.describe()))
    seen = run / addition.folder / "clusters.png"
    echo(wrapped(f"look at {seen}; then: paris-run say {run} add-clips"))


@verb(
    app,
    'paris-run create prepared --name "Red balls" --expert small',
    "paris-run create prepared --open --total-steps 20000 --decay-steps 4000",
)
def create(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=typed.prepared("the folder of `paris-run prepare`"),
            metavar="FOLDER",
            help="What `paris-run prepare` wrote.",
        ),
    ],
    flags: RunFlags,
    training: TrainingFlags,
    gate: GateFlags,
    timing: TimingFlags,
    passphrase: Annotated[
        bool,
        option(
            f"Encrypt the owner's key with a passphrase, asked for or in {PASSPHRASE_VARIABLE}.",
            None,
            "--passphrase",
        ),
    ] = False,
) -> None:
    """Make the owner's key and sign the RunSpec; the run id is its hash."""
    from paris_p2p.preparation.create import CreateOptions, create_run
    from paris_p2p.spec import GateSpec, TimingSpec, TrainingSpec

    trained = asdict(training) | {
        "time_shift": training.time_shift or 1.0,
        "ddpm_experts": tuple(sorted(set(training.ddpm_experts or ()))),
        "compact": not training.full_checkpoints,
    }
    del trained["full_checkpoints"]
    gated = asdict(gate) | {"attestors": tuple(gate.attestors or ())}
    is_open = gated.pop("open_run")
    gated["members_attest"] = not is_open
    if is_open and flags.private:
        raise UsageError("--open lets strangers join and --private keeps them out; choose one")
    with checked_options(training):
        training_spec = TrainingSpec(**trained)
    with checked_options(gate):
        gate_spec = GateSpec(**gated)
    with checked_options(timing):
        timing_spec = TimingSpec(**asdict(timing))
    with checked_options(flags):
        options = CreateOptions(
            **(
                asdict(flags)
                | {"name": flags.name or folder.resolve().name, "previews": tuple(flags.previews or ())}
            ),
            members_only=not is_open,
            shift_by_tokens=training.time_shift == 0,
            training=training_spec,
            gate=gate_spec,
            timing=timing_spec,
        )
    run = create_run(folder, options, ask_passphrase(confirm=True) if passphrase else None, echo)
    echo(
        f"run {run.id}\nowner {run.signer}\nkeep {folder / 'owner.key'} safe: "
        "it is the only proof that the run is yours"
    )
    if run.record.crew is not None:
        echo(crew_words(run.record.crew))
    if run.record.private:
        echo(
            f"the run is private: keep a copy of {folder / 'keys'}, too; "
            "where all copies of it are lost, nobody reads what was trained"
        )
    if worth := worth_words(run.record):
        echo(wrapped(worth))
    if run.record.training.time_shift != 1:
        echo(f"denoising times are shifted by {run.record.training.time_shift:.3g}")
    echo(f"next: paris-run publish {folder} --peer MULTIADDR_OF_A_BOOTSTRAP_NODE")


@verb(
    app,
    "paris-run publish prepared --invite-file invite.txt",
    "paris-run publish prepared --peer /ip4/192.0.2.7/tcp/31337/p2p/12D3Koo…",
)
def publish(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=typed.folder("the run's folder"),
            metavar="FOLDER",
            help="Where `paris-run create` made the run.",
        ),
    ],
    flags: PublishFlags,
    config: ConfigFlag = None,
    invite_file: Annotated[
        Path | None,
        option(
            "Write the invite to this file too, for its owner's eyes only.",
            "FILE",
            parser=typed.to_write("the invite"),
        ),
    ] = None,
    invite_uses: Annotated[
        int, option("Machines that the invite of a members-only run lets in.", "N", min=1, max=100_000)
    ] = 64,
    invite_days: Annotated[float, option("Days for which it does.", "N", min=0.01, max=365)] = 30.0,
) -> None:
    """Seed the run's data, attest as the owner's node, and print the invite; stay until Ctrl-C."""
    from paris_p2p.invite import Invite
    from paris_p2p.option_sources import load_options
    from paris_p2p.peer.settings import PublishOptions
    from paris_p2p.peer.start import run_owner
    from paris_p2p.preparation.create import load_run

    loaded = load_options(PublishOptions, typed.given(flags), file=config)
    settings = loaded.peer_settings(data_dir=folder / "node", device="auto")
    long_running()
    run = load_run(folder)

    def ready(invite: Invite) -> None:
        echo(f"invite: {invite}")
        if invite.join:
            echo(
                f"it lets in {invite_uses} machines within {invite_days:g} days; "
                f"others are made by: paris-run invite {folder} --for train,generate --uses 5"
            )
        if invite_file is not None:
            with explained(invite_file):
                write_atomic(invite_file, str(invite), mode=0o600)

    run_owner(
        settings,
        run,
        loaded.options.peers,
        ready,
        invite_uses=invite_uses,
        invite_s=invite_days * 86400,
        kept=kept_word(folder),
    )


@verb(app, "paris-run export @invite.txt --out model")
def export_command(
    invite: InviteArgument,
    out: Annotated[
        Path, option("The folder that ParisPipeline.from_pretrained reads.", "FOLDER", "--out", "-o")
    ],
    flags: FetchFlags,
    offline: OfflineOption = False,
    allow_partial: Annotated[
        bool, option("Export the slots that there are.", None, "--allow-partial")
    ] = False,
    ema_length: Annotated[
        float,
        option(
            "Length of the weights' average as a share of the training, 0.04 to 0.12, of a run with "
            "--ema-profile power; 0: 0.05.",
            "SHARE",
        ),
    ] = 0.0,
) -> None:
    """Write the run's tips as a folder that diffusers can load: `ParisPipeline.from_pretrained(OUT)`."""
    from paris_p2p.generation.export import export, plain_words
    from paris_p2p.model.power_average import share_of_first
    from paris_p2p.node.generator import fetch_run
    from paris_p2p.node.joining import GENERATOR_DIR

    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; choose another folder for the model")
    if ema_length:
        share_of_first(ema_length)
    settings = fetch_settings(flags)
    parsed = parse_invite(invite, settings.data_dir / GENERATOR_DIR)
    with (
        progress_bars() as progress,
        fetch_run(settings, parsed, partial=allow_partial, offline=offline, progress=progress) as run,
    ):
        export(run, out, ema_length)
    if run.spec.private:
        echo(plain_words(out))
    echo(f"wrote {out}{run.behind_in_words()}; use it with: ParisPipeline.from_pretrained({str(out)!r})")


add_evaluate(app)
add_say(app)
add_membership(app)
add_state(app)
add_owner_dashboard(app)
add_history(app)
add_receipts(app)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
