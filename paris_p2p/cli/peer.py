"""`paris-peer`: join a run, train a slot, watch and stop it, fetch and generate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paris_p2p.cli.console import (
    checked_options,
    default_data_dir,
    echo,
    parse_invite,
    progress_bars,
    read_text,
    run_app,
)
from paris_p2p.cli.logs import long_running, verb
from paris_p2p.errors import UsageError
from paris_p2p.shown import put, shown_lines

if TYPE_CHECKING:
    from paris_p2p.generation.generate import GenerateJob

MAX_PROMPT_LETTERS = 4000

app = typer.Typer(
    name="paris-peer",
    help="Join a decentralized video diffusion run: train one expert of it on this machine, "
    "or generate with all of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
InviteArgument = Annotated[str, typer.Argument(help="paris:…, or @FILE, or - for stdin", metavar="INVITE")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where this peer keeps its key and its blobs.", envvar="PARIS_DATA_DIR"),
]
Port = Annotated[
    int,
    typer.Option(
        help="TCP and UDP port to listen on; 0 takes a free one.", envvar="PARIS_PORT", min=0, max=65535
    ),
]
HostOption = Annotated[str, typer.Option(help="Address to listen on.", envvar="PARIS_HOST")]
Rate = Annotated[str, typer.Option(help="At most this much per second, like 20MB; 0 for no limit.")]


@verb(app)
def start(
    invite: InviteArgument,
    data_dir: DataDir = None,
    profile: Annotated[
        str, typer.Option(help="auto reads this machine; or a name from peers/profiles, or a TOML file.")
    ] = "auto",
    slot: Annotated[str, typer.Option(help="Claim only this slot, like expert-2 or router.")] = "",
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the trainer; 0 for torch's own choice.", min=0)
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="Main memory of all our processes: checkpoint and stop before it, like 12GB."),
    ] = None,
    max_vram: Annotated[
        str | None, typer.Option(help="Memory of the GPU that trains, like 10GB; 0 for all of it.")
    ] = None,
    max_disk: Annotated[str | None, typer.Option(help="Disk for blobs, like 200GB; 0 for no limit.")] = None,
    upload_limit: Annotated[str | None, typer.Option(help="Upload per second, like 5MB.")] = None,
    download_limit: Annotated[str | None, typer.Option(help="Download per second, like 20MB.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Clips per forward pass; 0 chooses by memory.", min=0)
    ] = None,
    compile_blocks: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Fuse the network's blocks on a GPU.")
    ] = None,
    port: Port = 0,
    host: HostOption = "0.0.0.0",
    announce: Annotated[
        list[str] | None, typer.Option(help="A multiaddr others reach this peer under; may be repeated.")
    ] = None,
    relay: Annotated[
        list[str] | None, typer.Option(help="A relay's multiaddr, for peers behind NAT; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before joining.")] = False,
    no_train: Annotated[bool, typer.Option("--no-train", help="Only attest and seed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings that would be used, and stop.")
    ] = False,
) -> None:
    """Join a run, claim a slot and train it until Ctrl-C (a second Ctrl-C leaves at once)."""
    from paris_p2p.peer.profiles import load_profile
    from paris_p2p.peer.settings import AUTO, check_device, merge_settings, profile_of_this_machine

    flags = {
        "data_dir": data_dir or default_data_dir(),
        "slot": slot,
        "device": device,
        "threads": threads,
        "max_memory": max_memory,
        "max_vram": max_vram,
        "max_disk": max_disk,
        "upload_limit": upload_limit,
        "download_limit": download_limit,
        "micro_batch_clips": micro_batch,
        "compile": compile_blocks,
        "port": port,
        "host": host,
        "announce": tuple(announce or ()),
        "relays": tuple(relay or ()),
    }
    parsed = parse_invite(invite, data_dir or default_data_dir())
    chosen = None if profile == AUTO else load_profile(profile)
    check_device(device or "auto")
    settings = merge_settings(chosen or profile_of_this_machine(flags), flags)
    if dry_run:
        echo(json.dumps(settings.model_dump(mode="json"), indent=2))
        return
    from paris_p2p.peer.start import run_peer

    long_running()
    run_peer(settings, parsed, confirm=None if yes else _confirm, train=not no_train, profile=chosen)


def _confirm(question: str) -> bool:
    echo(question)
    if not sys.stdin.isatty():
        raise UsageError("cannot ask here, since there is no terminal; read the above and add --yes")
    return typer.confirm("Join?")


@verb(app)
def status(
    data_dir: DataDir = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the run as the peer that runs here sees it."""
    from paris_p2p.node.control_client import call_control

    answer = call_control(data_dir or default_data_dir(), "GET", "status")
    if json_output:
        echo(json.dumps(answer))
        return
    from rich.console import Console

    from paris_p2p.node.status import Status
    from paris_p2p.peer.view import draw

    Console().print(draw(Status.model_validate_json(json.dumps(answer))))


