"""`paris-run`: turn a folder of captioned clips into a run, publish it, export its model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from paris_p2p.cli.console import (
    checked_options,
    default_data_dir,
    echo,
    parse_invite,
    progress_bars,
    run_app,
    want_folder,
    wrapped,
)
from paris_p2p.cli.evaluate import evaluate
from paris_p2p.cli.logs import long_running, verb
from paris_p2p.disk import write_atomic
from paris_p2p.errors import UsageError

app = typer.Typer(
    name="paris-run",
    help="Own a run: prepare clips, create and publish the run, export and evaluate the trained model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PASSPHRASE_VARIABLE = "PARIS_OWNER_PASSPHRASE"


@verb(app)
def prepare(
    clips: Annotated[
        Path, typer.Argument(help="Folder of captioned videos or images, or of webdataset tars.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where latents, embeddings and clusters go.")],
    experts: Annotated[
        int,
        typer.Option(
            "--experts", "-k", help="Clusters, and so experts; 0: as many as the clips carry.", min=0, max=256
        ),
    ] = 0,
    frames: Annotated[
        int, typer.Option(min=1, help="Frames per clip; 1 for images, and stills of videos.")
    ] = 8,
    height: Annotated[int, typer.Option(min=8)] = 64,
    width: Annotated[int, typer.Option(min=8)] = 64,
    fps: Annotated[float, typer.Option(min=0.1, help="Frames per second the clips are resampled to.")] = 8.0,
    codec: Annotated[
        str,
        typer.Option(
            help="pca; train, train:video (fitted on your clips); or diffusers: with a folder or hub id."
        ),
    ] = "pca",
    codec_steps: Annotated[
        int, typer.Option(min=1, help="Optimizer steps of a codec that is trained.")
    ] = 1000,
    text: Annotated[str, typer.Option(help="minilm, or transformers: with a folder or hub id.")] = "minilm",
    text_tokens: Annotated[
        int,
        typer.Option(
            min=0, max=4096, help="Read of each caption; 0: as many as the longest has and the encoder takes."
        ),
    ] = 0,
    caption_encoding: Annotated[
        str,
        typer.Option(
            help="Of captions that are neither UTF-8 nor marked UTF-16, such as cp1252; "
            "else those are skipped."
        ),
    ] = "",
    features: Annotated[
        str,
        typer.Option(
            help="efficientnet-lite0, transnetv2, or transformers:, clip: or videomae: "
            "with a folder or hub id."
        ),
    ] = "efficientnet-lite0",
    image_to_video: Annotated[
        bool,
        typer.Option(
            "--image-to-video",
            help="Look at first frames, so that a router may know them: for create --first-frame-rate.",
        ),
    ] = False,
    clips_per_video: Annotated[
        int,
        typer.Option(min=1, help="At most this many clips from a video; longer ones are parted into scenes."),
    ] = 64,
    device: Annotated[
        str, typer.Option(help="Of codec, text encoder and features: auto, cpu, cuda or cuda:N.")
    ] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Videos worked on side by side.")] = 2,
    rng_seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Decode, split, encode and cluster captioned clips into a folder that `paris-run create` makes a run
    of.
    """
    want_folder(clips, "the folder of clips")
    from paris_p2p.peer.settings import check_device
    from paris_p2p.preparation.networks import PrepareOptions
    from paris_p2p.preparation.prepare import prepare as run_prepare
    from paris_p2p.preparation.sizes import size_advice

    check_device(device)
    with checked_options():
        options = PrepareOptions(
            experts=experts,
            frames=frames,
            height=height,
            width=width,
            fps=fps,
            codec=codec,
            codec_steps=codec_steps,
            text=text,
            text_tokens=text_tokens,
            caption_encoding=caption_encoding,
            features=features,
            image_to_video=image_to_video,
            clips_per_video=clips_per_video,
            device=device,
            threads=threads,
            rng_seed=rng_seed,
        )
    advice = size_advice(options.codec, options.clip)
    if advice:
        echo(wrapped(f"note: {advice}"))
    with progress_bars() as progress:
        prepared = run_prepare(clips, out, options, progress)
    echo(wrapped(prepared.describe()))
    created = (out / "run.spec").exists()
    then = f"paris-run publish {out} (its run is created)" if created else f"paris-run create {out}"
    echo(wrapped(f"look at {out / 'clusters.png'}; then: {then}"))


