"""`paris-run say`: the owner's word after `create`, each as a signed notice (docs/owners.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import confirmed
from paris_p2p.cli.groups import option
from paris_p2p.cli.say_growth import add_growth
from paris_p2p.cli.saying import SayFlags, Saying, send
from paris_p2p.cli.verb import FolderGroup, epilog_of, verb
from paris_p2p.errors import UsageError

app = typer.Typer(cls=FolderGroup, no_args_is_help=True, invoke_without_command=True)

PeerArgument = Annotated[
    str,
    typer.Argument(
        metavar="PEER", help="A peer's id, the last letters of one that is known, or the name it gave."
    ),
]
ForOption = Annotated[
    str,
    option(
        "What it may do: train, attest, generate, store, admit; several with commas between.",
        "RIGHTS",
        "--for",
        parser=typed.rights,
    ),
]
UntilOption = Annotated[
    float | None,
    option("A date such as 2026-12-31, or a span such as 30d.", "DATE", "--until", parser=typed.until),
]
ReasonOption = Annotated[str, option("Why, for everybody to read.", "TEXT", "--reason")]
YesOption = Annotated[bool, option("Do not ask before it is said.", None, "--yes", "-y")]


def add_say(run_app: typer.Typer) -> None:
    """Adds `say` to the commands of a run's owner."""
    add_growth(app)
    run_app.add_typer(
        app,
        name="say",
        help="Change a run that is published: each word is a notice, signed with the owner's key.",
        epilog=epilog_of(
            'paris-run say my-run pause --reason "night"',
            "paris-run say my-run admit 12D3Koo… --for train,attest --until 30d",
            "paris-run say my-run --send notice.json",
        ),
    )


@app.callback()
def begin_saying(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(parser=typed.folder("the run's folder"), metavar="FOLDER", help="The run's folder."),
    ],
    sent: Annotated[
        Path | None,
        option(
            "Deliver what --sign-only wrote on another machine.",
            "FILE",
            "--send",
            parser=typed.file("a signed notice"),
        ),
    ] = None,
) -> None:
    if sent is not None:
        if context.invoked_subcommand is not None:
            raise UsageError("--send delivers what was signed before; say nothing else with it")
        send(folder, sent)
        return
    if context.invoked_subcommand is None:
        raise UsageError(f"say what? {', '.join(context.command.list_commands(context))}")  # type: ignore[attr-defined]
    context.obj = folder


@verb(
    app,
    'paris-run say my-run admit 12D3Koo… --for train,attest --name "Mia"',
    "paris-run say my-run admit 12D3Koo… --for admit --until 2026-12-31",
)
def admit(
    context: typer.Context,
    peer: PeerArgument,
    rights: ForOption,
    flags: SayFlags,
    until: UntilOption = None,
    name: Annotated[str, option("What the peer is called in lists.", "NAME")] = "",
) -> None:
    """Let a peer take part; one with the right admit may let others in."""
    import time

    from paris_p2p.owner_records import FOREVER_S
    from paris_p2p.preparation.what_to_say import admission, rights_in

    saying = Saying(context.obj, flags)
    ends_s = FOREVER_S if until is None else until
    saying.say([admission(saying.peer(peer), rights_in(rights), ends_s, name, time.time())])


@verb(
    app,
    "paris-run say my-run revoke Mia",
    "paris-run say my-run revoke 12D3Koo… --since 2d --with-admissions",
)
def revoke(
    context: typer.Context,
    peer: PeerArgument,
    flags: SayFlags,
    since: Annotated[
        float | None,
        option(
            "What it signed since then is void too: a date, or a span back such as 2d.",
            "DATE",
            parser=typed.since,
            show_default="now",
        ),
    ] = None,
    with_admissions: Annotated[
        bool, option("Revoke those that it let in, too.", None, "--with-admissions")
    ] = False,
) -> None:
    """End a peer's part: nobody serves it any more, and what it signs counts for nothing."""
    Saying(context.obj, flags).revoke(peer, since, with_admissions=with_admissions)


