"""What an outsider must not find, in every form that it may stand in: words, numbers, hashes, contents.

The run's own folder holds all of it in clear, which is how the search itself is tested: what is not found
there would not be found anywhere.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from base58 import b58encode
from blake3 import blake3

from paris_p2p.records import CHUNK_BYTES

SAMPLE_BYTES = 48  # of a shard's or a checkpoint's content, at several places
SAMPLES = 24  # of each file
LEAST_BYTES = 5  # a shorter word is found anywhere by chance
_WINDOW_BYTES = 16 << 20


@dataclass(frozen=True)
class Needle:
    """Holds one secret: what kind it is of, what it is, and the bytes that give it away."""

    kind: str
    name: str
    forms: tuple[bytes, ...]


def text_needle(kind: str, text: str) -> Needle:
    """Returns a word or sentence in UTF-8, as JSON writes it, in UTF-16, hexadecimal and base64."""
    raw = text.encode()
    return Needle(kind, text, (*_encoded(raw), json.dumps(text)[1:-1].encode(), text.encode("utf-16-le")))


def hash_needle(kind: str, name: str, digest: bytes) -> Needle:
    """Returns 32 bytes raw, in hexadecimal, base58 and base64."""
    return Needle(kind, name, (*_encoded(digest), b58encode(digest)))


def content_needle(kind: str, name: str, content: bytes) -> Needle:
    """Returns a piece of a file's content, raw and in base64 and hexadecimal."""
    return Needle(kind, name, _encoded(content))


def number_needle(kind: str, value: float) -> Needle:
    """Returns a measured number as msgpack and Python store it, and as people write it."""
    packed = (struct.pack(">d", value), struct.pack("<d", value))
    return Needle(kind, f"{value:.6g}", (*packed, repr(value).encode()))


def file_needles(kind: str, path: Path) -> Iterator[Needle]:
    """Yields the hashes of a file's chunks, and samples of its content that are not all alike."""
    data = path.read_bytes()
    for number in range(0, len(data), CHUNK_BYTES):
        digest = blake3(data[number : number + CHUNK_BYTES]).digest()
        yield hash_needle(f"hash of {kind}", f"{path.name} chunk {number // CHUNK_BYTES}", digest)
    yield hash_needle(f"hash of {kind}", path.name, blake3(data).digest())
    step = max(SAMPLE_BYTES, len(data) // SAMPLES)
    for at in range(0, len(data) - SAMPLE_BYTES, step):
        piece = data[at : at + SAMPLE_BYTES]
        if len(set(piece)) > SAMPLE_BYTES // 3:  # zeros and headers stand in every file
            yield content_needle(kind, f"{path.name} at {at}", piece)


def _encoded(raw: bytes) -> tuple[bytes, ...]:
    forms = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    for shift in range(3):  # where the text in base64 begins, its letters depend on
        packed = base64.b64encode(bytes(shift) + raw)
        inner = packed[(shift * 8 + 5) // 6 : len(packed) - 4].rstrip(b"=")
        forms += [inner, inner.translate(bytes.maketrans(b"+/", b"-_"))]
    return tuple(form for form in forms if len(form) >= LEAST_BYTES)


class Search:
    """Looks for many needles at once, in megabytes a second, not in days."""

    def __init__(self, needles: Iterable[Needle]):
        self.by_form: dict[bytes, Needle] = {}
        for needle in needles:
            for form in needle.forms:
                self.by_form.setdefault(form, needle)
        self._heads: dict[bytes, list[bytes]] = {}
        self._may_begin = np.zeros(1 << 24, dtype=bool)  # by the first three bytes of a form
        for form in self.by_form:
            self._heads.setdefault(form[:LEAST_BYTES], []).append(form)
            self._may_begin[int.from_bytes(form[:3], "big")] = True

    def found_in(self, haystack: bytes) -> set[Needle]:
        """Returns the needles that stand in the haystack in any form."""
        found = set()
        for start in range(0, len(haystack), _WINDOW_BYTES):
            part = np.frombuffer(haystack, np.uint8, min(_WINDOW_BYTES + 2, len(haystack) - start), start)
            wide = part.astype(np.uint32)
            first_three = (wide[:-2] << 16) | (wide[1:-1] << 8) | wide[2:]
            for at in np.flatnonzero(self._may_begin[first_three]) + start:
                for form in self._heads.get(haystack[at : at + LEAST_BYTES], ()):
                    if haystack.startswith(form, at):
                        found.add(self.by_form[form])
        return found
