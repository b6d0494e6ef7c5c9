"""Makes sure that this thread computes as IEEE 754 says, which is all that makes merges equal everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from paris_p2p.errors import InexactError
from paris_p2p.updates.layout import Vector

_WIDTH = 67  # numbers: every vector width of a CPU, and what is left over


def check_arithmetic() -> None:
    """Raises InexactError where this thread flushes subnormals, fuses operations or rounds otherwise.

    A library built with -ffast-math, or torch.set_flush_denormal, changes that for a thread; so it is asked
    in the thread that makes the numbers, each time: it takes 0.1 ms.
    """
    for what, found, right in _trials():
        if (found.view(np.uint32) != right).any():
            raise InexactError(
                f"this machine computes otherwise than others: {what} gives the bits "
                f"{int(found.view(np.uint32)[0]):#010x}, not {right:#010x}, so its merges would differ from "
                "the others'; look for torch.set_flush_denormal, or a library built with -ffast-math, "
                "in this process"
            )


def _trials() -> Iterator[tuple[str, Vector, int]]:
    """Yields (what is computed, the result, its bits); numbers as bits, which no conversion flushes."""
    tiny, one, half = _full(0x00000001), _full(0x3F800000), _full(0x3F000000)  # 2^-149, 1, 1/2
    yield "the smallest number times one", np.multiply(tiny, one), 0x00000001
    yield "the smallest number plus itself", np.add(tiny, tiny), 0x00000002
    yield "2^-126 times a half", np.multiply(_full(0x00800000), half), 0x00400000
    yield "one plus a quarter of its last bit", np.add(one, _full(0x33000000)), 0x3F800000
    yield "one plus half of its last bit", np.add(one, _full(0x33800000)), 0x3F800000
    yield "one plus a bit over half of its last bit", np.add(one, _full(0x33800080)), 0x3F800001
    halves = np.full(_WIDTH, 1, np.uint16).view(np.float16)
    yield "the smallest half as float", halves.astype(np.float32), 0x33800000
    near = _full(0x3F800800)  # 1 + 2^-12, whose square is 1 + 2^-11 + 2^-24
    product = np.multiply(near, near)
    np.subtract(product, _full(0x3F801000), out=product)
    yield "a product less its rounded self", product, 0x00000000


def _full(bits: int) -> Vector:
    return np.full(_WIDTH, bits, np.uint32).view(np.float32)
