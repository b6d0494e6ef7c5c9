"""`paris-bootstrap`: run an entry point for a swarm, or check one from outside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo, read_invite, run_app
from paris_p2p.cli.dashboard import BrowserOption, open_page
from paris_p2p.cli.groups import LINE, MACHINE, WATCHED, ConfigFlag, HomeFlags, NodeFlags, option, setting
from paris_p2p.cli.logs import long_running
from paris_p2p.cli.verb import new_app, verb
from paris_p2p.disk import explained, write_atomic

app = new_app(
    "paris-bootstrap",
    "Operate a bootstrap node: an entry point, relay and store for swarms; it needs no GPU.",
)


@dataclass(frozen=True)
class OperatorHome(HomeFlags):
    """Holds where a bootstrap node lives."""

    data_dir: Annotated[
        Path | None,
        setting(
            "data_dir",
            "The folder that keeps the node's key and blobs; with the variable, bootstrap/ in it.",
            "FOLDER",
            "~/.local/share/paris-p2p/bootstrap",
            panel=MACHINE,
        ),
    ] = None


@dataclass(frozen=True)
class ServeFlags(OperatorHome, NodeFlags):
    """Holds the options of a bootstrap node."""

    max_disk: Annotated[
        str | None,
        setting(
            "max_disk", "Disk for store and forward, like 200GB; 0: no limit.", "SIZE", "50GB", panel=MACHINE
        ),
    ] = None
    mirror: Annotated[
        list[str] | None,
        setting(
            "mirror",
            "A run id or an invite, to hold that run only; may be repeated.",
            "RUN",
            "any run",
            panel=MACHINE,
        ),
    ] = None
    admit: Annotated[
        list[str] | None,
        setting(
            "admit",
            "An invite, or @FILE with one, that lets this node store for a private run, sealed; "
            "may be repeated.",
            "INVITE",
            "no run",
            panel=MACHINE,
        ),
    ] = None
    forget_ended: Annotated[
        str | None,
        setting(
            "forget_ended",
            "How long a run is kept after its owner ended it, like 12h; 0: not at all; never: always.",
            "SPAN",
            "7d",
            panel=MACHINE,
        ),
    ] = None
    public_page: Annotated[
        str | None,
        setting(
            "public_page",
            "Show everybody a page without buttons here: runs but private ones, their slots where --mirror "
            "names the run.",
            "[HOST:]PORT",
            panel=WATCHED,
        ),
    ] = None
    port: Annotated[
        int | None, setting("port", "TCP and UDP port to listen on.", "PORT", "31337", panel=LINE)
    ] = None
    peers: Annotated[
        list[str] | None,
        setting(
            "peers",
            "Another bootstrap node to join; may be repeated.",
            "MULTIADDR",
            panel=LINE,
            flag="--peer",
        ),
    ] = None


@verb(
    app,
    "paris-bootstrap serve --max-disk 200GB",
    "paris-bootstrap serve --config bootstrap/bootstrap.toml --port 4001",
)
def serve(
    flags: ServeFlags,
    config: ConfigFlag = None,
    address_file: Annotated[
        Path | None,
        option(
            "Write the addresses here when ready, one on each line.",
            "FILE",
            parser=typed.to_write("a file of addresses"),
        ),
    ] = None,
) -> None:
    """Serve until Ctrl-C; the identity is kept in the data folder, so the address stays the same."""
    from paris_p2p.bootstrap.config import load_serve
    from paris_p2p.bootstrap.life import run_bootstrap

    wished = typed.given(flags)
    for name in ("mirror", "admit"):
        if name in wished:
            wished[name] = [read_invite(text) for text in wished[name]]
    loaded = load_serve(wished, config)
    options, settings = loaded.options, loaded.peer_settings(device="cpu")

    long_running()

    def ready(addresses: tuple[str, ...]) -> None:
        echo("ready; give people one of these addresses:\n  " + "\n  ".join(addresses))
        if address_file is not None:
            with explained(address_file):
                write_atomic(address_file, "\n".join(addresses) + "\n")

    run_bootstrap(
        settings,
        options.known_peers(),
        options.mirrored(),
        ready,
        forget_ended_s=options.forget_ended,
        admit=options.admitting(),
        page_at=options.public_page,
    )


def _add_operating() -> None:
    """Adds what an operator asks of a node that runs."""

    @verb(app, "paris-bootstrap status", "paris-bootstrap status --config bootstrap/bootstrap.toml --json")
    def status(
        flags: OperatorHome,
        config: ConfigFlag = None,
        json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
    ) -> None:
        """Show what the bootstrap node that runs here holds and does."""
        from paris_p2p.node.control_client import OPERATORS_NODE, call_control

        answer = call_control(_home(flags, config), "GET", "status", who=OPERATORS_NODE)
        if json_output:
            echo(json.dumps(answer))
            return
        from paris_p2p.bootstrap.operator_status import OperatorStatus, operator_lines

        echo("\n".join(operator_lines(OperatorStatus.model_validate_json(json.dumps(answer)))))

    @verb(app, "paris-bootstrap stop", "paris-bootstrap stop --data-dir /var/lib/paris")
    def stop(flags: OperatorHome, config: ConfigFlag = None) -> None:
        """End the bootstrap node that runs here, in order."""
        from paris_p2p.node.control_client import OPERATORS_NODE, call_control

        echo(call_control(_home(flags, config), "POST", "stop", who=OPERATORS_NODE)["message"])


_add_operating()


@verb(app, "paris-bootstrap dashboard", "paris-bootstrap dashboard --no-browser")
def dashboard(flags: OperatorHome, config: ConfigFlag = None, no_browser: BrowserOption = False) -> None:
    """Open the page of the bootstrap node that runs here, in a browser."""
    from paris_p2p.node.control_client import OPERATORS_NODE

    open_page(_home(flags, config), browser=not no_browser, who=OPERATORS_NODE)


def _home(flags: OperatorHome, config: Path | None) -> Path:
    from paris_p2p.bootstrap.config import load_serve

    return load_serve(typed.given(flags), config).options.data_dir


@verb(app, "paris-bootstrap check /ip4/192.0.2.7/tcp/31337/p2p/12D3Koo…")
def check_command(
    multiaddr: Annotated[
        str,
        typer.Argument(
            parser=typed.multiaddr, metavar="MULTIADDR", help="The node, as /ip4/…/tcp/…/p2p/12D3Koo…"
        ),
    ],
    timeout_s: Annotated[float, option("How long to wait for the node.", "SECONDS", min=1, max=120)] = 15.0,
    json_output: Annotated[bool, option("Print one JSON object.", None, "--json")] = False,
) -> None:
    """Dial a node with an independent libp2p and say whether it is reachable and speaks our protocol."""
    from paris_p2p.probe import check_node

    result = check_node(multiaddr, timeout_s)
    echo(json.dumps(result.model_dump(mode="json")) if json_output else "\n".join(result.lines()))
    raise typer.Exit(0 if result.ok else 1)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
