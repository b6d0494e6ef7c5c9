"""Up to where peers' clips were merged goes along with a lead's own checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paris_p2p.errors import CheckpointError
from paris_p2p.model.tensor_file import write_tensors
from paris_p2p.training.counted_note import COUNTED, counted_note, parse_counted, read_counted
from tests.made.made_crew import peer_of

A, B = sorted((peer_of(0), peer_of(1)))


def file_with(path: Path, metadata: dict[str, str]) -> Path:
    write_tensors(path, metadata, torch.float32, {"weights.a": torch.zeros(2)})
    return path


def test_counts_come_back_from_a_files_metadata(tmp_path: Path) -> None:
    counts = {B: 2**50, A: 0}
    path = file_with(tmp_path / "a", {"paris": "paris-resume/1"} | counted_note(counts))
    assert read_counted(path) == {A: 0, B: 2**50}
    assert read_counted(file_with(tmp_path / "b", {"paris": "paris-resume/1"})) == {}
    assert counted_note({}) == {}


@pytest.mark.parametrize(
    "text",
    [
        f"{B}:1,{A}:2",
        f"{A}:1,{A}:2",
        f"{A}:-1",
        f"{A}:1,",
        "x:1",
        f"{A}:{'9' * 17}",
        f"{A}:{2**53}",
        ",".join([f"{A}:1"] * 3000),
    ],
    ids=[
        "order",
        "twice",
        "negative",
        "open end",
        "no peer",
        "too large",
        "more than a record counts",
        "too many",
    ],
)
def test_what_counts_in_no_readable_way_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match="counts"):
        parse_counted(text, "resume")
    with pytest.raises(CheckpointError, match="counts"):
        read_counted(file_with(tmp_path / "a", {COUNTED: text}))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 100, (1 << 40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"],
    ids=["empty", "bytes", "long header", "no table"],
)
def test_a_file_that_is_no_resume_state_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="resume state"):
        read_counted(path)
