"""The examples of docs/pipeline.md run as they stand there."""

import re
from pathlib import Path

import pytest

from paris_p2p.generation.export import export
from tests.generation.exported import random_picture
from tests.made.made_run import MadeRun

PAGE = Path(__file__).parents[2] / "docs" / "pipeline.md"


def test_the_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) > 5
    export(MadeRun(tmp_path, first_frame_rate=0.5).fetched(), tmp_path / "my-model")
    random_picture(tmp_path / "first.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    for name in ("clip.gif", "clip.mp4"):
        assert (tmp_path / name).stat().st_size > 0
    assert names["clips"].shape[0] == 4
