"""`paris-run invite` and `paris-run requests`: who is let into a run, by token or by hand."""

from __future__ import annotations

import math
import shutil
import sys
import time
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo, wrapped
from paris_p2p.cli.groups import option
from paris_p2p.cli.run_home import RunHome
from paris_p2p.cli.verb import verb
from paris_p2p.errors import UsageError
from paris_p2p.shown import FIELD_LETTERS, put, shown

if TYPE_CHECKING:
    from paris_p2p.handed_word import Reply, Request
    from paris_p2p.invite import Invite

DAY_S = 86400.0
FolderArgument = Annotated[
    Path,
    typer.Argument(
        parser=typed.folder("the run's folder"),
        metavar="FOLDER",
        help="The run's folder; of somebody who may let others in, the data directory of its peer.",
    ),
]
RightsOption = Annotated[
    str,
    option(
        "What it may do: train, attest, generate, store; several with commas between.",
        "RIGHTS",
        "--for",
        parser=typed.rights,
    ),
]


@dataclass(frozen=True)
class InviteFlags:
    """Holds what an invite is good for."""

    rights: RightsOption = "train,attest,generate"
    uses: Annotated[int, option("Machines that it lets in.", "N", "--uses", min=1, max=100_000)] = 1
    until: Annotated[
        float | None,
        option(
            "When it ends: a date such as 2026-12-31, or a span such as 7d.",
            "DATE",
            "--until",
            parser=typed.until,
            show_default="30d",
        ),
    ] = None
    admitter: Annotated[
        list[str] | None,
        option(
            "A peer that lets in by it, not the run's node; may be repeated, and each counts its uses.",
            "PEER",
            "--admitter",
        ),
    ] = None


def add_membership(app: typer.Typer) -> None:
    """Adds `invite` and `requests` to the commands of a run's owner."""
    verb(
        app,
        "paris-run invite my-run --for train,generate --uses 5 --until 2026-12-31",
        "paris-run invite my-run --for store --until 7d --out friend.txt",
        "paris-run invite my-run --qr",
    )(invite)
    verb(
        app,
        "paris-run requests my-run",
        "paris-run requests my-run --admit 3 --for train,generate",
    )(requests)


def invite(
    folder: FolderArgument,
    flags: InviteFlags,
    qr: Annotated[bool, option("Draw it as a QR code, too.", None, "--qr")] = False,
    out: Annotated[
        Path | None,
        option(
            "Write it to this file, for this user's eyes only, instead of printing it.",
            "FILE",
            "--out",
            "-o",
            parser=typed.to_write("the invite"),
        ),
    ] = None,
) -> None:
    """Make an invite that lets machines into a run for members only."""
    from paris_p2p.disk import explained, write_atomic

    home = RunHome.find(folder)
    made = _made(home, flags)
    if not home.is_running:
        echo(
            wrapped(
                "note: the run's node is not running; the invite names its addresses of last time, "
                "and nobody is let in before it runs again"
            )
        )
    if out is not None:
        with explained(out):
            write_atomic(out, f"{made}\n", mode=0o600)
        echo(wrapped(f"wrote {out}: {_good_for(made)}"))
    else:
        echo(str(made))
        put(_good_for(made), sys.stderr)
    if qr:
        echo(qr_code(str(made)))


def _made(home: RunHome, flags: InviteFlags) -> Invite:
    """Returns an invite with a token by the key of the node whose home this is. UsageError."""
    from paris_p2p.identity import load_peer_key
    from paris_p2p.invite import Invite, make_token
    from paris_p2p.node.invite_peers import kept_invite_peers
    from paris_p2p.preparation.what_to_say import rights_in

    state, now_s = home.state, time.time()
    peers = kept_invite_peers(home.data_dir)
    if not peers:
        raise UsageError(
            f"the node on {home.data_dir} never ran, so an invite would name nobody to ask; "
            f"start it first: paris-run publish {home.folder}"
        )
    if not state.signed.members_only:
        raise UsageError(
            f"the run is open to everybody, who need no token: {Invite(run=state.run, peers=peers)}"
        )
    issuer = load_peer_key(home.data_dir / "identity.key")
    admitters = [home.peer(word) for word in flags.admitter or ()] or [issuer.peer_id]
    for peer in dict.fromkeys((issuer.peer_id, *admitters)):
        if not state.may(peer, "admit"):
            raise UsageError(
                f"{peer} may not let others in; the run's owner says who may: "
                "paris-run say FOLDER admit PEER --for admit"
            )
    until_s = now_s + 30 * DAY_S if flags.until is None else flags.until
    if until_s <= now_s:
        raise UsageError("--until names a date that is over; name a later one")
    token = make_token(
        issuer,
        state.run,
        rights_in(flags.rights),
        uses=flags.uses,
        now_s=now_s,
        until_s=1e12 if until_s == math.inf else until_s,
        admitters=admitters,
    )
    return Invite(run=state.run, peers=peers, join=token.data)


