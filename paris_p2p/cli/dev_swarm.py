"""`paris dev-swarm`: a whole swarm on this machine, broken on purpose, with a verdict."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo
from paris_p2p.cli.groups import option
from paris_p2p.cli.verb import verb
from paris_p2p.disk import named_path
from paris_p2p.errors import ParisError, UsageError

if TYPE_CHECKING:
    from paris_p2p.dev_swarm.outcome import Outcome, Witnessed
    from paris_p2p.dev_swarm.trouble_plan import SwarmWishes

MAX_PEERS = 100
_PREFIX, _PID_FILE = "paris-dev-swarm-", "pid"  # of the nodes' folder; the process that uses it
TROUBLES = "What is broken"


@dataclass(frozen=True)
class BreakFlags:
    """Holds what is done to the peers, and how often."""

    kill_every: Annotated[
        float,
        option(
            "Kill a node with SIGKILL so often, and start it again.",
            "SPAN",
            panel=TROUBLES,
            parser=typed.every,
        ),
    ] = 0.0
    pause_every: Annotated[
        float,
        option(
            "Halt a peer with SIGSTOP so often, for longer than a claim.",
            "SPAN",
            panel=TROUBLES,
            parser=typed.every,
        ),
    ] = 0.0
    cut_every: Annotated[
        float, option("Take a peer's link down so often.", "SPAN", panel=TROUBLES, parser=typed.every)
    ] = 0.0
    slow: Annotated[
        float,
        option(
            "This share of the peers has a quarter of its processor time.",
            "SHARE",
            panel=TROUBLES,
            min=0,
            max=1,
        ),
    ] = 0.0
    seed: Annotated[int, option("The same seed breaks the same peers.", "N", panel=TROUBLES, min=0)] = 0


@dataclass(frozen=True)
class ScaleFlags:
    """Holds how large the swarm is, and how fast its clocks go."""

    peers: Annotated[int, option("Volunteers, beside a bootstrap node and the owner's.", "N", min=1)] = 5
    minutes: Annotated[float, option("How long it is broken.", "N", min=0.1)] = 10.0
    quiet_minutes: Annotated[
        float, option("How long it trains undisturbed before, to compare with.", "N", min=0)
    ] = 0.0
    checkpoint_s: Annotated[
        float, option("Seconds between checkpoints, in place of the run's.", "SECONDS", min=1)
    ] = 20.0
    claim_s: Annotated[float, option("Length of a claim, in place of the run's.", "SECONDS", min=2)] = 20.0


def add_dev_swarm(app: typer.Typer) -> None:
    """Adds `dev-swarm` to the one command."""
    verb(
        app,
        "paris dev-swarm my-run --kill-every 30s --minutes 20",
        "paris dev-swarm tiny-run --tiny --peers 12 --kill-every 20s --seed 7",
    )(dev_swarm_command)


def dev_swarm_command(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=named_path,
            metavar="FOLDER",
            help="A folder of `paris run create`, which is read and not changed.",
        ),
    ],
    scale: ScaleFlags,
    breaks: BreakFlags,
    tiny: Annotated[
        bool, option("Make a tiny run of made clips in FOLDER, where none is there.", None, "--tiny")
    ] = False,
    plain: Annotated[
        bool,
        option("No network namespaces; a cut halts a peer's p2pd instead.", None, "--plain"),
    ] = False,
    keep: Annotated[
        Path | None,
        option("Where the nodes live, in place of a temporary folder that goes when all held.", "FOLDER"),
    ] = None,
    json_file: Annotated[
        Path | None,
        option("Write what was done, seen and found.", "FILE", "--json", parser=typed.to_write("the result")),
    ] = None,
) -> None:
    """Run a whole swarm on this machine, break it on purpose, and say whether it held.

    The run is trained under another key and id: nothing of it counts in the real one. Exit status 0 says
    that all that must hold did.
    """
    from paris_p2p.dev_swarm.namespaces import why_no_spaces
    from paris_p2p.dev_swarm.trouble_plan import SwarmWishes

    if not tiny and not (folder / "run.spec").is_file():
        raise UsageError(f"{folder} holds no run; name a folder of `paris run create`, or add --tiny")
    if scale.peers > MAX_PEERS:
        raise UsageError(f"--peers {scale.peers}: one machine gets {MAX_PEERS} at most")
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise UsageError(f"--keep {keep} is not empty; name a new folder")
    wishes = SwarmWishes(
        peers=scale.peers,
        length_s=60 * scale.minutes,
        claim_s=scale.claim_s,
        seed=breaks.seed,
        kill_every_s=breaks.kill_every,
        pause_every_s=breaks.pause_every,
        cut_every_s=breaks.cut_every,
        slow_share=breaks.slow,
        quiet_s=60 * scale.quiet_minutes,
    )
    if tiny:
        from paris_p2p.dev_swarm.tiny_run import make_tiny_run

        make_tiny_run(folder, echo)
    why = "--plain was given" if plain else why_no_spaces()
    if why:
        echo(f"no network namespaces ({why}): all nodes are on this machine's loopback, and a cut halts p2pd")
    _tell_of_old_folders()
    root = (keep or Path(tempfile.mkdtemp(prefix=_PREFIX))).resolve()
    root.mkdir(parents=True, exist_ok=True)
    (root / _PID_FILE).write_text(f"{os.getpid()}\n")
    passed = False
    try:
        passed = _carried_out(folder, root, wishes, scale.checkpoint_s, json_file, namespaces=not why)
    finally:  # Ctrl-C, too
        if keep is None and passed:
            shutil.rmtree(root, ignore_errors=True)
        else:
            echo(f"the nodes' folders and logs are in {root}")
    if not passed:
        raise ParisError("FAILED: what must hold did not; see above")


def _tell_of_old_folders() -> None:
    """Says which folders are left of this user's dev-swarms that failed, or that were killed."""
    found = Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")
    left = [folder for folder in found if _is_mine(folder) and not _is_used(folder)]
    if left:
        echo(f"left by earlier dev-swarms, to look at and delete: {', '.join(map(str, sorted(left)))}")


