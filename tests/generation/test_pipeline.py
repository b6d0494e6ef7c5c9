"""The diffusers pipeline, and the folder it reads."""

import json
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from diffusers.utils.export_utils import _legacy_export_to_video, export_to_gif
from PIL import Image

import paris_p2p
from paris_p2p.errors import CheckpointError, UsageError
from paris_p2p.generation.export import _model_card, export
from paris_p2p.generation.generate import generate
from paris_p2p.generation.pipeline import ParisPipeline
from tests.made.made_run import EXPERTS, PROMPTS, MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return MadeRun(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("exported") / "model"
    export_to(made, out)
    return out


def export_to(made: MadeRun, out, weights=None) -> None:
    export(made.fetched(weights=weights or made.weights), out)


def load(folder) -> ParisPipeline:
    pipeline = paris_p2p.ParisPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.abs(a.astype(int) - b.astype(int)) <= 2).mean() > 0.99)


def test_the_exported_pipeline_makes_the_clips_that_generate_makes(made, folder, tmp_path):
    out = tmp_path / "clips.npy"
    result = generate(
        made.fetched(), made.job(out, steps=4, guidance=2.0, top_k=2, rng_seed=3, clips_per_prompt=2)
    )
    output = load(folder)(PROMPTS, 4, 2.0, top_k=2, rng_seed=3, clips_per_prompt=2, output_type="uint8")
    assert output.frames.dtype == np.uint8
    assert output.frames.shape == (4, 3, 16, 24, 3)
    assert close(output.frames, np.load(out))
    assert output.experts.shape == (4, 4, EXPERTS)
    assert np.abs(output.experts - result.chosen.numpy()).mean() < 0.05


def test_saved_and_loaded_it_is_the_same(folder, tmp_path):
    pipeline = load(folder)
    pipeline.save_pretrained(tmp_path)
    assert np.array_equal(clips_of(load(tmp_path)), clips_of(pipeline))


def clips_of(pipeline) -> np.ndarray:
    return pipeline("a red ball", 2, output_type="uint8").frames


def test_frames_are_what_diffusers_exports_take(folder, tmp_path):
    pipeline = load(folder)
    exact = clips_of(pipeline)
    frames = {kind: pipeline("a red ball", 2, output_type=kind).frames for kind in ("pil", "np", "pt")}
    assert frames["np"].dtype == np.float32
    assert np.array_equal((frames["np"] * 255).round().astype(np.uint8), exact)
    assert frames["pt"].shape == (1, 3, 3, 16, 24)
    assert torch.equal(frames["pt"], torch.from_numpy(frames["np"]).permute(0, 1, 4, 2, 3))
    assert np.array_equal(np.stack([np.asarray(picture) for picture in frames["pil"][0]]), exact[0])
    # by default pictures, which both exports take
    assert pipeline("a red ball", 2).frames[0][0].mode == "RGB"
    gif = export_to_gif(frames["pil"][0], str(tmp_path / "clip.gif"), fps=8)
    with Image.open(gif) as image:
        assert image.n_frames == 3
    for kind in ("pil", "np"):
        _legacy_export_to_video(list(frames[kind][0]), str(tmp_path / f"{kind}.mp4"), fps=8)
        with av.open(str(tmp_path / f"{kind}.mp4")) as container:
            read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert np.corrcoef(read.ravel(), exact[0].ravel())[0, 1] > 0.3  # of negatives it is below 0
    with pytest.raises(UsageError, match="output_type 'latent' is none of pil, np, pt, uint8"):
        pipeline("a red ball", 2, output_type="latent")


def test_saved_into_its_own_folder_it_is_still_whole(made, tmp_path):
    export_to(made, tmp_path / "model")
    pipeline = load(tmp_path / "model")
    before = clips_of(pipeline)
    pipeline.save_pretrained(tmp_path / "model")
    assert np.array_equal(clips_of(pipeline), before)
    assert np.array_equal(clips_of(load(tmp_path / "model")), before)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_loaded_by_a_relative_name_it_works_from_another_folder(folder, tmp_path, monkeypatch):
    expected = clips_of(load(folder))
    monkeypatch.chdir(folder.parent)
    pipeline = load(folder.name)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(clips_of(pipeline), expected)


