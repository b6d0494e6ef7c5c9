"""`paris-bootstrap`: run an entry point for a swarm, or check one from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from paris_p2p.cli.console import default_data_dir, echo, run_app
from paris_p2p.cli.logs import long_running, verb
from paris_p2p.disk import write_atomic

app = typer.Typer(
    name="paris-bootstrap",
    help="Operate a bootstrap node: an entry point, relay and store for swarms; no GPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@verb(app)
def serve(
    config: Annotated[
        Path | None, typer.Option(help="A TOML file like bootstrap/bootstrap.toml; flags win over it.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Keeps the node's key and blobs.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP and UDP port (31337 unless set).")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    announce: Annotated[
        list[str] | None, typer.Option(help="A multiaddr others reach this node under.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Multiaddr of another bootstrap node to join.")
    ] = None,
    max_disk: Annotated[
        str | None, typer.Option(help="Disk for store and forward, like 200GB; 0 for no limit.")
    ] = None,
    upload_limit: Annotated[
        str | None, typer.Option(help="Upload per second, like 20MB; 0 for no limit.")
    ] = None,
    mirror: Annotated[
        list[str] | None, typer.Option(help="Hold only this run id; may be repeated. Default: any run.")
    ] = None,
    address_file: Annotated[
        Path | None, typer.Option(help="Write the multiaddrs here, one a line, when ready.")
    ] = None,
) -> None:
    """Serve until Ctrl-C; the identity is kept in the data directory, so the address stays the same."""
    from paris_p2p.bootstrap.config import load_config
    from paris_p2p.bootstrap.serve import run_bootstrap

    chosen = load_config(
        config,
        data_dir=data_dir,
        port=port,
        host=host,
        announce=announce,
        peers=peer,
        max_disk=max_disk,
        upload_limit=upload_limit,
        mirror=mirror,
        default_data_dir=default_data_dir() / "bootstrap",
    )

    long_running()

    def ready(addresses: tuple[str, ...]) -> None:
        echo("ready; give people one of these addresses:\n  " + "\n  ".join(addresses))
        if address_file is not None:
            write_atomic(address_file, "\n".join(addresses) + "\n")

    run_bootstrap(chosen.settings(), chosen.peers, chosen.mirrored(), ready)


@verb(app)
def check(
    multiaddr: Annotated[str, typer.Argument(help="/ip4/…/tcp/…/p2p/12D3Koo…")],
    timeout_s: Annotated[float, typer.Option(min=1, max=120)] = 15.0,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Dial a node with an independent libp2p and say whether it is reachable and speaks our protocol."""
    # A process of its own: py-libp2p and hivemind cannot be imported together.
    command = [sys.executable, "-m", "paris_p2p.probe", multiaddr, "--timeout-s", str(timeout_s)]
    raise typer.Exit(subprocess.run([*command, *(["--json"] if json_output else [])], check=False).returncode)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