@verb(
    app,
    "paris-run say my-run revoke-card expert-1",
    "paris-run say my-run revoke-card expert-1 --back 3",
    "paris-run say my-run revoke-card router 41",
)
def revoke_card(
    context: typer.Context,
    slot: Annotated[
        str, typer.Argument(metavar="SLOT", help="The slot, such as expert-1 or router.", parser=typed.slot)
    ],
    flags: SayFlags,
    card: Annotated[
        str,
        typer.Argument(
            metavar="CARD", help="Its seq, or the beginning of its id; without it, the newest attested one."
        ),
    ] = "",
    back: Annotated[
        int, option("Take back so many of the newest attested cards.", "N", min=0, show_default="1")
    ] = 0,
    invite: Annotated[
        str, option("Ask the peers of this invite (paris:… or @FILE) for it.", "INVITE", "--invite")
    ] = "",
    place: Annotated[
        int, option("Where no node is asked: the card's seq, its whole id being given.", "N", "--seq", min=0)
    ] = 0,
    floor: Annotated[
        int, option("With --seq: an epoch above all that the slot had.", "N", "--floor", min=0)
    ] = 0,
) -> None:
    """Take back a checkpoint and all that stands on it: the slot goes on from the one before."""
    from paris_p2p.preparation.what_to_say import card_revocation, known_card

    if bool(place) != bool(floor):
        raise UsageError("--seq and --floor go together, with the card's whole id")
    if place and invite:
        raise UsageError("--seq says where the card stands, so nobody is to be asked: leave --invite out")
    saying = Saying(context.obj, flags)
    if place:
        saying.say([known_card(slot, card, place, floor)])
    else:
        saying.say([card_revocation(saying.places(slot, invite), card, back)])


@verb(app, 'paris-run say my-run pause --reason "the office needs its GPUs"')
def pause_command(context: typer.Context, flags: SayFlags, reason: ReasonOption = "") -> None:
    """Have all peers write a checkpoint and rest, until `resume`."""
    from paris_p2p.owner_records import Pause
    from paris_p2p.preparation.what_to_say import made

    Saying(context.obj, flags).say([made(Pause, reason=reason)])


@verb(app, "paris-run say my-run resume")
def resume_command(context: typer.Context, flags: SayFlags) -> None:
    """Let all peers go on after a pause."""
    from paris_p2p.owner_records import Resume

    Saying(context.obj, flags).say([Resume()])


@verb(app, 'paris-run say my-run end --reason "it is good enough"')
def end(context: typer.Context, flags: SayFlags, reason: ReasonOption = "", yes: YesOption = False) -> None:
    """End the training for good; what there is stays fetchable."""
    import asyncio

    from paris_p2p.owner_records import End
    from paris_p2p.preparation.what_to_say import made

    saying = Saying(context.obj, flags)
    name = saying.state.signed.name
    if not (yes or flags.dry_run or asyncio.run(confirmed(f"End the training of {name!r} for good?"))):
        raise UsageError("nothing was said")
    saying.say([made(End, reason=reason)])


@verb(
    app,
    "paris-run say my-run extend --total-steps 40000",
    "paris-run say my-run extend --checkpoint-s 300 --tolerance 0.1",
)
def extend(
    context: typer.Context,
    flags: SayFlags,
    total_steps: Annotated[int | None, option("Optimizer steps of a slot; 0: no end.", "N", min=0)] = None,
    decay_steps: Annotated[
        int | None, option("Steps at the end over which the learning rate falls.", "N", min=0)
    ] = None,
    checkpoint_s: Annotated[
        float | None, option("Time from one checkpoint to the next.", "SECONDS", min=1, max=86400)
    ] = None,
    tolerance: Annotated[
        float | None,
        option(
            "How far above the best loss, as a share of it, a checkpoint's may be.", "SHARE", min=0, max=10
        ),
    ] = None,
) -> None:
    """Change numbers of the run, from each slot's next checkpoint on."""
    from paris_p2p.preparation.what_to_say import extension

    saying = Saying(context.obj, flags)
    numbers: dict[str, float | None] = {
        "total_steps": total_steps,
        "decay_steps": decay_steps,
        "checkpoint_s": checkpoint_s,
        "tolerance": tolerance,
    }
    saying.say([extension(saying.state, **numbers)])


@verb(
    app,
    'paris-run say my-run previews --prompt "a red ball rolls" --prompt "two dogs run"',
    "paris-run say my-run previews --none",
)
def previews(
    context: typer.Context,
    flags: SayFlags,
    prompts: Annotated[
        list[str] | None,
        option("A prompt of the clips that show how the run comes on; up to 8.", "TEXT", "--prompt"),
    ] = None,
    none: Annotated[bool, option("Make no previews any more.", None, "--none")] = False,
) -> None:
    """Set the prompts of the run's preview clips, in place of those before."""
    from paris_p2p.preparation.what_to_say import new_previews

    if bool(prompts) == none:
        raise UsageError("give --prompt, once for each clip, or --none")
    saying = Saying(context.obj, flags)
    saying.say([new_previews(saying.state, prompts or ())])
