"""Every decoder that strangers reach, given damaged inputs for a short while (`bench/fuzz.py`: for long)."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.corpus import decoders
from tests.fuzz.decoder import Decoder

INPUTS = 150  # of each decoder
SEALED = (
    "envelope",
    "RunSpec",
)  # no damaged one has a signature that holds; their contents are others' inputs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Decoder]:
    return decoders(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.timeout(120)
def test_damaged_inputs_are_refused_with_an_error_of_this_project(corpus: list[Decoder]) -> None:
    for decoder in corpus:
        for number in range(INPUTS):
            given = decoder.make(random.Random(f"{decoder.name} {number}"))
            try:
                decoder.decode(given)
            except decoder.refusals:
                continue


def test_the_same_number_gives_the_same_input(corpus: list[Decoder]) -> None:
    for decoder in corpus:
        assert decoder.make(random.Random("7")) == decoder.make(random.Random("7"))


def test_every_decoder_takes_some_of_its_inputs(corpus: list[Decoder]) -> None:
    """Were all refused at the first byte, nothing behind it would be tried."""
    for decoder in corpus:
        if decoder.name in SEALED:
            continue
        taken = 0
        for number in range(2000):
            try:
                decoder.decode(decoder.make(random.Random(number)))
                taken += 1
            except decoder.refusals:
                continue
            break
        assert taken, decoder.name
