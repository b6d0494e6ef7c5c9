"""Tests runs that start from somebody's weights.

All peers begin with the same ones, and what is no checkpoint is named.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file

from paris_p2p.device import pick_device
from paris_p2p.errors import CheckpointError, DivergedError, UsageError
from paris_p2p.model.checkpoint import load_initial_into, write_initial
from paris_p2p.model.presets import build_expert, expert_config
from paris_p2p.preparation.initial import make_initial, open_checkpoint
from paris_p2p.store.blobs import BlobStore
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import StepEvent
from paris_p2p.training.objective import network_shapes
from tests.data.shards import LATENT, TEXT
from tests.made.made_prepared import make_run
from tests.made.tiny_run import TRAINING, TinyRun, checkpoint_of, train_here

CONFIG = expert_config("nano", LATENT, TEXT)


@pytest.fixture
def pixart(tmp_path: Path) -> Path:
    """Saves an image model's folder, as diffusers does."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "sample_size": 4,
    }
    model = PixArtTransformer2DModel(
        in_channels=4, cross_attention_dim=16, use_additional_conditions=False, **sizes
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "pixart")
    return tmp_path / "pixart"


def test_create_makes_the_weights_a_blob_of_the_run_and_reports_what_went_where(
    pixart: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    run = make_run(tmp_path / "run", experts=2, init_from=pixart, say=said.append)
    blob = run.record.initial_for("expert-1")
    assert blob is not None
    assert blob == run.record.initial_for("expert-0")
    assert run.record.initial_for("router") is None
    assert blob in run.record.data_blobs
    assert run.record.oldest_reader >= 2  # an older peer would start from nothing
    path = BlobStore(tmp_path / "run" / "node" / "blobs").path(blob.id)
    tensors = {name: torch.zeros(shape) for name, shape in network_shapes(run.record, "expert-1").items()}
    load_initial_into(path, tensors)
    theirs = load_file(pixart / "diffusion_pytorch_model.safetensors")
    assert torch.equal(tensors["blocks.1.up.weight"], theirs["transformer_blocks.1.ff.net.0.proj.weight"])
    assert "blocks.N.up.weight <- transformer_blocks.N.ff.net.0.proj.weight (as it is)  x2" in said[0]
    assert "ours, left as they start:\n  null_token" in said[0]
    assert not (tmp_path / "run" / "node" / "initial.safetensors").exists()


def test_the_same_checkpoint_makes_the_same_bytes_however_it_is_stored(pixart: Path, tmp_path: Path) -> None:
    file = pixart / "diffusion_pytorch_model.safetensors"
    PixArtTransformer2DModel.from_pretrained(pixart).save_pretrained(
        tmp_path / "pipeline" / "transformer", max_shard_size="50KB"
    )
    shutil.copy(file, tmp_path / "other.safetensors")
    made = []
    for number, path in enumerate((pixart, file, tmp_path / "pipeline", tmp_path / "other.safetensors")):
        make_initial(path, CONFIG, 3, tmp_path / str(number))
        made.append((tmp_path / str(number)).read_bytes())
    assert len(list((tmp_path / "pipeline" / "transformer").glob("*.safetensors"))) > 1
    assert len(set(made)) == 1


def test_all_experts_of_all_peers_start_bit_equal_and_so_do_their_averages(
    pixart: Path, tmp_path: Path
) -> None:
    make_initial(pixart, CONFIG, 0, tmp_path / "initial.safetensors")
    tiny = TinyRun(tmp_path, initial=tmp_path / "initial.safetensors")
    learners = [
        Learner(tiny.run, tiny.spec, slot, pick_device("cpu"))
        for slot in ("expert-0", "expert-1", "expert-1")
    ]
    assert not torch.equal(learners[0].weights["embed.weight"], learners[1].weights["embed.weight"])
    for learner in learners:
        learner.start_from(tmp_path / "initial.safetensors")
    for name, weight in learners[0].weights.items():
        for learner in learners:
            assert torch.equal(weight, learner.weights[name])
            assert torch.equal(weight, learner.ema[name])


def test_training_from_what_is_learnt_already_begins_where_training_from_nothing_ends(tmp_path: Path) -> None:
    before = TinyRun(tmp_path / "before", training=TRAINING.model_copy(update={"ema_decay": 0.9}))
    trained = checkpoint_of(train_here(before.train_job(max_steps=80)))
    _, start = make_initial(trained.weights_path, CONFIG, 0, tmp_path / "initial.safetensors")
    assert (start.left, start.unused) == ({}, ())
    after = TinyRun(tmp_path / "after", initial=tmp_path / "initial.safetensors")
    first, scratch = (
        next(event for event in train_here(run.train_job(max_steps=5)) if isinstance(event, StepEvent))
        for run in (after, before)
    )
    assert first.loss < 0.7 * scratch.loss


def test_resuming_a_run_with_first_weights_equals_not_stopping(pixart: Path, tmp_path: Path) -> None:
    make_initial(pixart, CONFIG, 0, tmp_path / "initial.safetensors")
    tiny = TinyRun(tmp_path, initial=tmp_path / "initial.safetensors")
    whole = checkpoint_of(train_here(tiny.train_job(out="whole", max_steps=6)))
    half = checkpoint_of(train_here(tiny.train_job(out="half", max_steps=3)))
    rest = checkpoint_of(train_here(tiny.train_job(out="rest", max_steps=6, **tiny.resume(half))))
    assert whole.resume_path.read_bytes() == rest.resume_path.read_bytes()


def test_a_trainer_does_not_start_from_nothing_where_the_run_says_from_what(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path, initial=tmp_path / "initial.safetensors")
    with pytest.raises(CheckpointError, match="the job names no file of them"):
        train_here(tiny.train_job(initial_path=None))
    write_initial(
        tmp_path / "initial.safetensors",
        dict(build_expert(CONFIG | {"depth": 1}).named_parameters()),
        torch.float32,
    )
    with pytest.raises(CheckpointError, match=r"initial\.safetensors has \d+ tensors, the network \d+"):
        train_here(tiny.train_job())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_first_weights_are_bf16_only_where_that_loses_nothing(
    pixart: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    file = pixart / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file)
    make_initial(pixart, CONFIG, 0, tmp_path / "made")
    made = load_file(tmp_path / "made")
    assert {tensor.dtype for tensor in made.values()} == {
        torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    }
    assert torch.equal(
        made["blocks.0.up.weight"].float(),
        load_file(file)["transformer_blocks.0.ff.net.0.proj.weight"].float(),
    )


def test_weights_that_are_not_finite_are_neither_written_nor_read(pixart: Path, tmp_path: Path) -> None:
    file = pixart / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["proj_out.weight"][0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(DivergedError, match=r"out\.weight would not be finite"):
        make_initial(pixart, CONFIG, 0, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    save_file({"a": torch.tensor([torch.inf])}, tmp_path / "bad", {"paris": "paris-initial/1"})
    with pytest.raises(CheckpointError, match="a in bad is not finite"):
        load_initial_into(tmp_path / "bad", {"a": torch.zeros(1)})


def test_an_exported_expert_is_named_when_there_are_several(tmp_path: Path) -> None:
    for k in (0, 2):
        torch.manual_seed(k)
        build_expert(CONFIG).save_pretrained(tmp_path / "model" / "experts" / f"expert-{k}")
    with pytest.raises(UsageError, match=r"2 experts.*name one, as --init-from .*experts/expert-0"):
        open_checkpoint(tmp_path / "model")
    assert "last_table" in open_checkpoint(tmp_path / "model" / "experts" / "expert-2")
    shutil.rmtree(tmp_path / "model" / "experts" / "expert-0")
    assert open_checkpoint(tmp_path / "model").numbers["width"] == 32


@pytest.mark.parametrize("name", ["DiT-XL-2-256x256.pt", "diffusion_pytorch_model.bin"])
def test_pickles_are_refused_unopened_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'echo opened'\ntR.")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(UsageError, match=r"is a pickle, which can run code.*weights_only=True"):
            open_checkpoint(path)


def test_what_is_no_checkpoint_is_named(pixart: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no weights"):
        open_checkpoint(tmp_path / "empty")
    (tmp_path / "text.safetensors").write_text("these are words")
    with pytest.raises(UsageError, match="no safetensors file"):
        open_checkpoint(tmp_path / "text.safetensors")
    index = pixart / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../text.safetensors"}}))
    with pytest.raises(UsageError, match="not a safetensors file beside it"):
        open_checkpoint(pixart)
    index.write_text("[]")
    with pytest.raises(UsageError, match="is not the index"):
        open_checkpoint(pixart)
