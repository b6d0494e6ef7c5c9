"""`paris service`: a peer or a bootstrap node that runs by itself, under systemd."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from paris_p2p.cli import typed
from paris_p2p.cli.console import echo, read_invite
from paris_p2p.cli.groups import option
from paris_p2p.cli.verb import new_app, verb
from paris_p2p.doctor.identities import has_node
from paris_p2p.errors import UsageError
from paris_p2p.monitoring.service_files import (
    ServicePlace,
    install_unit,
    uninstall_unit,
    users_have_namespaces,
)
from paris_p2p.monitoring.unit_text import (
    MEMORY_ABOVE_BYTES,
    STOP_S,
    ServedKind,
    ServiceUnit,
    literal,
    unit_text,
)

_PATHS = ("FILE", "FOLDER")
_FILES = ("INVITE", "URL")  # also as @FILE
_BOOTED = Path("/run/systemd/system")  # there where systemd started the machine
_HIDDEN = ("/tmp/", "/var/tmp/")  # from a service, by PrivateTmp

KindArgument = Annotated[
    Literal["peer", "bootstrap"], typer.Argument(metavar="KIND", help="peer or bootstrap.")
]
SystemOption = Annotated[
    bool, option("A service of the system, by root, in place of one of this user.", None, "--system")
]
NameOption = Annotated[str, option("The service's name, paris-peer or paris-bootstrap unless said.", "NAME")]

app = new_app(
    "service",
    "Have a peer or a bootstrap node started with the machine, watched and ended in order, by systemd.",
)


@verb(
    app,
    "paris service install peer -- @invite.txt --max-memory 12GB",
    "paris service install bootstrap --system --dry-run -- --max-disk 200GB",
)
def install(
    kind: KindArgument,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORDS]...",
            help="After --, what `paris-peer start` or `paris-bootstrap serve` is to be told.",
        ),
    ] = None,
    system: SystemOption = False,
    name: NameOption = "",
    no_start: Annotated[bool, option("Enable it, and leave starting for later.", None, "--no-start")] = False,
    dry_run: Annotated[bool, option("Print the unit; write nothing.", None, "--dry-run")] = False,
) -> None:
    """Write, enable and start a hardened unit for a peer or a bootstrap node; WORDS are checked first."""
    place = _place(kind, name, of_system=system)
    invite, told = _without_invite(kind, words or [], place)
    unit = _unit(kind, told, place, has_invite=bool(invite))
    if dry_run:
        echo(unit_text(unit).rstrip("\n"))
        return
    if system and os.geteuid() != 0:
        raise UsageError("--system writes to /etc/systemd: type it as root, or leave --system out")
    runs = _what_runs(unit, place)  # before systemd starts it
    echo("\n".join([*install_unit(unit, place, invite, starts=not no_start), *runs, *_explained(unit)]))


@verb(app, "paris service uninstall peer")
def uninstall(kind: KindArgument, system: SystemOption = False, name: NameOption = "") -> None:
    """Stop a service, and take its unit away; the node's own folder stays."""
    echo("\n".join(uninstall_unit(_place(kind, name, of_system=system))))


def _add_status() -> None:
    @verb(app, "paris service status peer")
    def status(kind: KindArgument, system: SystemOption = False, name: NameOption = "") -> None:
        """Show what systemd knows of a service."""
        place = _place(kind, name, of_system=system)
        _run(place.systemctl("status", "--no-pager", "--lines=5", place.name), place)


_add_status()


@verb(app, "paris service logs peer --follow", "paris service logs bootstrap --system")
def logs(
    kind: KindArgument,
    system: SystemOption = False,
    name: NameOption = "",
    follow: Annotated[bool, option("Stay, and print what comes.", None, "--follow", "-f")] = False,
) -> None:
    """Print what a service said, out of the journal."""
    place = _place(kind, name, of_system=system)
    _run(place.journalctl("--no-pager", *(["--follow"] if follow else ["--lines=200"])), place)


def _place(kind: ServedKind, name: str, *, of_system: bool) -> ServicePlace:
    if name and not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in name):
        raise UsageError(f"--name {name[:40]!r}: a service's name has letters, digits, - and _ alone")
    return ServicePlace(name or f"paris-{kind}", of_system)


def _command(kind: ServedKind) -> tuple[Any, str]:
    """Returns the command that a service of this kind runs, and the program's name."""
    from paris_p2p.cli import bootstrap, peer

    of, verb_name = (peer, "start") if kind == "peer" else (bootstrap, "serve")
    group: Any = typer.main.get_command(of.app)
    return group.commands[verb_name], f"paris-{kind}"


def _without_invite(kind: ServedKind, words: Sequence[str], place: ServicePlace) -> tuple[str, list[str]]:
    """Returns the peer's invite, to be kept in a file, and the words without it: a list of processes is no
    place for it.
    """
    from paris_p2p.invite import Invite

    if kind != "peer":
        return "", list(words)
    invites = [word for word in words if word == "-" or word.startswith(("paris:", "@"))]
    if not invites:
        raise UsageError("a peer's service needs an invite: paris service install peer -- @invite.txt")
    told = list(words)
    told.remove(invites[0])
    text = read_invite(invites[0])
    Invite.parse(text)  # now, not when it starts at night
    return text, told


