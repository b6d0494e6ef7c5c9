import json
import struct
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

from paris_p2p.codec.text import load_text_encoder
from paris_p2p.codec.video import load_codec
from paris_p2p.errors import ParisError, UsageError
from paris_p2p.features.image import load_features
from paris_p2p.weights import find_model_files
from tests.codec.test_text import save_tokenizer

TINY = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
BLOCKS = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
KINDS = ("text", "codec", "features")


def save(kind: str, folder: Path) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "text":
        config = BertConfig(**small, intermediate_size=16, vocab_size=8, max_position_embeddings=16)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
        save_tokenizer(folder)
    elif kind == "codec":
        diffusers.AutoencoderTiny(**TINY, **BLOCKS).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=14)).save_pretrained(folder)


def load(kind: str, folder: Path):
    if kind == "text":
        return load_text_encoder(f"transformers:{folder}", tokens=4)
    if kind == "codec":
        return load_codec(f"diffusers:{folder}")
    return load_features(f"transformers:{folder}", frames=1)


def weights_of(kind: str, folder: Path) -> Path:
    return folder / ("diffusion_pytorch_model.safetensors" if kind == "codec" else "model.safetensors")


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A folder, and an alarm on every way a pickle could be opened."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    return tmp_path / "model"


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_names_a_pickle_is_refused_before_it_is_opened(hostile, kind):
    save(kind, hostile)
    weights = weights_of(kind, hostile)
    names = list(load_file(weights))
    weights.rename(hostile / "part.bin")
    index = {"metadata": {"total_size": 0}, "weight_map": dict.fromkeys(names, "part.bin")}
    (hostile / f"{weights.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"names 'part\.bin', which is not a safetensors file beside it"):
        load(kind, hostile)


@pytest.mark.parametrize(
    "named", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", ".", "", 7, None, ["x"]]
)
def test_an_index_names_files_beside_it_and_nothing_else(hostile, named):
    save("codec", hostile)
    weights = weights_of("codec", hostile)
    weights.rename(hostile / "other.safetensors")
    (hostile / f"{weights.name}.index.json").write_text(json.dumps({"weight_map": {"a": named}}))
    with pytest.raises(UsageError, match="which is not a safetensors file beside it"):
        load("codec", hostile)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_folder_is_read_by_its_checked_index(hostile, kind):
    save(kind, hostile)
    weights = weights_of(kind, hostile)
    tensors = load_file(weights)
    table = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for part in sorted(set(table.values())):
        save_file({n: t for n, t in tensors.items() if table[n] == part}, hostile / part, {"format": "pt"})
    weights.unlink()
    (hostile / f"{weights.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    load(kind, hostile)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["config.json", "index", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_deep_file_is_refused_before_a_decoder_sees_it(hostile, kind, name):
    used = {
        "text": ("tokenizer.json", "tokenizer_config.json"),
        "features": ("preprocessor_config.json",),
        "codec": (),
    }[kind]
    if name not in (*used, "config.json", "index"):
        pytest.skip("such a model has no such file")
    save(kind, hostile)
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    if name == "index":
        weights_of(kind, hostile).unlink()
        name = f"{weights_of(kind, hostile).name}.index.json"
    (hostile / name).write_text(deep)
    with pytest.raises(UsageError, match="nests 100000 deep"):
        load(kind, hostile)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_code_kernels_or_quantizers_is_taken_from_a_configuration(hostile, kind, monkeypatch):
    save(kind, hostile)
    (hostile / "evil.py").write_text("raise SystemExit('code of the folder ran')")
    harmful = {
        "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
        "trust_remote_code": True,
        "_attn_implementation": "someone/kernel",
        "attn_implementation": "someone/kernel",
        "_attn_implementation_internal": "someone/kernel",
        "torch_dtype": "float16",
        "dtype": "float16",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "custom_pipelines": {"a": "evil"},
        "transformers_version": "evil",
        "_name_or_path": "someone/else",
        "_diffusers_version": "99",
        "is_decoder": True,
        "add_cross_attention": True,
        "output_hidden_states": True,
    }
    change_config(hostile, **harmful)
    (hostile / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "someone/else", "peft_type": "LORA"})
    )
    found = load(kind, hostile)
    model = getattr(found, "model", None)
    if model is not None:
        config = model.config if kind == "text" else {}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert getattr(config, "_attn_implementation", "sdpa") in ("sdpa", "eager")
        assert not getattr(config, "is_decoder", False)
        assert not hasattr(config, "quantization_config")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("text", {"hidden_size": 1 << 40}),
        ("text", {"num_hidden_layers": 10**6}),
        ("text", {"hidden_size": "x"}),
        ("text", {"hidden_size": [16]}),
        ("text", {"hidden_act": "__class__"}),
        ("text", {"num_attention_heads": 0}),
        ("text", {"vocab_size": -1}),
        ("text", {"hidden_act": "x" * 10_000}),
        ("text", {"hidden_size": {"a": 1}}),
        ("text", {"architectures": [["BertModel"]]}),
        ("text", {"architectures": {"0": "BertModel"}}),
        ("codec", {"encoder_block_out_channels": [1 << 40, 4]}),
        ("codec", {"latent_channels": None}),
        ("codec", {"act_fn": "__import__"}),
        ("codec", {"num_encoder_blocks": [10**9, 1]}),
        ("codec", {"scaling_factor": "x"}),
        ("codec", {"_class_name": ["AutoencoderTiny"]}),
        ("codec", {"encoder_block_out_channels": [[[[[[4]]]]]]}),
        ("codec", {"latents_mean": [[1]]}),
        ("features", {"patch_size": 0}),
        ("features", {"image_size": 1 << 30}),
        ("features", {"hidden_size": 17}),
        ("features", {"mlp_ratio": float("nan")}),
    ],
)
def test_numbers_that_no_network_has_are_a_clear_error(hostile, kind, changes):
    save(kind, hostile)
    change_config(hostile, **changes)
    with pytest.raises(ParisError) as error:
        load(kind, hostile)
    assert str(hostile) in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_all_there_are_an_error_and_not_random(hostile, kind):
    save(kind, hostile)
    weights = weights_of(kind, hostile)
    tensors = load_file(weights)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UsageError, match="cannot be loaded: "):
        load(kind, hostile)


