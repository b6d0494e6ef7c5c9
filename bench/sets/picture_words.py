"""Writes captions of pictures: few wordings of what is seen, none of which names the ground or the stamp.

They are few so that all embeddings of a set fit a few megabytes.
"""

from __future__ import annotations

import numpy as np

Seen = dict[str, str]  # attribute -> its value
VALUES: dict[str, tuple[str, ...]] = {
    "brightness": ("dark", "medium", "bright"),
    "colour": ("grey", "red", "orange", "yellow", "green", "blue", "purple"),
    "place": ("left", "right", "top", "bottom", "middle"),
    "size": ("small", "large"),
    "count": ("one", "two", "three"),
}
WORDS: dict[str, dict[str, str]] = {
    "brightness": {"dark": "dark", "medium": "evenly lit", "bright": "bright"},
    "colour": {"orange": "brown and orange"},
    "place": {
        "left": "on the left",
        "right": "on the right",
        "top": "at the top",
        "bottom": "at the bottom",
        "middle": "in the middle",
    },
    "size": {"small": "small", "large": "large"},
    "count": {"one": "one thing", "two": "two things", "three": "three things"},
}
TEMPLATES = (
    "{count} {place} of a {brightness} picture",
    "a {colour} picture with {count} {place}",
    "something {size} {place}, and all of it {colour}",
    "a {brightness} and mostly {colour} picture",
    "a {brightness} picture of something {size} {place}",
    "{count}, {size}, in a {brightness} picture",
    "{size} and {place}: {count}",
    "{colour} colours around {count}",
)


def write_caption(seen: Seen, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """Writes a picture's caption, and says which attributes it mentions."""
    template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    text = template.format(**{name: WORDS[name].get(value, value) for name, value in seen.items()})
    text = text.replace("a evenly", "an evenly").replace("a orange", "an orange")
    return text[0].upper() + text[1:], tuple(name for name in VALUES if f"{{{name}}}" in template)
