"""Lays somebody else's model folder out anew, with nothing in it but checked weights and known numbers.

Libraries decide by what lies in a folder what they do: an index may name a pickle, an adapter another folder,
a configuration code to fetch. So they are never shown the folder, only this copy of it.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paris_p2p.bounded_json import parse_json, read_json
from paris_p2p.errors import UsageError
from paris_p2p.weights import MAX_CONFIG_BYTES, ModelFiles

WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
INDEX_SUFFIX = ".index.json"
MAX_HEADER_BYTES = 32 << 20
MAX_INDEX_BYTES = 32 << 20
MAX_NUMBER = 1 << 24  # no width, vocabulary or count of a model is larger
MAX_LAYERS = 1024  # of whatever a configuration counts in layers, blocks or heads
MAX_ITEMS = 4096  # in all lists of one value
_HEADER_DEPTH, _VALUE_DEPTH = 3, 4
_COUNTS = ("layer", "block", "depth", "heads")

# Not numbers of a network: where code, kernels, quantizers or other files come from, and what a caller
# decides.
REFUSED_KEYS = frozenset((
    "auto_map", "trust_remote_code", "quantization_config", "attn_implementation", "torch_dtype", "dtype",
    "torchscript", "id2label", "label2id", "problem_type", "is_decoder", "is_encoder_decoder",
    "add_cross_attention", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
    "transformers_version", "name_or_path",
))  # fmt: skip

# What libraries raise, beside errors of their own that are imported below, for a configuration or weights
# that do not go together.
LOADING_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, OSError,
    RecursionError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def clean_config(raw: Mapping[str, Any], known: Collection[str], where: object) -> dict[str, Any]:
    """Returns the configuration's known numbers, words and lists of them.

    UsageError for a value that is none or out of all bounds. Whatever is not in `known`, begins with an
    underscore or is refused above is left out: it keeps its default.
    """
    clean = {}
    for key, value in raw.items():
        if key in known and not key.startswith("_") and key not in REFUSED_KEYS:
            _check_value(key, value, where)
            clean[key] = value
    return clean


def check_numbers(config: object, where: object) -> None:
    """Raises UsageError unless a configuration is an object of numbers, words and lists within all bounds."""
    if not isinstance(config, dict):
        raise UsageError(f"{where} is not an object; take the model's own files anew")
    for key, value in config.items():
        if (key, value) != ("lambda_min_clipped", float("-inf")):  # diffusers' word for not clipped
            _check_value(key, value, where)


def _check_value(key: str, value: Any, where: object) -> None:
    """Walks a value with a list of its own, so that no depth can hurt."""
    limit = MAX_LAYERS if any(word in key for word in _COUNTS) else MAX_NUMBER
    waiting, items = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        items += 1
        if isinstance(each, list):
            good = depth < _VALUE_DEPTH and items + len(each) <= MAX_ITEMS
            waiting += [(inner, depth + 1) for inner in each] if good else []
        elif isinstance(each, (int, float)):
            good = abs(each) <= limit  # false for a NaN too
        else:
            good = each is None or (isinstance(each, str) and len(each) <= 200)
        if not good:
            raise UsageError(
                f"{where}: {key} is {str(each)[:60]!r}, which no network here has; do not trust this model"
            )


@contextmanager
def laid_out(files: ModelFiles, config: Mapping[str, Any]) -> Iterator[Path]:
    """Makes a folder of links to the checked weights, with `config` as config.json; gone afterwards.

    UsageError when there are no safetensors, or they or their index are not what they should be.
    """
    with tempfile.TemporaryDirectory(prefix="paris-model-") as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for path in _weights(files, folder):
            check_safetensors(path)
            (folder / path.name).symlink_to(path.resolve())
        yield folder


# transformers and diffusers change settings of the whole process while they load
_loading = threading.RLock()


@contextmanager
def loading(what: str, folder: Path) -> Iterator[None]:
    """Turns whatever a library raises while it loads a model into a UsageError that names the folder; one
    thread loads at a time.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        with _loading:
            yield
    except UsageError:
        raise
    except (*LOADING_ERRORS, SafetensorError, StrictDataclassError) as error:
        first = (str(error).strip() or type(error).__name__).split("\n", 1)[0][:200]
        raise UsageError(
            f"{what} in {folder} cannot be loaded: {first}; take the model's own files anew"
        ) from error


def check_complete(what: str, folder: Path, info: Mapping[str, Any]) -> None:
    """Raises UsageError when weights that the network has were not in its files.

    They would be random, and others on each machine.
    """
    missing = sorted(map(str, info.get("missing_keys", ())))
    wrong = sorted(
        str(each[0] if isinstance(each, (tuple, list)) else each) for each in info.get("mismatched_keys", ())
    )
    if missing or wrong:
        named = ", ".join((missing + wrong)[:4])
        raise UsageError(
            f"{what} in {folder} cannot be loaded: {len(missing)} of its tensors are missing and "
            f"{len(wrong)} have another "
            f"shape ({named}); take the model's own files anew"
        )


def _weights(files: ModelFiles, folder: Path) -> list[Path]:
    """Lists the files to link; a sharded model's index is written anew into `folder`."""
    here = {path.name: path for path in files.files}
    for name in WEIGHTS:
        if name in here:
            return [here[name]]
        if name + INDEX_SUFFIX in here:
            table = index_of(here[name + INDEX_SUFFIX])
            missing = sorted(set(table.values()) - here.keys())
            if missing:
                raise UsageError(
                    f"{files.folder} cannot be loaded: its index names {missing[0]!r}, which is not there"
                )
            written = {"metadata": {"total_size": 0}, "weight_map": table}
            (folder / (name + INDEX_SUFFIX)).write_text(json.dumps(written), encoding="utf-8")
            return [here[shard] for shard in sorted(set(table.values()))]
    raise UsageError(
        f"{files.folder} cannot be loaded: it holds none of {', '.join(WEIGHTS)} or their {INDEX_SUFFIX} (a "
        ".bin or .pt file is "
        "a pickle, which can run code, and is never opened)"
    )


def index_of(path: Path) -> dict[str, str]:
    """Reads a sharded model's index, tensor -> file; UsageError unless all are safetensors beside it."""
    raw = read_json(path, MAX_INDEX_BYTES, _HEADER_DEPTH)
    table = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(table, dict) or not table:
        raise UsageError(f"{path} is not the index of a sharded model: it has no weight_map; fetch it again")
    for name in table.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UsageError(f"{path} names {str(name)[:80]!r}, which is not a safetensors file beside it")
    return table


def check_safetensors(path: Path) -> None:
    """Raises UsageError unless the header is JSON of bounded size and depth that fits the file.

    The library checks its shapes.
    """
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if size_bytes < 8 or header_bytes > min(size_bytes - 8, MAX_HEADER_BYTES):
                raise UsageError(
                    f"{path} cannot be loaded: it is no safetensors file of {size_bytes} bytes, or cut; "
                    "fetch it again"
                )
            header = parse_json(file.read(header_bytes), f"{path}'s header", _HEADER_DEPTH)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); fetch it again") from error
    if not isinstance(header, dict):
        raise UsageError(f"{path} cannot be loaded: its header is no object; fetch it again")


def read_config(files: ModelFiles, name: str) -> dict[str, Any]:
    """Reads another configuration, such as preprocessor_config.json; empty when there is none."""
    path = files.folder / name
    if path not in files.files:
        return {}
    config = read_json(path, MAX_CONFIG_BYTES)
    if not isinstance(config, dict):
        raise UsageError(f"{path} is not an object; take the model's own files anew")
    return config
