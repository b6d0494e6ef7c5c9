"""The comparison's report says what the result files say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bench.ddm_vs_monolith.compare import Comparison, Hypothesis, Side, name_of
from bench.ddm_vs_monolith.findings import Findings, arm_curve
from bench.ddm_vs_monolith.pictures import GAP_PIXELS, LABEL_PIXELS, write_pictures
from bench.ddm_vs_monolith.report import shown_clips, write_report
from bench.ddm_vs_monolith.results import Results
from bench.ddm_vs_monolith.rounds import round_3_table
from bench.ddm_vs_monolith.second_look import floor_words, kernel_table, worlds_table
from bench.ddm_vs_monolith.settings import CORE, ROUND_3
from bench.ddm_vs_monolith.tables import arms_table, ratio_table, trials_table
from bench.ddm_vs_monolith.words import capacity_words
from bench.ddm_vs_monolith.worlds import Worlds
from paris_p2p.errors import UsageError
from paris_p2p.score.distances import frechet_distance, kernel_distance
from paris_p2p.score.intervals import Interval, Plan
from tests.bench.made_results import CLIPS, FAR, SCALE, SEEDS, made_results

PLAN = Plan(resamples=20, splits=2)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return Findings(Comparison(SCALE, made_results(tmp_path_factory.mktemp("results")), PLAN))


def test_a_shift_twice_as_far_is_four_times_the_distance(findings):
    comparison = findings.comparison
    for network in SCALE.features:  # equal covariances: the distance is the squared shift
        ratio = comparison.ratio(network, findings.sides["monolith, one"], findings.sides["experts, top-1"])
        assert ratio.value == pytest.approx(4, rel=1e-3)
        # the same source videos on every side: nothing scatters
        assert ratio.low == pytest.approx(ratio.high, rel=1e-3)


def test_all_seeds_are_pooled_and_seen_on_the_same_real_clips(findings):
    side = findings.sides["experts, top-1"]
    assert len(side.of(SCALE.features[0])) == CLIPS * len(SEEDS)
    assert side.sources.tolist() == findings.comparison.sources.tolist() * len(SEEDS)


def test_a_sweep_has_one_seed_and_is_held_against_the_experts_of_that_seed(findings):
    row = next(row for row in findings.rows if row.first_seed)
    side, best = findings.sides[name_of(row)], findings.best(row)
    assert len(side.sources) == len(best.sources) == CLIPS
    assert {name for name, *_ in ratio_table(findings).rows} >= {"monolith, one-steps-3", "monolith, one"}
    assert findings.comparison.ratio("transnetv2", side, best).value == pytest.approx(4, rel=1e-3)


def test_round_3_holds_the_monolith_against_each_way_over_all_seeds_and_over_those_that_did_not_lead_to_it(
    findings,
):
    rows = round_3_table(findings).rows
    assert [row[0] for row in rows[:2]] == [
        "experts, text-only, all seeds",
        "experts, text-only, without the first seed",
    ]
    assert len(rows) == 2 * len(ROUND_3)
    raw = len(SCALE.features)
    assert all(cell == "4.00 (4.00 to 4.00)" for row in rows for cell in row[1 : 1 + raw])
    coded = (1.9 / 0.9) ** 2  # the codec's clips are shifted by 0.1
    assert all(cell.startswith(f"{coded:.2f} ") for row in rows for cell in row[1 + raw : 1 + 2 * raw])
    asked_nothing = SCALE.model_copy(update={"samplings": CORE.samplings})
    assert round_3_table(Findings(Comparison(asked_nothing, findings.comparison.results, PLAN))).rows == ()


def test_fidelity_is_the_share_of_mentioned_attributes_that_probes_find(findings):
    comparison = findings.comparison
    assert set(comparison.probes) == {"brightness"}  # the only attribute, and the probe sees it
    assert comparison.right(comparison.real).mean() > 0.85
    bright = np.array(comparison.test["test"]["attributes"]["brightness"]) == "bright"
    far = comparison.right(findings.sides["random, router"])  # so far that all clips look bright
    assert far.tolist() == (bright.tolist() * len(SEEDS))


def test_only_three_seeds_and_both_networks_confirm():
    far, near, even = Interval(3, 2.5, 3.5), Interval(1.5, 1.2, 1.8), Interval(1, 0.9, 1.1)
    worse, no_worse = Interval(-1, -2, -0.5), Interval(-0.1, -0.3, 0.1)
    assert Hypothesis({"a": far, "b": far}, no_worse, None, 3).verdict == "confirmed"
    assert Hypothesis({"a": far, "b": far}, no_worse, None, 1).verdict == "better, but not as claimed"
    assert Hypothesis({"a": far, "b": far}, worse, None, 3).verdict == "better, but not as claimed"
    assert Hypothesis({"a": far, "b": near}, no_worse, None, 3).verdict == "better, but not as claimed"
    assert Hypothesis({"a": far, "b": even}, no_worse, None, 3).verdict == "not confirmed"


def test_an_arms_curve_weighs_each_clusters_own_expert(findings):
    clips, losses = arm_curve(findings, "experts")
    assert clips.tolist() == [480, 960, 1440]
    assert losses[0] == pytest.approx(0.5 * 1 + 0.3 * 2 + 0.2 * 3)


def test_tables_have_every_arm_sampling_and_trial(findings):
    assert [row[0] for row in arms_table(findings).rows] == [arm.name for arm in SCALE.arms]
    assert len(ratio_table(findings).rows) == len(SCALE.samplings) - 1
    assert all(
        "0.002: 0.0020 *" in row[2] for row in trials_table(findings).rows if row[1] == "learning rate"
    )


def test_the_report_is_rebuilt_from_results_alone_and_escapes_captions(findings, tmp_path):
    page, text = write_report(findings, tmp_path / "one", "a command")
    again, same = write_report(Findings(findings.comparison), tmp_path / "two", "a command")
    assert page.read_bytes() == again.read_bytes()
    assert text.read_bytes() == same.read_bytes()
    html = page.read_text()
    assert "a &lt;b&gt;" in html
    assert "<b>" not in html
    for arm in FAR:
        assert f"{arm}," in text.read_text()


def test_pictures_show_every_arm_and_stand_on_white(findings, tmp_path):
    sheet, *drawings = write_pictures(findings, tmp_path)
    with Image.open(sheet) as image:
        rows = len(shown_clips(findings))
        assert image.size == (LABEL_PIXELS + 2 * (3 * 8 + GAP_PIXELS), rows * (8 + GAP_PIXELS))
    assert [path.name for path in drawings][:3] == [
        "made-distances.svg",
        "made-losses.svg",
        "made-routing.svg",
    ]
    assert all(
        "background:#ffffff" in path.read_text() and "currentColor" not in path.read_text()
        for path in drawings
    )


def test_without_both_sides_of_the_question_there_is_no_report(tmp_path):
    results = made_results(tmp_path)
    results.path("sample/monolith/1/one", "json").unlink()
    with pytest.raises(UsageError, match="monolith, one is not sampled yet"):
        _ = Findings(Comparison(SCALE, results, PLAN)).rows


def test_a_result_of_other_clips_is_refused(tmp_path):
    results: Results = made_results(tmp_path)
    arrays = {key: value[:-1] for key, value in results.arrays("sample/monolith/0/one").items()}
    np.savez(results.path("sample/monolith/0/one", "npz"), **arrays)
    with pytest.raises(UsageError, match="another run"):
        Comparison(SCALE, results, PLAN).side(SCALE.sampling("monolith", "one"))


def test_clips_of_too_many_of_one_world_are_nearer_once_their_mix_is_put_right(findings):
    comparison = findings.comparison
    worlds = Worlds(comparison)
    assert worlds.names == ("day", "night")
    real = comparison.real
    assert worlds.asked(real) > 0.9
    day, night = (np.flatnonzero(worlds.shown(real) == world) for world in (0, 1))
    rows = np.arange(CLIPS)
    rows[night[::2]] = np.resize(day, len(night[::2]))  # half of the nights became days
    features = {name: real.features[name][rows] for name in SCALE.features}
    skewed = Side("skewed", features, None, real.sources, real.seeds)
    assert worlds.mix(skewed)[0] > worlds.true_mix[0] + 0.1
    for network in SCALE.features:
        raw = frechet_distance(real.features[network], skewed.features[network])
        frechet, kernel = worlds.distances(network, skewed)
        assert frechet < 0.5 * raw
        assert kernel < kernel_distance(real.features[network], skewed.features[network])
        # it is compared with its like, put right in the same way
        assert worlds.ratio(network, findings.sides["monolith, one"], skewed).value > 1


def test_worlds_and_kernel_distances_have_a_row_for_what_all_seeds_made(findings):
    table = worlds_table(findings)
    made = [name_of(row) for row in findings.rows if not row.first_seed]
    assert [row[0] for row in table.rows] == ["real clips through the codec", *made]
    assert table.rows[1][0] == "experts, top-1"
    assert table.rows[1][4] == "1"
    gaps = kernel_table(findings).rows
    assert [row[0] for row in gaps] == ["experts, top-1", "experts, text-only", "experts, exact",
                                        "experts, top-2-exact"]  # fmt: skip
    assert all(float(cell.split()[0]) > 0 for row in gaps for cell in row[1:])  # the monolith is further


def test_the_words_say_what_the_decay_did_and_what_a_classifier_finds(findings):
    said = " ".join((*capacity_words(findings), *floor_words(findings)))
    assert "in the last 25% of them, in which its rate decays" in said
    assert "a linear classifier is right for" in said
