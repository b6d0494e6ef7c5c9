"""What `paris dev-swarm` says before it begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paris_p2p.cli import dev_swarm, paris


def test_folders_that_a_killed_dev_swarm_left_are_named_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dev_swarm._tell_of_old_folders()
    assert capsys.readouterr().out == ""
    for name, pid in (("killed", 2**22 + 1), ("running", os.getpid())):
        (tmp_path / f"paris-dev-swarm-{name}").mkdir()
        (tmp_path / f"paris-dev-swarm-{name}" / "pid").write_text(f"{pid}\n")
    (tmp_path / "paris-dev-swarm-older").mkdir()
    dev_swarm._tell_of_old_folders()
    said = capsys.readouterr().out.replace("\n", " ")
    assert "paris-dev-swarm-killed" in said
    assert "paris-dev-swarm-older" in said
    assert "paris-dev-swarm-running" not in said


def test_folders_of_another_user_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "paris-dev-swarm-running").mkdir(mode=0o700)
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    dev_swarm._tell_of_old_folders()
    assert capsys.readouterr().out == ""


def test_ctrl_c_says_where_the_folders_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    (tmp_path / "run.spec").touch()
    monkeypatch.setattr(dev_swarm, "_carried_out", interrupted)
    words = ["dev-swarm", str(tmp_path), "--plain", "--keep", str(tmp_path / "kept")]
    done = CliRunner().invoke(paris.app, words)
    assert done.exit_code in (1, 130)
    assert f"the nodes' folders and logs are in {tmp_path}/kept" in done.output.replace("\n", "")
