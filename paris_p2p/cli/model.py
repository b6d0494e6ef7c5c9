"""A run's model as the command line names it: by an invite, or by the folder of an earlier export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from paris_p2p.cli.console import parse_invite
from paris_p2p.cli.typed import model_folder
from paris_p2p.disk import named_path

if TYPE_CHECKING:
    from paris_p2p.fetched_run import FetchedRun
    from paris_p2p.flow.mixture import Routing
    from paris_p2p.invite import Invite
    from paris_p2p.peer_settings import PeerSettings
    from paris_p2p.progress import Progress


def parse_model(argument: str, settings: PeerSettings) -> Invite | Path:
    """Returns the folder, where the argument is one, or else the invite that it must be. UsageError."""
    from paris_p2p.node.joining import GENERATOR_DIR

    if os.path.isdir(os.path.expanduser(argument)):  # not Path.is_dir, to which a long invite is an error
        return model_folder(named_path(argument))
    return parse_invite(argument, settings.data_dir / GENERATOR_DIR)


def find_model(
    model: Invite | Path,
    settings: PeerSettings,
    *,
    partial: bool,
    offline: bool,
    routing: Routing | None = None,
    progress: Progress,
) -> FetchedRun:
    """Returns the run of an exported folder, or what an invite brings; errors as of open_export and
    fetch_run.
    """
    from paris_p2p.generation.exported import open_export
    from paris_p2p.node.generator import check_wanted, fetch_run

    if not isinstance(model, Path):
        return fetch_run(
            settings, model, partial=partial, offline=offline, routing=routing, progress=progress
        )
    run = open_export(model)
    check_wanted(run.spec, set(run.weights), partial, routing)
    return run
