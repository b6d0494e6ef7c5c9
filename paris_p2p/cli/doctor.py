"""`paris doctor` and `paris update-check`: is this machine fit, and is it up to date."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo, parse_invite
from paris_p2p.cli.groups import ConfigFlag, FetchFlags, InviteArgument, fetch_settings, option
from paris_p2p.cli.peer_flags import StartFlags
from paris_p2p.cli.verb import verb
from paris_p2p.shown import put, shown_lines

BEHIND_STATUS = 1  # of `update-check`, for scripts


def add_doctor(app: typer.Typer) -> None:
    """Adds both to the umbrella command."""
    verb(app, "paris doctor", "paris doctor @invite.txt", "paris doctor @invite.txt --json")(doctor)
    verb(app, "paris update-check @invite.txt")(update_check)


def doctor(
    flags: StartFlags,
    invite: Annotated[
        str | None,
        typer.Argument(
            help="An invite (paris:…), @FILE to read it from, or - for stdin; without one, no peer is asked.",
            metavar="INVITE",
            show_default=False,
        ),
    ] = None,
    config: ConfigFlag = None,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
    offline: Annotated[bool, option("Look at this machine alone; ask nobody.", None, "--offline")] = False,
    trial: Annotated[
        float, option("How long an expert and the router train on trial.", "SECONDS", min=1, max=300)
    ] = 10.0,
) -> None:
    """Say what keeps this machine from taking part, or makes it poor, and what mends it.

    Exit status: 0 all is well, 1 it cannot take part, 2 it will be poor.
    """
    from paris_p2p.cli.doctor_words import draw_report
    from paris_p2p.peer.examination import examine
    from paris_p2p.peer.settings import load_start
    from paris_p2p.swarm.addresses import check_addresses

    settings = load_start(typed.given(flags), config)[0].peer_settings()
    check_addresses(settings)
    parsed = parse_invite(invite, settings.data_dir) if invite is not None else None
    report = examine(settings, parsed, offline=offline, trial_s=trial, say=_say)
    if json_output:
        echo(report.model_dump_json())
    else:
        from rich.console import Console

        Console(highlight=False).print(draw_report(report))
    raise typer.Exit(report.exit_status)


def update_check(
    invite: InviteArgument,
    flags: FetchFlags,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
) -> None:
    """Compare this program's version with those that the run's peers announce; nobody else is asked.

    Exit status: 0 it is not behind, 1 it is, or no peer could be asked.
    """
    from paris_p2p.peer.update_check import versions_of_peers
    from paris_p2p.rules.versions import version_words

    settings = fetch_settings(flags)
    versions = versions_of_peers(settings, parse_invite(invite, settings.data_dir))
    if json_output:
        told = {version_words(number): count for number, count in versions.told.items()}
        newer = version_words(versions.newer) if versions.newer else None
        own = version_words(versions.own)
        words = {"own": own, "newer": newer, "behind": versions.is_behind}
        echo(json.dumps(words | {"peers": told, "silent": versions.silent}))
    else:
        echo("\n".join(versions.lines()))
    raise typer.Exit(BEHIND_STATUS if versions.is_behind else 0)


def _say(words: str) -> None:
    """Tells beside the report what is going on, which takes a while."""
    put(shown_lines(words), sys.stderr)
