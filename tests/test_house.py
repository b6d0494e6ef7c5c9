"""The rules of CONTRIBUTING.md that no linter checks: names, words, line lengths, file sizes."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "paris_p2p"
MAX_COLUMNS = 110
MAX_FILE_BYTES = 300_000

# Public names that stand in several files, each with its reason.
SHARED_NAMES = {"main": "the entry point of a command or of a child process"}

# Words of another century, and of notes to oneself.
UNUSED_WORDS = re.compile(
    r"\b(whoever|whosoever|theirs|hath|thereof|therein|thereto|hither|whither|naught|nought|whereupon)\b"
    r"|\b(has|have|had) it not\b",
    re.IGNORECASE,
)
# Pages that are not in this repository, as comments would cite them: "DESIGN 3", "FACTS: …".
FOREIGN_PAGES = re.compile(
    r"\b(DESIGN|RECIPE|FACTS|FIELD|STYLE)\b(\.md|:|,? section|,? \d)|\bshared/[A-Z]+\.md"
)

# Written by hand nowhere: pinned by a hash, or made by a program.
NOT_WRAPPED = ("bench/ddm_vs_monolith/PROTOCOL.md", "bench/ddm_vs_monolith/results/")
# Made by hand where a file is replaced: everything else goes through `disk.replacing`.
HAND_MADE_REPLACEMENT = re.compile(r"\bos\.(replace|rename)\(|mkstemp|NamedTemporaryFile|\.tmp\b")
# Frames that come one by one are mapped into a file, which then gets its name.
REPLACED_BY_HAND = {"paris_p2p/generation/video_out.py": "os.replace("}


@cache
def tracked() -> tuple[str, ...]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return tuple(name for name in found.decode().split("\0") if name and (ROOT / name).is_file())


def python_files(*folders: str) -> Iterator[tuple[str, str]]:
    for name in tracked():
        if name.endswith(".py") and name.startswith(folders) and name != "tests/test_house.py":
            yield name, (ROOT / name).read_text(encoding="utf-8")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def in_several(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: places for name, places in found.items() if len(places) > 1}


def written_words(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of each string and comment: what a person reads, and no names."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.STRING, tokenize.COMMENT):
            continue
        text = re.sub(r"\{[^{}]*\}", "", token.string)  # what stands in an f-string's braces is code
        if not text.strip("\"'").isidentifier():
            yield token.start[0], text


@cache
def all_words() -> tuple[tuple[str, int, str], ...]:
    """Returns (file, line, text) of all that is written in code."""
    return tuple(
        (name, line, text)
        for name, source in python_files("paris_p2p/", "bench/", "examples/", "tests/")
        for line, text in written_words(source)
    )


def test_no_file_of_one_room_has_the_name_of_another_rooms() -> None:
    found = defaultdict(list)
    for path in modules():
        if path.name != "__init__.py":
            found[path.name].append(str(path.relative_to(PACKAGE)))
    assert in_several(found) == {}


def public_names(module: ast.Module) -> Iterator[str]:
    """Yields the names of a module's classes, functions and types (`Frames = NDArray[…]`)."""
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [each.id for each in node.targets if isinstance(each, ast.Name)]
            names = [name for name in names if re.fullmatch("[A-Z]+[a-z][A-Za-z]*", name)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def test_no_public_class_function_or_type_has_the_name_of_another() -> None:
    found = defaultdict(list)
    for path in modules():
        for name in public_names(ast.parse(path.read_text(encoding="utf-8"))):
            found[name].append(str(path.relative_to(PACKAGE)))
    several = in_several(found)
    assert {name: places for name, places in several.items() if name not in SHARED_NAMES} == {}
    assert set(SHARED_NAMES) <= set(several)  # no reason without its name


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph("paris_p2p", cache_dir=None)
    imported_by = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    circles = [
        (name, other)
        for name in sorted(graph.modules)
        for other in sorted(imported_by[name])
        if name in graph.find_upstream_modules(other)
    ]
    assert circles == []


def is_wrapped(name: str) -> bool:
    kind = name.endswith((".md", ".sh", ".toml", ".cff")) or name.startswith(("scripts/", ".ci/"))
    return kind and not name.endswith(".py") and not name.startswith(NOT_WRAPPED)


def prose(name: str, lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file; of a page without its code, tables, pictures and long links."""
    in_code = False
    for number, line in enumerate(lines, 1):
        if name.endswith(".md"):
            in_code ^= line.lstrip().startswith("```")
            if in_code or re.match(r"\s*\||!\[|    ", line) or max(map(len, line.split()), default=0) > 80:
                continue
        yield number, line


def test_pages_settings_and_scripts_have_at_most_110_columns() -> None:
    """Of Python, ruff's E501 says so."""
    long = [
        f"{name}:{number}: {len(line)}"
        for name in tracked()
        if is_wrapped(name)
        for number, line in prose(name, (ROOT / name).read_text(encoding="utf-8").splitlines())
        if len(line) > MAX_COLUMNS
    ]
    assert long == []


def cited(text: str) -> str | None:
    found = FOREIGN_PAGES.search(text)
    return found and found.group()


def unused(text: str) -> str | None:
    found = UNUSED_WORDS.search(text)
    return found and found.group()


@pytest.mark.parametrize("refused", [unused, cited], ids=["words nobody uses", "pages not here"])
def test_code_reads_as_plain_english_and_cites_only_what_is_here(
    refused: Callable[[str], str | None],
) -> None:
    found = [
        f"{name}:{line}: {word}" for name, line, text in all_words() if (word := refused(text)) is not None
    ]
    assert found == []


@pytest.mark.parametrize("text", ["whoever asks", "peer x has it not", "# Theirs"])
def test_a_word_that_nobody_uses_is_found(text: str) -> None:
    assert unused(text)


@pytest.mark.parametrize("text", ["(FACTS: p2pd)", "DESIGN 3", "see DESIGN.md", "RECIPE, section 2"])
def test_a_page_that_is_not_here_is_found(text: str) -> None:
    assert cited(text)


def test_a_functions_docstring_says_what_it_does() -> None:
    """Commands' are help texts, which tell their reader what to do instead."""
    silent = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = (
                ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
            )
            verb = said.split()[0].strip("`:,;") if said else "Says"
            if not (verb.endswith("s") or verb == "Whether") and path.parent.name != "cli":
                silent.append((path.name, verb))
    assert not silent


def test_files_are_replaced_by_one_function() -> None:
    found = [
        f"{name}: {match.group()}"
        for name, source in python_files("paris_p2p/", "bench/", "examples/")
        if name != "paris_p2p/disk.py"
        for match in HAND_MADE_REPLACEMENT.finditer(source)
        if match.group() != REPLACED_BY_HAND.get(name)
    ]
    assert found == []


def test_bytes_that_come_in_pieces_are_not_joined_anew_with_each() -> None:
    found = []
    for name, source in python_files("paris_p2p/"):
        for function in ast.walk(ast.parse(source)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            inside = list(ast.walk(function))
            empty = {
                target.id
                for node in inside
                if isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Constant)
                and node.value.value in (b"", "")
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            found += [
                f"{name}:{more.lineno}: {more.target.id}"
                for loop in inside
                if isinstance(loop, ast.For | ast.AsyncFor | ast.While)
                for more in ast.walk(loop)
                if isinstance(more, ast.AugAssign)
                and isinstance(more.target, ast.Name)
                and more.target.id in empty
            ]
    assert found == []  # a bytearray grows in place, and "".join takes all at once


def test_no_file_in_git_is_large_but_for_pictures() -> None:
    large = {
        name: size
        for name in tracked()
        if not name.startswith("docs/pictures/") and (size := (ROOT / name).stat().st_size) > MAX_FILE_BYTES
    }
    assert large == {}  # results that can be made again are fetched: bench/ddm_vs_monolith/README.md
