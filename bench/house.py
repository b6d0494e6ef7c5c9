"""Prints the table of the house, for one tree or for two side by side, from their sources alone.

    python -m bench.house .
    python -m bench.house ../before .

A room is a folder of paris_p2p. A function's lines go from `def` to its last statement, parameters leave out
self and cls. A field changes where a method other than __init__ assigns it. Tests wait for a clock in sleep:
each call is counted once, with its constant, however often it runs.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

MANY_LINES, MANY_PARAMETERS, LONG_FILE_LINES, WIDE_COLUMNS = 40, 6, 300, 110
STATEFUL = ("Outbox", "Lead", "Attestor", "Setback", "Volunteer")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """Holds one Python file, parsed."""

    path: Path  # in the tree
    text: str

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(ast.parse(self.text)))

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in self.nodes if isinstance(node, Function)]


@dataclass(frozen=True)
class Tree:
    """Holds one checkout."""

    root: Path

    @cached_property
    def files(self) -> list[Path]:
        """Returns what git keeps, in the tree's own paths."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=self.root, check=True, capture_output=True)
        names = listed.stdout.decode().split("\0")
        return [Path(name) for name in names if name and (self.root / name).is_file()]

    def _sources(self, folder: str) -> list[Source]:
        paths = (path for path in self.files if path.parts[0] == folder and path.suffix == ".py")
        return [Source(path, (self.root / path).read_text(encoding="utf-8")) for path in paths]

    @cached_property
    def package(self) -> list[Source]:
        return self._sources("paris_p2p")

    @cached_property
    def tests(self) -> list[Source]:
        return self._sources("tests")

    @cached_property
    def rooms(self) -> Counter[str]:
        """Counts the files of each room, without __init__.py."""
        named = (source.path for source in self.package if source.path.name != "__init__.py")
        return Counter(path.parts[1] + "/" if len(path.parts) > 2 else "(no room)" for path in named)

    @cached_property
    def functions(self) -> list[tuple[Source, Function]]:
        return [(source, function) for source in self.package for function in source.functions]

    def changing_fields(self, name: str) -> int | None:
        """Counts the fields of a class that change after it was made; None where no class has that name."""
        classes = (node for source in self.package for node in source.nodes if isinstance(node, ast.ClassDef))
        found = next((node for node in classes if node.name == name), None)
        return None if found is None else len(set(_assigned(found)))


def _assigned(of: ast.ClassDef) -> Iterator[str]:
    methods = (node for node in of.body if isinstance(node, Function) and node.name != "__init__")
    for node in (node for method in methods for node in ast.walk(method)):
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if stored and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def parameters(function: Function) -> int:
    known = function.args
    named = [*known.posonlyargs, *known.args, *known.kwonlyargs, known.vararg, known.kwarg]
    return sum(one is not None and one.arg not in ("self", "cls") for one in named)


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def sleeps(source: Source) -> Iterator[float]:
    """Yields the seconds of each sleep; those that are computed are left out."""
    calls = (node for node in source.nodes if isinstance(node, ast.Call) and node.args)
    asked = (call.args[0] for call in calls if _name(call.func) == "sleep")
    for first in asked:
        if isinstance(first, ast.Constant) and isinstance(first.value, int | float):
            yield float(first.value)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _longest(tree: Tree) -> str:
    source, function = max(tree.functions, key=lambda found: length(found[1]))
    return f"{length(function)}, {source.path.stem}.{function.name}"


def _most_parameters(tree: Tree, cli: bool) -> str:
    inside = [found for found in tree.functions if ("cli" in found[0].path.parts) == cli]
    source, function = max(inside, key=lambda found: parameters(found[1]))
    return f"{parameters(function)}, {source.path.stem}.{function.name}"


def _longest_file(tree: Tree) -> str:
    source = max(tree.package, key=lambda source: source.lines)
    return f"{source.lines}, {source.path.relative_to('paris_p2p')}"


def _largest(tree: Tree) -> str:
    outside = [path for path in tree.files if path.parts[:2] != ("docs", "pictures")]
    largest = max(outside, key=lambda path: (tree.root / path).stat().st_size)
    return f"{(tree.root / largest).stat().st_size / 1e3:,.0f} kB, {largest.name}"


def _tests(tree: Tree) -> int:
    return sum(function.name.startswith("test_") for source in tree.tests for function in source.functions)


def _count(tree: Tree, holds: Callable[[Function], bool]) -> int:
    return sum(holds(function) for _, function in tree.functions)


def _wide(tree: Tree) -> str:
    lines = [line for source in (*tree.package, *tree.tests) for line in source.text.splitlines()]
    return f"{sum(len(line) > WIDE_COLUMNS for line in lines) / max(1, len(lines)):.1%}"


ROWS: dict[str, Callable[[Tree], object]] = {
    "files of paris_p2p": lambda tree: len(tree.package),
    "lines of paris_p2p": lambda tree: f"{sum(source.lines for source in tree.package):,}",
    "rooms": lambda tree: sum(name.endswith("/") for name in tree.rooms),
    "most files in a room": lambda tree: "{1}, {0}".format(*tree.rooms.most_common(1)[0]),
    "longest file, lines": _longest_file,
    f"files over {LONG_FILE_LINES} lines": lambda tree: sum(
        source.lines > LONG_FILE_LINES for source in tree.package
    ),
    "longest function, lines": _longest,
    f"functions over {MANY_LINES} lines": lambda tree: _count(tree, lambda one: length(one) > MANY_LINES),
    "most parameters, commands": lambda tree: _most_parameters(tree, cli=True),
    "most parameters elsewhere": lambda tree: _most_parameters(tree, cli=False),
    f"functions of over {MANY_PARAMETERS} parameters": lambda tree: _count(
        tree, lambda one: parameters(one) > MANY_PARAMETERS
    ),
    f"lines over {WIDE_COLUMNS} columns, tests too": _wide,
    "test functions": lambda tree: f"{_tests(tree):,}",
    "tests' sleeps": lambda tree: sum(1 for source in tree.tests for _ in sleeps(source)),
    "tests' sleeps, seconds": lambda tree: f"{sum(sum(sleeps(source)) for source in tree.tests):.1f}",
    "repository, MB": lambda tree: (
        f"{sum((tree.root / path).stat().st_size for path in tree.files) / 1e6:.1f}"
    ),
    "largest file beside pictures": _largest,
}


def table(trees: list[Tree]) -> Table:
    """Returns a row for each figure, each stateful class and each room, with a column for each tree."""
    made = Table("", *(str(tree.root) for tree in trees), box=box.MARKDOWN)
    for name, figure in ROWS.items():
        made.add_row(name, *(str(figure(tree)) for tree in trees))
    for name in STATEFUL:
        counts = (tree.changing_fields(name) for tree in trees)
        made.add_row(f"changing fields of {name}", *("" if count is None else str(count) for count in counts))
    for room in sorted({room for tree in trees for room in tree.rooms}):
        made.add_row(f"files in {room}", *(str(tree.rooms[room] or "") for tree in trees))
    return made


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.house",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trees", nargs="+", type=Path, metavar="TREE", help="a checkout's folder")
    Console(width=200).print(table([Tree(path) for path in parser.parse_args(words).trees]))


if __name__ == "__main__":
    main()
