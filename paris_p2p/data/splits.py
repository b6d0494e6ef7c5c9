"""Makes four disjoint splits by source, from the hash of its content: pure, and the same on every machine.

A source is a video, an image, a scene of a long video, or what the owner named as one: its clips never part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field

from paris_p2p.errors import DataError

Split = Literal["train", "gate", "validation", "test"]
HELD_OUT: tuple[Split, ...] = ("test", "validation", "gate")  # the order in which they are filled
TRAIN: Split = "train"
MAX_HELD_OUT_SHARE = 3  # in small folders the held-out splits shrink to a third of the clips
LEAST_SOURCES = 4  # one for each split
LARGEST_SHARE = 4  # no whole source has more than a quarter of the clips
SOURCES_PER_EXPERT = 3  # in train and gate, where sources are split whole
EXPERTS_BY_CLIPS = ((10_000, 8), (3_000, 6), (800, 4), (200, 3), (30, 2), (0, 1))


class SplitOptions(BaseModel):
    """Sets the splits' shares of the clips.

    A split gets at least its minimum where that leaves two thirds to train on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate_share: float = Field(default=0.06, ge=0, le=0.3)
    validation_share: float = Field(default=0.04, ge=0, le=0.3)
    test_share: float = Field(default=0.1, ge=0, le=0.3)
    gate_min_clips: int = Field(default=8, ge=1)
    validation_min_clips: int = Field(default=2, ge=1)
    test_min_clips: int = Field(default=4, ge=1)


def experts_for(clips: int) -> int:
    """Returns how many experts so many clips carry, where the owner does not say."""
    return next(experts for least, experts in EXPERTS_BY_CLIPS if clips >= least)


def least_clips(experts: int) -> int:
    """Returns the fewest clips that K clusters need.

    Each cluster needs two clips to train on and one to check with; four more are for validation and test.
    """
    return 3 * experts + 4


