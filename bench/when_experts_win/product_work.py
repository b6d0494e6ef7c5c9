"""Does the jobs of the stages with the product's networks, one function each; what they return is kept.

Legend: N clips. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.sets.real import look
from bench.when_experts_win.joint_components import joint_components
from bench.when_experts_win.product_judging import look_at
from bench.when_experts_win.product_losses import Looked, arm_losses, router_numbers, summed_up
from bench.when_experts_win.product_pictures import PICTURES, REAL, picture_name
from bench.when_experts_win.product_place import Opened
from bench.when_experts_win.product_plans import ArmPlan, plan_of, run_of
from bench.when_experts_win.product_stages import Way
from bench.when_experts_win.product_training import Lesson, held_out_losses, keep, learn, rng_at
from paris_p2p.errors import DataError, DivergedError
from paris_p2p.flow.sampler import sample, time_grid
from paris_p2p.score.distances import frechet_distance
from paris_p2p.spec import ROUTER

Values = dict[str, Any]
TRIAL_SEED = 0
TRIAL_COMPONENTS = 32
SHOWN_FRAMES = 4  # of a clip


def looked(at: Opened, seed: int = 0) -> Values:
    """Looks at real clips with the feature networks that have not, and keeps what they said; at validation
    clips through the codec too.
    """
    missing = [name for name in at.stage.networks if f"codec/{name}" not in at.made.real]
    real = dict(look(at.made, missing, str(at.device)).real) if missing else {}
    seen = look_at(at.made.latents[at.validation_rows].float(), at.codec, at.looking)
    at.keep_looked({**real, **{f"validation/{name}": features for name, features in seen.items()}})
    return {"networks": list(at.stage.networks), "looked_here": missing}


def pilot_rate(at: Opened, width: int, times: int, rate: float) -> Values:
    """Tries a rate shortly for one model of a width, or `times` as large."""
    return _pilot(at, width, times, rate, round(at.stage.trial_share * at.setting(width).steps))


def pilot(at: Opened, width: int, times: int) -> Values:
    """Trains such a model to its end at the best of the rates, at a seed that no table has."""
    tried = {rate: at.place.values(f"pilot-rate-{width}-{times}-{rate:g}")["loss"] for rate in at.stage.rates}
    sound = {rate: loss for rate, loss in tried.items() if loss is not None}
    best = min(sound, key=lambda rate: sound[rate])
    return {"tried": {f"{rate:g}": loss for rate, loss in tried.items()}} | _pilot(
        at, width, times, best, at.setting(width).steps
    )


def _pilot(at: Opened, width: int, times: int, rate: float, steps: int) -> Values:
    setting = at.setting(width)
    plan = plan_of(setting, "monolith" if times == 1 else "triple")
    lesson = Lesson(
        f"{at.stage.name} pilot {width} {times} {rate:g} {steps}",
        run_of(setting, plan, rate, steps),
        "expert-0",
        at.train_rows,
        steps,
    )
    return {"rate": rate, "steps": steps, **plan.describe(), **_taught(at, lesson, at.validation_rows)}


def try_rate(at: Opened, arm: str, rate: float, expert: int = 0) -> Values:
    """Tries a rate shortly for an arm, an expert of its own cluster's clips."""
    plan = at.plan(arm)
    steps = max(2, round(at.stage.trial_share * plan.steps))
    slot, rows = f"expert-{expert}", at.validation_rows
    if arm == "experts":
        rows = rows[at.made.cluster[rows] == expert]
    lesson = _lesson(at, plan, TRIAL_SEED, slot, rate, steps)
    return {"rate": rate, "steps": steps, **_taught(at, lesson, rows)}


def _taught(at: Opened, lesson: Lesson, judged: Tensor) -> Values:
    """Trains a network and returns its loss on some validation clips; None where it diverged."""
    try:
        learner, last = learn(lesson, at.material)
    except DivergedError:
        return {"loss": None, "judged": len(judged)}
    loss = float(held_out_losses(learner, at.material, judged, lesson.is_told).mean()) if len(judged) else 0.0
    return {"loss": loss, "judged": len(judged), "last_train_loss": last}


def _lesson(at: Opened, plan: ArmPlan, seed: int, slot: str, rate: float, steps: int) -> Lesson:
    """Returns a slot's lesson; arms go on from the seed model where there is one, a router does not."""
    start = None
    if at.stage.seed_share and plan.arm != "seed" and slot != ROUTER:
        start = at.place.weights(seed or at.stage.seeds[0], "seed", "expert-0")
    is_told = plan.arm == "told"
    return Lesson(
        f"{at.stage.name} {seed} {plan.arm} {rate:g} {steps}",
        run_of(at.setting(), plan, rate, steps),
        slot,
        at.rows_of(plan.arm, slot, seed),
        steps,
        at.stage.caption_dropout if is_told else 0.0,
        is_told,
        start,
    )


def train(at: Opened, seed: int, arm: str, slot: str) -> Values:
    """Trains one network of an arm and keeps its averaged weights."""
    plan, rate = at.plan(arm), at.rate(arm)
    lesson = _lesson(at, plan, seed, slot, rate, plan.steps)
    learner, last = learn(lesson, at.material)
    keep(learner, at.place.weights(seed, arm, slot))
    found = {
        "plan": plan.describe(),
        "rate": rate,
        "last_train_loss": last,
        "clips_to_train_on": len(lesson.rows),
        "passes": learner.clips / len(lesson.rows),
    }
    if slot == ROUTER:
        return found
    losses = held_out_losses(learner, at.material, at.validation_rows, lesson.is_told)
    clusters = at.made.cluster[at.validation_rows]
    by_cluster = [losses[clusters == k] for k in range(at.made.about.clusters)]
    found["validation_loss"] = float(losses.mean())
    found["validation_loss_by_cluster"] = [float(some.mean()) if len(some) else None for some in by_cluster]
    return found


