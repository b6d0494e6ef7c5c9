"""Keeps what a part found: a table for people, results.json for programs."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from paris_p2p.disk import write_atomic

Number = float | int | str | bool | None


class Finding(BaseModel):
    """Holds one measurement or check; `ok` is None where nothing is claimed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    what: str
    result: str
    ok: bool | None = None
    numbers: dict[str, Number] = {}

    def row(self) -> str:
        """Returns the finding as a line of a table."""
        verdict = {True: "ok", False: "OFF", None: "-"}[self.ok]
        return f"{verdict:<4} {self.part:<12} {self.what:<52} {self.result}"


_LIST: TypeAdapter[list[Finding]] = TypeAdapter(list[Finding])


class Findings:
    """Collects a part's findings, and has each on the disk as soon as it is there."""

    def __init__(self, part: str, path: Path):
        self.part, self.path = part, path
        self.all: list[Finding] = []

    def add(self, what: str, result: str, ok: bool | None = None, **numbers: Number) -> None:
        """Adds a finding and prints its row."""
        found = Finding(part=self.part, what=what, result=result, ok=ok, numbers=numbers)
        self.all.append(found)
        write_atomic(self.path, _LIST.dump_json(self.all, indent=1))
        print(found.row(), flush=True)

    @contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """Makes a finding of what raises inside, with its traceback, so that the part goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  what is broken is looked for
            traceback.print_exc()
            self.add(what, f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}", ok=False)


def read_findings(path: Path) -> list[Finding]:
    """Returns the findings of a file that a part wrote; none where it wrote none."""
    return _LIST.validate_json(path.read_bytes()) if path.exists() else []


def write_results(path: Path, about: dict[str, Number], findings: list[Finding]) -> None:
    """Writes results.json: what the machine is, and all findings."""
    whole = {"about": about, "findings": [found.model_dump() for found in findings]}
    write_atomic(path, json.dumps(whole, indent=1).encode())
