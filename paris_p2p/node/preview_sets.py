"""The preview clips that lie in a node's data directory: one folder for each set of tips.

Who shows them, a page or a command, reads them here; who makes them is peer/previews.py.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paris_p2p.records import Count, Hash, Slot

log = logging.getLogger(__name__)
SET_FILE, COST_FILE = "set.json", "cost.json"
_MAX_SET_BYTES = 1 << 20
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class PreviewSet(BaseModel):
    """Says what one set of preview clips shows: the same prompts and the same noise in every set."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: _Name  # of the folder
    at_s: float  # Unix time
    prompts: tuple[str, ...]
    files: tuple[_Name, ...]  # one a prompt
    cards: dict[Slot, Hash]
    seqs: dict[Slot, Count]
    steps: dict[Slot, Count]
    clips: dict[Slot, Count]
    processor_s: float = 0.0  # that it took
    elapsed_s: float = 0.0


def previews_folder(data_dir: Path) -> Path:
    """Returns where a node keeps its previews."""
    return data_dir / "previews"


def preview_sets(folder: Path) -> list[PreviewSet]:
    """Returns the sets of a previews folder, the oldest first; what is none, or damaged, is passed over."""
    found = []
    for path in sorted(folder.glob(f"[!.]*/{SET_FILE}")):
        try:
            if path.stat().st_size > _MAX_SET_BYTES:
                continue
            one = PreviewSet.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            log.info("%s is passed over: %s", path, error)
            continue
        if one.name == path.parent.name and all((path.parent / name).is_file() for name in one.files):
            found.append(one)
    return sorted(found, key=lambda one: (one.at_s, one.name))
