"""The operator's file is read strictly, and flags win over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.bootstrap.config import load_config
from paris_p2p.errors import UsageError
from paris_p2p.identity import Identity

RUN = "ab" * 32
EXAMPLE = Path(__file__).parents[2] / "bootstrap" / "bootstrap.toml"


def peer(port: int) -> str:
    return f"/ip4/1.2.3.4/tcp/{port}/p2p/{Identity.generate().peer_id}"


def test_the_shipped_file_is_valid(tmp_path: Path) -> None:
    settings = load_config(EXAMPLE, default_data_dir=tmp_path).settings()
    assert settings.data_dir == Path("/var/lib/paris-bootstrap")
    assert (settings.port, settings.max_disk_bytes, settings.upload_limit_bps) == (31337, 200 * 10**9, 50e6)


def test_flags_win_over_the_file_and_flags_not_given_do_not(tmp_path: Path) -> None:
    config = load_config(EXAMPLE, default_data_dir=tmp_path, port=4001, max_disk="1GB", host=None)
    assert (config.port, config.settings().max_disk_bytes, config.host) == (4001, 10**9, "0.0.0.0")


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    config = load_config(None, default_data_dir=tmp_path)
    assert (config.data_dir, config.port, config.mirrored()) == (tmp_path, 31337, frozenset())


def test_an_invite_to_mirror_gives_its_run_and_its_peers(tmp_path: Path) -> None:
    first, second = peer(1), peer(2)
    config = load_config(
        None,
        default_data_dir=tmp_path,
        peers=[first],
        mirror=[f"paris:{RUN}?peer={second}&peer={first}", "cd" * 32],
    )
    assert config.mirrored() == {RUN, "cd" * 32}
    assert config.peers == (first, second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "'prot' is wrong"),
        ("port = 99999", "'port' is wrong.*99999"),
        ("max_disk = 'lots'", "'lots' is not a size"),
        ("mirror = ['paris:ab']", "64 hex digits"),
        ("port = ", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(path, default_data_dir=tmp_path)


def test_a_missing_file_is_an_error_that_names_the_example(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml.*bootstrap/bootstrap\.toml"):
        load_config(tmp_path / "nowhere.toml", default_data_dir=tmp_path)
