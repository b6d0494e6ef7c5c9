"""`paris-run state`: what a run's owner said, and what follows from it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from paris_p2p.cli.console import echo
from paris_p2p.cli.groups import FetchFlags, fetch_settings, option
from paris_p2p.cli.run_home import asked_by, known_state
from paris_p2p.cli.state_words import state_json, state_lines
from paris_p2p.cli.verb import verb


def add_state(app: typer.Typer) -> None:
    """Adds `state` to the commands of a run's owner."""
    verb(app, "paris-run state my-run", "paris-run state @invite.txt --json")(state)


def state(
    run: Annotated[
        str,
        typer.Argument(
            help="The run's folder; or an invite (paris:…), @FILE to read it from, or - for stdin.",
            metavar="FOLDER|INVITE",
        ),
    ],
    flags: FetchFlags,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
) -> None:
    """Show the owner's notices, and what the run is by them: members, numbers, experts, clips."""
    from paris_p2p.preparation.what_to_say import names_in

    if os.path.isdir(run):
        fetch_settings(flags)  # what cannot be is refused here, too
        known, names, fork = known_state(Path(run))
    else:
        asked = asked_by(run, flags)
        known, names, fork = asked.state, names_in(asked.state), asked.fork
    if json_output:
        echo(json.dumps({"at": time.time(), **state_json(known, names), "fork": fork}))
        return
    echo("\n".join([*([f"STOPPED: {fork}"] if fork else []), *state_lines(known, names)]))
