"""Which files of somebody else's tokenizer its native code may see, and which settings of it are heard."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paris_p2p.bounded_json import read_json
from paris_p2p.errors import UsageError
from paris_p2p.weights import ModelFiles

_MIB = 1 << 20
MAX_FILE_BYTES_OF = {
    "tokenizer.json": 64 * _MIB, "tokenizer_config.json": 4 * _MIB,
    "vocab.json": 16 * _MIB, "vocab.txt": 16 * _MIB, "merges.txt": 16 * _MIB,
    "tokenizer.model": 16 * _MIB, "spiece.model": 16 * _MIB, "sentencepiece.bpe.model": 16 * _MIB,
    "special_tokens_map.json": _MIB, "added_tokens.json": _MIB,
}  # fmt: skip
_CLASSES = frozenset({
    "BertTokenizer", "BertTokenizerFast", "CLIPTokenizer", "CLIPTokenizerFast", "DistilBertTokenizer",
    "DistilBertTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "MPNetTokenizer", "MPNetTokenizerFast",
    "PreTrainedTokenizerFast", "SiglipTokenizer", "T5Tokenizer", "T5TokenizerFast", "TokenizersBackend",
    "XLMRobertaTokenizer", "XLMRobertaTokenizerFast",
})  # fmt: skip
# of models, where no tokenizer class is named
_KINDS = frozenset({"bert", "clip", "clip_text_model", "siglip", "t5", "umt5"})
_KEYS = frozenset({
    "add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens",
    "backend", "bos_token", "clean_up_tokenization_spaces", "cls_token", "do_basic_tokenize", "do_lower_case",
    "eos_token", "errors", "extra_ids", "extra_special_tokens", "legacy", "mask_token", "model_input_names",
    "model_max_length", "pad_token", "padding_side", "sep_token", "split_special_tokens", "strip_accents",
    "tokenize_chinese_chars", "tokenizer_class", "truncation_side", "unk_token",
})  # fmt: skip


@contextmanager
def laid_out_tokenizer(files: ModelFiles) -> Iterator[Path]:
    """Makes a folder with the tokenizer's own files alone, and its settings that are known.

    Each is of bounded size and depth.
    """
    here = {path.name: path for path in files.files}
    with tempfile.TemporaryDirectory(prefix="paris-tokenizer-") as name:
        folder = Path(name)
        for each, max_bytes in MAX_FILE_BYTES_OF.items():
            if each not in here:
                continue
            if each.endswith(".json"):
                value = read_json(here[each], max_bytes)  # its depth, before any other decoder
                if each == "tokenizer_config.json":
                    (folder / each).write_text(json.dumps(_settings(value, here[each])), encoding="utf-8")
                    continue
            elif here[each].stat().st_size > max_bytes:
                raise UsageError(
                    f"{here[each]} has more than the {max_bytes} bytes such a file ever has; do not trust it"
                )
            (folder / each).symlink_to(here[each].resolve())
        kind = files.config().get("model_type") if "config.json" in here else None
        if kind in _KINDS:
            (folder / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
        yield folder


def _settings(raw: object, path: Path) -> dict[str, Any]:
    """Returns what a tokenizer's configuration may say; UsageError for a class that is not known here."""
    if not isinstance(raw, dict):
        raise UsageError(f"{path} is not an object; take the model's own files anew")
    named = raw.get("tokenizer_class")
    if named is not None and named not in _CLASSES:
        raise UsageError(
            f"{path} names the tokenizer {str(named)[:60]!r}; known here: {', '.join(sorted(_CLASSES))}"
        )
    return {key: value for key, value in raw.items() if key in _KEYS}
