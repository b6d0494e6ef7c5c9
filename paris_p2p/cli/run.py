"""`paris-run`: turn a folder of captioned clips into a run, publish it, export its model."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.choices import ExpertPreset, RouterPreset
from paris_p2p.cli.console import echo, parse_invite, progress_bars, run_app, wrapped
from paris_p2p.cli.evaluate import add_evaluate
from paris_p2p.cli.groups import (
    LINE,
    MACHINE,
    ConfigFlag,
    FetchFlags,
    InviteArgument,
    NodeFlags,
    OfflineOption,
    fetch_settings,
    option,
    setting,
)
from paris_p2p.cli.logs import long_running
from paris_p2p.cli.typed import checked_options
from paris_p2p.cli.verb import new_app, verb
from paris_p2p.disk import write_atomic
from paris_p2p.errors import UsageError

PASSPHRASE_VARIABLE = "PARIS_OWNER_PASSPHRASE"
CLIPS, MODELS = "Clips", "Models that read the clips"
TRAINING, GATE, TIMING = "Training", "Gate: what a checkpoint must pass, and who says so", "Timing"

app = new_app(
    "paris-run",
    "Own a run: prepare clips, create and publish the run, export and evaluate the trained model.",
)


@dataclass(frozen=True)
class PrepareFlags:
    """Holds the options of what clips become."""

    experts: Annotated[
        int,
        option(
            "Clusters, and so experts; 0: as many as the clips carry.", "N", "--experts", "-k", min=0, max=256
        ),
    ] = 0
    rng_seed: Annotated[int, option("Seed of splits, clusters and a trained codec.", "N", min=0)] = 0
    frames: Annotated[
        int, option("Frames per clip; 1 for images, and for stills of videos.", "N", panel=CLIPS, min=1)
    ] = 8
    height: Annotated[int, option("Height of the clips.", "PIXELS", panel=CLIPS, min=8)] = 64
    width: Annotated[int, option("Width of the clips.", "PIXELS", panel=CLIPS, min=8)] = 64
    fps: Annotated[
        float, option("Frames per second that the clips are resampled to.", "RATE", panel=CLIPS, min=0.1)
    ] = 8.0
    clips_per_video: Annotated[
        int,
        option(
            "Clips taken from one video at most; longer ones are parted into scenes.", "N", panel=CLIPS, min=1
        ),
    ] = 64
    caption_encoding: Annotated[
        str,
        option(
            "Encoding, such as cp1252, of captions that are neither UTF-8 nor marked UTF-16; "
            "without it those are skipped.",
            "NAME",
            panel=CLIPS,
        ),
    ] = ""
    codec: Annotated[
        str,
        option(
            "pca; train or train:video, fitted on your clips; or diffusers: with a folder or hub id.",
            "NAME",
            panel=MODELS,
        ),
    ] = "pca"
    codec_steps: Annotated[
        int, option("Optimizer steps of a codec that is trained.", "N", panel=MODELS, min=1)
    ] = 1000
    text: Annotated[
        str,
        option("Text encoder: minilm, or transformers: with a folder or hub id.", "NAME", panel=MODELS),
    ] = "minilm"
    text_tokens: Annotated[
        int,
        option(
            "Tokens read of each caption; 0: as many as the longest has and the encoder takes.",
            "N",
            panel=MODELS,
            min=0,
            max=4096,
        ),
    ] = 0
    features: Annotated[
        str,
        option(
            "What clusters are found by: efficientnet-lite0, transnetv2, or transformers:, clip: "
            "or videomae: with a folder or hub id.",
            "NAME",
            panel=MODELS,
        ),
    ] = "efficientnet-lite0"
    image_to_video: Annotated[
        bool,
        option(
            "Look at first frames, so that a router may know them: for create --first-frame-rate.",
            None,
            "--image-to-video",
            panel=MODELS,
        ),
    ] = False
    device: Annotated[
        str,
        option(
            "Where codec, text encoder and features compute: auto, cpu, cuda or cuda:N.",
            "DEVICE",
            panel=MACHINE,
            parser=typed.device,
        ),
    ] = "cpu"
    threads: Annotated[int, option("Videos worked on side by side.", "N", panel=MACHINE, min=1)] = 2


@verb(
    app,
    "paris-run prepare clips/ --out prepared -k 4",
    "paris-run prepare pictures/ --out prepared --frames 1 --height 128 --width 128",
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
    out: Annotated[Path, option("The folder for latents, embeddings and clusters.", "FOLDER", "--out", "-o")],
    flags: PrepareFlags,
) -> None:
    """Decode, split, encode and cluster captioned clips into a folder for `paris-run create`."""
    from paris_p2p.peer.settings import check_device
    from paris_p2p.preparation.networks import PrepareOptions
    from paris_p2p.preparation.prepare import prepare
    from paris_p2p.preparation.sizes import size_advice

    check_device(flags.device)
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


@dataclass(frozen=True)
class RunFlags:
    """Holds the options of what a run is."""

    name: Annotated[
        str, option("What people see.", "NAME", show_default="the name of the folder")
    ] = ""  # fmt: skip
    purpose: Annotated[str, option("What the model is for.", "TEXT")] = "not stated"
    data_licence: Annotated[str, option("Licence of the clips.", "NAME")] = "not stated"
    weights_licence: Annotated[str, option("Licence of the trained weights.", "NAME")] = "not stated"
    expert: Annotated[
        ExpertPreset,
        option(
            "Size of an expert: nano, micro, tiny, small, medium, large, dit-b-2, dit-xl-2, mmdit-nano, "
            "mmdit-tiny or mmdit-11b.",
            "PRESET",
        ),
    ] = "tiny"
    router: Annotated[
        RouterPreset,
        option("Size of the router: nano, micro, tiny, small, medium or dit-b-2.", "PRESET"),
    ] = "tiny"
    init_from: Annotated[
        Path | None,
        option(
            "Weights that every expert starts from: a safetensors file, or a folder of DiT, PixArt, FLUX or "
            "ours.",
            "PATH",
            parser=typed.existing("first weights"),
        ),
    ] = None
    rng_seed: Annotated[int, option("Seed of the first weights and of every batch.", "N", min=0)] = 0


@dataclass(frozen=True)
class TrainingFlags:
    """Holds the options of how every slot is trained."""

    batch_clips: Annotated[
        int, option("Clips per optimizer step of an expert.", "N", "--batch", panel=TRAINING, min=1)
    ] = 16
    learning_rate: Annotated[
        float, option("Learning rate of an expert, at most 1.", "RATE", panel=TRAINING)
    ] = 3e-4
    warmup_steps: Annotated[
        int, option("Steps over which the learning rate rises.", "N", panel=TRAINING, min=0)
    ] = 100
    total_steps: Annotated[
        int, option("Steps of a slot; 0: until the owner ends the run.", "N", panel=TRAINING, min=0)
    ] = 0
    decay_steps: Annotated[
        int,
        option("How many of the last steps the learning rate falls over, to 0.", "N", panel=TRAINING, min=0),
    ] = 0
    ema_decay: Annotated[
        float,
        option("Decay per step of the weights' moving average, below 1.", "SHARE", panel=TRAINING),
    ] = 0.999
    caption_dropout: Annotated[
        float,
        option("Share of the clips trained without their caption.", "SHARE", panel=TRAINING, min=0, max=1),
    ] = 0.1
    time_shift: Annotated[
        float,
        option(
            "Shift of the denoising times; 0: by the clips' token count.",
            "SHIFT",
            panel=TRAINING,
            min=0,
            max=100,
        ),
    ] = 0.0
    first_frame_rate: Annotated[
        float,
        option(
            "Share of the clips trained with their first frame given, for generate --image.",
            "SHARE",
            panel=TRAINING,
            min=0,
            max=1,
        ),
    ] = 0.0
    ddpm_experts: Annotated[
        list[int] | None,
        option(
            "Number of an expert to train on noise, the DDPM objective; may be repeated.",
            "N",
            "--ddpm-expert",
            panel=TRAINING,
            min=0,
            max=255,
        ),
    ] = None
    router_batch_clips: Annotated[
        int, option("Clips per optimizer step of the router.", "N", "--router-batch", panel=TRAINING, min=1)
    ] = 64
    router_learning_rate: Annotated[
        float, option("Learning rate of the router, at most 1.", "RATE", panel=TRAINING)
    ] = 1e-3


@dataclass(frozen=True)
class GateFlags:
    """Holds the options of what a checkpoint must pass, and who says so."""

    clips: Annotated[
        int, option("Held-out clips per check.", "N", "--gate-clips", panel=GATE, min=1)
    ] = 64  # fmt: skip
    tolerance: Annotated[
        float,
        option(
            "How far above the best loss, as a share of it, a checkpoint's may be.",
            "SHARE",
            "--gate-tolerance",
            panel=GATE,
            min=0,
            max=10,
        ),
    ] = 0.05
    quorum: Annotated[int, option("Attestations that a tip needs.", "N", panel=GATE, min=1)] = 1
    open_run: Annotated[
        bool,
        option(
            "Let strangers join; only the owner's node and --attestor may then attest.",
            None,
            "--open",
            panel=GATE,
        ),
    ] = False
    attestors: Annotated[
        list[str] | None,
        option("Id of a peer that may attest; may be repeated.", "PEER", "--attestor", panel=GATE),
    ] = None


@dataclass(frozen=True)
class TimingFlags:
    """Holds the options of claims and checkpoints."""

    claim_s: Annotated[
        float, option("How long a claim holds unless it is renewed.", "SECONDS", panel=TIMING, min=2)
    ] = 120.0
    settle_s: Annotated[
        float,
        option("How long a peer waits for others' claims first.", "SECONDS", panel=TIMING, min=0.1),
    ] = 5.0
    margin_s: Annotated[
        float,
        option(
            "How long before its claim's end a lead stops, and how long after it others wait.",
            "SECONDS",
            panel=TIMING,
            min=0.1,
        ),
    ] = 5.0
    checkpoint_s: Annotated[
        float, option("Time from one checkpoint to the next.", "SECONDS", panel=TIMING, min=1)
    ] = 600.0


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
    }
    gated = asdict(gate) | {"attestors": tuple(gate.attestors or ())}
    gated["members_attest"] = not gated.pop("open_run")
    with checked_options(training):
        training_spec = TrainingSpec(**trained)
    with checked_options(gate):
        gate_spec = GateSpec(**gated)
    with checked_options(timing):
        timing_spec = TimingSpec(**asdict(timing))
    with checked_options(flags):
        options = CreateOptions(
            **(asdict(flags) | {"name": flags.name or folder.resolve().name}),
            shift_by_tokens=training.time_shift == 0,
            training=training_spec,
            gate=gate_spec,
            timing=timing_spec,
        )
    run = create_run(folder, options, _passphrase(confirm=True) if passphrase else None, echo)
    echo(
        f"run {run.id}\nowner {run.signer}\nkeep {folder / 'owner.key'} safe: "
        "it is the only proof that the run is yours"
    )
    if run.record.training.time_shift != 1:
        echo(f"denoising times are shifted by {run.record.training.time_shift:.3g}")
    echo(f"next: paris-run publish {folder} --peer MULTIADDR_OF_A_BOOTSTRAP_NODE")


def _passphrase(*, confirm: bool) -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    answer: str = typer.prompt("Passphrase of the owner's key", hide_input=True, confirmation_prompt=confirm)
    return answer


@dataclass(frozen=True)
class PublishFlags(NodeFlags):
    """Holds the options of the owner's node."""

    threads: Annotated[
        int | None,
        setting("threads", "CPU threads that attest; 0 for torch's own choice.", "N", "1", panel=MACHINE),
    ] = None
    peers: Annotated[
        list[str] | None,
        setting("peers", "A bootstrap node; may be repeated.", "MULTIADDR", panel=LINE, flag="--peer"),
    ] = None


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
        Path | None, option("Write the invite to this file too, for its owner's eyes only.", "FILE")
    ] = None,
) -> None:
    """Seed the run's data, attest as the owner's node, and print the invite; stay until Ctrl-C."""
    from paris_p2p.option_sources import load_options
    from paris_p2p.peer.settings import PublishOptions
    from paris_p2p.peer.start import run_owner
    from paris_p2p.preparation.create import load_run
    from paris_p2p.spec import Invite

    loaded = load_options(PublishOptions, typed.given(flags), file=config)
    settings = loaded.peer_settings(data_dir=folder / "node", device="auto")
    long_running()
    run = load_run(folder)

    def ready(invite: Invite) -> None:
        echo(f"invite: {invite}")
        if invite_file is not None:
            write_atomic(invite_file, str(invite), mode=0o600)

    run_owner(settings, run, loaded.options.peers, ready)


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
) -> None:
    """Write the run's tips as a folder that diffusers can load: `ParisPipeline.from_pretrained(OUT)`."""
    from paris_p2p.generation.export import export
    from paris_p2p.node.generator import GENERATOR_DIR, fetch_run

    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; choose another folder for the model")
    settings = fetch_settings(flags)
    parsed = parse_invite(invite, settings.data_dir / GENERATOR_DIR)
    with progress_bars() as progress:
        run = fetch_run(settings, parsed, partial=allow_partial, offline=offline, progress=progress)
    export(run, out)
    echo(f"wrote {out}; use it with: ParisPipeline.from_pretrained({str(out)!r})")


add_evaluate(app)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
