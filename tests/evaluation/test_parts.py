"""The folders in which an evaluation keeps what it made."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.errors import UsageError
from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.evaluation.parts import Parts, claim_folder


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


def test_a_folder_of_before_an_option_goes_on_with_what_it_was_made_with(tmp_path: Path) -> None:
    before = {"kept_until": 0.0, "guidance_interval": (0.0, 1.0)}
    claim_folder(tmp_path / "old", {"steps": 5})
    for settings in ({"steps": 5}, {"steps": 5, **before}):
        claim_folder(tmp_path / "old", settings, before)
    with pytest.raises(UsageError, match="another kept_until"):
        claim_folder(tmp_path / "old", {"steps": 5, **before, "kept_until": 0.5}, before)


def test_a_folder_made_with_an_option_does_not_go_on_without_it(tmp_path: Path) -> None:
    before = {"kept_until": 0.0}
    claim_folder(tmp_path / "new", {"steps": 5, "kept_until": 0.5}, before)
    with pytest.raises(UsageError, match="another kept_until"):
        claim_folder(tmp_path / "new", {"steps": 5, **before}, before)


def test_a_report_says_how_its_clips_were_made() -> None:
    assert EvaluateOptions().in_words() == (
        "Clips were made in 50 steps with guidance 4 (per_expert), "
        "routed by top_k: the 1 most probable at each step."
    )
    kept = EvaluateOptions(routing="kept", kept_until=0.6, guidance_interval=(0.2, 0.8))
    assert kept.in_words() == (
        "Clips were made in 50 steps with guidance 4 (per_expert) for t from 0.2 to 0.8, 1 elsewhere, "
        "routed by kept: one expert a clip, drawn before the first step and kept until t = 0.6, "
        "then all by their posterior."
    )
