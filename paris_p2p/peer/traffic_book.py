"""The bytes of each day, kept over restarts in the data directory, so that budgets last as they say."""

from __future__ import annotations

import json
import logging
from datetime import date, tzinfo
from pathlib import Path

from paris_p2p.disk import write_atomic
from paris_p2p.rules.traffic import Traffic, days_set
from paris_p2p.rules.wake import Clocks

log = logging.getLogger(__name__)
TRAFFIC_FILE = "traffic.json"
_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
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
        or since the book was written under the same start of the machine: a clock that is set forward opens
        no budget, and none that is set back fills or forgets one.
        """
        before, self._clocks = self._clocks, clocks
        by_days = days_set(before, clocks, zone) if before is not None else 0
        if by_days:
            log.warning("the clock was set by %d days; what was sent and fetched moves with it", by_days)
            self.traffic = self.traffic.redated(by_days)
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
            kept["clocks"] = [boot_id(), self._clocks.boot_s, self._clocks.wall_s]
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


def _read(path: Path) -> tuple[Traffic, Clocks | None]:
    """Returns what was counted before, and the clocks when it was written, if the machine did not start
    since; nothing where the file is absent or damaged, which is said.
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
    return Traffic(counts), _clocks_in(kept.get("clocks"))


def _clocks_in(kept: object) -> Clocks | None:
    if not isinstance(kept, list) or len(kept) != 3 or not kept[0] or kept[0] != boot_id():
        return None
    try:
        return Clocks(float(kept[1]), float(kept[2]))
    except (TypeError, ValueError):
        return None