def test_a_folder_that_names_other_classes_or_a_pickle_is_refused(made, tmp_path):
    export_to(made, tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    good = json.loads(index.read_text())
    for component in (["os", "system"], ["diffusers", "DDPMScheduler"]):
        index.write_text(json.dumps({**good, "scheduler": component}))
        with pytest.raises(UsageError, match=r"names the class .* as scheduler; it is no exported run"):
            load(tmp_path / "model")
    index.write_text(json.dumps(good))
    shards = tmp_path / "model" / "experts" / "expert-0" / "diffusion_pytorch_model.safetensors.index.json"
    shards.write_text(json.dumps({"weight_map": {"a": "part.bin"}}))
    with pytest.raises(UsageError, match=r"names 'part\.bin'"):
        load(tmp_path / "model")


def test_a_prompt_that_is_cut_is_told(folder, caplog):
    load(folder)("a red ball rolls a red ball rolls", 1)
    assert "'a red ball rolls a red ball rolls' has 8 text tokens, 6 are read" in caplog.text


def test_with_experts_waiting_in_main_memory_the_clips_are_the_same(folder):
    pipeline = load(folder)
    expected = pipeline("a red ball", 2, routing="full", output_type="uint8").frames
    pipeline.enable_expert_offload("cpu", seats=1)
    assert np.array_equal(pipeline("a red ball", 2, routing="full", output_type="uint8").frames, expected)


def test_a_generator_draws_the_seed_and_moves_on(folder):
    pipeline = load(folder)
    generator = torch.Generator().manual_seed(1)
    first, second = (pipeline("rolls", 2, generator=generator, output_type="uint8").frames for _ in range(2))
    again = pipeline("rolls", 2, generator=torch.Generator().manual_seed(1), output_type="uint8").frames
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_the_folder_tells_its_licence_run_and_cards(made, folder):
    card = (folder / "README.md").read_text()
    for words in (made.run, "Apache-2.0", "CC0-1.0", made.cards["expert-2"], "Moving balls"):
        assert words in card
    assert not [
        path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pickle", ".py")
    ]


@pytest.mark.parametrize(("fps", "of_the_gif"), [(0.2, 1), (8.0, 8), (60.0, 50)])
def test_the_gif_that_the_folder_shows_how_to_make_has_a_speed_that_browsers_play(made, fps, of_the_gif):
    clip = made.spec.clip.model_copy(update={"fps": fps})
    spec = made.spec.model_copy(update={"clip": clip})
    card = _model_card(made.fetched(signed=replace(made.signed, record=spec)), ())
    assert f'export_to_gif(frames[0], "clip.gif", fps={of_the_gif})' in card


def test_one_expert_is_usable_alone(folder):
    from paris_p2p.model.dit import VideoDiT

    assert VideoDiT.from_pretrained(folder / "experts" / "expert-1").config["channels"] == 4


def test_a_partial_export_routes_among_what_is_there(made, tmp_path):
    export_to(
        made,
        tmp_path / "model",
        {slot: path for slot, path in made.weights.items() if slot not in ("expert-0", "router")},
    )
    pipeline, card = load(tmp_path / "model"), (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(UsageError, match="which of 2 experts to use, and the router has no weights here"):
        pipeline("a red ball", 2)
    output = pipeline("a red ball", 2, routing="uniform")
    assert not output.experts[..., 0].any()
    assert "expert-0, router had no checkpoint" in card
    assert '("a prompt", routing="uniform").frames' in card
    export_to(made, tmp_path / "one", {"expert-2": made.weights["expert-2"]})
    assert load(tmp_path / "one")("a red ball", 2).experts[..., 2].all()
    assert '("a prompt").frames' in (tmp_path / "one" / "README.md").read_text()


def test_a_failed_export_leaves_nothing(made, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not weights")
    out = tmp_path / "models" / "model"
    with pytest.raises(CheckpointError):
        export_to(made, out, made.weights | {"expert-2": bad})
    assert list(out.parent.iterdir()) == []


def test_a_folder_in_use_is_not_overwritten(made, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        export_to(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_without_a_model_and_an_empty_request_say_so(folder, tmp_path):
    with pytest.raises(UsageError, match="paris-run export"):
        ParisPipeline.from_pretrained(tmp_path)
    for prompts, steps in (([], 2), ("a red ball", 0)):
        with pytest.raises(UsageError, match="nothing to make"):
            load(folder)(prompts, steps)


def test_importing_the_package_stays_light():
    code = (
        "import sys, paris_p2p; print(sorted({'torch', 'diffusers', 'transformers', "
        "'hivemind'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = paris_p2p.NoSuchThing
