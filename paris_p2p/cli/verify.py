"""`paris verify`: is what lies on this disk what it should be, and can peers mend it?"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paris_p2p.cli.console import echo, parse_invite, progress_bars
from paris_p2p.cli.groups import HomeFlags, home_of, option
from paris_p2p.cli.verb import verb
from paris_p2p.errors import StoreError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from paris_p2p.node.healing import Healed, HealOutcome
    from paris_p2p.node.home_check import HomeReport

_SHOWN = 12  # findings of one kind


def add_verify(app: typer.Typer) -> None:
    """Adds `verify` to the one command."""
    verb(app, "paris verify", "paris verify --heal --data-dir /srv/paris")(verify_command)


def verify_command(
    flags: HomeFlags,
    heal: Annotated[
        bool,
        option("Fetch damaged blobs again, and clear what killed processes left.", None, "--heal"),
    ] = False,
    invite: Annotated[
        str | None,
        option("Whom to ask, where this folder knows nobody: an invite, or @FILE.", "INVITE"),
    ] = None,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
) -> None:
    """Check every blob, record and RunSpec of a peer's folder, while it runs or not.

    It reads and changes nothing without --heal. Exit status 1 says that something is damaged.
    """
    from paris_p2p.node.home_check import check_home, homes_in

    data_dir = home_of(flags)
    peers = parse_invite(invite, data_dir).peers if invite is not None else ()
    homes = homes_in(data_dir)
    if not homes:
        raise UsageError(f"{data_dir} holds no store; name a peer's --data-dir, or the folder of a run")
    with progress_bars() as progress:
        reports = [check_home(home, progress) for home in homes]
    if not json_output:
        echo("\n".join(line for report in reports for line in home_account(report)))
    if heal:
        reports = [_mended(report, peers, echo if not json_output else _silently) for report in reports]
    if json_output:
        echo(json.dumps({"homes": [home_json(report) for report in reports]}))
    broken = [str(report.home) for report in reports if not report.is_whole]
    if broken:
        then = "what is left cannot be mended here" if heal else "mend it with `paris verify --heal`"
        raise StoreError(f"{', '.join(broken)} is damaged; {then}")


def home_account(report: HomeReport) -> list[str]:
    """Returns what a person is told of one directory."""
    from paris_p2p.byte_size import in_units

    states, sealed = report.states, f", {report.sealed} sealed" if report.sealed else ""
    blobs = sum(states.values()) - len(report.left_over) - len(report.foreign)
    opened = f" ({report.opened} opened with keys that are here)" if report.sealed else ""
    lines = [
        f"{report.home}: {_count(blobs, 'blob')}, "
        f"{in_units(report.hashed_bytes)} hashed{sealed}{opened}; {_count(report.runs, 'run')}, "
        f"{_count(report.records, 'value')} in ledgers"
    ]
    if states["part"]:
        lines.append(f"  downloads that are not whole yet, which is no damage: {states['part']}")
    lines += _some([(f"blob {one.path.name[:16]}…", one.words) for one in (*report.blobs, *report.unsealed)])
    lines += _some([(one.key, one.words + _cure(one.is_ours)) for one in report.ledger])
    lines += _some(list(report.specs.items()))
    if report.left_over:
        lines.append(f"  left over, of processes that were killed: {_count(len(report.left_over), 'file')}")
        lines += _some([(one.path.name[:24], one.words) for one in report.left_over])
    if report.foreign:
        lines.append(f"  no store's, and left alone: {_count(len(report.foreign), 'file')}")
        lines += _some([(one.path.name[:24], one.words) for one in report.foreign])
    lines.append("  whole: nothing is damaged" if report.is_whole else "  DAMAGED")
    return lines


def home_json(report: HomeReport) -> dict[str, object]:
    """Returns a report for programs."""
    blobs = [
        {"file": str(one.path), "state": one.state, "words": one.words}
        for one in (*report.blobs, *report.unsealed, *report.left_over, *report.foreign)
    ]
    ledger = [{"file": str(one.path), "key": one.key, "words": one.words} for one in report.ledger]
    return {
        "home": str(report.home),
        "whole": report.is_whole,
        "blobs": dict(report.states),
        "hashed_bytes": report.hashed_bytes,
        "sealed": report.sealed,
        "opened": report.opened,
        "records": report.records,
        "damaged": blobs,
        "ledger": ledger,
        "run_specs": report.specs,
    }


def _cure(is_ours: bool) -> str:
    if is_ours:
        return " (this peer's own memory, which nobody else has: restore it from a backup, or let it be)"
    return " (the next start forgets it and asks the swarm)"


def _some(found: list[tuple[str, str]]) -> list[str]:
    lines = [f"  {name}: {words}" for name, words in found[:_SHOWN]]
    return lines + ([f"  … and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _silently(_: str) -> None:
    """Says nothing."""


def _mended(report: HomeReport, peers: tuple[str, ...], said: Callable[[str], None]) -> HomeReport:
    """Mends one directory and returns what it is worth then."""
    from paris_p2p.node.home_check import check_home

    if report.is_whole and not report.left_over:
        return report
    blobs = tuple(dict.fromkeys(one.blob_id for one in (*report.blobs, *report.unsealed)))
    healed = _heal_running(report.home, blobs)
    if healed is None:
        healed = _heal_alone(report, blobs, peers, said)
    counts = {
        state: list(healed.outcomes.values()).count(state)
        for state in ("healed", "dropped", "missing", "left")
    }
    said(
        f"{report.home}: of {_count(len(blobs), 'blob')}, mended {counts['healed']}, "
        f"deleted since nothing needs them {counts['dropped']}, not to be had {counts['missing']}"
        + (f", left since another run may need them {counts['left']}" if counts["left"] else "")
    )
    for blob, words in list(healed.words.items())[:_SHOWN]:
        said(f"  blob {blob[:16]}…: {words}")
    after = check_home(report.home, only=blobs)
    after.states.update({state: count for state, count in report.states.items() if state == "right"})
    after.hashed_bytes += report.hashed_bytes
    lost = [one for one in report.blobs if healed.outcomes.get(one.blob_id) == "missing"]
    after.blobs += [one for one in lost if one.blob_id not in {left.blob_id for left in after.blobs}]
    return after


def _heal_running(home: Path, blobs: tuple[str, ...]) -> Healed | None:
    """Asks the peer that runs on a directory; None where none does."""
    from paris_p2p.node.control_client import CONTROL_FILE, ask_control
    from paris_p2p.node.healing import HEAL, Healed, HealRequest

    if not (home / CONTROL_FILE).exists():
        return None
    outcomes: dict[str, HealOutcome] = {}
    words: dict[str, str] = {}
    try:
        with progress_bars() as progress:
            for number, blob in enumerate(blobs, 1):
                body = HealRequest(blobs=(blob,)).model_dump_json().encode()
                answer = Healed.model_validate_json(ask_control(home, HEAL, body, timeout_s=3600.0))
                outcomes |= answer.outcomes
                words |= answer.words
                progress("mending blobs", number, len(blobs))
    except UnreachableError:
        if outcomes:
            raise
        return None  # it was killed, and left its file
    return Healed(outcomes=outcomes, words=words)


def _heal_alone(
    report: HomeReport, blobs: tuple[str, ...], peers: tuple[str, ...], said: Callable[[str], None]
) -> Healed:
    """Joins the directory's runs to mend it, where no peer runs."""
    from paris_p2p.node.healing import Damage, Healed, clear_left_over, heal_home
    from paris_p2p.node.invite_peers import kept_invite_peers
    from paris_p2p.peer_settings import PeerSettings

    home = report.home
    if cleared := clear_left_over(home, report.left_over):
        said(f"{home}: deleted {_count(cleared, 'file')} that {'was' if cleared == 1 else 'were'} left over")
    if report.is_whole:
        return Healed(outcomes={})
    peers = peers or kept_invite_peers(home) or kept_invite_peers(home.parent)
    if not peers:
        raise StoreError(
            f"{home} knows no peer to ask; name one with --invite, or start the peer there and try again"
        )
    runs = tuple(sorted(path.name for path in (home / "runs").iterdir())) if (home / "runs").is_dir() else ()
    said(
        f"{home}: no peer runs here; joining {_count(len(runs), 'run')} to mend {_count(len(blobs), 'blob')}"
    )
    settings = PeerSettings(data_dir=home, device="cpu")
    return asyncio.run(heal_home(settings, peers, Damage(blobs, runs), said))