HEADERS = {
    "deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a list": b"[]",
    "not JSON": b"{]",
    "shapes beyond the file": json.dumps(
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}
    ).encode(),
    "offsets outside": json.dumps(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [1 << 40, (1 << 40) + 4]}}
    ).encode(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("header", [*HEADERS, "longer than the file", "cut"])
def test_a_safetensors_file_that_lies_is_a_clear_error(hostile, kind, header):
    save(kind, hostile)
    data = HEADERS.get(header, b"{}")
    size = 1 << 60 if header == "longer than the file" else len(data)
    whole = struct.pack("<Q", size) + data + bytes(4)
    weights_of(kind, hostile).write_bytes(whole[:5] if header == "cut" else whole)
    with pytest.raises(UsageError, match=r"cannot be loaded|nests 50000 deep|cannot be read as JSON"):
        load(kind, hostile)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": "large"},
        {"size": {"height": True}},
        {"size": 10**9},
        {"image_mean": "abc"},
        {"image_mean": [1, 2]},
        {"image_std": [0, 1, 1]},
        {"image_std": [[1], 1, 1]},
        {"image_mean": {"a": 1}},
        {"crop_size": [28]},
    ],
)
def test_odd_preprocessing_is_a_clear_error(hostile, settings):
    save("features", hostile)
    (hostile / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match="that cannot be"):
        load("features", hostile)


def test_the_hash_of_a_folder_is_what_it_was(tmp_path):
    save("codec", tmp_path)
    (tmp_path / "README.md").write_text("not part of the model")
    before = find_model_files(str(tmp_path)).sha256
    (tmp_path / "README.md").write_text("changed")
    assert find_model_files(str(tmp_path)).sha256 == before
