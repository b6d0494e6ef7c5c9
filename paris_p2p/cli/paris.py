"""`paris`: the three commands under one name, `paris peer start` for `paris-peer start`, and what belongs to
none of them.
"""

from __future__ import annotations

from paris_p2p.cli import bootstrap, peer, run, service
from paris_p2p.cli.console import run_app
from paris_p2p.cli.dev_swarm import add_dev_swarm
from paris_p2p.cli.doctor import add_doctor
from paris_p2p.cli.verb import new_app
from paris_p2p.cli.verify import add_verify

app = new_app("paris", "Train and run decentralized video diffusion models, peer to peer.")
app.add_typer(peer.app, name="peer")
app.add_typer(run.app, name="run")
app.add_typer(bootstrap.app, name="bootstrap")
app.add_typer(service.app, name="service")
add_doctor(app)
add_verify(app)
add_dev_swarm(app)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
