"""What a decoder is that strangers reach, and how damaged inputs for it are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paris_p2p.errors import ParisError

Make = Callable[[random.Random], Any]


@dataclass(frozen=True)
class Decoder:
    """`make` draws a damaged input, `decode` is given it; `refusals` are the errors it may raise."""

    name: str
    make: Make
    decode: Callable[[Any], object]
    refusals: tuple[type[Exception], ...] = (ParisError,)
    share: int = 4  # of all inputs, beside the others'
