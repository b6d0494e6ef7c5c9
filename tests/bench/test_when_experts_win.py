"""The map of where experts win trains alike what it compares, and says what its files say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from bench.crew.report import Ratio
from bench.when_experts_win import recorded
from bench.when_experts_win.arms import Arms, Partition, larger
from bench.when_experts_win.digits import Parts, clusters, dealt_out, splits
from bench.when_experts_win.figure import write_figure
from bench.when_experts_win.jobs import jobs_of, open_jobs, run
from bench.when_experts_win.learning import Course, Fed, learn, noised, rng_of
from bench.when_experts_win.losses import Looked, losses_over_time, unsaid
from bench.when_experts_win.measuring import routes
from bench.when_experts_win.networks import Pool, Shape, answers, first_weights
from bench.when_experts_win.report import BEGIN, END, Map, Place, in_page, report, runaways, verdict
from bench.when_experts_win.settings import STAGES, Cell, Stage
from bench.when_experts_win.trials import chosen_rates
from paris_p2p.errors import UsageError
from paris_p2p.flow.mixture import Routing

TINY = STAGES["tiny"]
RATES = dict.fromkeys(("monolith", "experts-3", "experts-10", "total-3", "total-10"), 4e-3)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    run("tiny", folder, at_once=1, told=lambda line: None)
    return folder


def drawn(rows: int, shape: Shape) -> dict[str, torch.Tensor]:
    weights = first_weights(shape, rows, rng_of("weights"))
    return weights | {"out": torch.randn(weights["out"].shape, generator=rng_of("out"))}


def test_no_image_is_trained_on_and_held_out() -> None:
    train, held_out = splits()
    assert len(train.images) + len(held_out.images) == 1797
    same = torch.cdist(train.images.flatten(1), held_out.images.flatten(1)) == 0
    assert not same.any()


def test_an_image_comes_under_another_map_each_time() -> None:
    train, _ = splits()
    first, second = train.drawn(torch.tensor([5, 5]), rng_of("maps"))
    assert not torch.equal(first, second)
    assert first.min() >= -1 - 1e-6
    assert first.max() <= 1 + 1e-6
    assert torch.nn.functional.cosine_similarity(first + 1, second + 1, dim=0) > 0.5


@pytest.mark.parametrize("count", [3, 10])
def test_random_parts_are_as_large_as_clusters_and_know_nothing_of_them(count: int) -> None:
    labels, _ = clusters(count)
    parts = dealt_out(labels, 1)
    assert torch.equal(labels.bincount(), parts.bincount())
    assert (labels == parts).float().mean() < 0.5
    rows = Parts(labels, count).rows(50, rng_of("rows"))
    assert (labels[rows] == torch.arange(count)[:, None]).all()


def test_a_row_answers_as_it_would_alone() -> None:
    shape = Shape(8, skip=True)
    weights = drawn(3, shape)
    x, t = torch.randn(3, 5, 64, generator=rng_of("x")), torch.rand(3, 5, generator=rng_of("t"))
    together = answers(shape, weights, x, t)
    for row in range(3):
        alone = Pool(shape, weights).velocity(row, x[row], t[row], unsaid(5))
        torch.testing.assert_close(alone, together[row])


def test_a_told_model_is_asked_as_an_expert_is() -> None:
    shape = Shape(8, clusters=3)
    pool = Pool(shape, drawn(1, shape))
    x, t = torch.randn(5, 64, generator=rng_of("x")), torch.full((5,), 0.5)
    told = torch.eye(3)[2].expand(1, 5, 3)
    torch.testing.assert_close(
        pool.velocity(2, x, t, unsaid(5)), answers(shape, pool.weights, x[None], t[None], told)[0]
    )
    assert not torch.equal(pool.velocity(2, x, t, unsaid(5)), pool.velocity(1, x, t, unsaid(5)))


def test_a_rows_training_does_not_depend_on_the_rows_beside_it() -> None:
    stage, shape = TINY, Shape(6)
    images = torch.randn(4, 1, 10, 64, generator=rng_of("images"))

    def feed(steps: int, rng: torch.Generator) -> Fed:
        return Fed(images[:steps])

    both = learn(shape, Course(2, 4, 1e-2), feed, stage, rng_of("a"))
    first = {name: weight[:1] for name, weight in first_weights(shape, 2, rng_of("a")).items()}
    assert any(not torch.equal(both.row(0)[name], first[name]) for name in first)
    assert not torch.equal(both.row(0)["hidden"], both.row(1)["hidden"])
    x_t, t, wanted = noised(images, rng_of("noise"))
    torch.testing.assert_close(x_t + (1 - t)[..., None] * wanted, images + wanted)


def test_every_arm_has_the_same_operations() -> None:
    stage = Stage(widths=(12,), lengths=(25,), clusters=(3, 10), seeds=(1,), largest_total=3000)
    trained = Arms(stage, Cell(12, 25, 1), splits()[0], RATES).train()
    assert set(trained.operations) > {"monolith", "told-3", "experts-10", "random-3"}
    for arm, operations in trained.operations.items():
        router = stage.router_share if arm.startswith("random") else 0  # which has none, and no more steps
        assert operations == pytest.approx((1 - router) * trained.operations["monolith"], rel=0.04), arm
    assert trained.images["experts-10"] == pytest.approx(0.96 * trained.images["monolith"])


def test_a_model_of_total_size_has_as_many_parameters() -> None:
    shape = Shape(34)
    assert larger(shape, 3).parameters == pytest.approx(3 * shape.parameters, rel=0.02)


def test_kept_experts_are_drawn_once_by_their_shares() -> None:
    partition = Partition.of(3, 1)
    stage = Stage(widths=(8,), lengths=(1,), clusters=(3,), seeds=(1,), samples=4000)
    route = routes(partition.prior, None, stage, 1)["kept"]
    weights = route(torch.zeros(4000, 64), torch.ones(4000))
    assert torch.equal(weights, route(torch.ones(4000, 64), torch.zeros(4000)))
    assert torch.equal(weights.sum(1), torch.ones(4000))
    # Five standard deviations of a share of 4,000 draws.
    assert (weights.mean(0) - partition.prior).abs().max() < 5 * math.sqrt(0.25 / 4000)


def test_the_loss_by_the_prior_is_that_of_the_mean_flow() -> None:
    _, held_out = splits()
    looked = Looked.at(held_out, 30, rng_of("looked"))
    shape = Shape(8, skip=True)
    one = {name: weight.repeat(3, 1, 1) for name, weight in drawn(1, shape).items()}
    prior = torch.tensor([0.2, 0.3, 0.5])
    mixed = losses_over_time(Pool(shape, one), looked, routing=Routing("full"), prior=prior)
    assert mixed == pytest.approx(losses_over_time(Pool(shape, one), looked), rel=1e-5)


def test_the_smallest_rate_that_is_as_good_is_taken() -> None:
    tried = {
        "monolith": {"0.004": 0.70, "0.008": 0.609, "0.016": 0.6},
        "experts-3": {"0.004": 0.5, "0.008": 0.6},
    }
    assert chosen_rates(tried) == {"monolith": 0.008, "experts-3": 0.004}


def test_jobs_that_have_results_are_not_done_again(results: Path) -> None:
    said: list[str] = []
    run("tiny", results, at_once=1, told=said.append)
    assert said == []
    [job] = [job for job in jobs_of("tiny")[1] if job.cell == Cell(8, 6, 2)]
    before = json.loads(job.path(results).read_text())
    job.path(results).unlink()
    run("tiny", results, at_once=1, told=said.append)
    assert len(said) == 1
    after = json.loads(job.path(results).read_text())
    for part in ("distances", "losses", "router_right", "operations"):
        assert before[part] == after[part]


def test_nothing_is_played_under_another_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "PROTOCOL.md"
    changed.write_text("another")
    changed.with_suffix(".sha256").write_text("0" * 64)
    monkeypatch.setattr(recorded, "PROTOCOL", changed)
    with pytest.raises(UsageError, match="is recorded in"):
        run("tiny", tmp_path, at_once=1)
    assert not list(tmp_path.glob("tiny/*.json"))


def test_tables_and_map_are_made_of_files_alone(results: Path, tmp_path: Path) -> None:
    found = Map("tiny", results)
    lines = report(found)
    assert sum(line.startswith("| 6 | 1.2 k | 10 |") for line in lines) >= 4
    assert any("floor" in line for line in lines)
    svg = write_figure(found, tmp_path / "map.svg").read_text()
    assert svg.startswith("<svg")
    assert "10 experts, kept" in svg


def test_the_pages_tables_are_those_of_the_files() -> None:
    page = (recorded.HERE.parents[1] / "docs" / "experiments.md").read_text("utf-8")
    found = Map("digits", recorded.HERE / "results")
    assert in_page(found, page) == page  # else: python -m bench.when_experts_win page


def test_a_page_keeps_what_stands_around_its_tables(results: Path) -> None:
    page = f"# Before\n\n{BEGIN}\nof another day\n{END}\n\nAfter\n"
    written = in_page(Map("tiny", results), page)
    assert written.startswith(f"# Before\n\n{BEGIN}\n\nSeeds: 2 at ")
    assert written.endswith(f"{END}\n\nAfter\n")
    assert "of another day" not in written


def test_some_seeds_alone_may_be_played(tmp_path: Path) -> None:
    [_, cells] = open_jobs("tiny", tmp_path, [2])
    assert {job.cell and job.cell.seed for job in cells} == {2}
    [_, cells] = open_jobs("tiny", tmp_path, [])
    assert {job.cell and job.cell.seed for job in cells} == {1, 2}


def made(stage: Stage, folder: Path, ratios: dict[int, float]) -> Map:
    """Writes results in which the monolith is so many times as far as the experts, by width."""
    for cell in stage.cells:
        distance = {"judge": {"frechet": 1.0}, "pixels": {"frechet": 1.0}}
        far = {name: {"frechet": ratios[cell.width] * (1 + 0.01 * cell.seed)} for name in distance}
        document = {
            "parameters": {"monolith": cell.width * 1000},
            "distances": {"monolith": far} | {f"experts-{k} kept": distance for k in stage.clusters},
        }
        (folder / "tiny").mkdir(exist_ok=True)
        (folder / "tiny" / f"{cell.name}.json").write_text(json.dumps(document))
    return Map("tiny", folder)


def test_the_line_where_experts_stop_to_win_lies_between_sizes(tmp_path: Path) -> None:
    found = made(TINY, tmp_path, {8: 2.0, 12: 0.5})
    crossing = found.crossing(10, 6, "judge")
    assert crossing == pytest.approx(math.sqrt(8000 * 12000), rel=0.01)
    ratio = found.ratio(Place(8, 6), "monolith", "experts-3 kept", "judge")
    assert ratio is not None
    assert ratio.mean == pytest.approx(2 * math.sqrt(1.01 * 1.02))
    assert found.ratio(Place(8, 6), "monolith", "total-3", "judge") is None


def test_a_seed_whose_images_ran_away_is_left_out_and_told(tmp_path: Path) -> None:
    found = made(TINY, tmp_path, {8: 2.0, 12: 0.5})
    found.found[Place(8, 6)][0]["distances"]["experts-3 kept"] = {"pixels": {"frechet": 1e6}}
    ratio = found.ratio(Place(8, 6), "monolith", "experts-3 kept", "judge")
    assert ratio == Ratio((2.0 * 1.02,))
    [line] = runaways(found)
    assert "experts-3 kept: 1e+06" in line


def test_experts_pay_where_both_measures_say_so() -> None:
    high, low, one = (Ratio(ratios) for ratios in ((2.0, 2.1, 1.9), (0.5, 0.6, 0.5), (1.0, 0.8, 1.2)))
    said = [verdict(pair) for pair in ([high, high], [low, low], [one, one], [high, low], [high, one])]
    assert said == ["pay", "lose", "level", "undecided", "undecided"]
    assert verdict([Ratio((2.0, 2.1)), high]) == "too few seeds"


def test_the_stage_that_the_protocol_names_is_the_stage_that_is_played() -> None:
    text = recorded.PROTOCOL.read_text()
    stage = STAGES["digits"]
    for said in (
        f"{stage.lengths[0]:,} steps of {stage.batch} images",
        " or ".join([", ".join(map(str, stage.widths[:-1])), f"{stage.widths[-1]} wide"]),
        f"{stage.samples:,} images, {stage.sampling_steps} Euler steps",
        f"{stage.kernel_samples:,} images a side",
        f"over {stage.trial_steps} steps at seed 0",
    ):
        assert said in " ".join(text.split()), said
    for width, size in zip(stage.widths, ("5.9 k", "17.5 k", "59.3 k"), strict=True):
        assert f"{Shape(width).parameters / 1000:.1f} k" == size
        assert size in text