def _good_for(made: Invite) -> str:
    from paris_p2p.notice_words import date_words

    token = made.token
    if token is None:
        return "an invite"
    record = token.record
    machines = "1 machine" if record.uses == 1 else f"{record.uses} machines"
    who = ", ".join(f"…{peer[-8:]}" for peer in record.admitters)
    return (
        f"it lets in {machines} until {date_words(record.expires_at)}, to {', '.join(record.rights)}, "
        f"by {who}; it opens the run to all who have it, so send it as a secret"
    )


def qr_code(text: str) -> str:
    """Returns a QR code for a terminal, two rows in a line; UsageError where it is too narrow."""
    import segno

    code = segno.make(text, error="l", micro=False)
    columns = code.symbol_size(border=2)[0]
    if sys.stdout.isatty() and columns > shutil.get_terminal_size().columns:
        raise UsageError(
            f"the QR code has {columns} columns, and this terminal has fewer; widen it, or make its letters "
            "smaller"
        )
    out = StringIO()
    code.terminal(out, border=2, compact=True)
    return out.getvalue()


def requests(
    folder: FolderArgument,
    admit: Annotated[int, option("Let in who asks under this number.", "N", "--admit", min=0)] = 0,
    rights: Annotated[
        str,
        option(
            "With --admit: what it may do: train, attest, generate, store.",
            "RIGHTS",
            "--for",
            parser=typed.rights,
        ),
    ] = "train,attest,generate",
    until: Annotated[
        float | None,
        option(
            "With --admit: when that ends.", "DATE", "--until", parser=typed.until, show_default="a year on"
        ),
    ] = None,
    deny: Annotated[int, option("Say no to who asks under this number.", "N", "--deny", min=0)] = 0,
) -> None:
    """List who asks to be let in (`paris-peer start --ask`), let in or say no."""
    from paris_p2p.handed_word import Reply
    from paris_p2p.owner_records import FOREVER_S
    from paris_p2p.preparation.what_to_say import rights_in

    if admit and deny:
        raise UsageError("give --admit or --deny, not both")
    if "admit" in rights.split(","):
        raise UsageError(
            "the right admit is given by the owner's notice alone: "
            "paris-run say FOLDER admit PEER --for admit"
        )
    home = RunHome.find(folder)
    if not admit and not deny:
        echo("\n".join(_request_lines(home)))
        return
    ends_s = FOREVER_S if until is None else min(until, FOREVER_S)
    if ends_s <= time.time():
        raise UsageError("--until names a date that is over; name a later one")
    answer = Reply(number=admit or deny, rights=rights_in(rights) if admit else (), until=ends_s)
    one = _answered(home, answer)
    verb_ = f"let in, to {', '.join(answer.rights)}" if admit else "said no to"
    echo(wrapped(f"{verb_}: {one.peer} {shown(one.name, FIELD_LETTERS)}; it is told when it asks again"))


def _answered(home: RunHome, answer: Reply) -> Request:
    from paris_p2p.handed_word import Requests, parse_passed

    said = home.ask("answer", answer.model_dump_json().encode())
    return parse_passed(Requests, said, "the answer of the node").asking[0]


def _request_lines(home: RunHome) -> list[str]:
    from paris_p2p.handed_word import Requests, parse_passed
    from paris_p2p.time_span import span_words

    asking = parse_passed(Requests, home.ask("requests"), "the answer of the node").asking
    now_s = time.time()
    if not asking:
        return ["nobody asks to be let in"]
    rows = [
        f"{one.number:>3}  {one.peer}  {shown(one.name, FIELD_LETTERS) or '(no name)'}  "
        f"{one.address or '(no address)'}  asked {span_words(float(max(0, round(now_s - one.asked_s))))} ago"
        f"{', to generate' if one.is_generator else ''}"
        for one in asking
    ]
    return [*rows, f"let one in with: paris-run requests {home.folder} --admit {asking[0].number}"]
