"""The operator's file is read strictly, and flags win over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.bootstrap.config import load_serve
from paris_p2p.errors import UsageError
from paris_p2p.identity import Identity
from paris_p2p.option_sources import default_data_dir

RUN = "ab" * 32
EXAMPLE = Path(__file__).parents[2] / "bootstrap" / "bootstrap.toml"


def peer(port: int) -> str:
    return f"/ip4/1.2.3.4/tcp/{port}/p2p/{Identity.generate().peer_id}"


def test_the_shipped_file_is_valid() -> None:
    settings = load_serve({}, EXAMPLE).peer_settings()
    assert settings.data_dir == Path("/var/lib/paris-bootstrap")
    assert (settings.port, settings.max_disk_bytes) == (31337, 200 * 10**9)
    assert settings.upload_limit_bytes_per_s == 50e6


def test_flags_win_over_the_file() -> None:
    settings = load_serve({"port": 4001, "max_disk": "1GB"}, EXAMPLE).peer_settings()
    assert (settings.port, settings.max_disk_bytes, settings.host) == (4001, 10**9, "0.0.0.0")


def test_without_a_file_the_defaults_hold() -> None:
    loaded = load_serve({})
    assert loaded.options.mirrored() == frozenset()
    settings = loaded.peer_settings()
    assert settings.data_dir == default_data_dir() / "bootstrap"
    assert (settings.port, settings.max_disk_bytes) == (31337, 50 * 10**9)


def test_the_shared_data_folder_of_the_environment_holds_one_for_the_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PARIS_DATA_DIR", "/srv/paris")
    assert load_serve({}).options.data_dir == Path("/srv/paris/bootstrap")
    assert load_serve({"data_dir": tmp_path}).options.data_dir == tmp_path


def test_how_long_an_ended_run_is_kept_is_a_span_of_time() -> None:
    assert load_serve({}).options.forget_ended == load_serve({}, EXAMPLE).options.forget_ended == 7 * 86400
    assert load_serve({"forget_ended": "12h"}).options.forget_ended == 12 * 3600
    assert load_serve({"forget_ended": "0"}).options.forget_ended == 0
    with pytest.raises(UsageError, match=r"--forget-ended soon: is not a span of time; write it like"):
        load_serve({"forget_ended": "soon"})


def test_an_invite_to_mirror_gives_its_run_and_its_peers() -> None:
    first, second = peer(1), peer(2)
    mirror = [f"paris:{RUN}?peer={second}&peer={first}", "cd" * 32]
    options = load_serve({"peers": [first], "mirror": mirror}).options
    assert options.mirrored() == {RUN, "cd" * 32}
    assert options.known_peers() == (first, second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "bootstrap.toml: prot is no setting; there are admit, announce, .*, port"),
        ("port = 'http'", "bootstrap.toml: port http: should be a valid integer"),
        ("max_disk = 'lots'", "bootstrap.toml: max_disk lots: is not a size"),
        ("mirror = ['paris:ab']", "bootstrap.toml: mirror paris:ab: .*64 hex digits"),
        ("peers = ['somewhere']", "bootstrap.toml: peers somewhere: is not a multiaddr"),
        ("port = ", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_serve({}, path)


def test_a_value_past_its_limit_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.toml"
    path.write_text("port = 99999")
    with pytest.raises(UsageError, match=r"bootstrap\.toml: port 99999: .* less than or equal to 65535"):
        load_serve({}, path).peer_settings()
