"""`paris-run evaluate`: what it takes, and what it refuses before it works."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from paris_p2p.cli.run import app
from paris_p2p.data.prepared import Prepared, split_clips
from paris_p2p.evaluation.held_out import choose_clips
from paris_p2p.features.image_text import load_clip
from paris_p2p.generation.export import export
from tests.evaluation.world import PLAN, World
from tests.features.test_image_text import save_clip
from tests.made.made_run import MadeRun


def test_an_invite_is_evaluated_from_what_a_fetch_brought_with_captions_scored_and_the_command_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_clip(tmp_path / "clip")
    save_file({"weight": torch.ones(1, 12), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    losses = tmp_path / "loss curves.jsonl"
    losses.write_text('{"model": "a", "clips": 2, "loss": 0.5}\n')
    monkeypatch.setattr("paris_p2p.evaluation.report.Plan", lambda: PLAN)
    invite = f"@{world.folder / 'invite.txt'}"
    command = [
        "evaluate",
        invite,
        "--data",
        str(world.data),
        "--out",
        str(tmp_path / "out"),
        "--clips",
        "4",
        "--probe-clips",
        "0",
    ]
    command += [
        "--features",
        f"clip:{tmp_path / 'clip'}",
        "--aesthetic",
        str(tmp_path / "head.safetensors"),
        "--losses",
        str(losses),
    ]
    command += [
        "--steps",
        "2",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--data-dir",
        str(world.folder / "peer"),
        "--offline",
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted(shlex.split(results["made"]["command"])) == sorted(["paris-run", *command])
    scored = results["models"]["experts"]
    (similarity,) = scored["similarity"]
    clips = choose_clips(list(split_clips(world.data, "test")), 4, 0)
    clip = load_clip(str(tmp_path / "clip"), frames=2)
    seen = clip(torch.stack([torch.from_numpy(one.pixels(Prepared.load(world.data).clip)) for one in clips]))
    expected = (seen * clip.text([one.caption for one in clips])).sum(1).mean().item()
    assert similarity["real"]["own"]["value"] == pytest.approx(expected, abs=1e-5)
    assert scored["aesthetic"]["real"]["value"] == pytest.approx(seen.sum(1).mean().item(), abs=1e-5)
    assert results["networks"]["CLIP clip"] == clip.sha256
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Text-video similarity, CLIP clip" in page
    assert "Aesthetic value, head" in page


def said(*command: str) -> str:
    """Returns all that a command says that is refused."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, command)
    return f"{result.exception} {result.output}"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--features", "best"), "no feature network is called 'best'"),
        (("--features", "transnetv2", "--features", "clip:"), "no feature network is called 'clip:'"),
        (("--features", "i3d:not/there.pt"), "there is no file not/there.pt"),
        (("--sha256", "0" * 64), "no --features i3d:FILE is given"),
        (("--aesthetic", "head.safetensors"), "no --features clip: is given"),
        (("--routing", "roulette"), "'roulette' is not one of"),
        (("--losses", "not/there.jsonl"), "not/there.jsonl is not there"),
    ],
)
def test_a_slip_in_the_options_is_told_before_a_model_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...], says: str
):
    def fetch(*_: object, **__: object) -> Path:
        raise AssertionError("a model was fetched")

    monkeypatch.setattr("paris_p2p.cli.evaluate._model_folder", fetch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prepared.json").write_text("{}")  # it is only read once a model is here
    (tmp_path / "head.safetensors").write_bytes(b"")
    assert says in said("evaluate", "paris:invite", "--data", str(tmp_path), "--out", "out", *wrong)


def test_the_command_refuses_before_it_works(world: World, tmp_path: Path):
    def refusal(*arguments: str) -> str:
        return said("evaluate", *arguments, "--data", str(world.data), "--out", str(tmp_path / "out"))

    model = str(world.folder / "model")
    assert "holds no model" in refusal(str(tmp_path))
    assert "--split" in refusal(model, "--split", "train")
    assert "no feature network is called" in refusal(model, "--features", "best")
    assert "no --features i3d:FILE" in refusal(model, "--sha256", "0" * 64)
    assert "--i3d-sha256" not in refusal(model, "--sha256", "short")
    (tmp_path / "i3d.pt").write_bytes(b"code")
    assert "expected 00000000" in refusal(
        model, "--features", f"i3d:{tmp_path / 'i3d.pt'}", "--sha256", "0" * 64
    )
    save_file({"weight": torch.ones(1, 768), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    assert "no --features clip: is given" in refusal(model, "--aesthetic", str(tmp_path / "head.safetensors"))
    save_clip(tmp_path / "clip")
    given = ("--features", f"clip:{tmp_path / 'clip'}", "--aesthetic", str(tmp_path / "head.safetensors"))
    assert "takes 768 features of CLIP ViT-L/14, and CLIP clip gives 12" in refusal(model, *given)
    assert "'roulette' is not one of" in refusal(model, "--routing", "roulette")
    assert "'oracle' is not one of" in refusal(model, "--routing", "oracle")
    assert "'strong' is not one of" in refusal(model, "--guidance-form", "strong")
    assert "not trained to go on from an image" in refusal(model, "--image-to-video")
    made = MadeRun(tmp_path)
    export(made.fetched(), tmp_path / "other")
    assert "has latents of (4, 3, 4, 6)" in refusal(model, "--baseline", str(tmp_path / "other"))
    without = shutil.copytree(model, tmp_path / "model")
    shutil.rmtree(without / "router")
    assert "which of 3 experts to use, and the router has no weights" in refusal(str(without))
    (without / "run.spec").unlink()
    assert "an older version exported it" in refusal(str(without))
    assert not (tmp_path / "out").exists()
