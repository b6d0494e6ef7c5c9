"""What the documents name is there: files behind links, headings behind anchors, commands and options in
shell blocks.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from paris_p2p.cli import bootstrap, paris, peer, run
from paris_p2p.cli.verb import FolderGroup

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    "paris": typer.main.get_command(paris.app),
    "paris-peer": typer.main.get_command(peer.app),
    "paris-run": typer.main.get_command(run.app),
    "paris-bootstrap": typer.main.get_command(bootstrap.app),
}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SHELL_BLOCK = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OTHER_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def links(text: str) -> Iterator[str]:
    """Relative link targets, outside code blocks."""
    for target in _LINK.findall(_OTHER_BLOCK.sub("", text)):
        if not re.match(r"[a-z]+:", target):
            yield target


def invocations(text: str) -> Iterator[list[str]]:
    """Our commands in the shell blocks of a document, each as its words."""
    for block in _SHELL_BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
            lexer.whitespace_split, lexer.commenters = True, "#"
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("|;&<>"):
                    if words and Path(words[0]).name in COMMANDS:
                        yield words
                    words = []
                else:
                    words.append(word)


def anchors(text: str) -> set[str]:
    """What a heading is called in a link."""
    headings = re.findall(r"^#+ (.+)$", _OTHER_BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def complaints(words: list[str]) -> list[str]:
    """Returns what a command line names that the command does not have."""
    command, said, rest = COMMANDS[Path(words[0]).name], [words[0]], words[1:]
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        if isinstance(command, FolderGroup) and not said[-1].endswith(" …"):  # its folder comes first
            said, rest = [*said[:-1], f"{said[-1]} …"], rest[1:]
            continue
        if rest[0] not in command.commands:
            return [f"{' '.join(said)} has no {rest[0]!r}"]
        command, said, rest = command.commands[rest[0]], [*said, rest[0]], rest[1:]
    known = {"--help"} | {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    rest = rest[: rest.index("--")] if "--" in rest else rest  # another command's follow
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    return [f"{' '.join(said)} has no {option}" for option in given if option not in known]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = []
    for target in links(text):
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shell_blocks_name_commands_and_options_that_exist(document: Path) -> None:
    wrong = [
        complaint
        for words in invocations(document.read_text(encoding="utf-8"))
        for complaint in complaints(words)
    ]
    assert not wrong


def test_a_wrong_command_line_is_noticed() -> None:
    lines = [
        'X=1; paris-peer start "paris:a?b&c" --no-such \\',
        "  --slot=a -y | tee log",
        ".venv/bin/paris-run tidy # paris-run x",
        "paris run tidy",
        "paris peer start x --no-such",
        "paris --version",
        "paris-run say my-run pause --reason night",
        "paris-run say my-run pause --until night",
        "paris-run say my-run sing",
    ]
    text = "\n".join(["```bash", "# paris-peer nothing", *lines, "```", ""])
    assert [complaint for words in invocations(text) for complaint in complaints(words)] == [
        "paris-peer start has no --no-such",
        ".venv/bin/paris-run has no 'tidy'",
        "paris run has no 'tidy'",
        "paris peer start has no --no-such",
        "paris-run say … pause has no --until",
        "paris-run say … has no 'sing'",
    ]


def test_the_quickstart_walks_through_every_step() -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    named = {(words[0], words[1]) for words in invocations(text)}
    assert named >= {
        ("paris-bootstrap", "serve"),
        ("paris-run", "prepare"),
        ("paris-run", "create"),
        ("paris-run", "publish"),
        ("paris-peer", "start"),
        ("paris-peer", "status"),
        ("paris-peer", "generate"),
        ("paris-run", "export"),
    }
