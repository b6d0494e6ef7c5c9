"""`paris-peer`: join a run, train a slot, watch and stop it, fetch and generate."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import confirmed, echo, parse_invite, progress_bars, read_text, run_app
from paris_p2p.cli.dashboard import add_dashboard
from paris_p2p.cli.groups import (
    ConfigFlag,
    FetchFlags,
    HomeFlags,
    InviteArgument,
    OfflineOption,
    fetch_settings,
    home_of,
    option,
)
from paris_p2p.cli.logs import long_running
from paris_p2p.cli.model import find_model, parse_model
from paris_p2p.cli.peer_flags import StartFlags, WishFlags
from paris_p2p.cli.typed import checked_options
from paris_p2p.cli.verb import new_app, verb
from paris_p2p.errors import UsageError
from paris_p2p.shown import put, shown_lines

if TYPE_CHECKING:
    from paris_p2p.generation.generate import GenerateJob

MAX_PROMPT_LETTERS = 4000
MAX_NAME_LETTERS = 64  # owner_records.PeerName

app = new_app(
    "paris-peer",
    "Join a decentralized video diffusion run: train one expert of it on this machine, "
    "or generate with all of them.",
)


@verb(
    app,
    "paris-peer start @invite.txt",
    'paris-peer start "paris:…" --max-disk 50GB --upload-limit 5MB --slot expert-2',
    "paris-peer start @invite.txt --profile gpu-12gb --dry-run > peer.toml",
)
def start(
    invite: InviteArgument,
    flags: StartFlags,
    config: ConfigFlag = None,
    yes: Annotated[bool, option("Do not ask before joining.", None, "--yes", "-y")] = False,
    no_train: Annotated[bool, option("Only attest and seed.", None, "--no-train")] = False,
    ask: Annotated[
        bool,
        option("Ask the run's owner to let this peer in, where the invite does not.", None, "--ask"),
    ] = False,
    name: Annotated[str, option("What the run's owner and members see of this peer.", "NAME")] = "",
    dry_run: Annotated[
        bool, option("Print the settings, each with its source, as a file for --config.", None, "--dry-run")
    ] = False,
) -> None:
    """Join a run, claim a slot and train it until Ctrl-C (a second Ctrl-C leaves at once)."""
    from paris_p2p.peer.kept_changes import kept_changes
    from paris_p2p.peer.settings import check_device, load_start
    from paris_p2p.swarm.addresses import check_addresses

    loaded, profile = load_start(typed.given(flags), config)
    kept = kept_changes(loaded.peer_settings(), loaded.origins)
    settings = kept.settings
    parsed = parse_invite(invite, settings.data_dir)
    check_device(settings.device)
    check_addresses(settings)
    if dry_run:
        echo(replace(loaded, origins=kept.all_origins).describe(settings))
        return
    from paris_p2p.peer.examination import check_quickly
    from paris_p2p.peer.start import run_peer

    check_quickly(settings.data_dir, echo)
    long_running()
    run_peer(
        kept,
        parsed,
        confirm=None if yes else _confirm,
        train=not no_train,
        profile=profile,
        name=_peer_name(name),
        asks=ask,
    )


def _peer_name(name: str) -> str:
    """Returns what a peer may be called; UsageError."""
    if len(name) > MAX_NAME_LETTERS or not name.isprintable():
        raise UsageError(
            f"--name {name[:24]!r}…: at most {MAX_NAME_LETTERS} letters, none of which steers a terminal"
        )
    return name


async def _confirm(question: str) -> bool:
    from asyncio import CancelledError

    echo(question)
    try:
        return await confirmed("Join?")
    except CancelledError:
        echo("\nnot joined; nothing was fetched but the run's description")
        raise


@verb(app, "paris-peer status", "paris-peer status --json")
def status(
    flags: HomeFlags,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
) -> None:
    """Show the run as the peer that runs here sees it."""
    from paris_p2p.node.control_client import call_control

    answer = call_control(home_of(flags), "GET", "status")
    if json_output:
        echo(json.dumps(answer))
        return
    from rich.console import Console

    from paris_p2p.node.status import Status
    from paris_p2p.peer.view import draw

    Console().print(draw(Status.model_validate_json(json.dumps(answer))))


def _act(flags: HomeFlags, action: str) -> None:
    from paris_p2p.node.control_client import call_control

    echo(call_control(home_of(flags), "POST", action)["message"])


@verb(app, "paris-peer pause")
def pause(flags: HomeFlags) -> None:
    """Write a checkpoint, release the claim and free the memory; keep seeding."""
    _act(flags, "pause")


@verb(app, "paris-peer resume")
def resume(flags: HomeFlags) -> None:
    """Go on after a pause."""
    _act(flags, "resume")


@verb(app, "paris-peer stop")
def stop(flags: HomeFlags) -> None:
    """Publish the last checkpoint, release the claim and end the peer."""
    _act(flags, "stop")


add_dashboard(app)


@verb(
    app,
    "paris-peer set",
    "paris-peer set hours=22:00-07:00 upload_limit=2MB",
    "paris-peer set hours=",
)
def set_command(
    flags: HomeFlags,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="What is to change; without any, all settings are shown. KEY= takes back what was set.",
            metavar="[KEY=VALUE]...",
            show_default=False,
        ),
    ] = None,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
) -> None:
    """Change when and how hard the peer that runs here works; it lasts over restarts."""
    from paris_p2p.cli.set_words import ask_settings, settings_table

    answer = ask_settings(home_of(flags), words or [])
    if json_output:
        echo(answer.model_dump_json())
        return
    echo(settings_table(answer))


@verb(app, "paris-peer fetch @invite.txt")
def fetch_command(
    invite: InviteArgument,
    flags: FetchFlags,
    allow_partial: Annotated[
        bool, option("Be content with the slots that there are.", None, "--allow-partial")
    ] = False,
) -> None:
    """Fetch what generating needs: the codec, the text encoder and every slot's weights."""
    from paris_p2p.node.generator import fetch_run
    from paris_p2p.node.joining import GENERATOR_DIR

    settings = fetch_settings(flags)
    parsed = parse_invite(invite, settings.data_dir / GENERATOR_DIR)
    with (
        progress_bars() as progress,
        fetch_run(settings, parsed, partial=allow_partial, progress=progress) as run,
    ):
        pass  # what is sealed opened, too
    slots = ", ".join(run.weights)
    echo(f"{len(run.weights)} slots of {run.spec.name!r} are here: {slots}{run.behind_in_words()}")


