"""Compares this machine's clock with other peers': hivemind's DHT refuses records of one that is off."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from paris_p2p.errors import ClockError
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks

_ASKED, _ENOUGH = 5, 3
_LIMIT_S = 10.0
MAX_CLOCK_OFFSET_S = 3.0  # hivemind's DHT refuses more


async def check_clock(peers: Sequence[str], offset_to: Callable[[str], Awaitable[float]]) -> None:
    """Raises ClockError when most of these peers' clocks are further from ours than the DHT accepts."""
    questions = {peer: partial(offset_to, peer) for peer in peers[:_ASKED]}
    enough = min(_ENOUGH, -(-len(questions) // 2))
    answers = await ask_side_by_side(questions, enough=enough, limit_s=_LIMIT_S, extra=1.0)
    await end_tasks(answers.late.values())
    offsets = list(answers.good.values())
    offset_s = statistics.median(offsets) if offsets else 0.0
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        raise ClockError(
            f"this machine's clock is {abs(offset_s):.1f} s {'behind' if offset_s > 0 else 'ahead of'} "
            f"that of {len(offsets)} peer{'s' * (len(offsets) != 1)}, "
            f"{MAX_CLOCK_OFFSET_S:.0f} s are the limit; "
            "set it (for example `timedatectl set-ntp true`) and start again"
        )