def _act(data_dir: Path | None, action: str) -> None:
    from paris_p2p.node.control_client import call_control

    echo(call_control(data_dir or default_data_dir(), "POST", action)["message"])


@verb(app)
def pause(data_dir: DataDir = None) -> None:
    """Checkpoint, release the claim and free the memory; keep seeding."""
    _act(data_dir, "pause")


@verb(app)
def resume(data_dir: DataDir = None) -> None:
    """Go on after a pause."""
    _act(data_dir, "resume")


@verb(app)
def stop(data_dir: DataDir = None) -> None:
    """Publish the last checkpoint, release the claim and end the peer."""
    _act(data_dir, "stop")


@verb(app)
def fetch(
    invite: InviteArgument,
    data_dir: DataDir = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Be content with the slots there are.")
    ] = False,
    download_limit: Rate = "0",
) -> None:
    """Fetch what generating needs: the codec, the text encoder and every slot's weights."""
    from paris_p2p.node.generator import GENERATOR_DIR, fetch_run

    parsed = parse_invite(invite, (data_dir or default_data_dir()) / GENERATOR_DIR)
    with progress_bars() as progress:
        run = fetch_run(
            _generator_settings(data_dir, download_limit), parsed, partial=allow_partial, progress=progress
        )
    echo(f"{len(run.weights)} slots of {run.spec.name!r} are here: {', '.join(run.weights)}")


@verb(app)
def generate(
    prompt: Annotated[
        list[str], typer.Argument(help="One or more prompts, then the INVITE.", metavar="PROMPT... INVITE")
    ],
    prompts_file: Annotated[Path | None, typer.Option(help="More prompts, one a line.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="clip.mp4 (default; of image runs clip.png), .gif, .png (a sheet of frames), .npy.",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="A picture that the clips start from, in a run that was trained for it."),
    ] = None,
    clips: Annotated[int, typer.Option(help="Clips per prompt.", min=1)] = 1,
    steps: Annotated[int, typer.Option(help="Denoising steps.", min=1, max=1000)] = 50,
    shift: Annotated[
        float,
        typer.Option(help="Of the denoising times, towards noise above 1; 0: the run's.", min=0, max=100),
    ] = 0.0,
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance scale; 1 turns it off.", min=0)
    ] = 4.0,
    guidance_form: Annotated[
        str, typer.Option(help="per_expert (as published), or exact: routed apart without text.")
    ] = "per_expert",
    routing: Annotated[str, typer.Option(help="top_k, full, threshold or uniform.")] = "top_k",
    top_k: Annotated[int, typer.Option(help="Experts per step for top_k.", min=1)] = 1,
    negative_prompt: Annotated[
        str, typer.Option(help="What clips are guided away from; without one, away from no text.")
    ] = "",
    scheduler: Annotated[
        str, typer.Option(help="euler, heun, unipc, dpm++, dpm++sde or dpm++single.")
    ] = "euler",
    rng_seed: Annotated[
        int, typer.Option("--seed", "--rng-seed", help="The same seed gives the same clips.", min=0)
    ] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for torch's own choice.", min=0)] = 0,
    batch_clips: Annotated[int, typer.Option(help="Clips sampled at once; 0 chooses by memory.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only what an earlier fetch brought.")
    ] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Route among the slots there are.")
    ] = False,
    data_dir: DataDir = None,
    download_limit: Rate = "0",
) -> None:
    """Generate clips for a prompt with all experts of a run, on this machine."""
    *prompts, invite = prompt
    if prompts_file is not None:
        prompts += [line.strip() for line in read_text(prompts_file).split("\n") if line.strip()]
    if not prompts:
        raise UsageError('generate needs a prompt and an invite: paris-peer generate "a prompt" INVITE')
    from paris_p2p.flow.mixture import Routing
    from paris_p2p.generation.generate import generate as run_generate
    from paris_p2p.generation.trained import trained_slots, warn_barely
    from paris_p2p.node.generator import GENERATOR_DIR, fetch_run

    _check_prompts(prompts, invite)
    home = (data_dir or default_data_dir()) / GENERATOR_DIR
    parsed, settings = parse_invite(invite, home), _generator_settings(data_dir, download_limit)
    wishes = _wishes(
        prompts=tuple(prompts),
        clips_per_prompt=clips,
        image=image,
        steps=steps,
        shift=shift,
        guidance=guidance,
        guidance_form=guidance_form,
        routing=routing,
        top_k=top_k,
        negative_prompt=negative_prompt,
        scheduler=scheduler,
        rng_seed=rng_seed,
        device=device,
        threads=threads,
        batch_clips=batch_clips,
        out=out or Path("clip.mp4"),
        allow_partial=allow_partial,
    )
    with progress_bars() as progress:
        chooses = Routing(wishes.routing, wishes.top_k)
        run = fetch_run(
            settings, parsed, partial=allow_partial, offline=offline, routing=chooses, progress=progress
        )
        if out is None and run.spec.clip.frames == 1:
            wishes = wishes.model_copy(update={"out": Path("clip.png")})
        if warning := warn_barely(trained_slots(run.spec, run.weights)):
            put(shown_lines(warning), sys.stderr)
        result = run_generate(run, wishes, progress)
    echo(result.describe())


