"""Every command of `paris` explains itself: help for each option, an example that is valid, its version."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from paris_p2p import __version__
from paris_p2p.cli import bootstrap, choices, paris, peer, run
from paris_p2p.cli.evaluate import EvaluateFlags
from paris_p2p.evaluation.gather import EvaluateOptions
from paris_p2p.flow.guidance import FORMS
from paris_p2p.flow.mixture import ROUTINGS
from paris_p2p.generation.generate import GenerateJob
from paris_p2p.generation.schedulers import SCHEDULERS
from paris_p2p.model.presets import EXPERT_PRESETS, MMDIT_PRESETS, ROUTER_PRESETS
from paris_p2p.preparation.networks import PrepareOptions
from paris_p2p.spec import GateSpec, TimingSpec, TrainingSpec

APPS = {"paris-peer": peer.app, "paris-run": run.app, "paris-bootstrap": bootstrap.app}


def commands(command: Any, *words: str) -> Iterator[tuple[str, Any]]:
    """Yields the name and the command of every verb beneath a command."""
    for name, one in getattr(command, "commands", {}).items():
        yield from commands(one, *words, name)
    if not getattr(command, "commands", {}):
        yield " ".join(words), command


VERBS = dict(commands(typer.main.get_command(paris.app), "paris"))
ALL = pytest.mark.parametrize("name", VERBS)


def examples(command: Any) -> list[list[str]]:
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    return [shlex.split(line.partition(" > ")[0]) for line in lines if line.startswith("paris")]


def test_the_one_command_has_the_verbs_of_the_three() -> None:
    three = {
        f"paris {app.removeprefix('paris-')} {verb}"
        for app, typed in APPS.items()
        for verb, _ in commands(typer.main.get_command(typed))
    }
    rooms = {app.removeprefix("paris-") for app in APPS}
    own = {name for name in VERBS if name.split()[1] not in rooms}  # of none of the three
    assert set(VERBS) == three | own


@ALL
def test_every_option_and_argument_has_a_help_that_is_a_sentence(name: str) -> None:
    for parameter in VERBS[name].params:
        about = (parameter.help or "").partition(" \\[")[0]
        assert about, f"{name} {parameter.opts[0]} says nothing"
        assert about[-1] in ".…", f"{name} {parameter.opts[0]}: {about!r} does not end"
        assert not about.startswith(("Of ", "As of ")), f"{name} {parameter.opts[0]}: {about!r}"


@ALL
def test_every_command_says_what_it_does_and_gives_an_example_with_options_that_exist(name: str) -> None:
    command = VERBS[name]
    assert (command.help or "").strip()
    assert examples(command), f"{name} has no example"
    for words in examples(command):
        verbs = name.split()[2:]  # `say FOLDER pause` has a folder between them
        if verbs and f"paris-{name.split()[1]}" in APPS:
            assert words[0] == "paris-" + name.split()[1]
            assert [words[1], *words[3 : 2 + len(verbs)]] == verbs
        else:  # a command of the one command's own
            assert " ".join(words[: 2 + len(verbs)]) == name
            words = words[: words.index("--")] if "--" in words else words  # another command's follow
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert {word for word in words[2:] if word.startswith("-")} <= known
        assert len(" ".join(words)) <= 78, "it is broken at 80 columns"


@ALL
def test_help_fits_80_columns_and_nothing_is_cut(name: str) -> None:
    said = CliRunner().invoke(paris.app, [*name.split()[1:], "--help"], env={"COLUMNS": "80"})
    assert said.exit_code == 0
    assert all(len(line) <= 80 for line in said.output.splitlines())
    assert "\N{HORIZONTAL ELLIPSIS} │" not in said.output.replace("12D3Koo… │", "")


@pytest.mark.parametrize("words", [[], ["peer"], ["run"], ["bootstrap"]])
def test_every_command_says_its_version(words: list[str]) -> None:
    said = CliRunner().invoke(paris.app, [*words, "--version"])
    assert (said.exit_code, said.output.strip()) == (0, f"paris-p2p {__version__}")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("paris", "b"), "bootstrap"),
        (("paris", "peer", "st"), "start\nstatus\nstop"),
        (("paris-peer", "gen"), "generate"),
        (("paris-run", "create", "folder", "--expert", "mm"), "mmdit-nano\nmmdit-tiny\nmmdit-11b"),
        (("paris-peer", "start", "@invite", "--profile", "gpu-1"), "gpu-12gb\ngpu-16gb"),
        (("paris-run", "evaluate", "--spl"), "--split"),
    ],
)
def test_bash_completes_commands_options_and_values(typed: tuple[str, ...], offered: str) -> None:
    app = {"paris": paris.app, **APPS}[typed[0]]
    variable = f"_{typed[0].replace('-', '_').upper()}_COMPLETE"
    given = {"COMP_WORDS": " ".join(typed), "COMP_CWORD": str(len(typed) - 1), variable: "complete_bash"}
    said = CliRunner().invoke(app, [], prog_name=typed[0], env=given)
    assert said.output.strip() == offered


def test_the_completion_that_is_shown_is_bashs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    said = CliRunner().invoke(paris.app, ["--show-completion"], prog_name="paris")
    assert said.exit_code == 0
    assert "_PARIS_COMPLETE=complete_bash" in said.output
    done = subprocess.run(["bash", "-n"], input=said.output, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (choices.Optimizer, {*get_args(TrainingSpec.model_fields["optimizer"].annotation)}),
        (choices.EmaProfile, {*get_args(TrainingSpec.model_fields["ema_profile"].annotation)}),
        (choices.ExpertPreset, {*EXPERT_PRESETS, *MMDIT_PRESETS}),
        (choices.RouterPreset, {*ROUTER_PRESETS}),
        (choices.RoutingName, {*ROUTINGS} - {"oracle", "single"}),
        (choices.GuidanceForm, {*FORMS}),
        (choices.SchedulerName, {*SCHEDULERS}),
        (choices.HeldOut, {*get_args(EvaluateOptions.model_fields["split"].annotation)}),
    ],
    ids=[
        "optimizers",
        "averages",
        "experts",
        "routers",
        "routings",
        "guidance forms",
        "schedulers",
        "splits",
    ],
)
def test_the_words_of_an_option_are_those_of_its_table_and_stand_in_its_help(
    words: Any, table: set[str]
) -> None:
    assert set(get_args(words)) == table
    option = [
        one
        for command in VERBS.values()
        for one in command.params
        if isinstance(one, typer.core.TyperOption) and one.type_descriptor.choices == get_args(words)
    ]
    assert option
    for one in option:
        assert all(word in one.help for word in table), one.opts


@pytest.mark.parametrize(
    ("flags", "model", "derived"),
    [
        (run.PrepareFlags, PrepareOptions, set()),
        (
            run.TrainingFlags,
            TrainingSpec,
            {"batch_clips", "learning_rate", "time_shift", "ddpm_experts", "full_checkpoints"},
        ),
        (run.GateFlags, GateSpec, {"open_run", "attestors"}),
        (run.TimingFlags, TimingSpec, set()),
        (peer.WishFlags, GenerateJob, {"clips", "guidance_interval"}),
        (EvaluateFlags, EvaluateOptions, {"features", "guidance_interval"}),
    ],
    ids=["prepare", "training", "gate", "timing", "generate", "evaluate"],
)
def test_an_option_has_the_default_of_the_field_that_it_sets(
    flags: Any, model: Any, derived: set[str]
) -> None:
    for field in fields(flags):
        if field.name not in derived:
            assert field.default is not MISSING
            assert model.model_fields[field.name].default == field.default, field.name


def test_the_interval_of_guidance_is_typed_as_two_times_and_its_default_is_the_fields() -> None:
    assert EvaluateOptions(guidance_interval=EvaluateFlags.guidance_interval) == EvaluateOptions()
    assert EvaluateOptions(guidance_interval="0.2,0.8").guidance_interval == (0.2, 0.8)


@pytest.mark.parametrize("answer", ["y\n", "n\n", "\n", "\x04", "\x03"])
def test_join_is_asked_and_ctrl_c_leaves_at_once_with_a_sentence(answer: str) -> None:
    script = (
        "import asyncio, os, typer; from paris_p2p.cli.console import run_app\n"
        "from paris_p2p.cli.peer import _confirm\n"
        "os.open(os.ttyname(0), os.O_RDWR)  # a session's first terminal is the one whose Ctrl-C it hears\n"
        "def ask(): print('joined' if asyncio.run(_confirm('a run')) else 'no')\n"
        "app = typer.Typer(add_completion=False); app.command()(ask); run_app(app)"
    )
    ours, its = pty.openpty()
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True) as process:
        said = b""
        while b"Join? [y/N]: " not in said:
            said += os.read(ours, 1000)
        os.write(ours, answer.encode())
        status = process.wait()
    said = os.read(ours, 10_000)
    os.close(ours)
    os.close(its)
    if answer == "\x03":
        assert status == 130
        assert b"not joined; nothing was fetched but the run's description" in said
    else:
        assert status == 0
        assert (b"joined" in said) == (answer == "y\n")
