"""How a command becomes one of typer's: its groups of options are spread out, and it gets examples, --verbose
and --log-file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from paris_p2p import __version__
from paris_p2p.cli.logs import LogFlags, logging_as
from paris_p2p.shown import put


class _Command(TyperCommand):
    """Shows flags without a type: typer 0.29 writes `<bool>` beside each, as if they took a word."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class _Group(TyperGroup):
    """Shows flags as `_Command` does."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class FolderGroup(_Group):
    """Has a folder before its verbs, `say FOLDER pause`; the help of a verb needs none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first, rest = args[:1], args[1:]
        if first and first[0] in self.commands:
            if not {"--help", "-h"} & set(rest):
                ctx.fail(f"the folder comes first: {ctx.command_path} FOLDER {first[0]}")
            args = [".", *args]
        elif rest and rest[0].startswith("-") and not first[0].startswith("-"):
            args = [*rest, *first]  # options after the folder, and no verb
        return super().parse_args(ctx, args)


def _without_types(parameters: list[Any]) -> list[Any]:
    for one in parameters:
        if getattr(one, "is_flag", False) and one.metavar is None:
            one.metavar = ""
    return parameters


def new_app(name: str, about: str) -> typer.Typer:
    """Returns an application that knows its version and completes in the shell."""
    app = typer.Typer(name=name, help=about, cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_top)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        put(f"paris-p2p {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    pass


def verb(app: typer.Typer, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a command to the app, named as the function is without `_command`, with - for _; the function
    stays as it is.

    A parameter whose type is a dataclass stands for the options that the dataclass's fields describe.
    """
    epilog = epilog_of(*examples)

    def add(function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__.removesuffix("_command").replace("_", "-")
        app.command(name, cls=_Command, epilog=epilog)(_with_log_flags(spread_groups(function)))
        return function

    return add


def epilog_of(*examples: str) -> str:
    """Returns what stands at the end of a command's help."""
    heading = "Example:" if len(examples) == 1 else "Examples:"
    return "\n\n".join((heading, *(f"  {example}" for example in examples)))


def spread_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Returns the function with the fields of its groups as parameters, from which typer makes options."""
    own = inspect.signature(function, eval_str=True).parameters.values()
    groups: dict[str, Any] = {one.name: one.annotation for one in own if is_dataclass(one.annotation)}

    @wraps(function)
    def run(**values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**values, **made)

    return _signed(run, [part for one in own for part in _parts(one)])


def _with_log_flags(function: Callable[..., None]) -> Callable[..., None]:
    more = list(_parts(Parameter("log", Parameter.KEYWORD_ONLY, annotation=LogFlags)))

    @wraps(function)
    def run(**values: Any) -> None:
        log = LogFlags(**{part.name: values.pop(part.name) for part in more})
        with logging_as(log):
            function(**values)

    return _signed(run, [*inspect.signature(function).parameters.values(), *more])


def _parts(parameter: Parameter) -> Iterator[Parameter]:
    """Yields the parameters that stand for one: the fields of a group, or the parameter itself."""
    group = parameter.annotation
    if not is_dataclass(group):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])


def _signed(function: Callable[..., None], parameters: list[Parameter]) -> Callable[..., None]:
    """Gives a function a signature that typer reads."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    return function
