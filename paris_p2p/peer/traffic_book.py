"""The bytes of each day, kept over restarts in the data directory, so that budgets last as they say."""

from __future__ import annotations

import json
import logging
import math
from datetime import date, tzinfo
from pathlib import Path

from paris_p2p.disk import write_atomic
from paris_p2p.rules.traffic import BookClock, Traffic, clock_set, day_at
from paris_p2p.rules.wake import Clocks

log = logging.getLogger(__name__)
TRAFFIC_FILE = "traffic.json"
_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_THIS_PROCESS = "this process"  # where nothing names a start of the machine
_MAX_FILE_BYTES = 1 << 16
_WRITE_EVERY_S = 30.0
_WRITE_EVERY_BYTES = 64_000_000


class TrafficBook:
    """Counts what a swarm's counters grow by; written every half minute or 64 MB, and when it is closed."""

    def __init__(self, data_dir: Path):
        self.path = data_dir / TRAFFIC_FILE
        self.traffic, self._clocks = _read(self.path)
        self._counted = (0, 0)  # of the swarm's counters, which begin at 0
        self._unwritten_bytes, self._written_s = 0, 0.0

    def follow(self, clocks: Clocks, zone: tzinfo) -> None:
        """Moves what was counted to the days that the clock shows now, where it was set since the last look,
        or since the book was written: a clock that is set forward opens no budget, and none that is set back
        fills or forgets one (rules/traffic.py).
        """
        boot = boot_id() or _THIS_PROCESS
        if self._clocks is None:
            self._clocks = BookClock(boot, clocks)
            return
        self._clocks, was_set = clock_set(self._clocks, boot, clocks)
        days = [day_at(moment_s, zone) for moment_s in was_set or ()]
        if days and days[0] != days[1]:
            log.warning("the clock was set from %s to %s; what was sent and fetched moves with it", *days)
            self.traffic = self.traffic.redated(*days)
            self._unwritten_bytes += 1

    def count(self, today: date, uploaded_bytes: int, downloaded_bytes: int, now_s: float) -> None:
        """Counts what the swarm's counters say by now; `now_s` is monotonic."""
        before, self._counted = self._counted, (uploaded_bytes, downloaded_bytes)
        up, down = (max(0, now - then) for now, then in zip(self._counted, before, strict=True))
        self.traffic = self.traffic.with_more(today, up, down)
        self._unwritten_bytes += up + down
        is_due = now_s - self._written_s >= _WRITE_EVERY_S or self._unwritten_bytes >= _WRITE_EVERY_BYTES
        if self._unwritten_bytes and is_due:
            self._written_s = now_s
            self.write()

    def write(self) -> None:
        """Writes what was counted; a disk that refuses is told of in the log alone."""
        if not self._unwritten_bytes:
            return
        days = {day.isoformat(): list(count) for day, count in self.traffic.days.items()}
        kept: dict[str, object] = {"version": _VERSION, "days": days}
        if self._clocks is not None:
            clocks = self._clocks.clocks
            kept["clocks"] = [boot_id(), clocks.boot_s, clocks.wall_s]
            kept["behind"] = [self._clocks.behind_s, self._clocks.behind_since_s]
        try:
            write_atomic(self.path, json.dumps(kept), durable=False)
            self._unwritten_bytes = 0
        except OSError as error:
            log.warning("cannot write %s: %s; budgets count on from memory", self.path, error.strerror)


def boot_id() -> str:
    """Returns what names this start of the machine; empty where nothing does."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _read(path: Path) -> tuple[Traffic, BookClock | None]:
    """Returns what was counted before, and the clocks when it was written; nothing where the file is absent
    or damaged, which is said.
    """
    try:
        with path.open("rb") as file:
            kept = json.loads(file.read(_MAX_FILE_BYTES))
        counts = {
            date.fromisoformat(day): (max(0, int(up)), max(0, int(down)))
            for day, (up, down) in kept["days"].items()
        }
    except FileNotFoundError:
        return Traffic(), None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s); budgets begin anew", path, error)
        return Traffic(), None
    return Traffic(counts), _clocks_in(kept.get("clocks"), kept.get("behind"))


def _clocks_in(kept: object, behind: object) -> BookClock | None:
    """Returns the clocks as they were written; an older version wrote nothing of `behind`."""
    if not isinstance(kept, list) or len(kept) != 3 or not isinstance(kept[0], str):
        return None
    try:
        clocks = Clocks(float(kept[1]), float(kept[2]))
        behind_s, since_s = map(float, behind) if isinstance(behind, list) else (0.0, 0.0)
    except (TypeError, ValueError):
        return None
    if not all(map(math.isfinite, (clocks.boot_s, clocks.wall_s, behind_s, since_s))):
        return None
    return BookClock(kept[0], clocks, max(0.0, behind_s), since_s)
