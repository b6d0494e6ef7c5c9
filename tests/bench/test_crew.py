"""The bench of crews trains, sends and merges as the product does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from bench.crew.checking import Checks, weighed
from bench.crew.clips_seen import open_split, seen_of, side_by_side
from bench.crew.crews import Crew
from bench.crew.plans import Plan, peer_name
from bench.crew.report import compare, refusals, table, times_less
from bench.crew.sampling import sampled
from bench.crew.sending import Sent, forged, told_weights, update_bytes
from bench.crew.stacked import Inner, Stacked
from paris_p2p.data.batches import Batch, ClipOrder, Draws, make_batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared
from paris_p2p.device import Device
from paris_p2p.model.plain_dit import PlainVideoDiT
from paris_p2p.model.presets import build_expert, expert_config
from paris_p2p.training.learner import Learner
from paris_p2p.training.schedule import learning_rate
from tests.made.made_prepared import make_run
from tests.made.tiny_run import TRAINING, TinyRun

SLOT, N = "expert-1", 4096 * 2 + 100


@pytest.fixture
def tiny(tmp_path: Path) -> TinyRun:
    training = TRAINING.model_copy(update={"weight_decay": 0.0, "caption_dropout": 0.5})
    return TinyRun(tmp_path, training=training)


def batch_of(tiny: TinyRun, first: int) -> Batch:
    clips = ClipSet([tiny.shards["train"][1]], [1])
    draws = Draws.of(tiny.run, SLOT)
    return make_batch(clips, ClipOrder(draws, len(clips)), draws, first, tiny.training.batch_clips)


def test_a_rows_step_is_the_trainers_step_to_rounding(tiny: TinyRun) -> None:
    learner = Learner(tiny.run, tiny.spec, SLOT, Device(torch.device("cpu"), bf16=False))
    network = learner.network
    assert isinstance(network, PlainVideoDiT)
    stacked = Stacked(network)
    rows = stacked.flat(network)[None].repeat(2, 1)
    inner = Inner(2, stacked.parameters, tiny.training.clip_grad_norm)
    for step in range(4):
        batch = batch_of(tiny, step * 4)
        seen = side_by_side([seen_of(tiny.training, batch)] * 2)
        losses, gradients = stacked.gradients(rows, seen)
        for row in range(2):
            rate = learning_rate(tiny.training, SLOT, step)
            inner.step(row, rows[row], gradients[row], rate)
        assert learner.step(batch) == pytest.approx(float(losses[1]), rel=1e-4)
    assert torch.equal(rows[0], rows[1])
    torch.testing.assert_close(rows[0], stacked.flat(network), rtol=0, atol=1e-4)


def sent(
    plan: Plan, base: np.ndarray, weights: np.ndarray, maker: int, steps: int = 15, number: int = 0
) -> Sent:
    data = update_bytes(plan, np.zeros_like(base), base, weights, number, plan.step)
    return Sent(peer_name(maker), data, None, steps, number, 0)


FLIP, NAN, COPY, HUNDREDFOLD = (
    Plan(name="x", attack=attack) for attack in ("flip", "nan", "copy", "hundredfold")
)


def vectors(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(N, dtype=np.float32) for _ in range(count)]


def checks_of(folder: Path, plan: Plan) -> tuple[Checks, Stacked, np.ndarray]:
    """Returns a lead's checks on a made run, and its network's weights."""
    make_run(folder, experts=2)
    prepared = Prepared.load(folder)
    network = build_expert(expert_config("nano", prepared.latent, prepared.text_shape))
    assert isinstance(network, PlainVideoDiT)
    stacked = Stacked(network)
    return Checks.of(plan, network, folder, peer_name(0)), stacked, stacked.flat(network).numpy()


def test_a_lead_leaves_out_what_is_no_update_too_long_or_a_copy(tmp_path: Path) -> None:
    plan = Plan(name="x", checked=True)
    checks, _, base = checks_of(tmp_path / "run", plan)
    checks.trials = None
    rng = np.random.default_rng(0)
    a, b, c, d = (1e-4 * rng.standard_normal(len(base), dtype=np.float32) for _ in range(4))
    honest = [sent(plan, base, base + each, i, number=6) for i, each in enumerate((a, b, c))]
    lies = [
        replace(sent(plan, base, base, 3, number=6), data=forged(NAN, honest[0].data, [])),
        replace(honest[0], maker=peer_name(4), data=forged(COPY, b"", honest)),
        sent(plan, base, told_weights(HUNDREDFOLD, base, base + d, rng), 5, number=6),
        sent(plan, base, base + d, 6, number=3),
    ]
    counting = checks.sift(base, [*honest, *lies], 6)
    assert {one.sent.maker for one in counting} == {peer_name(i) for i in range(3)}
    told = dict(checks.refused)
    assert [told[peer_name(i)] for i in (3, 4, 5, 6)] == ["format", "copy", "norm", "stale"]
    assert [share for _, share, _ in weighed(counting, 6, 8)] == [120.0] * 3


def test_a_step_that_makes_the_loss_worse_is_left_out(tmp_path: Path) -> None:
    plan = Plan(name="x", checked=True)
    checks, stacked, base = checks_of(tmp_path / "run", plan)
    clips = open_split(tmp_path / "run", plan.slot, ("gate",))
    draws = Draws.of(plan.run, "x")
    seen = seen_of(TRAINING, make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, 8))
    _, (gradient,) = stacked.gradients(torch.from_numpy(base)[None], seen)
    better = base - 0.02 * gradient.numpy() / float(gradient.norm())
    honest = sent(plan, base, better, 0)
    flipped = sent(plan, base, told_weights(FLIP, base, better, np.random.default_rng()), 2)
    counting = checks.sift(base, [honest, flipped], 0)
    assert [one.sent.maker for one in counting] == [peer_name(0)]


def crew(plan: Plan) -> Crew:
    rows = torch.zeros(plan.peers, N)
    base = vectors(1)[0]
    return Crew(plan, rows, Inner(plan.peers, N, 1.0), 0, base, Checks())


def walk(played: Crew, ticks: range) -> None:
    """Moves every peer by made-up gradients."""
    for tick in ticks:
        generator = torch.Generator().manual_seed(tick)
        played.inner_step(tick, torch.randn(played.plan.peers, N, generator=generator))
        played.after_step(tick + 1)


def test_all_peers_stand_at_the_merged_weights_after_a_round() -> None:
    played = crew(Plan(name="x", peers=3, inner_steps=4))
    walk(played, range(3))
    assert not np.array_equal(played.rows[0], played.rows[1])
    walk(played, range(3, 4))
    assert (played.rows == played.state.weights).all()
    assert (played.state.steps, played.merges, played.counted) == (
        12,
        1,
        {peer_name(i): 1 for i in range(3)},
    )


def test_what_was_learnt_while_a_merge_was_on_its_way_is_kept() -> None:
    played = crew(Plan(name="x", peers=2, inner_steps=4, delay_steps=2))
    walk(played, range(5))
    before, published = played.rows[0].copy(), played.peers[0].published.copy()
    assert played.merges == 0
    walk(played, range(5, 6))
    assert played.merges == 1
    ahead = played.rows[0] - played.state.weights
    assert np.abs(ahead).sum() > np.abs(before - published).sum()  # one step more


@pytest.mark.parametrize("way", ["held", "folded", "given up"])
def test_a_late_update_counts_a_round_later_goes_into_the_next_or_is_given_up(way: Literal["held"]) -> None:
    played = crew(Plan(name="x", peers=1, inner_steps=1, late_share=0.5, late_way=way))
    walk(played, range(20))
    merged, counted = played.state.steps, played.counted[peer_name(0)]
    assert 0 < counted < 20
    unmerged = 0 if played.peers[0].open is None else played.peers[0].open.steps
    assert merged == counted if way == "given up" else merged + unmerged + played.peers[0].since == 20


def test_one_who_joins_begins_from_the_merged_weights() -> None:
    played = crew(Plan(name="x", peers=2, inner_steps=2, churn_rounds=1))
    walk(played, range(2))
    new = played.peers[1]
    assert (new.name, new.steps) == (peer_name(2), 0)
    assert float(played.inner.exp_avg[1].abs().sum()) == 0
    assert float(played.inner.exp_avg[0].abs().sum()) > 0


def result(loss: float, **plan: object) -> dict[str, object]:
    return {
        "plan": Plan(name="x", **plan).model_dump(),  # type: ignore[arg-type]
        "parameters": 1000,
        "loss": {"average 0.995": loss},
        "update_bytes": 125,
        "counted": {"peer-000": 9, "peer-003": 4},
        "refused": {"loss peer-003": 6, "copy peer-000": 1},
    }


def test_a_report_compares_what_was_played_at_the_same_seeds() -> None:
    found = {
        "a-seed-1": result(1.02),
        "b-seed-1": result(1.0),
        "a-seed-2": result(2.0),
        "b-seed-2": result(2.0),
        "a-seed-3": result(7.0),
    }
    ratio = compare(found, "a", "b")
    assert ratio is not None
    assert ratio.ratios == (1.02, 1.0)
    assert ratio.mean == pytest.approx(1.02**0.5)
    low, high = ratio.interval
    assert low < ratio.mean < high
    assert low * high == pytest.approx(ratio.mean**2)
    assert compare(found, "a", "c") is None
    (line,) = table(found, [("both", "a", "b", 1.0)])[2:]
    assert "1: missed, within noise of it" in line
    assert times_less(found["a-seed-1"]) == 32


def test_a_report_tells_honest_updates_from_a_cheats() -> None:
    lines = refusals({"a-seed-1": result(1.0, attack="flip"), "b-seed-1": result(1.0)}, ["a", "b"])
    assert lines[2:] == ["| a | 10 | 1 | loss 6 |", "| b | 20 | 7 |  |"]


def test_an_untrained_network_samples_the_noise_it_began_with(tmp_path: Path) -> None:
    make_run(tmp_path / "run", experts=2)
    config = expert_config(
        "nano", Prepared.load(tmp_path / "run").latent, Prepared.load(tmp_path / "run").text_shape
    )
    network = build_expert(config)
    assert isinstance(network, PlainVideoDiT)
    stacked = Stacked(network)
    made = sampled(stacked, tmp_path / "run", Plan(name="x"), stacked.flat(network).numpy())
    again = sampled(stacked, tmp_path / "run", Plan(name="y"), stacked.flat(network).numpy())
    assert torch.equal(made, again)
    assert abs(float(made.std()) - 1) < 0.2
