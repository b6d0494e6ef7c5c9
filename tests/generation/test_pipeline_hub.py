"""Exported models on a hub: fetched by their id, and uploaded with their card. The hub is played here."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from huggingface_hub.errors import RepositoryNotFoundError

from paris_p2p.errors import UsageError
from paris_p2p.generation.export import export
from paris_p2p.generation.pipeline import ParisPipeline
from tests.generation.exported import loaded
from tests.made.made_run import MadeRun

ID = "studio/balls"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub with one model, whose files come into a cache as huggingface_hub lays it out."""

    def __init__(self, model: Path, cache: Path):
        self.model, self.cache = model, cache
        self.asked: list[dict[str, Any]] = []

    def snapshot_download(
        self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str], **options: Any
    ) -> str:
        assert repo_id == ID
        assert revision in (None, "main", COMMIT)
        self.asked.append(options | {"revision": revision})
        snapshot = self.cache / f"models--{ID.replace('/', '--')}" / "snapshots" / COMMIT
        for path in self.model.rglob("*"):
            name = path.relative_to(self.model)
            if path.is_file() and any(fnmatch.fnmatch(str(name), pattern) for pattern in allow_patterns):
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, snapshot / name)
        return str(snapshot)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = MadeRun(tmp_path_factory.mktemp("made"))
    out = tmp_path_factory.mktemp("exported") / "model"
    export(made.fetched(), out)
    return out


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    model = tmp_path / "repository"
    shutil.copytree(folder, model)
    (model / "run.py").write_text("raise SystemExit")
    (model / "experts" / "weights.bin").write_bytes(b"pickle")
    played = Hub(model, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", played.snapshot_download)
    return played


def clip(pipeline: DiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return np.asarray(pipeline("a red ball", num_inference_steps=2, rng_seed=0, output_type="uint8").frames)


def test_a_model_is_loaded_by_its_id_and_nothing_that_is_code_is_fetched(hub, folder, tmp_path):
    pipeline = ParisPipeline.from_pretrained(ID, revision="main", token="t", cache_dir=str(hub.cache))
    assert np.array_equal(clip(pipeline), clip(loaded(folder)))
    assert hub.asked == [{"revision": "main", "token": "t", "cache_dir": str(hub.cache)}]
    fetched = {path.name for path in hub.cache.rglob("*") if path.is_file()}
    assert {"model_index.json", "pca.safetensors", "README.md"} <= fetched
    assert not {"run.py", "weights.bin"} & fetched
    pipeline.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_bytes() == (folder / "README.md").read_bytes()


def test_what_diffusers_own_download_leaves_out_is_fetched_when_it_is_needed(hub, folder, monkeypatch):
    components = ["model_index.json", "experts/*.json", "experts/*.safetensors", "router/*", "scheduler/*"]

    def download(name: str, **options: Any) -> str:
        return hub.snapshot_download(name, allow_patterns=components)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    pipeline = DiffusionPipeline.from_pretrained(ID)
    assert type(pipeline) is ParisPipeline
    assert not list(hub.cache.rglob("pca.safetensors"))
    assert np.array_equal(clip(pipeline), clip(loaded(folder)))
    assert hub.asked[1:] == [{"revision": COMMIT, "cache_dir": hub.cache}]
    clip(pipeline)
    assert len(hub.asked) == 2  # once


def test_an_id_that_the_hub_does_not_have_says_so(monkeypatch):
    def missing(*_: Any, **__: Any) -> str:
        raise OSError("no such repository")

    monkeypatch.setattr("huggingface_hub.snapshot_download", missing)
    with pytest.raises(
        UsageError, match=r"no folder 'studio/none' here, and not from the hub \(no such repo"
    ):
        ParisPipeline.from_pretrained("studio/none")
    assert issubclass(RepositoryNotFoundError, OSError)  # what the hub's client raises, so caught


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_it_is_uploaded_whole_with_its_card_that_names_the_repository(folder, tmp_path, monkeypatch, how):
    created, uploaded = [], []

    class Created:
        repo_id = ID

    def create_repo(name: str, **options: Any) -> Created:
        created.append((name, options))
        return Created()

    def upload_folder(*, repo_id: str, folder_path: str, **options: Any) -> str:
        shutil.copytree(folder_path, tmp_path / "uploaded")
        uploaded.append((repo_id, options))
        return "the commit"

    monkeypatch.setattr("huggingface_hub.create_repo", create_repo)
    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", upload_folder)
    pipeline = loaded(folder)
    if how == "push_to_hub":
        assert pipeline.push_to_hub("balls", commit_message="First", private=True, token="t") == "the commit"
    else:
        pipeline.save_pretrained(
            tmp_path / "saved",
            push_to_hub=True,
            repo_id="balls",
            commit_message="First",
            private=True,
            token="t",
        )
    assert created == [("balls", {"private": True, "token": "t", "exist_ok": True})]
    (what,) = uploaded
    assert what[0] == ID
    assert (what[1]["commit_message"], what[1]["token"]) == ("First", "t")
    card = (tmp_path / "uploaded" / "README.md").read_text()
    assert card == (folder / "README.md").read_text().replace("this folder", ID)
    assert f'ParisPipeline.from_pretrained("{ID}")' in card
    assert "license_name:" in card
    assert np.array_equal(clip(loaded(tmp_path / "uploaded")), clip(pipeline))
    assert str(tmp_path) not in (tmp_path / "uploaded" / "model_index.json").read_text()
