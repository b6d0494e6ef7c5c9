"""Tests how much of a router's answer rests on the latent, and how that is read of strangers' files."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import CheckpointError, UsageError
from paris_p2p.model.calibration import KNOTS, Calibration, calibration_of, configured, parse_calibration
from paris_p2p.model.posterior import posterior_logits, start_logits
from paris_p2p.model.router import Router
from paris_p2p.model.tensor_file import write_tensors
from tests.model.test_router import some

FALLING = Calibration((1.0, 1.0, 0.9, 0.8, 0.8, 0.6, 0.5, 0.25, 0.0))
shares = st.lists(st.floats(0, 1), min_size=KNOTS, max_size=KNOTS).map(tuple)


@given(shares)
def test_what_is_written_is_read_again(values):
    calibration = Calibration(values)
    assert parse_calibration(calibration.note().get("calibration", ""), "file") == (
        None if calibration.is_plain else calibration
    )
    assert configured(list(calibration.shares)) == calibration


@pytest.mark.parametrize(
    "text",
    [
        "1.0000",
        ",".join(["0.5000"] * 8),
        ",".join(["0.5000"] * 10),
        ",".join(["0.5000"] * 8 + ["nan"]),
        ",".join(["0.5000"] * 8 + ["1.0001"]),
        ",".join(["0.5000"] * 8 + ["-0.500"]),
        ",".join(["0.5000"] * 8 + ["0.5"]),
        ",".join(["0.5000"] * 8 + ["0.5000 "]),
        ",".join(["0.5000"] * 8 + ["٠.٥٠٠٠"]),
        "0.5000," * 100_000,
    ],
)
def test_metadata_that_no_calibration_wrote_are_refused(text):
    with pytest.raises(CheckpointError, match="calibration that cannot be read"):
        parse_calibration(text, "weights")


@pytest.mark.parametrize(
    "value", [[], [0.5] * 8, [0.5] * 8 + [math.nan], [0.5] * 8 + [2], [0.5] * 8 + ["1"], "0.5", 3, [True] * 9]
)
def test_a_config_that_no_calibration_wrote_is_refused(value):
    with pytest.raises(CheckpointError, match="do not trust this model"):
        configured(value)


def test_a_file_without_one_has_none_and_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"format": "pt"}, torch.float32, {"a": torch.zeros(1)})
    assert calibration_of(path) is None
    write_tensors(path, {"format": "pt", **FALLING.note()}, torch.float32, {"a": torch.zeros(1)})
    assert calibration_of(path) == FALLING
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="not a weights file"):
        calibration_of(path)


def test_shares_are_linear_between_their_times():
    t = torch.tensor([0.0, 0.125, 0.1875, 0.9375, 1.0, 1.5])
    assert FALLING.at(t).tolist() == pytest.approx([1.0, 1.0, 0.95, 0.125, 0.0, 0.0])


def test_a_calibrated_router_rests_on_the_latent_by_its_share(router):
    x, _, pooled = some()
    t = torch.tensor([0.0, 0.75, 1.0])
    plain, text = router(x, t, pooled), start_logits(router, pooled)
    router.calibrate(FALLING)
    found = posterior_logits(router, x, t, pooled)
    assert torch.equal(found[0], plain[0])
    torch.testing.assert_close(found[1], text[1] + 0.5 * (plain[1] - text[1]))
    assert torch.equal(found[2], text[2])
    assert not torch.allclose(plain[1:], found[1:])
    assert torch.equal(posterior_logits(router, x, t, None), router(x, t, None))


def test_a_calibration_of_ones_changes_no_bit(router):
    inputs = some()
    plain = posterior_logits(router, *inputs)
    router.calibrate(Calibration((1.0,) * KNOTS))
    assert torch.equal(posterior_logits(router, *inputs), plain)


def test_a_saved_router_comes_back_with_its_calibration(router, tmp_path):
    router.save_pretrained(tmp_path / "plain")
    assert "calibration" not in (tmp_path / "plain" / "config.json").read_text()
    router.calibrate(FALLING)
    router.save_pretrained(tmp_path / "router")
    again = Router.from_pretrained(tmp_path / "router")
    assert again.calibration == FALLING
    inputs = some()
    assert torch.equal(posterior_logits(again, *inputs), posterior_logits(router, *inputs))
    again.save_pretrained(tmp_path / "again")
    assert Router.from_pretrained(tmp_path / "again").calibration == FALLING


def test_a_saved_router_with_a_made_up_calibration_is_refused(router, tmp_path):
    router.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"depth"', '"calibration": [9.0],\n  "depth"'))
    with pytest.raises((CheckpointError, UsageError), match="do not trust this model"):
        Router.from_pretrained(tmp_path)
