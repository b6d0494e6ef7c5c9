"""Writes captions of what is seen: many wordings of few attributes, none of which names the world."""

from __future__ import annotations

import re

import numpy as np

from bench.clips.attributes import Attributes

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "brightness": {
        "dark": ("dark", "dim", "gloomy", "badly lit"),
        "medium": ("evenly lit", "neither dark nor bright", "moderately lit"),
        "bright": ("bright", "well lit", "luminous"),
    },
    "contrast": {
        "low": ("soft contrast", "little contrast", "faint differences of tone", "flat tones"),
        "medium": ("moderate contrast", "clear but mild tones", "ordinary contrast"),
        "high": ("strong contrast", "hard contrast", "light and shade far apart"),
    },
    "colour": {
        "grey": ("grey", "almost colourless", "muted"),
        "red": ("red", "reddish", "crimson-tinted"),
        "orange": ("brown and orange", "orange-brown", "earthy", "tawny"),
        "yellow": ("yellow", "yellowish", "golden"),
        "green": ("green", "greenish", "green-tinted"),
        "blue": ("blue", "bluish", "blue-tinted"),
        "purple": ("purple", "violet", "magenta-tinted"),
    },
    "lighter": {
        "top": ("lighter at the top", "the upper half brighter than the lower", "most light up high"),
        "bottom": ("lighter at the bottom", "the lower half brighter than the upper", "most light down low"),
        "left": ("lighter on the left", "the left side brighter than the right"),
        "right": ("lighter on the right", "the right side brighter than the left"),
        "neither": (
            "no side lighter than another",
            "light spread evenly over the picture",
            "the same light everywhere",
        ),
    },
    "motion": {
        "still": ("nothing moves", "everything stands still", "a picture at rest", "no movement to speak of"),
        "left": ("what moves goes to the left", "movement from right to left", "things drift leftwards"),
        "right": ("what moves goes to the right", "movement from left to right", "things drift rightwards"),
        "up": ("what moves goes up", "movement from the bottom to the top", "things drift upwards"),
        "down": ("what moves goes down", "movement from the top to the bottom", "things drift downwards"),
        "outward": ("things spread from the middle", "what moves goes outwards", "everything comes closer"),
        "inward": ("things shrink towards the middle", "what moves goes inwards", "everything draws back"),
        "mixed": (
            "things move this way and that",
            "movement in several directions",
            "what moves has no one direction",
        ),
    },
}
TEMPLATES = (
    "a {brightness}, {colour} view: {motion}",
    "{motion} in a {brightness} scene, {contrast}",
    "a {colour} scene with {contrast}, {motion}",
    "{motion}; the picture is {brightness} and {colour}",
    "{lighter}, mostly {colour}; {motion}",
    "a short shot, {brightness}, {lighter}: {motion}",
    "{brightness} and {colour}, {lighter}; {motion}",
    "{motion}, {contrast}, colours {colour}",
    "in this clip {motion}, {lighter}, and the colours are {colour}",
    "{brightness} footage; {motion}, with {contrast}",
)

FEW_TEMPLATES = (TEMPLATES[0], TEMPLATES[1], TEMPLATES[5])


def write(attributes: Attributes, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """Writes a clip's caption, and says which attributes it mentions; speed and extent are left out."""
    return _filled(attributes, rng, TEMPLATES, None)


def write_plainly(attributes: Attributes, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """Writes a caption as `write` does, with one wording of each value: 360 different ones at most."""
    return _filled(attributes, rng, FEW_TEMPLATES, 1)


def _filled(
    attributes: Attributes, rng: np.random.Generator, templates: tuple[str, ...], most: int | None
) -> tuple[str, tuple[str, ...]]:
    """Fills one of the templates with one of the first `most` wordings of each value, or of all."""
    template = templates[int(rng.integers(len(templates)))]
    words = {name: wordings[attributes[name]][:most] for name, wordings in WORDS.items()}
    text = template.format(
        **{name: choices[int(rng.integers(len(choices)))] for name, choices in words.items()}
    )
    text = re.sub(r"\ba (?=[aeo])", "an ", text)
    return text[0].upper() + text[1:], tuple(name for name in WORDS if f"{{{name}}}" in template)