def _is_mine(folder: Path) -> bool:
    with suppress(OSError):
        return folder.lstat().st_uid == os.getuid()
    return False


def _is_used(folder: Path) -> bool:
    with suppress(OSError, ValueError):
        return Path(f"/proc/{int((folder / _PID_FILE).read_text())}").exists()
    return False


def _carried_out(
    folder: Path,
    root: Path,
    wishes: SwarmWishes,
    checkpoint_s: float,
    json_file: Path | None,
    *,
    namespaces: bool,
) -> bool:
    from paris_p2p.dev_swarm.dev_run import opened_swarm, run_dev_swarm
    from paris_p2p.dev_swarm.dev_view import dev_view
    from paris_p2p.dev_swarm.scratch_run import scratch_run
    from paris_p2p.spec import TimingSpec

    timing = TimingSpec(claim_s=wishes.claim_s, settle_s=1.0, margin_s=2.0, checkpoint_s=checkpoint_s)
    run = scratch_run(folder, root / "run", timing)
    with (
        dev_view() as view,
        opened_swarm(root, run, wishes, view.say, namespaces=namespaces, shown=view.show) as swarm,
    ):
        seen, outcome = run_dev_swarm(swarm)
    echo("\n".join(swarm_account(outcome)))
    if json_file is not None:
        json_file.write_text(json.dumps(swarm_json(wishes, seen, outcome, checkpoint_s), indent=1))
    return outcome.passed


def swarm_account(outcome: Outcome) -> list[str]:
    """Returns what a person is told at the end."""
    from paris_p2p.dev_swarm.outcome import figures

    return [
        "",
        *figures(outcome),
        "",
        *(f"{'held ' if one.holds else 'FAILED'} {one.name}: {one.found}" for one in outcome.held),
        "",
        "PASSED: all that must hold did" if outcome.passed else "FAILED",
    ]


def swarm_json(wishes: SwarmWishes, seen: Witnessed, outcome: Outcome, checkpoint_s: float) -> dict[str, Any]:
    """Returns everything for programs."""
    from paris_p2p.dev_swarm.hand_overs import spread_of
    from paris_p2p.dev_swarm.outcome import OWNER

    tips = {slot: [asdict(tip) for tip in seen.chronicle.tips.get((OWNER, slot), [])] for slot in seen.slots}
    return {
        "passed": outcome.passed,
        "wishes": asdict(wishes) | {"checkpoint_s": checkpoint_s},
        "began_s": seen.began_s,
        "quiet_s": seen.quiet_s,
        "ended_s": seen.ended_s,
        "held": [asdict(one) for one in outcome.held],
        "advances": {one.slot: asdict(one) | {"steps": one.steps} for one in outcome.advances},
        "hand_overs": [asdict(one) for one in outcome.hand_overs],
        "hand_over_s": asdict(spread_of(one.after_s for one in outcome.hand_overs)),
        "losses": [asdict(one) for one in outcome.losses],
        "troubles": [asdict(one) for one in seen.struck],
        "tips": tips,
    }
