"""`paris-run history`: what became of a run's slots, tip by tip."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo, parse_invite
from paris_p2p.cli.groups import FetchFlags, fetch_settings, option
from paris_p2p.cli.verb import verb
from paris_p2p.errors import UsageError

if TYPE_CHECKING:
    from paris_p2p.node.run_history import RunHistory
    from paris_p2p.preparation.known_run import KnownRun

RunArgument = Annotated[
    str,
    typer.Argument(
        help="The run's folder or a peer's data directory, which need no network; or an invite (paris:…), "
        "@FILE to read it from, or - for stdin.",
        metavar="FOLDER|INVITE",
    ),
]


def add_history(app: typer.Typer) -> None:
    """Adds `history` to the commands of `paris-run`."""
    verb(
        app,
        "paris-run history my-run",
        "paris-run history @invite.txt --csv > history.csv",
        "paris-run history @invite.txt --tensorboard curves",
    )(history_command)


def history_command(
    run: RunArgument,
    flags: FetchFlags,
    csv: Annotated[bool, option("Print a table of comma-separated values.", None, "--csv")] = False,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
    tensorboard: Annotated[
        Path | None, option("Write curves for TensorBoard there, one folder a slot.", "FOLDER")
    ] = None,
    previews: Annotated[
        Path | None,
        option(
            "Draw the run's preview clips over time on one sheet, a .png.",
            "FILE",
            parser=typed.to_write("the sheet"),
        ),
    ] = None,
    last: Annotated[int, option("How many of each slot's tips are listed; 0: all.", "N", min=0)] = 8,
) -> None:
    """Show every checkpoint that became a tip: steps, clips, losses, who made it and how long it took.

    Cards and attestations are signed, so that nobody has to be believed.
    """
    if sum((csv, json_output, tensorboard is not None, previews is not None)) > 1:
        raise UsageError("choose one of --csv, --json, --tensorboard and --previews")
    if previews is not None:
        from paris_p2p.cli.preview_sheet import draw_sheet

        fetch_settings(flags)  # what cannot be is refused here, too
        if not os.path.isdir(run):
            raise UsageError("--previews reads a folder: the run's, or a peer's data directory")
        echo(draw_sheet(previews_of(Path(run)), previews))
        return
    from paris_p2p.cli.history_words import history_csv, history_json, history_text

    found = history_of(run, flags)
    if csv:
        echo(history_csv(found).rstrip("\n"))
    elif json_output:
        echo(history_json(found, time.time()))
    elif tensorboard is not None:
        from paris_p2p.cli.history_board import write_tensorboard

        echo(write_tensorboard(found, tensorboard))
    else:
        echo(history_text(found, last))


def history_of(run: str, flags: FetchFlags, *, rounds: bool = False) -> RunHistory:
    """Returns a run's past: from a folder without a network, or asked of the peers of an invite."""
    from paris_p2p.node.joining import GENERATOR_DIR
    from paris_p2p.node.run_history import ask_history, history_on_disk

    settings = fetch_settings(flags)
    if not os.path.isdir(run):
        return ask_history(settings, parse_invite(run, settings.data_dir / GENERATOR_DIR), rounds=rounds)
    data_dir, known = kept_home(Path(run))
    return history_on_disk(data_dir, known.run, known.open_kind)


def previews_of(folder: Path) -> Path:
    """Returns the folder of previews in a run's folder, or in a peer's data directory."""
    from paris_p2p.node.preview_sets import previews_folder
    from paris_p2p.run_file import RUN_FILE

    return previews_folder(folder / "node" if (folder / RUN_FILE).exists() else folder)


def kept_home(folder: Path) -> tuple[Path, KnownRun]:
    """Returns the data directory of a run's folder, or a peer's own, and what is known of its run."""
    from paris_p2p.preparation.known_run import kept_run
    from paris_p2p.preparation.owner_words import OwnersFolder
    from paris_p2p.run_file import RUN_FILE

    if (folder / RUN_FILE).exists():
        return folder / "node", OwnersFolder(folder).known
    return folder, kept_run(folder)
