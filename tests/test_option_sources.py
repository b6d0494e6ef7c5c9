"""Flags win over the environment, that over a file, that over a profile, that over the defaults."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.testing import CliRunner

from paris_p2p.bootstrap.config import ServeOptions
from paris_p2p.cli import bootstrap, peer, run
from paris_p2p.cli.groups import FetchFlags, HomeFlags
from paris_p2p.errors import UsageError
from paris_p2p.identity import Identity
from paris_p2p.option_sources import FetchOptions, HomeOptions, flag_of, load_options, variable_of
from paris_p2p.peer.profiles import load_profile
from paris_p2p.peer.settings import PublishOptions, StartOptions, load_start
from paris_p2p.peer_settings import PeerSettings

PEER = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity.generate().peer_id}"
INVITE = f"paris:{'ab' * 32}?peer={PEER}"


@pytest.fixture(autouse=True)
def _no_variables_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in StartOptions.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_each_place_wins_over_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "peer.toml"
    profile = {"max_disk": "1GB", "threads": 1, "upload_limit": "1MB", "max_memory": "1GB"}

    def loaded(typed: dict[str, Any]) -> dict[str, tuple[Any, str]]:
        options = load_options(StartOptions, typed, file=file, profile=profile, profile_name="small")
        settings = options.peer_settings()
        return {
            name: (getattr(settings, field), options.origins.get(name, "default"))
            for name, field in (
                ("max_disk", "max_disk_bytes"),
                ("threads", "threads"),
                ("upload_limit", "upload_limit_bytes_per_s"),
                ("max_memory", "max_memory_bytes"),
                ("port", "port"),
            )
        }

    file.write_text("max_disk = '2GB'\nthreads = 2\nupload_limit = '2MB/s'\n")
    monkeypatch.setenv("PARIS_MAX_DISK", "3 GB")
    monkeypatch.setenv("PARIS_THREADS", "3")
    assert loaded({"max_disk": "4GB"}) == {
        "max_disk": (4 * 10**9, "--max-disk"),
        "threads": (3, "PARIS_THREADS"),
        "upload_limit": (2_000_000, str(file)),
        "max_memory": (10**9, "profile small"),
        "port": (0, "default"),
    }


def test_an_empty_variable_says_nothing_and_a_list_has_blanks_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARIS_PORT", "")
    monkeypatch.setenv("PARIS_RELAYS", "/ip4/1.2.3.4/tcp/1  /ip4/1.2.3.4/tcp/2")
    settings = load_options(StartOptions, {}).peer_settings()
    assert (settings.port, settings.relays) == (0, ("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PARIS_PORT", "http", "PARIS_PORT http: should be a valid integer"),
        ("PARIS_PORT", "70000", "PARIS_PORT 70000: should be less than or equal to 65535"),
        ("PARIS_MAX_DISK", "1,5GB", "PARIS_MAX_DISK 1,5GB: is not a size"),
        ("PARIS_DEVICE", "gpu", "PARIS_DEVICE gpu: is not one of auto, cpu, cuda, cuda:N; for a GPU say"),
        ("PARIS_PROFILE", "gpu-9", "no profile 'gpu-9'"),
        ("PARIS_HOST", "localhost", "PARIS_HOST localhost: is no address of this machine"),
        ("PARIS_DATA_DIR", "~nobody-of-this-name/x", "PARIS_DATA_DIR ~nobody.*: '~nobody.* is no path"),
    ],
)
def test_a_mistake_in_a_variable_is_named(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=says):
        load_start({})[0].peer_settings()


def test_what_nobody_says_about_the_disk_is_left_for_the_node_to_decide() -> None:
    assert "max_disk_bytes" not in load_options(StartOptions, {}).peer_settings().model_fields_set
    assert "max_disk_bytes" in load_options(StartOptions, {"max_disk": "0"}).peer_settings().model_fields_set


def test_the_defaults_are_those_of_the_settings(tmp_path: Path) -> None:
    plain = PeerSettings(data_dir=tmp_path, lan=True)  # a fetch, or a test's host, announces nothing
    assert load_options(StartOptions, {"data_dir": tmp_path}).peer_settings() == plain


def test_a_named_profile_and_this_machines_are_told_apart() -> None:
    loaded, profile = load_start({"profile": "gpu-12gb", "device": "cpu"})
    assert profile == load_profile("gpu-12gb")
    assert (loaded.origins["threads"], loaded.origins["device"]) == ("profile gpu-12gb", "--device")
    loaded, profile = load_start({"device": "cpu"})
    assert (profile, loaded.origins["max_memory"]) == (None, "profile auto")


def test_the_dry_run_prints_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    typed = ["--max-disk", "50GB", "--relay", PEER, "--no-compile", "--slot", "router", "--device", "cpu"]
    words = ["start", INVITE, "--data-dir", str(tmp_path / "a b" / ("c" * 60)), "--profile", "cpu-2core"]
    words.append("--dry-run")
    first = CliRunner().invoke(peer.app, [*words, *typed])
    assert first.exit_code == 0, first.exception
    assert "max_disk = 50_000_000_000" in first.output
    assert "# --max-disk" in first.output
    assert "# profile cpu-2core" in first.output
    columns = {
        line.index("#") for line in first.output.splitlines() if not line.startswith(("data_dir", "relays"))
    }
    assert len(columns) == 1  # however long the folder's path is
    file = tmp_path / "peer.toml"
    file.write_text(first.output)
    again = CliRunner().invoke(peer.app, ["start", INVITE, "--config", str(file), "--dry-run"])
    assert tomllib.loads(again.output) == tomllib.loads(first.output)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (HomeFlags, HomeOptions),
        (FetchFlags, FetchOptions),
        (peer.StartFlags, StartOptions),
        (run.PublishFlags, PublishOptions),
        (bootstrap.ServeFlags, ServeOptions),
    ],
)
def test_every_setting_is_an_option_whose_help_names_its_variable(flags: Any, options: Any) -> None:
    named = {field.name for field in fields(flags)}
    assert named == set(options.model_fields)
    hints = get_type_hints(flags, include_extras=True)
    for name in named:
        option = hints[name].__metadata__[0]
        assert f"[env:{variable_of(name)}]" in option.help
        spelled = [one for one in (option.default, *option.param_decls) if isinstance(one, str)]
        assert flag_of(name) == (spelled[0].partition("/")[0] if spelled else "--" + name.replace("_", "-"))