@verb(
    app,
    'paris-peer generate "a red ball rolls over grass" @invite.txt',
    'paris-peer generate "a red ball" "a blue one" @invite.txt --out balls.gif',
)
def generate_command(
    prompt: Annotated[
        list[str],
        typer.Argument(
            help="One or more prompts, then the INVITE, or a folder that `paris-run export` wrote.",
            metavar="PROMPT... INVITE",
        ),
    ],
    flags: FetchFlags,
    wished: WishFlags,
    prompts_file: Annotated[
        Path | None,
        option("More prompts, one on each line.", "FILE", parser=typed.file("a file of prompts")),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "A .mp4, .gif, .png (a sheet of frames) or .npy file.",
            "FILE",
            "--out",
            "-o",
            show_default="clip.mp4, or clip.png of images",
        ),
    ] = None,
    offline: OfflineOption = False,
) -> None:
    """Generate clips for a prompt with all experts of a run, on this machine."""
    *prompts, invite = prompt
    if prompts_file is not None:
        prompts += [line.strip() for line in read_text(prompts_file).split("\n") if line.strip()]
    if not prompts:
        raise UsageError('generate needs a prompt and an invite: paris-peer generate "a prompt" INVITE')
    from paris_p2p.generation.generate import generate
    from paris_p2p.generation.trained import trained_slots, warn_barely

    _check_prompts(prompts, invite)
    settings = fetch_settings(flags)
    model = parse_model(invite, settings)
    wishes = _wishes(wished, prompts=tuple(prompts), out=out or Path("clip.mp4"))
    with (
        progress_bars() as progress,
        find_model(
            model,
            settings,
            partial=wished.allow_partial,
            offline=offline,
            routing=wishes.named_routing(),
            progress=progress,
        ) as run,
    ):
        if out is None and run.spec.clip.frames == 1:
            wishes = wishes.model_copy(update={"out": Path("clip.png")})
        if warning := warn_barely(trained_slots(run.spec, run.weights)):
            put(shown_lines(warning), sys.stderr)
        result = generate(run, wishes, progress)
    echo(result.describe())


def _wishes(wished: WishFlags, prompts: tuple[str, ...], out: Path) -> GenerateJob:
    """Returns what to make, checked before anything is fetched; UsageError or DeviceError."""
    from paris_p2p.generation.first_picture import read_picture
    from paris_p2p.generation.generate import GenerateJob
    from paris_p2p.generation.schedulers import check_scheduler
    from paris_p2p.generation.video_out import open_writer
    from paris_p2p.peer.settings import check_device
    from paris_p2p.spec import ClipShape

    fields = asdict(wished)
    fields["clips_per_prompt"] = fields.pop("clips")
    with checked_options(wished, clips_per_prompt="--clips", prompts="PROMPT"):
        job = GenerateJob(prompts=prompts, out=out, **fields)
    check_device(job.device)
    if job.image is not None:
        # the run's size is not known yet
        read_picture(job.image, ClipShape(frames=1, height=64, width=64, fps=1.0))
    job.wishes()
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
    """Raises UsageError for what no text encoder should be asked, in the words of the command line."""
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


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
