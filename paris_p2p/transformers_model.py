"""Loads a transformers network out of a folder that somebody else made.

The class is ours to choose, and the numbers are checked first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paris_p2p.errors import PresetError
from paris_p2p.model_folder import REFUSED_KEYS, check_complete, clean_config, laid_out, loading
from paris_p2p.weights import ModelFiles, quiet_loading


def architecture_of(files: ModelFiles, known: Mapping[str, Any], kind: str) -> str:
    """Returns what the folder's config.json says it is; PresetError when it is none of the known ones."""
    named = files.config().get("architectures")
    architecture = str(named[0])[:80] if isinstance(named, list) and named else "none"
    if architecture not in known:
        raise PresetError(
            f"{files.folder} is a {architecture}, not {kind} known here; known: {', '.join(sorted(known))}"
        )
    return architecture


def load_transformers(cls: Any, files: ModelFiles, **options: Any) -> Any:
    """Returns `cls` with the folder's weights in float32.

    UsageError when they are not all there or do not fit. Nothing that the folder's configuration says of
    code, kernels, quantizers or other files is heard.
    """
    import torch

    with loading(f"the {cls.__name__}", files.folder), quiet_loading():
        config = _clean(_of_tower(files.config(), cls.config_class), cls.config_class, files)
        with laid_out(files, config) as folder:
            model, info = cls.from_pretrained(
                folder,
                config=cls.config_class.from_dict(config),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    check_complete(f"the {cls.__name__}", files.folder, info)
    return model


def _of_tower(raw: Mapping[str, Any], config_class: Any) -> Mapping[str, Any]:
    """Returns the configuration of one tower.

    The folder holds a network of two, and `config_class` is of one.
    """
    tower = raw.get(getattr(config_class, "base_config_key", "") or "")
    return tower if isinstance(tower, dict) else raw


def _clean(raw: Mapping[str, Any], config_class: Any, files: ModelFiles) -> dict[str, Any]:
    """Keeps the numbers that this class of configuration has; those of its towers likewise."""
    where = files.folder / "config.json"
    known = set(config_class().to_dict()) - REFUSED_KEYS - {"architectures", "model_type"}
    towers = getattr(config_class, "sub_configs", {})
    config = clean_config(raw, known - set(towers), where)
    for name, tower in towers.items():
        if isinstance(raw.get(name), dict):
            config[name] = _clean(raw[name], tower, files)
    if "VideoMAE" in config_class.__name__ and isinstance(raw.get("id2label"), dict):
        # the width of a head that is not used, but is among the weights
        config["num_labels"] = len(raw["id2label"])
    return config
