"""What the documents say of the code is so: cited sections exist, quoted numbers are those of the code."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from paris_p2p.cli import bootstrap, peer, run

ROOT = Path(__file__).parents[1]
COMMANDS = {"paris-peer": peer.app, "paris-run": run.app, "paris-bootstrap": bootstrap.app}
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": 1, "min": 60, "h": 3600, "d": 86400}
_CITED = re.compile(r'((?:docs|peers|bootstrap)/[\w-]+\.md)(?:, "([^"]+)"(?: and "([^"]+)")?)?')
_CODE_ROW = re.compile(r"^\|[^|]+\| ([^|]+) \| `(paris_p2p(?:\.\w+)+)` \|$", re.MULTILINE)
_DEFAULT_ROW = re.compile(r"^\| (`--[^|]+`) \| ([^|]+) \|", re.MULTILINE)


def sources() -> list[Path]:
    """All files of ours that may cite a document."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name]
    paths = [ROOT / name for name in names] or [
        path for path in ROOT.rglob("*.py") if ".venv" not in path.parts
    ]
    kinds = (".py", ".sh", ".toml", ".service", ".yml", "")
    return [path for path in paths if path.is_file() and path.suffix in kinds and "results" not in path.parts]


def citations(text: str) -> Iterator[tuple[str, str]]:
    """(document, section or nothing) for each that a text cites, wherever its lines break."""
    flat = re.sub(r"\s*\n[ #*]*", " ", text)
    for match in _CITED.finditer(flat):
        sections = [section for section in match.groups()[1:] if section]
        for section in sections or [""]:
            yield match.group(1), section


def has_section(document: str, section: str) -> bool:
    """Whether a heading, or the bold beginning of a paragraph, is called so."""
    return bool(
        re.search(rf"^(?:#+ |\* \*\*|- \*\*|\*\*){re.escape(section)}(?:\.?\*\*|$)", document, re.MULTILINE)
    )


def number(text: str) -> float:
    """What a cell means: `1.5 MiB`, `2,048`, `3 s`."""
    digits, _, unit = text.strip().partition(" ")
    return float(digits.replace(",", "")) * UNITS[unit]


def test_cited_documents_and_sections_exist() -> None:
    missing = []
    for path in sources():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for document, section in citations(text):
            target = ROOT / document
            there = target.is_file() and (not section or has_section(target.read_text("utf-8"), section))
            if not there and path != Path(__file__):
                missing.append((str(path.relative_to(ROOT)), document, section))
    assert not missing


def test_a_section_that_is_not_there_is_noticed() -> None:
    cited = 'see docs/protocol.md, "Blobs"\n# and "No such" (docs/gone.md)'
    assert list(citations(cited)) == [
        ("docs/protocol.md", "Blobs"),
        ("docs/protocol.md", "No such"),
        ("docs/gone.md", ""),
    ]
    document = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    assert has_section(document, "Blobs")
    assert has_section(document, "Pace")
    assert not has_section(document, "No such")


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_numbers_that_name_their_place_are_the_codes(document: Path) -> None:
    for quoted, place in _CODE_ROW.findall(document.read_text("utf-8")):
        module, _, name = place.rpartition(".")
        assert number(quoted) == getattr(importlib.import_module(module), name), place


def test_the_protocol_names_its_numbers() -> None:
    assert len(_CODE_ROW.findall((ROOT / "docs" / "protocol.md").read_text("utf-8"))) >= 30


def defaults(command: str, verb: str) -> dict[str, object]:
    """Each option's default."""
    group = typer.main.get_command(COMMANDS[command])
    parameters = getattr(group, "commands")[verb].params  # noqa: B009
    return {option: parameter.default for parameter in parameters for option in parameter.opts}


def test_defaults_that_the_owners_pages_quote_are_the_commands() -> None:
    known = defaults("paris-run", "create")
    text = (ROOT / "docs" / "choosing.md").read_text("utf-8")
    table = text[text.index("| option | default |") :].split("\n\n")[0]
    rows = _DEFAULT_ROW.findall(table)
    assert len(rows) >= 12
    for names, cell in rows:
        options, values = re.findall(r"--[\w-]+", names), [value.strip() for value in cell.split(",")]
        assert len(options) == len(values), names
        for option, value in zip(options, values, strict=True):
            default = known[option]
            said = {"on": True, "off": False, "none": None}.get(value, value)
            same = (
                said == default
                if not isinstance(said, str)
                else str(getattr(default, "value", default)) == said
            )
            assert same or (isinstance(default, int | float) and float(value) == default), (
                option,
                value,
                default,
            )
