"""Which versions of this program the peers of a run say they have, and whether this one is behind.

A version travels as one number, 10,000 of the major, 100 of the minor and 1 of the patch: a presence has 256
bytes at most. Anybody may say any number, so that one peer alone is told and not believed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

MAX_NUMBER = (1 << 16) - 1
ENOUGH = 2  # peers that say a newer version, for this one to be behind; or the owner's node alone
_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,2})(?:\.([0-9]{1,2}))?(?![0-9])")


def version_number(text: str) -> int:
    """Returns a version as the number that travels; 0 where it does not fit into one."""
    match = _VERSION.match(text)
    if match is None:
        return 0
    major, minor, patch = (int(part or 0) for part in match.groups())
    number = major * 10_000 + minor * 100 + patch
    return number if number <= MAX_NUMBER else 0


def version_words(number: int) -> str:
    """Returns the version that a number stands for."""
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


@dataclass(frozen=True)
class Versions:
    """Counts what others say; `newer` is the newest that enough of them have, 0 for none above ours."""

    own: int
    told: Mapping[int, int]  # version -> peers
    silent: int  # peers that say none: older ones
    newer: int = 0

    @property
    def is_behind(self) -> bool:
        return self.newer > self.own

    def lines(self) -> list[str]:
        """Returns the comparison in words."""
        told = [
            f"{count} peer{'s' * (count != 1)}: {version_words(number)}"
            for number, count in self.told.items()
        ]
        silent = [f"{self.silent} tell none, as older ones do"] if self.silent else []
        verdict = "nobody tells a version" if not self.told else "this one is not behind"
        if self.is_behind:
            verdict = (
                f"this one is behind: {version_words(self.newer)} is in use; update it as it was installed, "
                "from its owner or its repository, and no other place"
            )
        return [f"this machine: {version_words(self.own)}", *told, *silent, verdict]


def compare_versions(own: int, told: Mapping[str, int], owner_node: str) -> Versions:
    """Returns what follows from the versions that peers told, 0 of those that told none.

    This program is behind a version that the owner's node has, or ENOUGH peers together have at least.
    """
    counts = Counter(number for number in told.values() if number)
    believed = [own, told.get(owner_node, 0)]
    for number in sorted(counts, reverse=True):
        if sum(count for other, count in counts.items() if other >= number) >= ENOUGH:
            believed.append(number)
            break
    newest = max(believed)
    silent = sum(1 for number in told.values() if not number)
    return Versions(own, dict(sorted(counts.items())), silent, newest if newest > own else 0)
