"""The bytes of each day, kept over restarts in the data directory, so that budgets last as they say."""

from __future__ import annotations

import json
import logging
from datetime import date
from pathlib import Path

from paris_p2p.disk import write_atomic
from paris_p2p.rules.traffic import Traffic

log = logging.getLogger(__name__)
TRAFFIC_FILE = "traffic.json"
_VERSION = 1
_MAX_FILE_BYTES = 1 << 16
_WRITE_EVERY_S = 30.0
_WRITE_EVERY_BYTES = 64_000_000


class TrafficBook:
    """Counts what a swarm's counters grow by; written every half minute or 64 MB, and when it is closed."""

    def __init__(self, data_dir: Path):
        self.path = data_dir / TRAFFIC_FILE
        self.traffic = _read(self.path)
        self._counted = (0, 0)  # of the swarm's counters, which begin at 0
        self._unwritten_bytes, self._written_s = 0, 0.0

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
        try:
            write_atomic(self.path, json.dumps({"version": _VERSION, "days": days}), durable=False)
            self._unwritten_bytes = 0
        except OSError as error:
            log.warning("cannot write %s: %s; budgets count on from memory", self.path, error.strerror)


def _read(path: Path) -> Traffic:
    """Returns what was counted before; nothing where the file is absent or damaged, which is said."""
    try:
        with path.open("rb") as file:
            kept = json.loads(file.read(_MAX_FILE_BYTES))
        counts = {
            date.fromisoformat(day): (max(0, int(up)), max(0, int(down)))
            for day, (up, down) in kept["days"].items()
        }
    except FileNotFoundError:
        return Traffic()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s); budgets begin anew", path, error)
        return Traffic()
    return Traffic(counts)
