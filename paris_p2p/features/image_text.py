"""Maps frames and captions to directions in CLIP's space, whose cosine says how well they fit.

Source: Radford et al. 2021 (arXiv 2103.00020).
Legend: B clips, T frames, N frames looked at or captions, L text tokens, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.functional import normalize

from paris_p2p.features.pictures import Pictures, middles, preprocessing, titled
from paris_p2p.tokenizing import Tokenizer, load_tokenizer
from paris_p2p.transformers_model import architecture_of, load_transformers
from paris_p2p.weights import find_model_files

FRAMES_AT_ONCE = 16  # bounds the activations
CAPTIONS_AT_ONCE = 64


@dataclass(frozen=True)
class ClipFeatures:
    """Gives the mean of the frames' unit vectors, [B, T, H, W, 3] uint8 -> [B, F] fp32.

    A caption's unit vector times that mean is the mean cosine between caption and frames, which papers call
    text-video similarity or CLIP score; a linear head on unit vectors (aesthetics) may be applied to the mean
    as well.
    """

    name: str
    title: str
    sha256: str
    frames: int  # looked at in each clip, spread evenly
    pictures: Pictures
    model: Any
    tokenizer: Tokenizer
    tokens: int

    @property
    def width(self) -> int:
        """Returns F."""
        return int(self.model.config.projection_dim)

    @torch.inference_mode()
    def __call__(self, video: Tensor) -> Tensor:
        total = video.shape[1]
        frames = video[:, middles(total, min(self.frames, total))].to(self.pictures.mean.device)  # B n H W 3
        images = rearrange(frames, "b n h w c -> (b n) c h w")
        units = torch.cat([self._images(part) for part in torch.split(images, FRAMES_AT_ONCE)])
        return reduce(units, "(b n) f -> b f", "mean", b=video.shape[0])

    @torch.inference_mode()
    def text(self, captions: Sequence[str]) -> Tensor:
        """Returns unit vectors [N, F]; captions are cut to CLIP's own number of tokens (77)."""
        parts = [captions[i : i + CAPTIONS_AT_ONCE] for i in range(0, len(captions), CAPTIONS_AT_ONCE)]
        return torch.cat([self._captions(part) for part in parts])

    def _images(self, images: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=self.pictures(images)).pooler_output
        return normalize(self.model.visual_projection(pooled).float(), dim=-1)  # N F

    def _captions(self, captions: Sequence[str]) -> Tensor:
        cut = self.tokenizer.cut(captions, self.tokens)
        ids, mask = (torch.tensor(words, device=self.pictures.mean.device) for words in cut)  # N L
        pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return normalize(self.model.text_projection(pooled).float(), dim=-1)  # N F


def load_clip(reference: str, *, frames: int, device: str = "cpu") -> ClipFeatures:
    """Loads both towers of a CLIP from a folder or hub id, such as openai/clip-vit-large-patch14.

    UsageError when it is not a CLIP.
    """
    from transformers import CLIPModel

    files = find_model_files(reference)
    architecture_of(files, {"CLIPModel": CLIPModel}, "a CLIP with both towers")
    model = load_transformers(CLIPModel, files).to(device).eval().requires_grad_(False)
    pictures = preprocessing(files, model.config.vision_config.image_size, device, mode="bicubic")
    tokens = model.config.text_config.max_position_embeddings
    name, title = f"clip:{reference}", titled("CLIP", reference)
    return ClipFeatures(name, title, files.sha256, frames, pictures, model, load_tokenizer(files), tokens)
