"""`paris-run say … add-clips`, `add-expert` and `drop-expert`: a run that grows (docs/owners.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo, progress_bars, wrapped
from paris_p2p.cli.groups import option
from paris_p2p.cli.saying import SayFlags, Saying
from paris_p2p.cli.verb import verb


def add_growth(app: typer.Typer) -> None:
    """Adds the words that let a run grow to those that its owner may say."""
    verb(app, "paris-run say my-run add-clips")(add_clips)
    verb(app, "paris-run say my-run add-expert --split expert-1")(add_expert)
    verb(app, "paris-run say my-run drop-expert expert-2")(drop_expert_command)


def add_clips(context: typer.Context, flags: SayFlags) -> None:
    """Have the clips join the run that `prepare --into` prepared and that were not said before."""
    from paris_p2p.preparation.add_clips import add_clips_changes

    saying = Saying(context.obj, flags).with_key()
    said = [notice.record.change for notice in saying.state.notices]
    saying.say(add_clips_changes(context.obj, said))


def add_expert(
    context: typer.Context,
    split: Annotated[
        str,
        option("The expert whose clips are split in two.", "EXPERT", "--split", parser=typed.expert),
    ],
    flags: SayFlags,
) -> None:
    """Split an expert's clips in two: the new expert starts as the one whose clips they were."""
    from paris_p2p.preparation.regrouping import split_expert

    _regroup(context, flags, split, split_expert)


def drop_expert_command(
    context: typer.Context,
    expert: Annotated[
        str,
        typer.Argument(metavar="EXPERT", help="The expert, such as expert-2.", parser=typed.expert),
    ],
    flags: SayFlags,
) -> None:
    """Take an expert out of the mixture: its clips go to the nearest of the others."""
    from paris_p2p.preparation.regrouping import drop_expert

    _regroup(context, flags, expert, drop_expert)


def _regroup(context: typer.Context, flags: SayFlags, expert: str, regroup: Callable[..., Any]) -> None:
    """Gives an expert's clips new shards, and says where they went."""
    from paris_p2p.spec import cluster_of

    saying = Saying(context.obj, flags).with_key()
    with progress_bars() as progress:
        made = regroup(context.obj, saying.owners.known.run, saying.state.spec, cluster_of(expert), progress)
    echo(wrapped(made.account))
    saying.say(made.changes)
    if not flags.dry_run:
        made.settle()
