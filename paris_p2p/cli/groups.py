"""Options that several commands share, in groups (cli/verb.py spreads them out).

The fields of a group whose values may also come from the environment or a file are None unless they were
typed; paris_p2p/option_sources.py reads the other places.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.choices import GuidanceForm, RoutingName
from paris_p2p.disk import named_path

if TYPE_CHECKING:
    from paris_p2p.peer_settings import PeerSettings

LINE, MACHINE, SAMPLING = "Network", "This machine", "Sampling"
WATCHED = "Being watched"


def option(about: str, value: str | None = None, *flags: str, panel: str | None = None, **more: Any) -> Any:
    """Returns an option of typer's; `value` is how --help calls what it takes, of which paths are checked."""
    if value in ("FILE", "FOLDER"):
        more.setdefault("parser", named_path)
    return typer.Option(*flags, help=about, metavar=value, rich_help_panel=panel, **more)


def setting(
    name: str,
    about: str,
    value: str | None = None,
    default: str = "",
    *,
    panel: str | None = None,
    flag: str = "",
    **more: Any,
) -> Any:
    """Returns the option of a setting, whose help names its variable and its default."""
    text = f"{about} \\[env:PARIS_{name.upper()}]" + (f" \\[default: {default}]" if default else "")
    flags = [flag] if flag else []
    return option(text, value, *flags, panel=panel, show_default=False, **more)


InviteArgument = Annotated[
    str, typer.Argument(help="An invite (paris:…), @FILE to read it from, or - for stdin.", metavar="INVITE")
]
ConfigFlag = Annotated[
    Path | None,
    option(
        "A TOML file of settings; variables and options win over it.",
        "FILE",
        parser=typed.file("a settings file"),
    ),
]


@dataclass(frozen=True)
class HomeFlags:
    """Holds where a peer lives."""

    data_dir: Annotated[
        Path | None,
        setting(
            "data_dir",
            "The folder that keeps this peer's key and its blobs.",
            "FOLDER",
            "~/.local/share/paris-p2p",
            panel=MACHINE,
        ),
    ] = None


@dataclass(frozen=True)
class FetchFlags(HomeFlags):
    """Holds where a generator lives, and what it may use to fetch."""

    download_limit: Annotated[
        str | None,
        setting("download_limit", "Download per second at most, like 20MB; 0: no limit.", "RATE", panel=LINE),
    ] = None


LanOption = Annotated[
    bool | None,
    setting(
        "lan",
        "Look for peers of the run in the local network, and be found there.",
        None,
        "true",
        panel=LINE,
        flag="--lan/--no-lan",
    ),
]


@dataclass(frozen=True)
class NodeFlags:
    """Holds how others reach a node, and what it may use to serve them."""

    port: Annotated[
        int | None,
        setting("port", "TCP and UDP port to listen on; 0 takes a free one.", "PORT", "0", panel=LINE),
    ] = None
    host: Annotated[
        str | None, setting("host", "Address to listen on.", "ADDRESS", "0.0.0.0", panel=LINE)
    ] = None
    announce: Annotated[
        list[str] | None,
        setting(
            "announce",
            "An address under which others reach this node; may be repeated.",
            "MULTIADDR",
            panel=LINE,
        ),
    ] = None
    lan_only: Annotated[
        bool | None,
        setting(
            "lan_only",
            "Listen at private addresses, and dial those, alone.",
            None,
            "false",
            panel=LINE,
            flag="--lan-only/--no-lan-only",
        ),
    ] = None
    upload_limit: Annotated[
        str | None,
        setting("upload_limit", "Upload per second at most, like 5MB; 0: no limit.", "RATE", panel=LINE),
    ] = None
    max_disk: Annotated[
        str | None,
        setting(
            "max_disk",
            "Disk for blobs, like 200GB; 0: no limit.",
            "SIZE",
            "half of what is free",
            panel=MACHINE,
        ),
    ] = None
    metrics: Annotated[
        str | None,
        setting(
            "metrics",
            "Serve metrics for Prometheus here, on 127.0.0.1 unless an address is named.",
            "[HOST:]PORT",
            panel=WATCHED,
        ),
    ] = None
    notify: Annotated[
        list[str] | None,
        setting(
            "notify",
            "A webhook, or @FILE with one, that is told of trouble; may be repeated.",
            "URL",
            panel=WATCHED,
        ),
    ] = None
    notify_names: Annotated[
        bool | None,
        setting(
            "notify_names",
            "Tell webhooks what private runs are called.",
            None,
            "false",
            panel=WATCHED,
            flag="--notify-names/--no-notify-names",
        ),
    ] = None
    dashboard: Annotated[
        bool | None,
        setting(
            "dashboard",
            "Print a link to the node's page when it is ready.",
            None,
            "false",
            panel=WATCHED,
            flag="--dashboard/--no-dashboard",
        ),
    ] = None


