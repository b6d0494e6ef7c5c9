"""`paris verify` says what a folder is worth, and ends with the status that scripts can ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from paris_p2p.cli import paris
from paris_p2p.errors import StoreError, UsageError
from paris_p2p.node.control_client import CONTROL_FILE
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.data_dir import DataDirLock
from tests.store.made import add_bytes, made_bytes


def verify(home: Path, *words: str) -> Result:
    return CliRunner().invoke(paris.app, ["verify", "--data-dir", str(home), *words])


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    store = BlobStore(tmp_path / "home" / "blobs")
    return store.path(add_bytes(store, made_bytes(3000)).id)


def test_a_whole_folder_is_status_0_and_a_damaged_one_status_1_with_the_cure(blob: Path) -> None:
    home = blob.parents[2]
    said = verify(home)
    assert said.exit_code == 0
    assert "1 blob, 3.0 KB hashed" in said.output
    assert "whole: nothing is damaged" in said.output
    blob.write_bytes(b"x" * 3000)
    said = verify(home)
    assert isinstance(said.exception, StoreError)
    assert "verify --heal" in str(said.exception)
    assert f"blob {blob.name[:16]}…: 1 of 1 chunks" in said.output
    found = json.loads(verify(home, "--json").stdout)
    assert [(one["state"], one["file"]) for one in found["homes"][0]["damaged"]] == [("damaged", str(blob))]


def test_what_cannot_be_healed_is_said(blob: Path) -> None:
    home = blob.parents[2]
    blob.write_bytes(b"x" * 3000)
    (home / CONTROL_FILE).write_text(json.dumps({"url": "http://127.0.0.1:9", "token": "t", "pid": 1}))
    said = verify(home, "--heal")  # a peer that was killed left its file
    assert isinstance(said.exception, StoreError)
    assert "knows no peer to ask; name one with --invite" in str(said.exception)


def test_left_over_files_are_cleared_by_heal_alone(blob: Path) -> None:
    home, left = blob.parents[2], blob.parent / ".z.1-2-cdcdcd.tmp"
    left.write_bytes(b"half")
    assert verify(home).exit_code == 0
    assert left.exists()
    said = verify(home, "--heal")
    assert said.exit_code == 0
    assert "deleted 1 file that was left over" in said.output
    assert not left.exists()


def test_what_a_peer_that_runs_writes_just_now_was_left_by_nobody(blob: Path) -> None:
    home, written = blob.parents[2], blob.parent / ".z.1-2-cdcdcd.tmp"
    written.write_bytes(b"half")
    assert "1 file" in verify(home).output
    with DataDirLock(home):
        assert "left over" not in verify(home).output


def test_a_folder_without_a_store_is_a_usage_mistake(tmp_path: Path) -> None:
    said = verify(tmp_path)
    assert isinstance(said.exception, UsageError)
    assert "holds no store" in str(said.exception)
