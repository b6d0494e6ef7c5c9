"""What a peer settles before it joins: its settings, and whether the run fits its machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from paris_p2p.byte_size import Bytes
from paris_p2p.errors import PresetError
from paris_p2p.peer.profiles import load_profile
from paris_p2p.peer.start import check_slot, fit_run
from paris_p2p.peer.summary import checkpoint_limits, describe_run, disk_bytes, download_bytes
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.spec import NetworkSpec
from paris_p2p.training.needs import clip_tokens, parameter_count
from tests.peer.world import World


def test_the_profile_chooses_the_micro_batch_unless_one_was_given(tmp_path: Path) -> None:
    spec = World(tmp_path).run.record
    profile = load_profile("cpu-2core")
    settings = PeerSettings(data_dir=tmp_path)
    assert fit_run(settings, profile, spec).micro_batch_clips == profile.micro_batch_clips(
        "nano", clip_tokens(spec)
    )
    by_hand = settings.model_copy(update={"micro_batch_clips": 3})
    assert fit_run(by_hand, profile, spec).micro_batch_clips == 3


def test_a_run_that_does_not_fit_the_profile_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    spec = World(tmp_path).run.record
    large = spec.model_copy(update={"expert": NetworkSpec(preset="dit-xl-2", config=spec.expert.config)})
    with pytest.raises(PresetError, match="dit-xl-2"):
        fit_run(PeerSettings(data_dir=tmp_path), load_profile("cpu-2core"), large)


def test_an_unknown_slot_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="expert-0, router"):
        check_slot(World(tmp_path).run.record, "expert-9")


def test_the_summary_names_owner_purpose_licences_and_sizes(tmp_path: Path) -> None:
    run = World(tmp_path).run
    text = describe_run(run, PeerSettings(data_dir=tmp_path))
    for word in (run.signer, "testing", "CC0", "Apache-2.0", " to download"):
        assert word in text


def test_first_weights_are_told_of_and_counted_in_the_download_of_the_slots_they_are_for(
    tmp_path: Path,
) -> None:
    run = World(tmp_path, initial=bytes(3_000_000)).run
    plain, told = (
        describe_run(made, PeerSettings(data_dir=tmp_path)) for made in (World(tmp_path / "plain").run, run)
    )
    assert "Starts     from weights that the owner gives, 3.0 MB" in told
    assert "Starts" not in plain
    assert "Starts" not in describe_run(run, PeerSettings(data_dir=tmp_path, slot="router"))
    size = TypeAdapter(Bytes).validate_python
    download = [size(text.split("about ")[1].split(" to download")[0]) for text in (plain, told)]
    assert download[1] - download[0] == pytest.approx(3e6, abs=1e5)


def test_checkpoint_limits_follow_the_parameters(tmp_path: Path) -> None:
    spec = World(tmp_path).run.record
    weights, resume = checkpoint_limits(spec, "expert-0")
    parameters = parameter_count(spec, "expert-0")
    assert 2 * parameters < weights < 2 * parameters + (2 << 20)
    assert 16 * parameters < resume < 16 * parameters + (5 << 20)


def test_compact_checkpoints_ask_for_less_than_half_the_bytes(tmp_path: Path) -> None:
    plain = World(tmp_path).run.record
    training = plain.training.model_copy(update={"compact": True})
    compact = plain.model_copy(update={"training": training})
    parameters = parameter_count(plain, "expert-0")
    weights, resume = checkpoint_limits(compact, "expert-0")
    assert weights == checkpoint_limits(plain, "expert-0")[0]
    assert 6 * parameters < resume < 6.1 * parameters + (5 << 20)
    saved = download_bytes(plain, "expert-0") - download_bytes(compact, "expert-0")
    assert saved == pytest.approx(10 * parameters, rel=0.01)
    assert disk_bytes(plain, "expert-0") - disk_bytes(compact, "expert-0") == 4 * saved
