"""Says in words what experts may be expected to be worth at a run's size (rules/expectation.py)."""

from __future__ import annotations

import math
from collections.abc import Callable

from paris_p2p.model.presets import count_parameters
from paris_p2p.rules.expectation import Expectation, RunSize, expectation
from paris_p2p.spec import RunSpec

_VERDICTS = {
    "pays": "They paid at a size like this: nearer to real clips than one model of the same compute.",
    "level": "Level at a size like this: as near to real clips as one model of the same compute, not nearer.",
    "loses": "They lost at a size like this: one model of the same compute came nearer to real clips.",
    "undecided": "Undecided at a size like this: measures disagree whether they or one model came nearer.",
}
_OWN_ANSWER = "Your own answer: one model (prepare --experts 1), as `evaluate --baseline`."


def worth_words(spec: RunSpec) -> str:
    """Returns two or three lines on whether this run's experts may be expected to be worth it; "" for one."""
    if spec.experts < 2:
        return ""
    found = expectation(size_of(spec))
    place, what = found.place, "images" if found.place.size.images else "clips"
    measured = (
        f"{place.name} ({place.size.clips:,} {what}, {place.size.passes:.0f} passes): one model's distance "
        f"over the experts' {place.found}."
    )
    if found.worth == "not known":
        return (
            f"are experts worth it? Nobody has measured a size like this. {_OWN_ANSWER}\n"
            f"the closest that was measured has {_apart(found)}: {measured}"
        )
    return (
        f"are experts worth it? {_VERDICTS[found.worth]}\n"
        f"measured: {measured}\nwhat changed it there: {place.changes}. {_OWN_ANSWER}"
    )


def size_of(spec: RunSpec) -> RunSize:
    """Returns a run's size as places have it."""
    clips = sum(shard.clips for shard in spec.train_shards)
    config = spec.expert.config
    sides = (config[name] for name in ("patch_frames", "patch_height", "patch_width"))
    patch = math.prod(int(side) for side in sides) * int(config["channels"])
    seen = spec.training.total_steps * spec.training.batch_clips * spec.experts
    return RunSize(
        images=spec.clip.frames == 1,
        experts=spec.experts,
        parameters=count_parameters(config),
        clips=clips,
        passes=seen / clips if clips else 0.0,
        narrow=int(config["width"]) < patch and not config.get("time_skip"),
    )


def _apart(found: Expectation) -> str:
    """Returns in what the closest place differs from the run."""
    return ", ".join(_WORDS[name](found.place.size, found.size) for name in found.differs)


def _more(theirs: float, mine: float, what: str) -> str:
    times = theirs / mine if theirs > mine else mine / theirs
    return f"{times:.2g} times {'as many' if theirs > mine else 'fewer'} {what}"


_WORDS: dict[str, Callable[[RunSize, RunSize], str]] = {
    "narrow": lambda theirs, mine: f"experts {'narrower' if theirs.narrow else 'wider'} than their patches",
    "experts": lambda theirs, mine: _more(theirs.experts, mine.experts, "experts"),
    "parameters": lambda theirs, mine: _more(theirs.parameters, mine.parameters, "parameters an expert"),
    "clips": lambda theirs, mine: _more(theirs.clips, mine.clips, "clips"),
    "passes": lambda theirs, mine: _more(theirs.passes, mine.passes, "passes over them"),
}
