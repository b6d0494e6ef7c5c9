"""A run whose owner split and dropped experts generates, is exported and read back as one consistent set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paris_p2p.errors import CheckpointError, SlotMissingError, UsageError
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.export import export
from paris_p2p.generation.exported import EFFECTIVE_FILE, open_export, weights_path
from paris_p2p.generation.generate import generate
from paris_p2p.model.checkpoint import Counters
from paris_p2p.model.grown_router import grow_outputs
from paris_p2p.owner_records import DropExpert
from paris_p2p.rules.growth import grown
from paris_p2p.spec import ROUTER
from tests.generation.exported import loaded
from tests.made.made_growth import both
from tests.made.made_run import EXPERTS, PROMPTS, MadeRun

PARENT, CHILD = 1, f"expert-{EXPERTS}"


class GrownRun(MadeRun):
    """A made run whose expert-1 was split a moment ago: the child has no weights of its own."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.effective = grown(self.signed.record, both(PARENT, EXPERTS))
        tensors = {name: tensor.float() for name, tensor in load_file(self.weights[ROUTER]).items()}
        more = {name: tensor.to(torch.bfloat16) for name, tensor in grow_outputs(tensors, [PARENT]).items()}
        self.router = self.folder / "grown-router.safetensors"
        save_file(more, self.router, Counters(self.run, ROUTER, 2, 2).metadata("weights"))

    def after(self, **changes: Any) -> FetchedRun:
        """Returns what a fetch brings once the router knows the child."""
        weights = {**self.weights, CHILD: self.weights[f"expert-{PARENT}"], ROUTER: self.router}
        cards = {**self.cards, CHILD: self.cards[f"expert-{PARENT}"]}
        return self.fetched(**({"weights": weights, "cards": cards, "effective": self.effective} | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GrownRun:
    return GrownRun(tmp_path_factory.mktemp("grown"))


def clips(run: FetchedRun, made: GrownRun, folder: Path, **changes: Any) -> tuple[np.ndarray, torch.Tensor]:
    result = generate(run, made.job(folder / "clips.npy", **changes))
    return np.load(folder / "clips.npy"), result.chosen


def test_the_clips_are_the_same_before_and_after_an_expert_is_split(made: GrownRun, tmp_path: Path) -> None:
    before, weights = clips(made.fetched(), made, tmp_path, routing="full")
    after, shares = clips(made.after(), made, tmp_path, routing="full")
    # the bias is sent in bfloat16, so that ln 2 is taken from it to three figures
    torch.testing.assert_close(
        shares[..., PARENT] + shares[..., EXPERTS], weights[..., PARENT], rtol=0.02, atol=0.01
    )
    assert (np.abs(before.astype(int) - after.astype(int)) <= 2).mean() > 0.99


def test_a_dropped_expert_is_never_chosen_and_the_others_shares_make_one(
    made: GrownRun, tmp_path: Path
) -> None:
    dropped = grown(made.signed.record, [DropExpert(expert=0)])
    run = made.fetched(effective=dropped)
    assert run.experts == [1, 2]
    for routing in ("full", "top_k", "threshold", "uniform"):
        _, shares = clips(run, made, tmp_path, routing=routing, steps=2)
        assert not shares[..., 0].any()
        torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:2]))
    with pytest.raises(UsageError, match="asks for an expert that is not there"):
        clips(run, made, tmp_path, routing="single", expert=0)


def test_what_is_missing_is_told_of_the_set_that_generates(made: GrownRun) -> None:
    weights = {slot: path for slot, path in made.weights.items() if slot != "expert-0"}
    dropped = made.fetched(effective=grown(made.signed.record, [DropExpert(expert=0)]), weights=weights)
    assert generate(dropped, made.job(made.folder / "x.npy", steps=1)).missing == ()
    with pytest.raises(SlotMissingError, match=CHILD):
        generate(made.fetched(effective=made.effective), made.job(made.folder / "x.npy", steps=1))


def test_an_export_of_a_grown_run_is_read_back_and_makes_the_same_clips(
    made: GrownRun, tmp_path: Path
) -> None:
    run = made.after(effective=grown(made.signed.record, [*both(PARENT, EXPERTS), DropExpert(expert=0)]))
    weights = {slot: path for slot, path in run.weights.items() if slot != "expert-0"}
    run = made.after(effective=run.effective, weights=weights)
    export(run, tmp_path / "model")
    read = open_export(tmp_path / "model")
    assert (read.effective, read.experts, read.cards[CHILD]) == (run.effective, [1, 2, 3], run.cards[CHILD])
    one, other = (clips(each, made, tmp_path, routing="full")[0] for each in (run, read))
    assert np.array_equal(one, other)
    export(read, tmp_path / "again")
    assert open_export(tmp_path / "again").effective == run.effective
    card = (tmp_path / "model" / "README.md").read_text()
    assert "3 experts" in card
    assert "Partial" not in card


def test_an_export_of_a_grown_run_loads_in_the_pipeline(made: GrownRun, tmp_path: Path) -> None:
    effective = grown(made.signed.record, [*both(PARENT, EXPERTS), DropExpert(expert=0)])
    run = made.after(effective=effective)
    run = made.after(
        effective=effective, weights={s: p for s, p in run.weights.items() if s in effective.slots}
    )
    export(run, tmp_path / "model")
    pipeline = loaded(tmp_path / "model")
    assert (pipeline.experts.total, pipeline.experts.present) == (4, [1, 2, 3])
    made_here = pipeline(list(PROMPTS), num_inference_steps=3, routing="full", output_type="np")
    assert np.isfinite(np.asarray(made_here.frames)).all()


def another_owner(fields: dict[str, Any]) -> None:
    fields["name"] = "something else"


def too_many(fields: dict[str, Any]) -> None:
    fields["experts"] = 9


def its_own_parent(fields: dict[str, Any]) -> None:
    fields["parents"] = [EXPERTS]


def none_left(fields: dict[str, Any]) -> None:
    fields["dropped_experts"] = [0, 1, 2, 3]


def twice(fields: dict[str, Any]) -> None:
    fields["dropped_experts"] = [0, 0]


def another_latent(fields: dict[str, Any]) -> None:
    fields["latent"]["channels"] = 8


def no_list(fields: dict[str, Any]) -> None:
    fields["parents"] = "1"


@pytest.mark.parametrize(
    "change", [another_owner, too_many, its_own_parent, none_left, twice, another_latent, no_list]
)
def test_a_folder_that_says_what_no_notice_can_is_refused(
    made: GrownRun, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    export(made.after(), tmp_path / "model")
    path = tmp_path / "model" / EFFECTIVE_FILE
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(UsageError, match="export the run again"):
        open_export(tmp_path / "model")


def test_an_expert_stands_in_for_its_own_child_and_for_no_other(made: GrownRun, tmp_path: Path) -> None:
    export(made.after(), tmp_path / "model")
    weights_path(tmp_path / "model", CHILD).write_bytes(made.weights["expert-0"].read_bytes())
    with pytest.raises(CheckpointError, match=f"holds expert-0 .* where {CHILD} of run"):
        open_export(tmp_path / "model")
