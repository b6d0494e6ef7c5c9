"""A power with a whole exponent by multiplications alone, so that it is the same number on every machine."""

from __future__ import annotations


def power(base: float, exponent: int) -> float:
    """Returns `base` to the `exponent` >= 0, by squaring; `**` asks the C library, and those differ."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
