"""A command's settings, by pydantic-settings: what was typed wins over the environment, that over a file,
that over a profile, that over the defaults (docs/commands.md).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from platformdirs import user_data_path
from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from paris_p2p.byte_size import Bytes
from paris_p2p.care_words import IdleSpan, hours_list
from paris_p2p.disk import named_path
from paris_p2p.errors import UsageError
from paris_p2p.invite import peer_address
from paris_p2p.peer_settings import MetricsAddress, PeerSettings, Webhook

ENV_PREFIX = "PARIS_"
INPUT_LETTERS = 100
_COLUMN = 40  # of sources in a --dry-run; a longer line, mostly a path, pushes only its own source away

# These options are in the singular, because each is given once for every value.
_FLAGS = {"peers": "--peer", "relays": "--relay"}

# The fields of PeerSettings name their unit; in a file and on the command line the value does.
_FIELDS = {
    "max_disk": "max_disk_bytes",
    "max_memory": "max_memory_bytes",
    "max_vram": "max_vram_bytes",
    "upload_limit": "upload_limit_bytes_per_s",
    "download_limit": "download_limit_bytes_per_s",
    "micro_batch": "micro_batch_clips",
    "only_idle": "only_idle_s",
    "max_gpu_temp": "max_gpu_temp_c",
    "max_gpu_power": "max_gpu_power_w",
}
_SECRET = ("notify",)  # whose values are repeated in no message
_NAMES = {field: name for name, field in _FIELDS.items()}


def default_data_dir() -> Path:
    """Returns the user's data folder for paris-p2p, by XDG's rules on Linux."""
    return user_data_path("paris-p2p")


def flag_of(name: str) -> str:
    """Returns the option that gives a setting on the command line."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def variable_of(name: str) -> str:
    """Returns the environment variable that gives a setting."""
    return ENV_PREFIX + name.upper()


def words(value: Any) -> Any:
    """Returns the words of a text; anything else as it is."""
    return tuple(value.split()) if isinstance(value, str) else value


def _folder(value: Any) -> Any:
    """Returns the folder that is named; ValueError for what no folder can be called."""
    try:
        return named_path(value) if isinstance(value, str | Path) else value
    except UsageError as error:
        raise ValueError(str(error)) from error


# A list; one text with blanks between the words where it comes from the environment.
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)]
Addresses = Annotated[
    tuple[Annotated[str, AfterValidator(peer_address)], ...], NoDecode, BeforeValidator(words)
]


class Options(BaseSettings):
    """Holds settings by the names they have in a file."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_ignore_empty=True
    )

    def peer_settings(self, **more: Any) -> PeerSettings:
        """Returns the PeerSettings that follow, with `more` on top."""
        given = {_FIELDS.get(name, name): value for name, value in self if value is not None}
        fields = {name: value for name, value in given.items() if name in PeerSettings.model_fields}
        return PeerSettings(**{**fields, **more})


class HomeOptions(Options):
    """Holds where a peer keeps its key and its blobs."""

    data_dir: Annotated[Path, BeforeValidator(_folder), Field(default_factory=default_data_dir)]


class CareOptions(Options):
    """Holds when and how hard a machine may work."""

    hours: Annotated[tuple[str, ...], NoDecode, BeforeValidator(hours_list)] = ()
    time_zone: str = ""
    only_idle: IdleSpan = 0.0
    on_battery: bool = True
    max_gpu_temp: float = 0.0
    max_gpu_power: float = 0.0
    nice: int = 0
    upload_budget: str = ""
    download_budget: str = ""


class FetchOptions(HomeOptions):
    """Holds what a command may use that only fetches."""

    download_limit: Bytes = ByteSize(0)


class NodeOptions(Options):
    """Holds how others reach a node, and what it may use to serve them."""

    host: str = "0.0.0.0"
    port: int = 0
    announce: Words = ()
    lan_only: bool = False
    max_disk: Bytes | None = None  # None: half of what is free there (node/host.py)
    upload_limit: Bytes = ByteSize(0)
    metrics: MetricsAddress = ""
    notify: Annotated[tuple[Webhook, ...], NoDecode, BeforeValidator(words)] = ()
    notify_names: bool = False
    dashboard: bool = False


OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Loaded(Generic[OptionsT]):
    """Holds options, and for each that was given the place of its value: flag, variable, file or profile."""

    options: OptionsT
    origins: Mapping[str, str]

    def peer_settings(self, **more: Any) -> PeerSettings:
        """Returns the PeerSettings that follow; UsageError names a value past its limit, and its place."""
        try:
            return self.options.peer_settings(**more)
        except ValidationError as error:
            raise _refusal(error, self.origins) from error

    def describe(self, settings: PeerSettings) -> str:
        """Returns the settings as a TOML file for --config, each line with where its value came from."""
        lines = []
        for field, value in settings.model_dump(mode="json").items():
            name = _NAMES.get(field, field)
            lines.append((f"{name} = {_toml(value)}", self.origins.get(name, "default")))
        width = max(len(line) for line, _ in lines if len(line) < _COLUMN)
        return "\n".join(f"{line:<{width}}  # {origin}" for line, origin in lines)


def load_options(
    kind: type[OptionsT],
    typed: Mapping[str, Any],
    *,
    file: Path | None = None,
    profile: Mapping[str, Any] | None = None,
    profile_name: str = "",
) -> Loaded[OptionsT]:
    """Returns the options out of all places; UsageError names the place, the value and what is right.

    `typed` holds what was given on the command line, and nothing else.
    """
    origins: dict[str, str] = {}

    class Sourced(kind):  # type: ignore[valid-type, misc]
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            **_: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            in_file = TomlConfigSettingsSource(settings_cls, file)
            in_profile = InitSettingsSource(settings_cls, dict(profile or {}))
            origins.update(dict.fromkeys(in_profile(), f"profile {profile_name}"))
            origins.update(dict.fromkeys(in_file(), str(file)))
            origins.update({name: variable_of(name) for name in env_settings()})
            origins.update({name: flag_of(name) for name in init_settings()})
            return init_settings, env_settings, in_file, in_profile

    try:
        return Loaded(Sourced(**typed), origins)
    except ValidationError as error:
        raise _refusal(error, origins, kind) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not a text file in UTF-8: {error}") from error


def readable_file(path: Path) -> Path:
    """Returns the path of a settings file; UsageError when it cannot be read."""
    path = named_path(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"cannot read the settings file {path}: {error.strerror}; name another") from error
    return path


def _refusal(
    error: ValidationError, origins: Mapping[str, str], kind: type[Options] | None = None
) -> UsageError:
    """Returns the first thing that is wrong in the words of the place where it stands."""
    first = error.errors()[0]
    name = _NAMES.get(str(first["loc"][0]), str(first["loc"][0]))
    origin = origins.get(name, flag_of(name))
    value = "" if name in _SECRET else str(first["input"])[:INPUT_LETTERS]
    stands = origin if origin in (flag_of(name), variable_of(name)) else f"{origin}: {name}"
    if first["type"] == "extra_forbidden" and kind is not None:
        return UsageError(f"{stands} is no setting; there are {', '.join(sorted(kind.model_fields))}")
    limit = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return UsageError(f"{stands} {value}".rstrip() + f": {limit}")


def _toml(value: Any) -> str:
    """Returns a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else f"{value:_}"
