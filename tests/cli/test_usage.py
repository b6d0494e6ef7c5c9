"""A usage mistake ends every command with status 2, whichever option or argument it is in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from paris_p2p.bootstrap.config import ServeOptions
from paris_p2p.cli import paris
from paris_p2p.cli.owner_key import PASSPHRASE_VARIABLE
from paris_p2p.device import NO_BFLOAT16
from paris_p2p.errors import UsageError
from paris_p2p.identity import Identity
from paris_p2p.option_sources import FetchOptions, variable_of
from paris_p2p.peer.settings import PublishOptions, StartOptions

RUN = "ab" * 32
VARIABLE = re.compile(r"PARIS_[A-Z0-9_]+")
ID = Identity.generate().peer_id
PEER = f"/ip4/127.0.0.1/tcp/9/p2p/{ID}"
INVITE = f"paris:{RUN}?peer={PEER}"

# What each command is called with when nothing is wrong yet; two words stand for folders that are there.
RIGHT = {
    "peer start": [INVITE, "--yes", "--dry-run"],
    "peer fetch": [INVITE],
    "peer generate": ["a ball", INVITE],
    "run prepare": ["FOLDER", "--out", "made"],
    "run create": ["FOLDER"],
    "run publish": ["CREATED"],
    "run export": [INVITE, "--out", "model"],
    "run evaluate": ["FOLDER", "--data", "FOLDER", "--out", "report"],
    "bootstrap check": [PEER],
    "service install": ["bootstrap", "--dry-run"],
    "service uninstall": ["bootstrap"],
    "service status": ["bootstrap"],
    "service logs": ["bootstrap"],
    "update-check": [INVITE],
    "run state": ["CREATED"],
    "run history": ["CREATED"],
    "run receipts": ["CREATED"],
    "run invite": ["CREATED"],
    "run requests": ["CREATED"],
    "run say admit": ["CREATED", ID, "--for", "train", "--dry-run"],
    "run say revoke": ["CREATED", ID, "--dry-run"],
    "run say revoke-card": ["CREATED", "expert-0", "ab" * 32, "--seq", "1", "--floor", "2", "--dry-run"],
    "run say pause": ["CREATED", "--dry-run"],
    "run say resume": ["CREATED", "--dry-run"],
    "run say end": ["CREATED", "--dry-run"],
    "run say extend": ["CREATED", "--dry-run"],
    "run say add-clips": ["CREATED", "--dry-run"],
    "run say add-expert": ["CREATED", "--split", "expert-0", "--dry-run"],
    "run say drop-expert": ["CREATED", "expert-0", "--dry-run"],
    "dev-swarm": ["CREATED"],
}

# By what --help calls a value: one that can never be right; None where any text may be right.
WRONG = {
    "INVITE": "nonsense",
    "MULTIADDR": "somewhere",
    "SIZE": "lots",
    "RATE": "1,5MB",
    "SECONDS": "soon",
    "SHARE": "1.5.1",
    "SHIFT": "-1",
    "SCALE": "-1",
    "PIXELS": "2",
    "PORT": "99999",
    "N": "-3",
    "DEVICE": "abacus",
    "ADDRESS": "not an address",
    "RUN": "nonsense",
    "PRESET": "giant",
    "FORM": "strong",
    "HEX": "short",
    "CLIPS": "/nowhere",
    "ENCODER": None,
    "FOLDER": None,
    "FILE": None,
    "PATH": None,
    "NAME": None,
    "TEXT": None,
    "PEER": "me",
    "MODEL": None,
    "SLOT": None,
    "EXPERT": "router",
    "PROMPT... INVITE": None,
    "FOLDER|INVITE": None,
    "[FOLDER|INVITE]": None,
    "RIGHTS": "juggle",
    "DATE": "tomorrow",
    "SPAN": "soon",
    "CARD": None,
    "T": "1.5",
    "LOW,HIGH": "0.8,0.2",
    "[HOST:]PORT": "here",
    "URL": "ftp://192.0.2.1/",
    "KIND": "toaster",
    "[WORDS]...": None,
    "[KEY=VALUE]...": None,
    "HOURS": "late",
    "ZONE": "Mars/Base",
    "YES|NO": "perhaps",
    "DEGREES": "-5",
    "WATTS": "-5",
    "BUDGET": "lots",
}
EXACT = {  # where a name or a file is one of few, or must be there
    ("peer start", "--profile"): "gpu-9000",
    ("peer generate", "--routing"): "roulette",
    ("peer generate", "--scheduler"): "clock",
    ("peer generate", "--image"): "/nowhere.png",
    ("peer generate", "--prompts-file"): "/nowhere.txt",
    ("peer generate", "--out"): "clip.avi",
    ("run evaluate", "--routing"): "roulette",
    ("run evaluate", "--split"): "train",
    ("run evaluate", "--aesthetic"): "/nowhere",
    ("run evaluate", "--losses"): "/nowhere",
    ("run evaluate", "--data"): "/nowhere",
    ("run evaluate", "--baseline-data"): "/nowhere",
    ("run create", "--init-from"): "/nowhere",
    ("run create", "--data-licence"): "",
    ("run create", "--weights-licence"): "",
    ("bootstrap serve", "--config"): "/nowhere",
    ("peer start", "--config"): "/nowhere",
    ("doctor", "--config"): "/nowhere",
    ("doctor", "--profile"): "gpu-9000",
    ("run publish", "--config"): "/nowhere",
}


def verbs() -> Iterator[tuple[str, Any]]:
    for room, group in typer.main.get_command(paris.app).commands.items():  # type: ignore[attr-defined]
        if not hasattr(group, "commands"):
            yield room, group  # a command of its own
            continue
        for name, command in group.commands.items():
            yield from (
                (f"{room} {name} {one}".rstrip(), beneath)
                for one, beneath in getattr(command, "commands", {"": command}).items()
            )


def mistakes() -> Iterator[Any]:
    """Yields each command with each of its options given a value that is wrong."""
    for verb, command in verbs():
        for one in command.params:
            if one.param_type_name == "argument" or getattr(one, "is_flag", False):
                continue
            metavar = one.metavar or ("CHOICE" if one.type_descriptor.choices else "")
            wrong = EXACT.get((verb, one.opts[0]), WRONG.get(metavar))
            if wrong is not None:
                yield pytest.param(verb, one.opts[0], wrong, id=f"{verb} {one.opts[0]}")


def named(words: Sequence[str], prepared: Path) -> list[str]:
    folders = {"FOLDER": str(prepared), "CREATED": str(prepared.with_name("created"))}
    return [folders.get(word, word) for word in words]


def result_of(verb: str, *words: str, prepared: Path) -> Any:
    return CliRunner().invoke(paris.app, typed_as(verb, named((*RIGHT.get(verb, ()), *words), prepared)))


def typed_as(verb: str, words: Sequence[str]) -> list[str]:
    """Returns a whole command: `say` has its folder before the verb."""
    if " " not in verb:
        return [verb, *words]
    room, first, *more = verb.split()
    return [room, first, *words[:1], *more, *words[1:]] if more else [room, first, *words]


def status_of(result: Any) -> int:
    """Returns what `run_app` makes of it."""
    raised = result.exception
    return int(getattr(raised, "exit_code", result.exit_code)) if raised is not None else 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.made.made_prepared import make_run

    folder = tmp_path_factory.mktemp("made") / "run"
    make_run(folder)
    shutil.copytree(folder, folder.with_name("created"))
    (folder / "run.spec").unlink()
    return folder


def test_every_kind_of_value_is_in_the_table() -> None:
    kinds = {
        one.metavar
        for _, command in verbs()
        for one in command.params
        if one.metavar and not getattr(one, "is_flag", False)
    }
    assert kinds <= set(WRONG)
    options = {(verb, option) for verb, command in verbs() for one in command.params for option in one.opts}
    assert set(EXACT) <= options


@pytest.mark.parametrize(("verb", "option", "wrong"), list(mistakes()))
def test_a_wrong_value_of_any_option_is_a_usage_mistake(
    verb: str, option: str, wrong: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARIS_DATA_DIR", str(tmp_path / "home"))
    result = result_of(verb, option, wrong, prepared=prepared)
    assert status_of(result) == 2, (result.exception, result.output)
    said = str(result.exception) if isinstance(result.exception, UsageError) else result.output
    assert option.lstrip("-").replace("-", "") in said.replace("-", "") or wrong[:20] in said, said
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        pytest.param(verb, one.opts[0], id=f"{verb} {one.opts[0]}")
        for verb, command in verbs()
        for one in command.params
        if one.param_type_name == "option" and one.metavar in ("FILE", "FOLDER", "PATH")
    ],
)
def test_words_that_no_file_can_be_called_are_a_usage_mistake(
    verb: str, option: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ("", " ", "~nobody-of-this-name/x", "a" * 5000, "a\0b"):
        result = result_of(verb, option, words, prepared=prepared)
        assert status_of(result) == 2, (words[:30], result.exception, result.output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", [verb for verb, _ in verbs()])
@pytest.mark.parametrize("words", [["--no-such-option"], ["one", "word", "too", "many", "--no-such"]])
def test_an_unknown_option_or_word_is_a_usage_mistake(verb: str, words: list[str], prepared: Path) -> None:
    assert status_of(result_of(verb, *words, prepared=prepared)) == 2


@pytest.mark.parametrize("verb", sorted(RIGHT))
def test_a_missing_argument_is_a_usage_mistake(verb: str) -> None:
    assert status_of(CliRunner().invoke(paris.app, verb.split())) == 2


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        *((verb, "nonsense") for verb in ("peer start", "peer fetch", "run export", "bootstrap check")),
        *((verb, "paris:1234") for verb in ("peer start", "peer fetch", "run export")),
        *((verb, "/nowhere") for verb in ("run prepare", "run create", "run publish", "run evaluate")),
        *((verb, __file__) for verb in ("run prepare", "run create", "run publish", "run evaluate")),
        *((verb, str(Path(__file__).parent)) for verb in ("run create", "run publish", "run evaluate")),
    ],
)
def test_a_wrong_argument_is_a_usage_mistake(
    verb: str, argument: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = named(RIGHT[verb][1:], prepared)
    result = CliRunner().invoke(paris.app, [*verb.split(), argument, *more])
    assert status_of(result) == 2, (result.exception, result.output)


def test_the_documented_variables_are_those_that_are_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    documented = {
        word for line in text.splitlines() if line.startswith("|") for word in VARIABLE.findall(line)
    }
    read = {
        variable_of(name)
        for options in (StartOptions, PublishOptions, ServeOptions, FetchOptions)
        for name in options.model_fields
    }
    assert documented == read | {PASSPHRASE_VARIABLE, NO_BFLOAT16}
