"""Every architecture that is taken is loaded with the numbers of its own folder, out of networks of two
towers too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedConfig

from paris_p2p.transformers_model import load_transformers
from paris_p2p.weights import folder_files

SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 3}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 9}
VISION = {**SMALL, "image_size": 28, "patch_size": 14}
TOWERS = {"text_config": TEXT, "vision_config": {**VISION, "hidden_size": 36}}
T5 = {"d_model": 24, "d_ff": 40, "d_kv": 8, "num_layers": 1, "num_heads": 3, "vocab_size": 50}
IDS = {"input_ids": torch.tensor([[3, 4, 5]])}
PICTURE = {"pixel_values": torch.linspace(-1, 1, 3 * 28 * 28).reshape(1, 3, 28, 28)}
# saved, loaded, numbers, inputs
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, torch.Tensor]]] = {
    "a text tower of CLIP": ("CLIPModel", "CLIPTextModel", TOWERS, IDS),
    "a vision tower of CLIP": ("CLIPModel", "CLIPVisionModel", TOWERS, PICTURE),
    "a vision tower of SigLIP": ("SiglipModel", "SiglipVisionModel", TOWERS, PICTURE),
    "a text tower with its projection": ("CLIPTextModelWithProjection", "CLIPTextModel", TEXT, IDS),
    "a vision tower with its projection": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionModel",
        VISION,
        PICTURE,
    ),
    "T5 with its decoder": ("T5ForConditionalGeneration", "T5EncoderModel", T5, IDS),
    "UMT5 with its decoder": ("UMT5ForConditionalGeneration", "UMT5EncoderModel", T5, IDS),
    "BERT": ("BertModel", "BertModel", TEXT, IDS),
    "DINOv2": ("Dinov2Model", "Dinov2Model", VISION, PICTURE),
    "ViT": ("ViTModel", "ViTModel", VISION, PICTURE),
}


@pytest.mark.parametrize("case", CASES)
def test_a_network_computes_what_the_library_makes_of_its_folder(case: str, tmp_path: Path) -> None:
    saved, loaded, numbers, inputs = CASES[case]
    torch.manual_seed(0)
    whole: Any = getattr(transformers, saved)
    config: PreTrainedConfig = whole.config_class(**numbers)
    whole(config).save_pretrained(tmp_path)
    cls = getattr(transformers, loaded)
    ours = load_transformers(cls, folder_files(tmp_path)).eval()
    theirs = cls.from_pretrained(tmp_path, local_files_only=True).eval()
    with torch.inference_mode():
        assert torch.equal(ours(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state)