@verb(app)
def create(
    folder: Annotated[Path, typer.Argument(help="What `paris-run prepare` wrote.")],
    name: Annotated[str, typer.Option(help="What people see.")] = "",
    purpose: Annotated[str, typer.Option(help="What the model is for.")] = "not stated",
    data_licence: Annotated[str, typer.Option(help="Licence of the clips.")] = "not stated",
    weights_licence: Annotated[str, typer.Option(help="Licence of the resulting weights.")] = "not stated",
    expert: Annotated[str, typer.Option(help="Expert preset.")] = "tiny",
    router: Annotated[str, typer.Option(help="Router preset.")] = "tiny",
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="Weights that every expert starts from: safetensors file, or folder of DiT, PixArt, "
            "FLUX or ours."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips per optimizer step of an expert.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-9, max=1)] = 3e-4,
    warmup_steps: Annotated[int, typer.Option(min=0)] = 100,
    total_steps: Annotated[int, typer.Option(min=0, help="0: until the owner ends the run.")] = 0,
    decay_steps: Annotated[
        int, typer.Option(min=0, help="Of total_steps, the last that decay the learning rate.")
    ] = 0,
    ema_decay: Annotated[float, typer.Option(min=0, max=0.999999)] = 0.999,
    caption_dropout: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    time_shift: Annotated[
        float, typer.Option(min=0, max=100, help="Of the denoising times; 0: by the clips' token count.")
    ] = 0.0,
    first_frame_rate: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the clips trained with their first frame given, for generate --image.",
        ),
    ] = 0.0,
    ddpm_expert: Annotated[
        list[int] | None,
        typer.Option(
            min=0, max=255, help="An expert to train on noise, the DDPM objective; may be repeated."
        ),
    ] = None,
    router_batch: Annotated[int, typer.Option(min=1)] = 64,
    router_learning_rate: Annotated[float, typer.Option(min=1e-9, max=1)] = 1e-3,
    gate_clips: Annotated[int, typer.Option(min=1)] = 64,
    gate_tolerance: Annotated[float, typer.Option(min=0, max=10)] = 0.05,
    quorum: Annotated[int, typer.Option(min=1, help="q: attestations a tip needs.")] = 1,
    open_run: Annotated[
        bool,
        typer.Option("--open", help="Strangers may join: only the owner's node and --attestor may attest."),
    ] = False,
    attestor: Annotated[
        list[str] | None, typer.Option(help="A peer id that may attest; may be repeated.")
    ] = None,
    claim_s: Annotated[float, typer.Option(min=2, help="A claim's length.")] = 120.0,
    settle_s: Annotated[float, typer.Option(min=0.1)] = 5.0,
    margin_s: Annotated[float, typer.Option(min=0.1)] = 5.0,
    checkpoint_s: Annotated[float, typer.Option(min=1, help="Seconds between checkpoints.")] = 600.0,
    rng_seed: Annotated[int, typer.Option(min=0)] = 0,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help=f"Encrypt the owner's key ({PASSPHRASE_VARIABLE}, or asked).")
    ] = False,
) -> None:
    """Make the owner's key and sign the RunSpec; the run id is its hash."""
    want_folder(folder, "the folder of `paris-run prepare`")
    from paris_p2p.preparation.create import CreateOptions, create_run
    from paris_p2p.spec import GateSpec, TimingSpec, TrainingSpec

    with checked_options(
        batch_clips="--batch", router_batch_clips="--router-batch", ddpm_experts="--ddpm-expert"
    ):
        training = TrainingSpec(
            batch_clips=batch,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
            decay_steps=decay_steps,
            ema_decay=ema_decay,
            caption_dropout=caption_dropout,
            time_shift=time_shift or 1.0,
            first_frame_rate=first_frame_rate,
            ddpm_experts=tuple(sorted(set(ddpm_expert or ()))),
            router_batch_clips=router_batch,
            router_learning_rate=router_learning_rate,
        )
    with checked_options(clips="--gate-clips", tolerance="--gate-tolerance", attestors="--attestor"):
        attestors = tuple(attestor or ())
        gate = GateSpec(
            clips=gate_clips,
            tolerance=gate_tolerance,
            members_attest=not open_run,
            attestors=attestors,
            quorum=quorum,
        )
    with checked_options():
        timing = TimingSpec(claim_s=claim_s, settle_s=settle_s, margin_s=margin_s, checkpoint_s=checkpoint_s)
        options = CreateOptions(
            name=name or folder.resolve().name,
            purpose=purpose,
            data_licence=data_licence,
            weights_licence=weights_licence,
            expert=expert,
            router=router,
            init_from=init_from,
            rng_seed=rng_seed,
            shift_by_tokens=time_shift == 0,
            training=training,
            gate=gate,
            timing=timing,
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


@verb(app)
def publish(
    folder: Annotated[Path, typer.Argument(help="Where `paris-run create` made the run.")],
    peer: Annotated[
        list[str] | None, typer.Option(help="Multiaddr of a bootstrap node; may be repeated.")
    ] = None,
    invite_file: Annotated[
        Path | None, typer.Option(help="Also write the invite to this file (mode 0600).")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 0,
    host: Annotated[str, typer.Option()] = "0.0.0.0",
    announce: Annotated[
        list[str] | None, typer.Option(help="A multiaddr others reach this node under.")
    ] = None,
    upload_limit: Annotated[str, typer.Option(help="Upload per second, like 20MB.")] = "0",
    max_disk: Annotated[
        str | None,
        typer.Option(
            help="Disk for blobs, like 200GB; 0 for no limit.",
            show_default="the run's data and half of what is free",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Seed the run's data, attest as the owner's node, and print the invite; stays until Ctrl-C."""
    want_folder(folder, "the run's folder")
    from paris_p2p.peer.start import run_owner
    from paris_p2p.preparation.create import load_run
    from paris_p2p.spec import Invite, PeerSettings, parse_bytes

    long_running()
    run = load_run(folder)
    with checked_options():
        settings = PeerSettings(
            data_dir=folder / "node",
            port=port,
            host=host,
            announce=tuple(announce or ()),
            upload_limit_bps=parse_bytes(upload_limit),
            **({} if max_disk is None else {"max_disk_bytes": parse_bytes(max_disk)}),
            threads=threads,
            device="auto",
        )

    def ready(invite: Invite) -> None:
        echo(f"invite: {invite}")
        if invite_file is not None:
            write_atomic(invite_file, str(invite), mode=0o600)

    run_owner(settings, run, tuple(peer or ()), ready)


@verb(app)
def export(
    invite: Annotated[str, typer.Argument(help="paris:…, or @FILE, or - for stdin", metavar="INVITE")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder ParisPipeline.from_pretrained reads.")],
    data_dir: Annotated[Path | None, typer.Option("--data-dir", envvar="PARIS_DATA_DIR")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only what an earlier fetch brought.")
    ] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Export the slots there are.")
    ] = False,
) -> None:
    """Write the run's tips as a folder that diffusers can load: `ParisPipeline.from_pretrained(OUT)`."""
    from paris_p2p.generation.export import export as run_export
    from paris_p2p.node.generator import GENERATOR_DIR, fetch_run
    from paris_p2p.spec import PeerSettings

    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; choose another folder for the model")
    settings = PeerSettings(data_dir=data_dir or default_data_dir())
    parsed = parse_invite(invite, settings.data_dir / GENERATOR_DIR)
    with progress_bars() as progress:
        run = fetch_run(settings, parsed, partial=allow_partial, offline=offline, progress=progress)
    run_export(run, out)
    echo(f"wrote {out}; use it with: ParisPipeline.from_pretrained({str(out)!r})")


verb(app)(evaluate)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
