"""`paris peer dashboard` and its like: a link to the page of a node that runs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo
from paris_p2p.cli.groups import HomeFlags, home_of, option
from paris_p2p.cli.verb import verb

if TYPE_CHECKING:
    from paris_p2p.node.control_client import Controlled

_OWNERS_NODE = "node"  # in the run's folder
BrowserOption = Annotated[
    bool, option("Print the link only, also where there is a screen.", None, "--no-browser")
]


def add_dashboard(app: typer.Typer) -> None:
    """Adds the verb for a node that is named by its data folder."""

    @verb(app, f"{app.info.name} dashboard", f"{app.info.name} dashboard --no-browser")
    def dashboard(flags: HomeFlags, no_browser: BrowserOption = False) -> None:
        """Open the page of the node that runs here, in a browser."""
        open_page(home_of(flags), browser=not no_browser)


def add_owner_dashboard(app: typer.Typer) -> None:
    """Adds the verb for an owner's node, which is named by the run's folder."""

    @verb(app, "paris-run dashboard prepared")
    def dashboard(
        folder: Annotated[
            Path,
            typer.Argument(
                parser=typed.folder("the run's folder"),
                metavar="FOLDER",
                help="The folder that `paris-run publish` runs on.",
            ),
        ],
        no_browser: BrowserOption = False,
    ) -> None:
        """Open the page of the owner's node that runs here, in a browser."""
        open_page(folder / _OWNERS_NODE, browser=not no_browser)


def open_page(data_dir: Path, *, browser: bool, who: Controlled | None = None) -> None:
    """Prints a link to the page of the node on a data folder, and opens it where there is a screen."""
    import getpass
    import socket
    import webbrowser

    from paris_p2p.dashboard.links import has_screen, page_link, ssh_line
    from paris_p2p.node.control_client import PEER, call_control, control_url

    who = who or PEER
    url = control_url(data_dir, who)
    link = page_link(url, call_control(data_dir, "POST", "link", who=who)["code"])
    if browser and has_screen() and webbrowser.open(link):
        echo("the page is open in your browser; if it is not, open this link within ten minutes:")
    else:
        echo("open this link within ten minutes, in a browser on this machine:")
    echo(f"  {link}")
    echo("from another machine, type this there first and leave it running, then open the same link there:")
    echo(f"  {ssh_line(url, getpass.getuser(), socket.gethostname())}")
