"""`paris-run receipts`: who made what of a run, and a file that proves it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo
from paris_p2p.cli.groups import FetchFlags, fetch_settings, option
from paris_p2p.cli.history_command import history_of, kept_home
from paris_p2p.cli.verb import verb
from paris_p2p.disk import explained
from paris_p2p.errors import UsageError

if TYPE_CHECKING:
    from paris_p2p.node.energy_note import EnergyUsed
    from paris_p2p.node.run_history import RunHistory
    from paris_p2p.rules.receipts import Receipts

MIN_PEER_LETTERS = 4


def add_receipts(app: typer.Typer) -> None:
    """Adds `receipts` to the commands of `paris-run`."""
    verb(
        app,
        "paris-run receipts @invite.txt",
        "paris-run receipts my-run --out proof.paris",
        "paris-run receipts --verify proof.paris",
    )(receipts_command)


def receipts_command(
    flags: FetchFlags,
    run: Annotated[
        str,
        typer.Argument(
            help="The run's folder or a peer's data directory, which need no network; or an invite "
            "(paris:…), @FILE to read it from, or - for stdin.",
            metavar="[FOLDER|INVITE]",
            show_default=False,
        ),
    ] = "",
    peer: Annotated[
        str, option("Show this peer alone: its id, or the last letters of it.", "PEER", show_default=False)
    ] = "",
    out: Annotated[
        Path | None,
        option(
            "Write the signed records that prove it to this file.", "FILE", parser=typed.to_write("proof")
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        option("Verify such a file, without a network.", "FILE", parser=typed.file("a file of receipts")),
    ] = None,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
) -> None:
    """Say which peer made how many steps and clips, summed from attested cards.

    Anybody who has the records can sum them again; nobody has to be believed.
    """
    from paris_p2p.rules.receipts import run_receipts

    if peer and (len(peer) < MIN_PEER_LETTERS or not peer.isalnum()):
        raise UsageError(f"--peer {peer[:80]!r}: give a peer's id, or at least its last four letters")
    if verify is None and not run:
        raise UsageError("name the run's folder, a peer's data directory, an invite, or a file to --verify")
    if verify is not None and out is not None:
        raise UsageError("--verify reads a file and --out writes one; choose one of them")
    found = history_of(run, flags, rounds=True) if verify is None else _verified(verify, run, flags)
    receipts = run_receipts(found.links, found.merged, has_crews=found.state.signed.crew is not None)
    if out is not None:
        _write(found, out)
    energy = _energy(run, found.state.run) if verify is None else None
    if json_output:
        own_word = {"own_word_on_energy": energy.model_dump()} if energy else {}
        echo(json.dumps({**_as_json(found, receipts, peer), **own_word}))
    else:
        echo("\n".join([*_lines(found, receipts, peer, _own_id(run)), *([energy.words()] if energy else [])]))
    if out is not None and not json_output:
        echo(f"wrote {out}; anybody verifies it with: paris-run receipts --verify {out}")


def _verified(file: Path, run: str, flags: FetchFlags) -> RunHistory:
    """Returns what a file proves; a private run's keys are those of the folder that is named, if any."""
    from paris_p2p.keyring import Keyring
    from paris_p2p.node.receipt_proof import verify_proof
    from paris_p2p.receipt_file import read_receipts

    fetch_settings(flags)  # what cannot be is refused here, too
    if run and not os.path.isdir(run):
        raise UsageError("--verify needs no invite; name a folder where the run is private, for its keys")
    ring = kept_home(Path(run))[1].ring if run else Keyring()
    return verify_proof(read_receipts(file), ring)


def _energy(run: str, run_id: str) -> EnergyUsed | None:
    """Returns what the peer of a data directory notes of the energy that its training used."""
    from paris_p2p.node.energy_note import kept_energy

    return kept_energy(Path(run) / "runs" / run_id) if os.path.isdir(run) else None


def _own_id(run: str) -> str:
    """Returns the id of the peer whose data directory was named; empty where none was."""
    from paris_p2p.doctor.identities import KEY_FILE
    from paris_p2p.identity import load_peer_key

    if not os.path.isdir(run):
        return ""
    key = kept_home(Path(run))[0] / KEY_FILE
    return load_peer_key(key).peer_id if key.exists() else ""


def _write(found: RunHistory, out: Path) -> None:
    from paris_p2p.node.receipt_proof import proof_of
    from paris_p2p.receipt_file import write_receipts

    if found.source is None:
        raise UsageError("no checkpoint is known here that became a tip, so there is nothing to prove yet")
    with explained(out):
        write_receipts(out, proof_of(found, found.source))


def _as_json(found: RunHistory, receipts: Receipts, peer: str) -> dict[str, object]:
    return {
        "at": time.time(),
        "run": found.state.run,
        "name": found.state.signed.name,
        "owner": found.state.signed.owner,
        "notices": found.state.number,
        "receipts": [asdict(one) for one in receipts.of() if one.peer.endswith(peer)],
        "unproven_clips": receipts.unproven_clips,
        "told": [asdict(one) for one in found.told],
    }


def _lines(found: RunHistory, receipts: Receipts, peer: str, me: str = "") -> list[str]:
    """Returns the receipts for a person: a block a peer, who made most first; `me` is marked."""
    from paris_p2p.shown import FIELD_LETTERS, shown

    signed = found.state.signed
    lines = [
        f"run {shown(signed.name, FIELD_LETTERS)} ({found.state.run[:16]}…) of owner {signed.owner}, "
        f"by {found.state.number} notices"
    ]
    chosen = [one for one in receipts.of() if one.peer.endswith(peer)]
    totals: dict[str, int] = {}
    for one in chosen:
        totals[one.peer] = totals.get(one.peer, 0) + one.clips
    for name in sorted(totals, key=lambda name: (-totals[name], name)):
        whose = " (this peer)" if name == me else ""
        lines.append(f"{name}{whose}: {totals[name]:,} attested clips")
        for one in (one for one in chosen if one.peer == name):
            what = [f"{one.clips:,} clips", f"{one.steps:,} steps", f"{one.cards:,} cards"]
            what += [f"{one.updates:,} merged updates"] if one.updates else []
            first, last = (
                time.strftime("%Y-%m-%d", time.gmtime(at)) for at in (one.first_at_s, one.last_at_s)
            )
            lines.append(f"  {one.slot}: {', '.join(what)}; {first} to {last}")
    if not chosen:
        lines.append("nothing that was attested is known of it here" if peer else "nothing was attested yet")
    for slot, clips in sorted(receipts.unproven_clips.items()):
        lines.append(f"{slot}: {clips:,} more clips, whose makers are not proven by what is known here")
    return lines
