"""`paris service`: the units are hardened, valid and those that come with the project; what is typed is
checked first, and systemctl is told what to do.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paris_p2p.cli import paris, service
from paris_p2p.errors import ParisError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.monitoring import service_files
from paris_p2p.monitoring.manager_word import Manager, told_to_manager
from paris_p2p.monitoring.unit_text import STOP_S, ServiceUnit, unit_text, unit_word
from paris_p2p.peer.volunteer import LEAVE_ATTEST_S
from paris_p2p.store.data_dir import DataDirLock

ROOT = Path(__file__).parents[2]
INVITE = f"paris:{'ab' * 32}?peer=/ip4/127.0.0.1/tcp/9/p2p/{Identity.generate().peer_id}"
SHIPPED = {
    "bootstrap/paris-bootstrap.service": ServiceUnit(
        kind="bootstrap",
        words=(
            "/opt/paris-p2p/.venv/bin/paris-bootstrap",
            "serve",
            "--config",
            "/etc/paris-p2p/bootstrap.toml",
        ),
        of_system=True,
        memory_bytes=2 * 10**9,
    ),
    "peers/paris-peer.service": ServiceUnit(
        kind="peer",
        words=(
            "%h/paris-p2p/.venv/bin/paris-peer",
            "start",
            "@%h/.config/paris-p2p/invite",
            "--profile",
            "gpu-12gb",
            "--yes",
        ),
        of_system=False,
        data_dir="%h/.local/share/paris-p2p",
        memory_bytes=14 * 10**9,
        uses_gpu=True,
    ),
}
# As systemd-analyze of version 252 counts; 10 is none at all.
MOST_EXPOSED = {"bootstrap/paris-bootstrap.service": 2.0, "peers/paris-peer.service": 5.5}
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here"
)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own, and a systemctl that writes down what it is told."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(service, "_HIDDEN", ())  # pytest's folders lie in /tmp
    for name in ("systemctl", "journalctl"):
        script = programs / name
        script.write_text(
            f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/told"\n'
            f'[ -f "{tmp_path}/fault" ] && {{ cat "{tmp_path}/fault" >&2; exit 1; }}\nexit 0\n'
        )
        script.chmod(0o755)
    return tmp_path


def told(home: Path) -> list[str]:
    return (home / "told").read_text().splitlines()


def typed(*words: str) -> Any:
    return CliRunner().invoke(paris.app, ["service", *words])


@pytest.mark.parametrize("name", SHIPPED)
def test_the_units_that_come_with_the_project_are_the_commands_own(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == unit_text(SHIPPED[name])


@needs_systemd
@pytest.mark.parametrize("name", SHIPPED)
def test_systemd_understands_every_line_and_finds_them_hardened(name: str, tmp_path: Path) -> None:
    lines = unit_text(SHIPPED[name]).splitlines()
    made = tmp_path / Path(name).name
    made.write_text("\n".join("ExecStart=/bin/true" if "ExecStart=" in line else line for line in lines))
    scope = [] if SHIPPED[name].of_system else ["--user"]

    def analyzed(*words: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        line = ["systemd-analyze", *words, str(made)]
        return subprocess.run(line, capture_output=True, text=True, check=False, env=environ)

    verified = analyzed("verify", *scope)
    assert (verified.returncode, verified.stderr) == (0, "")
    most = str(round(MOST_EXPOSED[name] * 10))
    secured = analyzed("security", "--offline=yes", f"--threshold={most}")
    assert secured.returncode == 0, secured.stdout[-300:]
    made.write_text(made.read_text().replace("NoNewPrivileges", "NoNewPriviledges"))
    assert "NoNewPriviledges" in analyzed("verify", *scope).stderr


def test_a_service_has_time_for_its_last_checkpoint() -> None:
    assert STOP_S["peer"] >= LEAVE_ATTEST_S + 60
    assert f"TimeoutStopSec={STOP_S['peer']}" in unit_text(SHIPPED["peers/paris-peer.service"])


def test_what_closes_dev_is_left_out_where_a_gpu_is_used_and_only_there() -> None:
    gpu = unit_text(SHIPPED["peers/paris-peer.service"]).splitlines()
    cpu = unit_text(ServiceUnit("peer", ("p",), of_system=False, data_dir="/d")).splitlines()
    assert not {"PrivateDevices=yes", "ProtectClock=yes"} & set(gpu)
    assert {"PrivateDevices=yes", "ProtectClock=yes"} <= set(cpu)
    assert not any("Device" in line for line in gpu)


@pytest.mark.parametrize(
    ("word", "as_written"),
    [("plain", "plain"), ("two words", '"two words"'), ('a"b', '"a\\"b"'), ("$HOME", '"$$HOME"'), ("", '""')],
)
def test_words_are_quoted_as_execstart_takes_them(word: str, as_written: str) -> None:
    assert unit_word(word) == as_written


def test_a_peer_is_installed_with_its_invite_in_a_file_and_its_limits_in_the_unit(home: Path) -> None:
    (home / "invite.txt").write_text(INVITE)
    words = ["--max-memory", "12GB", "--device", "cpu", "--log-file", "log"]
    done = typed("install", "peer", "--", f"@{home}/invite.txt", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    text = (home / "config/systemd/user/paris-peer.service").read_text()
    kept = home / "config/paris-p2p/paris-peer.invite"
    assert kept.read_text().strip() == INVITE
    assert kept.stat().st_mode & 0o777 == 0o600
    assert INVITE not in text
    (line,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    assert f" start @{kept} --max-memory 12GB --device cpu --log-file {Path.cwd()}/log --yes" in line
    assert "MemoryMax=14000000000" in text
    assert f"ReadWritePaths={home}/data/paris-p2p" in text
    assert (home / "data/paris-p2p").is_dir()
    assert told(home) == ["systemctl --user daemon-reload", "systemctl --user enable --now paris-peer"]
    assert "loginctl enable-linger" in done.output
    assert typed("uninstall", "peer").exit_code == 0
    assert not kept.exists()
    assert not (home / "config/systemd/user/paris-peer.service").exists()
    assert (home / "data/paris-p2p").is_dir()
    assert told(home)[2:] == [
        "systemctl --user disable --now paris-peer",
        "systemctl --user daemon-reload",
    ]


def test_where_no_manager_runs_the_unit_is_written_and_what_is_left_is_said(home: Path) -> None:
    (home / "fault").write_text("Failed to connect to bus: No medium found\n")
    done = typed("install", "bootstrap", "--", "--max-disk", "20GB")
    assert done.exit_code == 0
    assert "systemctl said: Failed to connect to bus" in done.output
    assert "  systemctl --user enable --now paris-bootstrap" in done.output
    assert (home / "config/systemd/user/paris-bootstrap.service").exists()


def test_a_dry_run_prints_the_unit_and_writes_nothing(home: Path) -> None:
    before = sorted(home.rglob("*"))
    done = typed("install", "bootstrap", "--system", "--dry-run", "--", "--max-disk", "20GB")
    assert (done.exit_code, done.output.count("ExecStart=")) == (0, 1), done.exception
    assert "--data-dir /var/lib/paris-bootstrap" in done.output
    assert "StateDirectory=paris-bootstrap" in done.output
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["peer"], "needs an invite"),
        (["peer", "--", "paris:1234"], "invite"),
        (["peer", "--", INVITE, "--max-memory", "lots"], "max-memory"),
        (["bootstrap", "--", "--forget-ended", "soon"], "forget-ended"),
        (["bootstrap", "--name", "../x"], "letters, digits"),
        (["bootstrap", "--system", "--dry-run", "--", "--data-dir", "/srv/x"], "leave --data-dir out"),
    ],
)
def test_what_the_node_would_refuse_is_refused_before_anything_is_written(
    words: list[str], why: str, home: Path
) -> None:
    done = typed("install", *words)
    assert isinstance(done.exception, UsageError) or done.exit_code == 2
    assert why in f"{done.exception} {done.output}"
    assert not (home / "config").exists()


def test_anothers_unit_of_that_name_is_left_alone(home: Path) -> None:
    path = home / "config/systemd/user/paris-bootstrap.service"
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\nExecStart=/bin/mine\n")
    for verb in ("install", "uninstall"):
        raised = typed(verb, "bootstrap").exception
        assert isinstance(raised, UsageError)
        assert "was not written by `paris service`" in str(raised)
    assert "mine" in path.read_text()
    path.unlink()
    assert isinstance(typed("uninstall", "bootstrap").exception, ParisError)


@pytest.mark.parametrize("verb", ["status", "logs"])
def test_where_systemd_does_not_run_no_service_is_asked_for(
    verb: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_BOOTED", home / "nowhere")
    raised = typed(verb, "peer").exception
    assert isinstance(raised, UsageError)
    assert "this machine's services are not systemd's" in str(raised)
    assert not (home / "told").exists()


def test_a_node_that_runs_already_is_named_with_what_to_do_about_it(home: Path) -> None:
    folder = home / "my node"
    words = ["install", "bootstrap", "--", "--max-disk", "20GB", "--data-dir", str(folder)]
    assert "runs there already" not in typed(*words).output
    with DataDirLock(folder):
        said = " ".join(typed(*words).output.split())
    assert "a node runs there already" in said
    assert "systemctl --user restart paris-bootstrap" in said
    stop = f"paris bootstrap stop --data-dir '{folder}'"
    assert f"`{stop}`, and then: systemctl --user start paris-bootstrap" in said


def test_status_and_logs_ask_systemd(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_BOOTED", home)
    assert typed("status", "peer", "--name", "mine").exit_code == 0
    assert typed("logs", "bootstrap", "--system", "-f").exit_code == 0
    assert told(home) == [
        "systemctl --user status --no-pager --lines=5 mine",
        "journalctl -u paris-bootstrap --no-pager --follow",
    ]


def test_a_kernel_that_gives_users_no_namespaces_gets_a_unit_that_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flag = tmp_path / "restricted"
    flag.write_text("1\n")
    monkeypatch.setattr(service_files, "_APPARMOR", flag)
    done = typed("install", "bootstrap", "--no-start")
    text = (home / "config/systemd/user/paris-bootstrap.service").read_text()
    assert "ProtectSystem" not in text
    assert "NoNewPrivileges=yes" in text
    assert "no ProtectSystem and its like" in done.output
    assert told(home)[-1] == "systemctl --user enable paris-bootstrap"


async def test_a_manager_hears_that_the_node_is_ready_what_it_does_and_that_it_ends(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000"}
        manager = Manager(environ)
        assert environ == {}  # its children have nothing to tell

        async def words() -> str:
            return "training: leads expert-0\x1b[2J"

        def hear() -> str:
            return heard.recv(4096).decode()

        async with told_to_manager(manager, words):
            first = [await asyncio.to_thread(hear) for _ in range(5)]
        heard.setblocking(False)
        rest = list(first)
        while True:
            try:
                rest.append(heard.recv(4096).decode())
            except BlockingIOError:
                break
    assert first[0] == "READY=1"
    assert first.count("WATCHDOG=1") >= 2
    assert [one for one in first if one.startswith("STATUS=training: leads expert-0")]
    assert not any("\x1b" in one for one in rest)
    assert rest[-1] == "STOPPING=1\nSTATUS=ending"


async def test_a_manager_hears_that_a_node_lives_also_where_it_cannot_say_what_it_does(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        manager = Manager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000"})

        async def words() -> str:
            raise ValueError("an error of this program")

        async with told_to_manager(manager, words):
            told = [await asyncio.to_thread(heard.recv, 4096) for _ in range(5)]
    assert told == [b"READY=1", *[b"WATCHDOG=1"] * 4]


def test_a_folder_may_have_letters_that_mean_something_to_the_service_manager() -> None:
    unit = ServiceUnit(kind="peer", words=("/bin/true",), of_system=False, data_dir="/srv/a $b")
    assert 'ReadWritePaths="/srv/a $b"' in unit_text(unit).splitlines()


async def test_without_a_manager_nothing_is_asked() -> None:
    manager = Manager({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"})
    assert not manager.listens
    assert manager.watchdog_s == 0.0
    async with told_to_manager(manager, lambda: pytest.fail("asked")):
        pass
