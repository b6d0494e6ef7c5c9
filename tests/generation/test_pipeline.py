"""The diffusers pipeline, and the folder it reads."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_gif, export_to_video
from PIL import Image, ImageSequence
from safetensors.torch import load_file

import paris_p2p
from paris_p2p.errors import CheckpointError, ReadOnlyError, UsageError
from paris_p2p.generation.export import _model_card, export
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.run_file import RUN_FILE
from tests.generation.exported import loaded
from tests.made.made_run import MadeRun


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


def clips_of(pipeline) -> np.ndarray:
    return pipeline("a red ball", num_inference_steps=2, rng_seed=0, output_type="uint8").frames


def tree_of(folder) -> dict[str, bytes]:
    """Returns every file's bytes; of weights those of the tensors alone, since only an export has the headers
    that were attested and the signed run.spec.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != RUN_FILE]
    return {str(path.relative_to(folder)): content_of(path) for path in paths}


def content_of(path) -> bytes:
    if path.suffix != ".safetensors" or path.parent.name == "codec":
        return path.read_bytes()
    tensors = sorted(load_file(path).items())
    return b"".join(name.encode() + tensor.float().numpy().tobytes() for name, tensor in tensors)


def test_saved_and_loaded_it_is_the_same_file_for_file(folder, tmp_path):
    pipeline = loaded(folder)
    pipeline.save_pretrained(tmp_path / "new" / "model")
    assert tree_of(tmp_path / "new" / "model") == tree_of(folder)
    assert np.array_equal(clips_of(loaded(tmp_path / "new" / "model")), clips_of(pipeline))


def test_saved_in_several_parts_it_is_the_same(folder, tmp_path):
    pipeline = loaded(folder)
    pipeline.save_pretrained(tmp_path / "model", max_shard_size="20KB", variant="bf16")
    assert len(list((tmp_path / "model" / "experts" / "expert-0").glob("*.bf16*.safetensors"))) > 1
    again = loaded(tmp_path / "model", variant="bf16")
    assert np.array_equal(clips_of(again), clips_of(pipeline))
    with pytest.raises(UsageError, match="pickles"):
        pipeline.save_pretrained(tmp_path / "other", safe_serialization=False)


def test_saved_into_its_own_folder_it_is_still_whole(made, tmp_path):
    export_to(made, tmp_path / "model")
    (tmp_path / "model" / "mine.txt").write_text("mine")
    files = tree_of(tmp_path / "model")
    pipeline = loaded(tmp_path / "model")
    before = clips_of(pipeline)
    pipeline.save_pretrained(tmp_path / "model")
    assert tree_of(tmp_path / "model") == files
    assert np.array_equal(clips_of(pipeline), before)
    assert np.array_equal(clips_of(loaded(tmp_path / "model")), before)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ReadOnlyError, match=r"cannot write the model to .*file/model: .*choose another"):
        loaded(folder).save_pretrained(tmp_path / "file" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_smaller_model_leaves_nothing_of_a_larger_one_in_its_place(made, folder, tmp_path):
    export_to(made, tmp_path / "one", {"expert-2": made.weights["expert-2"]})
    loaded(folder).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    loaded(tmp_path / "one").save_pretrained(tmp_path / "model")
    found = sorted(path.name for path in (tmp_path / "model" / "experts" / "expert-2").iterdir())
    assert found == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert not (tmp_path / "model" / "experts" / "expert-0").exists()
    assert np.array_equal(clips_of(loaded(tmp_path / "model")), clips_of(loaded(tmp_path / "one")))


def test_loaded_and_saved_by_relative_names_it_works_from_another_folder(folder, tmp_path, monkeypatch):
    expected = clips_of(loaded(folder))
    monkeypatch.chdir(folder.parent)
    pipeline = loaded(folder.name)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(clips_of(pipeline), expected)
    pipeline.save_pretrained("copy")
    assert np.array_equal(clips_of(loaded("copy")), expected)


def test_two_threads_load_and_save_at_once(folder, tmp_path):
    expected = clips_of(loaded(folder))

    def copied(number: int) -> bool:
        pipeline = loaded(folder)
        pipeline.save_pretrained(tmp_path / f"own-{number}")
        pipeline.save_pretrained(tmp_path / "shared")
        pipeline.save_pretrained(tmp_path / "shared")
        loaded(tmp_path / "shared")  # while others write there
        own = loaded(tmp_path / f"own-{number}")
        return own.dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(copied, range(8)))
    files = tree_of(folder)
    assert tree_of(tmp_path / "shared") == files
    for number in range(8):
        assert tree_of(tmp_path / f"own-{number}") == files
    assert np.array_equal(clips_of(loaded(tmp_path / "shared")), expected)


def test_threads_that_load_text_encoders_at_once_make_the_same_clips(folder):
    expected = clips_of(loaded(folder))
    pipelines, together = [loaded(folder) for _ in range(6)], threading.Barrier(6)

    def made(pipeline) -> np.ndarray:
        together.wait()
        return clips_of(pipeline)

    with ThreadPoolExecutor(6) as pool:
        assert all(np.array_equal(clips, expected) for clips in pool.map(made, pipelines))


