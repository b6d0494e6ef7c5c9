"""An exported pipeline without a progress bar, and a picture to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paris_p2p.generation.pipeline import ParisPipeline


def loaded(folder: Path | str, **options: Any) -> ParisPipeline:
    """Returns the pipeline of an exported folder."""
    pipeline = ParisPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_picture(path: Path) -> Path:
    """Writes a picture of noise."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path