def counted(count: int, one: str) -> str:
    """Returns `1 expert` or `2 experts`."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def check_enough(clips: int, sources: int, experts: int) -> None:
    """Raises DataError, with how many more are needed, when K experts cannot be made of so few clips."""
    least = least_clips(experts)
    if clips < least:
        can_do = clips >= least_clips(1) and experts > 1
        fewer = f", or ask for {counted((clips - 4) // 3, 'expert')}" if can_do else ""
        raise DataError(
            f"{clips} clips are too few for {counted(experts, 'expert')}: the least is {least} "
            f"(two each to train on, one each to check with, and four); give {least - clips} more{fewer}"
        )
    if sources < LEAST_SOURCES:
        raise DataError(
            f"{clips} clips of {sources} sources are too few: "
            "train, gate, validation and test need one of their own each; "
            f"give clips of {LEAST_SOURCES - sources} more, or, if you named the sources yourself, name more"
        )


def wanted_clips(total: int, options: SplitOptions) -> dict[Split, int]:
    """Returns how many clips each held-out split is to have."""
    wanted = {
        split: max(getattr(options, f"{split}_min_clips"), round(getattr(options, f"{split}_share") * total))
        for split in HELD_OUT
    }
    room, sought = total // MAX_HELD_OUT_SHARE, sum(wanted.values())
    if sought <= room:
        return wanted
    return {split: max(1, count * room // sought) for split, count in wanted.items()}


def rank_groups(groups: Sequence[str], rng_seed: int) -> list[str]:
    """Shuffles groups by name and seed alone: held-out splits take from the front."""
    return sorted(set(groups), key=lambda group: blake3(f"{rng_seed}/{group}".encode()).digest())


def assign_splits(
    ranked: Sequence[str], clips: Mapping[str, int], options: SplitOptions, train: Collection[str] = ()
) -> dict[str, Split]:
    """Returns group -> split, with those named `train` in train.

    DataError when too little is left to train on.
    """
    total = sum(clips[group] for group in ranked)
    wanted = wanted_clips(total, options)
    result: dict[str, Split] = dict.fromkeys((group for group in ranked if group in train), TRAIN)
    rest = [group for group in ranked if group not in train]
    for split in HELD_OUT:
        got = 0
        while got < wanted[split] and rest:
            # A source as large as all that is wanted is passed over for a smaller one.
            fitting = next((group for group in rest if clips[group] <= wanted[split]), None)
            group = fitting if fitting is not None else min(rest, key=lambda group: clips[group])
            rest.remove(group)
            result[group] = split
            got += clips[group]
    result.update(dict.fromkeys(rest, TRAIN))
    counts = Counter(result.values())
    left = sum(clips[group] for group, split in result.items() if split == TRAIN)
    if 4 * left < total or not all(counts[split] for split in (TRAIN, *HELD_OUT)):
        parts = ", ".join(
            f"{split} {sum(clips[g] for g, s in result.items() if s == split)}"
            for split in (TRAIN, *HELD_OUT)
        )
        raise DataError(
            f"{total} clips of {len(ranked)} sources cannot be split without parting one ({parts} clips): "
            "give clips of more sources, or, if you named the sources yourself, name smaller ones"
        )
    return result


def assign_added(
    ranked: Sequence[str],
    clips: Mapping[str, int],
    options: SplitOptions,
    known: Mapping[str, Split],
) -> dict[str, Split]:
    """Returns group -> split of clips that join a run, whose splits are there already: any may stay empty.

    Groups that the run knows stay in their split. The others fill the held-out splits up to the same shares
    as a run's, the gate first, while two thirds of the clips are left to train on.
    """
    result: dict[str, Split] = {group: known[group] for group in ranked if group in known}
    rest = [group for group in ranked if group not in known]
    total = sum(clips[group] for group in rest)
    wanted, got = 0.0, 0  # of the splits so far, together: what one gets too much the next gets less
    for split in reversed(HELD_OUT):
        wanted += getattr(options, f"{split}_share") * total
        for group in list(rest):
            if got < round(wanted) and MAX_HELD_OUT_SHARE * (got + clips[group]) <= total:
                rest.remove(group)
                result[group] = split
                got += clips[group]
    result.update(dict.fromkeys(rest, TRAIN))
    return result


def can_split(clips: Sequence[int], experts: int, options: SplitOptions) -> bool:
    """Says whether sources of so many clips each can be split whole and still teach and check K experts.

    At least half of the clips are then left to train on, train and gate have three sources for each expert,
    and no source has more than a quarter of all clips: what it shows would otherwise be in one split alone.
    """
    counts = {str(i): count for i, count in enumerate(clips) if count}
    total = sum(counts.values())
    if not counts or LARGEST_SHARE * max(counts.values()) > total:
        return False
    ranked = rank_groups(list(counts), 0)
    try:
        splits = assign_splits(ranked, counts, options, set(ranked[-max(1, len(ranked) // 4) :]))
    except DataError:
        return False
    left = sum(counts[group] for group, split in splits.items() if split == TRAIN)
    taught = sum(split in (TRAIN, "gate") for split in splits.values())
    return 2 * left >= total and taught >= SOURCES_PER_EXPERT * experts


def give_gate_clips(
    splits: Mapping[str, Split],
    ranked: Sequence[str],
    labels: Mapping[str, Mapping[int, int]],
    clusters: int,
    fitted: Collection[str],
) -> tuple[dict[str, Split], list[int]]:
    """Moves train groups to the gate until every cluster has a gate clip; returns clusters left without.

    `labels` says of each group how many of its clips are in which cluster. No cluster loses its last train
    clip. Groups that the codec was `fitted` on are moved last.
    """
    result = dict(splits)
    in_train: Counter[int] = Counter()
    in_gate: Counter[int] = Counter()
    for group, split in splits.items():
        for k, count in labels[group].items():
            (in_train if split == TRAIN else in_gate if split == "gate" else Counter())[k] += count
    lacking = []
    for k in range(clusters):
        if in_gate[k]:
            continue
        able = [
            group
            for group in ranked
            if result.get(group) == TRAIN
            and labels[group].get(k)
            and all(in_train[c] > n for c, n in labels[group].items() if n)
        ]
        if not able:
            lacking.append(k)
            continue
        moved = min(able, key=lambda group: (group in fitted, sum(labels[group].values())))
        result[moved] = "gate"
        for c, count in labels[moved].items():
            in_train[c] -= count
            in_gate[c] += count
    return result, lacking
