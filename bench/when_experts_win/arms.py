"""Trains every arm of a cell at equal operations: one model, told models, experts, random parts, large ones.

Experts make as many steps as one model, each with 1/K of its batch; the router's share of the operations
comes off their steps.
Legend: M rows, B images, S steps drawn at once, K clusters, N images to train on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.when_experts_win.digits import Digits, Parts, clusters, dealt_out, shares
from bench.when_experts_win.learning import Course, Fed, Feed, learn, rng_of
from bench.when_experts_win.networks import Pool, Shape
from bench.when_experts_win.settings import Cell, Stage


@dataclass(frozen=True)
class Partition:
    """Holds which image belongs to which cluster, and which part a random partition puts it in."""

    count: int
    labels: Tensor  # [N]
    held_out: Tensor  # of the images held out
    parts: Tensor  # [N]

    @classmethod
    def of(cls, count: int, seed: int) -> Partition:
        train, held_out = clusters(count)
        return cls(count, train, held_out, dealt_out(train, seed))

    @property
    def prior(self) -> Tensor:
        """Returns each cluster's share of the images to train on: [K]."""
        return shares(self.labels, self.count)


@dataclass
class Trained:
    """Holds the networks of a cell by arm, and what each arm cost."""

    partitions: Mapping[int, Partition]
    pools: dict[str, Pool] = field(default_factory=dict)  # one network, K, or one that is told
    routers: dict[int, Pool] = field(default_factory=dict)  # by K
    images: dict[str, int] = field(default_factory=dict)  # seen in all
    operations: dict[str, int] = field(default_factory=dict)


class Arms:
    """Trains the arms of one cell; `rates` has the rate of `monolith`, `experts-K` and `total-K`."""

    def __init__(self, stage: Stage, cell: Cell, digits: Digits, rates: Mapping[str, float]):
        self.stage, self.cell, self.digits, self.rates = stage, cell, digits, rates
        self.shape = Shape(cell.width, skip=stage.skip)
        self.partitions = {count: Partition.of(count, cell.seed) for count in stage.clusters}
        self.trained = Trained(self.partitions)

    def train(self) -> Trained:
        """Trains all arms."""
        self.one_model()
        for count in self.partitions:
            self.experts(count)
            self.total(count)
        return self.trained

    def one_model(self) -> None:
        """Trains the monolith and the models that are told the cluster, all on the same images."""
        told = Shape(self.cell.width, clusters=sum(self.partitions), skip=self.stage.skip)
        feed = self._same_images()
        rows = self._learn("one", told, 1 + len(self.partitions), self.cell.steps, feed, "monolith")
        self._keep("monolith", Pool(self.shape, _without(rows.row(0), "told")), self.stage.batch)
        first = 0
        for row, count in enumerate(self.partitions, 1):
            weights = rows.row(row)
            weights["told"] = weights["told"][:, first : first + count]
            shape = Shape(self.cell.width, clusters=count, skip=self.stage.skip)
            self._keep(f"told-{count}", Pool(shape, weights), self.stage.batch)
            first += count

    def experts(self, count: int) -> None:
        """Trains K experts on clusters, K on a random partition, and the router of the first."""
        batch, arm = self.stage.batch // count, f"experts-{count}"
        steps = round(self.cell.steps * (1 - self.stage.router_share))
        rows = self._learn(arm, self.shape, 2 * count, steps, self._parts(count, batch), arm)
        for name, part in (("experts", slice(0, count)), ("random", slice(count, None))):
            pool = Pool(self.shape, {k: weight[part] for k, weight in rows.weights.items()})
            self._keep(f"{name}-{count}", pool, batch * count, steps)
        shape = Shape(self.cell.width, outputs=count)
        few = round(self.stage.router_share * self.stage.batch * self.shape.flops / shape.flops)
        course = Course(1, self.cell.steps, self.stage.router_rate)
        rng = rng_of(self.cell.name, "router", count)
        self.trained.routers[count] = learn(shape, course, self._asked(count, few), self.stage, rng)
        self.trained.operations[arm] += few * shape.flops * self.cell.steps

    def total(self, count: int) -> None:
        """Trains one model of K experts' parameters, where it is not too large, with fewer images."""
        shape = larger(self.shape, count)
        if shape.parameters > self.stage.largest_total:
            return
        batch, arm = round(self.stage.batch * self.shape.flops / shape.flops), f"total-{count}"
        pool = self._learn(arm, shape, 1, self.cell.steps, self._images(batch), arm)
        self._keep(arm, pool, batch)

    def _learn(self, name: str, shape: Shape, rows: int, steps: int, feed: Feed, rate: str) -> Pool:
        course = Course(rows, steps, self.rates[rate])
        return learn(shape, course, feed, self.stage, rng_of(self.cell.name, name))

    def _keep(self, arm: str, pool: Pool, batch: int, steps: int | None = None) -> None:
        seen = batch * (self.cell.steps if steps is None else steps)
        self.trained.pools[arm], self.trained.images[arm] = pool, seen
        self.trained.operations[arm] = seen * pool.shape.flops

    def _images(self, batch: int) -> Feed:
        def feed(steps: int, rng: torch.Generator) -> Fed:
            return Fed(self.digits.any(steps * batch, rng)[0].view(steps, 1, batch, -1))

        return feed

    def _same_images(self) -> Feed:
        """Feeds the same images to all rows; the first is told nothing, each other one its own clusters."""
        batch = self.stage.batch

        def feed(steps: int, rng: torch.Generator) -> Fed:
            images, rows = self.digits.any(steps * batch, rng)
            told = torch.zeros(1 + len(self.partitions), len(rows), sum(self.partitions))
            first = 0
            for row, (count, partition) in enumerate(self.partitions.items(), 1):
                told[row, torch.arange(len(rows)), first + partition.labels[rows]] = 1
                first += count
            by_step = told.view(len(told), steps, batch, -1).transpose(0, 1).contiguous()
            return Fed(images.view(steps, 1, batch, -1), told=by_step)

        return feed

    def _parts(self, count: int, batch: int) -> Feed:
        """Feeds each expert images of its cluster, and each random expert images of its part."""
        partition = self.partitions[count]
        sources = [Parts(labels, count) for labels in (partition.labels, partition.parts)]

        def feed(steps: int, rng: torch.Generator) -> Fed:
            rows = torch.cat([source.rows(steps * batch, rng) for source in sources])  # M S·B
            images = self.digits.drawn(rows.flatten(), rng).view(len(rows), steps, batch, -1)
            return Fed(images.transpose(0, 1).contiguous())

        return feed

    def _asked(self, count: int, batch: int) -> Feed:
        labels = self.partitions[count].labels

        def feed(steps: int, rng: torch.Generator) -> Fed:
            images, rows = self.digits.any(steps * batch, rng)
            return Fed(images.view(steps, 1, batch, -1), asked=labels[rows].view(steps, 1, batch))

        return feed


def larger(shape: Shape, times: int) -> Shape:
    """Returns the shape whose parameters are nearest to `times` those of `shape`."""
    wanted = times * shape.parameters
    widths = range(shape.width, shape.width * times + 1)
    found = min(widths, key=lambda width: abs(Shape(width).parameters - wanted))
    return Shape(found, skip=shape.skip)


def _without(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: weight for key, weight in weights.items() if key != name}