def try_guidance(at: Opened, arm: str, guidance: float) -> Values:
    """Measures how near an arm's clips for validation captions are to validation clips through the codec."""
    rows = at.validation_rows[: at.stage.trial_samples]
    seed, way = at.stage.seeds[0], at.stage.main_way(arm)
    made = look_at(sampled(at, way, seed, guidance, rows, "guidance"), at.codec, at.looking)
    real = at.judge.real("validation")
    found = {}
    for name, features in made.items():
        count = min(TRIAL_COMPONENTS, features.shape[1])
        project = joint_components(real[name], features, count)
        found[name] = frechet_distance(project(real[name]), project(features))
    return {"distances": found, "mean_log": float(np.mean(np.log([*found.values()])))}


@torch.no_grad()
def sampled(at: Opened, way: Way, seed: int, guidance: float, rows: Tensor, draws: str) -> Tensor:
    """Returns latents [N C T H W] made for the captions of rows; noise depends on the seed and row alone."""
    arm, device = at.arm(way.arm, seed), at.device.torch
    rng = rng_at("cpu", at.stage.name, seed, draws)
    noise = torch.randn(len(rows), *at.material.latents.shape[1:], generator=rng)
    uniforms = torch.rand(len(rows), generator=rng, dtype=torch.float64)
    made = []
    for start in range(0, len(rows), at.stage.sampling_batch):
        part = slice(start, start + at.stage.sampling_batch)
        condition = at.material.condition(rows[part].to(device))
        flow = arm.flow(way, guidance, condition, uniforms[part].to(device))
        made.append(sample(flow, noise[part].to(device), time_grid(at.stage.sampling_steps)).cpu())
    latents = torch.cat(made)
    if not bool(latents.isfinite().all()):
        raise DataError(f"{way.title} at guidance {guidance:g} gave values that are not finite")
    return latents


def sample_way(at: Opened, seed: int, title: str, guidance: float) -> Values:
    """Makes a way's clips for the test captions and judges them."""
    way = at.stage.way(title, guidance)
    used = guidance or at.guidance(way.arm)
    rows = at.judge.test_rows[: at.stage.samples]
    latents = sampled(at, way, seed, used, torch.from_numpy(rows), "test")
    if seed == at.stage.seeds[0]:
        _show(at, latents, picture_name(title, guidance))
    features = look_at(latents, at.codec, at.looking)
    return {"guidance": used, "clips": len(rows), **at.judge.judged(features, rows)}


def floors(at: Opened, seed: int = 0) -> Values:
    """Measures what real clips reach, and shows some through the codec."""
    rows = torch.from_numpy(at.judge.test_rows[: at.stage.samples])
    if seed in (0, at.stage.seeds[0]):
        _show(at, at.made.latents[rows].float(), f"{REAL}.png")
    again = look_at(at.made.latents[rows[:250]].float(), at.codec, at.looking)
    agreement = {}
    for name, kept in at.judge.real("codec").items():
        off = np.abs(again[name] - kept[: len(again[name])]).mean()
        agreement[name] = float(off / kept.std())
    return {**at.judge.floors(), "clips": len(rows), "looks_differ_by": agreement}


def losses(at: Opened, seed: int) -> Values:
    """Measures every arm's losses at set times on test clips, and how right the router is."""
    rows = torch.from_numpy(at.judge.test_rows[: at.stage.loss_samples])
    seen = Looked.at(at.material, rows)
    found = {
        f"{arm} {name}".strip(): each
        for arm in at.stage.arms
        for name, each in arm_losses(at.arm(arm, seed), seen).items()
    }
    return {"losses": summed_up(found), "router": router_numbers(at.router(seed), seen)}


def _show(at: Opened, latents: Tensor, name: str) -> None:
    """Keeps a picture of some clips, the same captions' for every way."""
    step = max(1, len(latents) // at.stage.pictures)
    pixels = at.codec.decode(latents[::step][: at.stage.pictures].float()).cpu().numpy()
    path = at.place.work / at.stage.name / PICTURES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_tiled(pixels)).save(path)


def _tiled(pixels: NDArray[np.uint8], columns: int = 8) -> NDArray[np.uint8]:
    """Lays clips [N T H W 3] out: pictures in rows of eight, clips one below the other with some frames."""
    count, frames = pixels.shape[:2]
    if frames > 1:
        taken = np.unique(np.linspace(0, frames - 1, SHOWN_FRAMES).round().astype(int))
        return np.concatenate([np.concatenate([*clip[taken]], 1) for clip in pixels[: 2 * columns]], 0)
    columns = min(columns, count)
    whole = pixels[: count // columns * columns, 0]
    return np.concatenate(
        [np.concatenate([*whole[row : row + columns]], 1) for row in range(0, len(whole), columns)], 0
    )


WORK: dict[str, Callable[..., Values]] = {
    "looked": looked,
    "pilot_rate": pilot_rate,
    "pilot": pilot,
    "rate": try_rate,
    "train": train,
    "guidance": try_guidance,
    "sample": sample_way,
    "floors": floors,
    "losses": losses,
}