@dataclass(frozen=True)
class SamplingFlags:
    """Holds how clips are drawn from a model."""

    steps: Annotated[int, option("Denoising steps.", "N", panel=SAMPLING, min=1, max=1000)] = 50
    guidance: Annotated[
        float,
        option("Scale of classifier-free guidance; 1 turns it off.", "SCALE", panel=SAMPLING, min=0),
    ] = 4.0
    guidance_form: Annotated[
        GuidanceForm,
        option(
            "per_expert, as published, or exact, which routes apart without the text.", "FORM", panel=SAMPLING
        ),
    ] = "per_expert"
    guidance_interval: Annotated[
        str,
        option(
            "Guide only at times t from LOW to HIGH, where 1 is noise; elsewhere the scale is 1.",
            "LOW,HIGH",
            panel=SAMPLING,
        ),
    ] = "0,1"
    routing: Annotated[
        RoutingName,
        option(
            "How the router's answer becomes weights of experts: top_k, full, threshold or uniform at each "
            "step; kept draws one expert a clip before the first step and keeps it, text keeps the caption's "
            "most probable one.",
            "NAME",
            panel=SAMPLING,
        ),
    ] = "top_k"
    top_k: Annotated[int, option("Experts per step for top_k.", "N", panel=SAMPLING, min=1)] = 1
    kept_until: Annotated[
        float,
        option(
            "Time t from which on, for kept, all experts go on by their posterior, like 0.6; 0: never.",
            "T",
            panel=SAMPLING,
            min=0,
        ),
    ] = 0.0
    autoguide: Annotated[
        Path | None,
        option(
            "An earlier export of the run: each expert is guided away from what it said then.",
            "FOLDER",
            panel=SAMPLING,
            parser=typed.folder("an earlier export of the run"),
        ),
    ] = None
    autoguide_scale: Annotated[
        float, option("Scale of --autoguide; 1 turns it off.", "SCALE", panel=SAMPLING, min=0)
    ] = 2.0


DeviceOption = Annotated[
    str, option("auto, cpu, cuda or cuda:N.", "DEVICE", panel=MACHINE, parser=typed.device)
]
ThreadsOption = Annotated[int, option("CPU threads; 0 for torch's own choice.", "N", panel=MACHINE, min=0)]
OfflineOption = Annotated[
    bool, option("Use only what an earlier fetch brought.", None, "--offline", panel=LINE)
]


def home_of(flags: HomeFlags) -> Path:
    """Returns the folder of the peer that the options mean."""
    from paris_p2p.option_sources import HomeOptions, load_options

    return load_options(HomeOptions, typed.given(flags)).options.data_dir


def fetch_settings(flags: FetchFlags) -> PeerSettings:
    """Returns the settings of a peer that only fetches."""
    from paris_p2p.option_sources import FetchOptions, load_options

    return load_options(FetchOptions, typed.given(flags)).peer_settings()