def _unit(kind: ServedKind, words: list[str], place: ServicePlace, *, has_invite: bool) -> ServiceUnit:
    """Returns the unit of what was typed; UsageError when the node itself would refuse it."""
    command, program = _command(kind)
    state = f"/var/lib/{place.name}"
    given = _absolute(command, words)
    if place.of_system and not any(word.split("=")[0] in ("--data-dir", "--config") for word in given):
        given += ["--data-dir", state]
    settings = _settings(kind, command, given, has_invite=has_invite)
    data_dir = str(settings.data_dir.expanduser().absolute())
    if place.of_system and data_dir != state:
        raise UsageError(
            f"a service of the system writes to {state} alone, not to {data_dir}; leave --data-dir out"
        )
    if "%" in data_dir or not data_dir.isprintable():
        raise UsageError(f"{data_dir!r} has letters that systemd takes for something else; name another")
    if data_dir.startswith(_HIDDEN):
        raise UsageError(
            f"{data_dir} is hidden from a service (PrivateTmp) and emptied by the machine; "
            "name another folder with --data-dir"
        )
    verb_name = "start" if kind == "peer" else "serve"
    invite: tuple[str, ...] = ()
    if has_invite:
        invite = ("@%d/invite",) if place.of_system else ("@" + literal([str(place.invite_path)])[0],)
    return ServiceUnit(
        kind=kind,
        words=(
            *literal([_program(program, of_system=place.of_system), verb_name]),
            *invite,
            *literal(given),
            *(["--yes"] if kind == "peer" and "--yes" not in given and "-y" not in given else []),
        ),
        of_system=place.of_system,
        data_dir="" if place.of_system else data_dir,
        memory_bytes=settings.max_memory_bytes and settings.max_memory_bytes + MEMORY_ABOVE_BYTES,
        uses_gpu=kind == "peer" and settings.device != "cpu",
        laid_out=place.of_system or users_have_namespaces(),
        credential=str(place.invite_path) if has_invite and place.of_system else "",
        name=place.name,
    )


def _settings(kind: ServedKind, command: Any, words: list[str], *, has_invite: bool) -> Any:
    """Returns the PeerSettings that the node would have."""
    from paris_p2p.bootstrap.config import load_serve
    from paris_p2p.cli.bootstrap import ServeFlags
    from paris_p2p.cli.peer_flags import StartFlags
    from paris_p2p.peer.settings import load_start

    with command.make_context(command.name, [*(["paris:"] if has_invite else []), *words]) as context:
        values = context.params
    flags = StartFlags if kind == "peer" else ServeFlags
    wished = typed.given(flags(**{name: values[name] for name in flags.__dataclass_fields__}))
    if kind == "peer":
        loaded, _ = load_start(wished, values["config"])
        return loaded.peer_settings()
    for name in ("mirror", "admit"):
        if name in wished:
            wished[name] = [read_invite(text) for text in wished[name]]
    return load_serve(wished, values["config"]).peer_settings(device="cpu")


def _absolute(command: Any, words: Sequence[str]) -> list[str]:
    """Returns words in which files are named by whole paths: a service starts in a folder of its own."""
    kinds = {
        flag: one.metavar for one in command.params for flag in one.opts if one.param_type_name == "option"
    }
    made, before = list[str](), ""
    for word in words:
        flag, equals, value = word.partition("=")
        kind = kinds.get(flag) if equals else kinds.get(before)
        value = _whole(value if equals else word, kind)
        made.append(f"{flag}={value}" if equals and kind else value)
        before = word
    return made


def _whole(value: str, kind: str | None) -> str:
    if kind in _FILES and value.startswith("@"):
        return "@" + str(Path(value[1:]).expanduser().absolute())
    return str(Path(value).expanduser().absolute()) if kind in _PATHS else value


def _program(name: str, *, of_system: bool) -> str:
    """Returns the program's whole path; UsageError where the service would not see it."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise UsageError(
            f"there is no program {name} beside {sys.executable}, nor on the path; install paris-p2p"
        )
    if of_system and found.startswith(("/home/", "/root/", "/run/user/")):
        raise UsageError(
            f"{found} lies where a service of the system does not look (ProtectHome); install paris-p2p in "
            "/opt, or leave --system out"
        )
    return found


def _explained(unit: ServiceUnit) -> list[str]:
    """Returns what a person should know of what was installed."""
    scope = " --system" if unit.of_system else ""
    lines = [f"it may take {STOP_S[unit.kind]} s to end; look: paris service status {unit.kind}{scope}"]
    if not unit.of_system:
        lines.append("it ends when you log out, unless you type once: loginctl enable-linger")
    if not unit.laid_out:
        lines.append("this kernel gives users no namespaces: the unit has no ProtectSystem and its like")
    if unit.uses_gpu:
        lines.append("it sees all of /dev, so that a GPU can be used; with --device cpu it sees none of it")
    return lines


def _what_runs(unit: ServiceUnit, place: ServicePlace) -> list[str]:
    """Returns what is to be done about a node that holds the folder already."""
    folder = unit.data_dir or f"/var/lib/{place.name}"
    if not has_node(Path(folder)):
        return []
    restart, start = (" ".join(place.systemctl(word, place.name)) for word in ("restart", "start"))
    return [
        f"a node runs there already. If it is this service: {restart}, which starts it with these words",
        f"else stop it by `paris {unit.kind} stop --data-dir {shlex.quote(folder)}`, and then: {start}",
    ]


def _run(words: list[str], place: ServicePlace) -> None:
    if shutil.which(words[0]) is None or not _BOOTED.is_dir():
        raise UsageError(
            f"this machine's services are not systemd's, so {place.name} is none; what runs a node here is "
            "asked by `paris peer status` or `paris bootstrap status`"
        )
    raise typer.Exit(subprocess.run(words, check=False).returncode)
