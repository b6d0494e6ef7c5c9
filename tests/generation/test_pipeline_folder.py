"""A model's folder from a stranger: what is wrong in it is said, before it costs memory or time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paris_p2p.errors import ParisError, UsageError
from paris_p2p.generation.export import export
from paris_p2p.generation.exported import weights_path
from tests.generation.exported import loaded
from tests.made.made_run import MadeRun

INDEX, EXPERTS, ROUTER = "model_index.json", "experts/config.json", "router/config.json"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(MadeRun(folder / "made").fetched(), folder / "model")
    return folder / "model"


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


WRONG = [
    (INDEX, {"latent_shape": "abc"}, "latent_shape is abc"),
    (INDEX, {"latent_shape": [4, -3, 4, 6]}, "latent_shape.1 is -3"),
    (INDEX, {"latent_shape": [4, 3, 4]}, "latent_shape"),
    (INDEX, {"latent_shape": [4, 10**6, 10**5, 10**5]}, "more than 268,435,456 values a clip"),
    (INDEX, {"latent_shape": [5, 3, 4, 6]}, "experts take 4 channels"),
    (INDEX, {"clip_shape": [3, 16]}, "is not frames, height and width"),
    (INDEX, {"fps": float("nan")}, "fps is nan"),
    (INDEX, {"text_tokens": 10**9}, "text_tokens is 1000000000"),
    (INDEX, {"codec_name": 7}, "codec_name is 7"),
    (INDEX, {"trained": 5}, "trained is 5"),
    (EXPERTS, {"present": list(range(100_000))}, "present"),
    (EXPERTS, {"present": "012"}, "present is 012"),
    (EXPERTS, {"present": []}, "present is"),
    (EXPERTS, {"present": [0, 0]}, "names one twice"),
    (EXPERTS, {"present": [0, 9]}, r"names experts \[9\] of 3"),
    (EXPERTS, {"total": 0}, "total is 0"),
    (EXPERTS, {"total": 2, "present": [0, 1]}, "router chooses among 3 experts and there are 2"),
    (EXPERTS, {"ddpm": [99]}, r"names experts \[99\]"),
    (EXPERTS, {"clamp_x0": float("nan")}, "clamp_x0 is nan"),
    (EXPERTS, {"expert": None}, "expert is None"),
    (EXPERTS, b"[" * 100_000, "nests 100000 deep"),
    (EXPERTS, b"[]", "is not an object"),
    (ROUTER, {"width": 10**9}, "width is 1000000000"),
    (ROUTER, {"shortcut": 1}, "number 'shortcut' is unknown"),
    (ROUTER, b"[" * 100_000, "nests 100000 deep"),
    (SCHEDULER, {"shift": float("nan")}, "shift is 'nan'"),
    (SCHEDULER, {"num_train_timesteps": 10**12}, "num_train_timesteps is"),
    (SCHEDULER, b"[" * 100_000, "nests 100000 deep"),
]


@pytest.mark.parametrize(("name", "wrong", "says"), WRONG, ids=[f"{w[0]}-{w[2][:24]}" for w in WRONG])
def test_numbers_that_no_model_has_are_refused_when_it_is_loaded(
    folder: Path, name: str, wrong: dict[str, Any] | bytes, says: str
) -> None:
    path = folder / name
    data = wrong if isinstance(wrong, bytes) else json.dumps(json.loads(path.read_bytes()) | wrong).encode()
    path.write_bytes(data)
    with pytest.raises(ParisError, match=says):
        loaded(folder)


def test_weights_that_are_not_finite_are_refused_by_name_through_either_class(folder: Path) -> None:
    path = weights_path(folder, "expert-2")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    name = sorted(tensors)[0]
    save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, path, metadata)
    for load in (loaded, DiffusionPipeline.from_pretrained):
        with pytest.raises(UsageError, match=f"{name} in .*expert-2.* is not finite"):
            load(str(folder))


def a_card(folder: Path, secret: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(secret)


def a_file_of_the_codec(folder: Path, secret: Path) -> None:
    (folder / "codec" / "config.json").symlink_to(secret)


def the_codec(folder: Path, secret: Path) -> None:
    shutil.rmtree(folder / "codec")
    (folder / "codec").symlink_to(secret.parent)


@pytest.mark.parametrize("link", [a_card, a_file_of_the_codec, the_codec], ids=lambda link: link.__name__)
def test_a_link_out_of_the_folder_is_not_saved_with_the_model(
    folder: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    secret = tmp_path / "home" / "secret"
    secret.parent.mkdir()
    secret.write_text("a key")
    link(folder, secret)
    pipe = loaded(folder)
    with pytest.raises(UsageError, match="is a link out of the model's folder"):
        pipe.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