def _wishes(**fields: Any) -> GenerateJob:
    """What to make, checked before anything is fetched; UsageError or DeviceError."""
    from paris_p2p.generation.first_picture import read_picture
    from paris_p2p.generation.generate import GenerateJob
    from paris_p2p.generation.routed import check_wishes
    from paris_p2p.generation.schedulers import check_scheduler
    from paris_p2p.generation.video_out import open_writer
    from paris_p2p.peer.settings import check_device
    from paris_p2p.spec import ClipShape

    with checked_options(clips_per_prompt="--clips", prompts="PROMPT", rng_seed="--seed"):
        job = GenerateJob(**fields)
    check_device(job.device)
    if job.image is not None:
        # the run's size is not known yet
        read_picture(job.image, ClipShape(frames=1, height=64, width=64, fps=1.0))
    check_wishes(job.guidance_form, job.routing, job.top_k)
    check_scheduler(job.scheduler)
    with open_writer(job.out, len(job.prompts) * job.clips_per_prompt, 1.0, frames=1):
        # it knows the file's ending, and the folder can be written; a sheet's room is known with the run
        return job


def _is_file(path: str) -> bool:
    try:
        return Path(path).expanduser().is_file()
    except (OSError, RuntimeError):  # too long a name, or no such user's home
        return False


def _check_prompts(prompts: list[str], invite: str) -> None:
    """UsageError for what no text encoder should be asked, in the words of the command line."""
    swapped = next(
        (prompt for prompt in prompts if prompt.strip("\"'<> ").startswith(("paris:", "paris%3A"))), None
    )
    if swapped is None and prompts and not invite.startswith("@"):
        # a prompt may begin with @, where no file is called so
        swapped = next((prompt for prompt in prompts if prompt[:1] == "@" and _is_file(prompt[1:])), None)
    if swapped is not None:
        raise UsageError(f'the invite comes last: paris-peer generate "{invite[:40]}" {swapped[:24]}…')
    for place, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise UsageError(f"prompt {place} is empty; say in words what is to be seen")
        if len(prompt) > MAX_PROMPT_LETTERS:
            raise UsageError(
                f"prompt {place} has {len(prompt):,} characters, at most {MAX_PROMPT_LETTERS:,} are taken: "
                f"{prompt[:40]!r}…; shorten it"
            )


def _generator_settings(data_dir: Path | None, download_limit: str) -> Any:
    from paris_p2p.spec import PeerSettings, parse_bytes

    return PeerSettings(
        data_dir=data_dir or default_data_dir(), download_limit_bps=parse_bytes(download_limit)
    )


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
