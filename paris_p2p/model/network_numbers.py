"""Says what the numbers of a network may be, as a run's owner or a model's folder gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from paris_p2p.errors import RecordError

_LIMITS = {  # what a config that a stranger signed may ask for
    "width": 16384, "depth": 256, "heads": 256, "mlp_ratio": 16, "time_ratio": 16, "channels": 4096,
    "text_width": 65536, "pooled_width": 65536, "experts": 256, "patch_frames": 64, "patch_height": 64,
    "patch_width": 64, "double_depth": 256, "single_depth": 256, "first_width": 65536,
}  # fmt: skip


def check_network(config: Mapping[str, int | float | str | bool], constructor: Callable[..., object]) -> None:
    """Raises RecordError unless these are all the numbers that the constructor takes, within their limits."""
    known = {
        name: value.default
        for name, value in inspect.signature(constructor).parameters.items()
        if name != "self"
    }
    missing = [
        name for name, default in known.items() if default is inspect.Parameter.empty and name not in config
    ]
    odd = sorted(set(config) - set(known)) or missing
    if odd:
        raise RecordError(
            f"the network's number {odd[0][:80]!r} is unknown or missing; "
            "the run needs another version of paris-p2p"
        )
    for name, limit in _LIMITS.items():
        value = config.get(name, 1)
        if type(value) is not int or not 1 <= value <= limit:
            raise RecordError(
                f"the network's {name} is {str(value)[:40]}, and must be a whole number between 1 and {limit}"
            )
    base, per_block = config.get("rotary_base", 100.0), config.get("steer_per_block", False)
    if not isinstance(base, float) or not 1 < base <= 1e6 or not isinstance(per_block, bool):
        raise RecordError(
            f"the network's rotary_base is {base!r} and steer_per_block {per_block!r}, which is impossible"
        )
    for name in ("first_frame", "time_skip"):
        if not isinstance(config.get(name, False), bool):
            raise RecordError(
                f"the network's {name} is {str(config[name])[:40]!r}, and must be true or false"
            )
    width, heads = config["width"], config["heads"]
    if not isinstance(width, int) or not isinstance(heads, int) or width % (2 * heads):
        raise RecordError(f"a width of {width} cannot be split among {heads} heads into pairs")
    pairs = config.get("rotary_frame_pairs", 0)
    if type(pairs) is not int or not 0 <= pairs <= width // heads // 2:
        raise RecordError(
            f"the network's rotary_frame_pairs is {str(pairs)[:40]}, "
            f"and a head of {width // heads} has {width // heads // 2}"
        )
