"""The observer: it has every wire, the friend's disk and the memory of the friend's node, and finds nothing.

Its search is tested first on what does hold the secrets: the run's own folder, where all of them must be
found. What a node of this program has in its memory before it heard of any run (the word "router", say, which
stands in its code) says nothing of this run; it is told, and passed over in that memory alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from examples.demo.processes import Node
from examples.little_internet import Machine, Office
from examples.studio.capture import streams
from examples.studio.data import NAME, PURPOSE
from examples.studio.memory import family, memory_of
from examples.studio.needles import Needle, Search, file_needles, number_needle, text_needle
from paris_p2p.spec import RunSpec


@dataclass
class Verdict:
    """Says what was searched and what was found there."""

    searched: dict[str, int] = field(default_factory=dict)  # bytes, by place
    found: dict[str, list[str]] = field(default_factory=dict)  # by place
    passed_over: list[str] = field(default_factory=list)  # words that stand in the program itself
    dropped_packets: int = 0

    @property
    def leaks(self) -> list[str]:
        return [f"{place}: {name}" for place, names in self.found.items() for name in names]


@dataclass
class Observer:
    """Captures into `folder`; `secret` is the run's folder, from which it learns what to look for."""

    folder: Path
    secret: Path
    _taps: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _idle: list[bytes] = field(default_factory=list)

    def listen(self, office: Office, friend: Machine) -> None:
        """Begins to capture every link: each desk's, the office router's outer side, and the friend's."""
        self.folder.mkdir(parents=True)
        places = [(f"desk {number}", machine, "lan") for number, machine in enumerate(office.machines)]
        for name, machine, interface in [
            *places,
            ("router", office.router, "wan"),
            ("friend", friend, "wan"),
        ]:
            command = (sys.executable, "-m", "examples.studio.capture", interface, str(self._file(name)))
            self._taps[name] = subprocess.Popen(
                [*machine.prefix, *command], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
            )

    def note_idle(self, node: Node) -> None:
        """Keeps the memory of a node that has heard of no run yet."""
        self._idle = list(_memory(node))

    def look(self, storage: Node, spec: RunSpec, weights: Iterable[Path], losses: Iterable[float]) -> Verdict:
        """Ends the captures and searches all that was gathered."""
        verdict = Verdict()
        for tap in self._taps.values():
            tap.terminate()
            words, _ = tap.communicate(timeout=30)
            verdict.dropped_packets += int(words.rsplit(",", 1)[-1].split()[0])
        needles = [*self.needles(spec, weights, losses)]
        hunt = Search(needles)
        idle = {needle for piece in self._idle for needle in hunt.found_in(piece)}
        self._idle = []
        verdict.passed_over = sorted(needle.name for needle in idle)
        for name in self._taps:
            self._search(verdict, hunt, f"the link of {name}", streams(self._file(name)), set())
        self._search(verdict, hunt, "the friend's memory and DHT", _memory(storage), idle)
        storage.stop()  # its disk is read as it lies there; its memory was read before
        disk = (file.read_bytes() for file in _files(storage.data_dir))
        self._search(verdict, hunt, "the friend's disk", disk, set())
        return verdict

    def needles(self, spec: RunSpec, weights: Iterable[Path], losses: Iterable[float]) -> Iterator[Needle]:
        """Yields all that nobody outside may find."""
        yield text_needle("name", NAME)
        yield text_needle("purpose", PURPOSE)
        for slot in spec.slots:
            yield text_needle("slot", slot)
        for path in sorted((self.secret / "captions").glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                yield text_needle("caption", json.loads(line)["caption"])
        for path in sorted((self.secret / "shards").rglob("*.tar")):
            yield from file_needles("latents", path)
        for path in weights:
            yield from file_needles("weights", path)
        for loss in losses:
            yield number_needle("loss", loss)

    def blind_spots(self, spec: RunSpec, weights: Iterable[Path], losses: Iterable[float]) -> Counter[str]:
        """Returns, by kind, which needles the search does not find where they are in clear."""
        weights = list(weights)
        needles = [*self.needles(spec, weights, losses)]
        hunt, found = Search(needles), set[Needle]()
        for path in [*_files(self.secret / "captions"), *_files(self.secret / "shards"), *weights]:
            found |= hunt.found_in(path.read_bytes())
        kinds = ("caption", "latents", "weights")
        # Two needles may be of the same bytes, of which the search knows one.
        seen = {needle for needle in needles if any(hunt.by_form.get(form) in found for form in needle.forms)}
        return Counter(needle.kind for needle in needles if needle.kind in kinds and needle not in seen)

    def _search(
        self, verdict: Verdict, hunt: Search, place: str, haystacks: Iterable[bytes], known: set[Needle]
    ) -> None:
        found, size_bytes = set[Needle](), 0
        for haystack in haystacks:
            found |= hunt.found_in(haystack)
            size_bytes += len(haystack)
        verdict.searched[place] = size_bytes
        verdict.found[place] = sorted(f"{needle.kind} {needle.name!r}" for needle in found - known)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.packets"


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _memory(node: Node) -> Iterator[bytes]:
    if node.process is not None:
        for pid in family(node.process.pid):
            yield from memory_of(pid)
