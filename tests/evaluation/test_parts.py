"""The folders in which an evaluation keeps what it made."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.evaluation.parts import Parts


@pytest.mark.parametrize(
    ("folder", "title"),
    [
        ("real", "real"),
        ("train-44", "train"),
        ("experts-98f5c5e525fc141c", "experts"),
        ("exact-top-2-98f5c5e525fc141c", "exact-top-2"),
    ],
)
def test_the_title_is_the_name_that_was_given_without_the_fingerprint(folder: str, title: str) -> None:
    assert Parts(Path("report") / folder, 8).title == title