def test_diffusers_own_class_loads_the_folder_once_the_package_is_imported(folder, tmp_path):
    code = (
        "import sys, paris_p2p; "
        "assert not {'torch', 'diffusers'} & set(sys.modules); "
        "from diffusers import DiffusionPipeline; import numpy as np; "
        "pipe = DiffusionPipeline.from_pretrained(sys.argv[1]); "
        "np.save(sys.argv[2], pipe('a red ball', num_inference_steps=2, "
        "rng_seed=0, output_type='uint8').frames)"
    )
    subprocess.run(
        [sys.executable, "-c", code, folder.name, str(tmp_path / "clip.npy")], check=True, cwd=folder.parent
    )
    assert np.array_equal(np.load(tmp_path / "clip.npy"), clips_of(loaded(folder)))


@pytest.mark.parametrize("load", [loaded, DiffusionPipeline.from_pretrained])
def test_a_folder_that_names_other_classes_or_a_pickle_is_refused(made, tmp_path, load):
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


def test_a_component_that_brings_code_is_not_run(made, tmp_path):
    export_to(made, tmp_path / "model")
    ran = f"open({str(tmp_path / 'ran')!r}, 'w')"
    (tmp_path / "model" / "experts" / "paris_p2p.model.experts.py").write_text(ran)
    loaded(tmp_path / "model")  # which does not look for any
    (tmp_path / "model" / "scheduler" / "diffusers.py").write_text(ran)
    for load in (loaded, DiffusionPipeline.from_pretrained):
        with pytest.raises(ValueError, match="trust_remote_code"):
            load(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_refused_by_name(made, tmp_path):
    export_to(made, tmp_path / "model")
    experts = tmp_path / "model" / "experts"
    name = "diffusion_pytorch_model.safetensors"
    good = (experts / "expert-0" / name).read_bytes()
    for bad in (good[:200], (tmp_path / "model" / "router" / name).read_bytes()):
        (experts / "expert-0" / name).write_bytes(bad)
        with pytest.raises(UsageError, match="expert-0"):
            loaded(tmp_path / "model")
    (experts / "expert-0" / name).unlink()
    (experts / "expert-0" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match=r"expert-0/diffusion_pytorch_model\.safetensors is not there"):
        loaded(tmp_path / "model")


def test_a_prompt_that_is_cut_is_told(folder, caplog):
    long = "a red ball rolls a red ball rolls"
    loaded(folder)(long, num_inference_steps=1)
    assert f"{long!r} has 8 text tokens, 6 are read" in caplog.text


class Colours:
    """A codec that decodes everything to a red, a green and a blue frame."""

    name = "colours"

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        frames = torch.zeros(len(latents), 3, 16, 32, 3, dtype=torch.uint8)
        for t, value in enumerate((250, 200, 150)):
            frames[:, t, :, :, t] = value
        return frames


@pytest.mark.parametrize("kind", ["np", "pil"])
def test_an_exported_video_has_the_clips_colours(folder, tmp_path, kind):
    pipeline = loaded(folder)
    pipeline._frozen._held["codec"] = ("cpu", Colours())
    clip = pipeline("a red ball", num_inference_steps=1, output_type=kind).frames[0]
    path = export_to_video(clip, str(tmp_path / "clip.mp4"), fps=8)
    with av.open(path) as container:
        read = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert_colours(read)


def test_an_exported_gif_has_the_clips_colours(folder, tmp_path):
    pipeline = loaded(folder)
    pipeline._frozen._held["codec"] = ("cpu", Colours())
    clip = pipeline("a red ball", num_inference_steps=1, output_type="pil").frames[0]
    with Image.open(export_to_gif(clip, str(tmp_path / "clip.gif"), fps=8)) as image:
        assert_colours([np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(image)])


def assert_colours(frames: list[np.ndarray]) -> None:
    means = [frame.reshape(-1, 3).mean(0) for frame in frames]
    np.testing.assert_allclose(means, [[250, 0, 0], [0, 200, 0], [0, 0, 150]], atol=20)


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
    pipeline, card = loaded(tmp_path / "model"), (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(UsageError, match="which of 2 experts to use, and the router has no weights here"):
        clips_of(pipeline)
    output = pipeline("a red ball", num_inference_steps=2, routing="uniform")
    assert not output.experts[..., 0].any()
    assert "expert-0, router had no checkpoint" in card
    assert '("a prompt", output_type="pil", routing="uniform").frames' in card
    export_to(made, tmp_path / "one", {"expert-2": made.weights["expert-2"]})
    assert loaded(tmp_path / "one")("a red ball", num_inference_steps=2).experts[..., 2].all()
    assert '("a prompt", output_type="pil").frames' in (tmp_path / "one" / "README.md").read_text()


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


def test_a_folder_without_a_model_says_how_one_is_made(tmp_path):
    for reference in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="paris-run export"):
            ParisPipeline.from_pretrained(reference)


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
