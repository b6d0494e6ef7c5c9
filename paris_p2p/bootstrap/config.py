"""An operator's configuration: a TOML file like bootstrap/bootstrap.toml, with the command's flags on top."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from paris_p2p.errors import InviteError, UsageError
from paris_p2p.spec import Invite, PeerSettings, parse_bytes

DEFAULT_PORT = 31337


def _check_size(text: str) -> str:
    try:
        parse_bytes(text)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return text


def _check_run(text: str) -> str:
    """Reads a run id, or a whole invite."""
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        try:
            Invite.parse(text)
        except InviteError as error:
            raise ValueError(f"{error}; a bare run id of 64 hex digits does too") from error
    return text


SizeText = Annotated[str, AfterValidator(_check_size)]
RunText = Annotated[str, AfterValidator(_check_run)]


class BootstrapConfig(BaseModel):
    """What a bootstrap node may use and holds; sizes are written as on the command line, "0" for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    host: str = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    announce: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()  # other bootstrap nodes to join
    max_disk: SizeText = "50GB"
    upload_limit: SizeText = "0"
    mirror: tuple[RunText, ...] = ()  # invites or run ids to hold; empty: any run that comes

    def settings(self) -> PeerSettings:
        return PeerSettings(
            data_dir=self.data_dir.expanduser(),
            host=self.host,
            port=self.port,
            announce=self.announce,
            max_disk_bytes=parse_bytes(self.max_disk),
            upload_limit_bps=float(parse_bytes(self.upload_limit)),
            device="cpu",
        )

    def mirrored(self) -> frozenset[str]:
        """Returns the run ids this node may hold; empty means any."""
        return frozenset(text if ":" not in text else Invite.parse(text).run for text in self.mirror)


def load_config(path: Path | None, *, default_data_dir: Path, **flags: Any) -> BootstrapConfig:
    """Returns the file's values, with flags that were given (not None) over them; UsageError names the one
    that is wrong.
    """
    values = {"data_dir": default_data_dir, **(_read(path) if path else {})}
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        config = BootstrapConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path or 'the command'}: {where!r} is wrong: {first['msg']}, got {str(first['input'])[:100]!r}"
        ) from error
    # An invite says where its run is found, so nobody has to write those peers twice.
    invited = tuple(peer for text in config.mirror if ":" in text for peer in Invite.parse(text).peers)
    return config.model_copy(update={"peers": tuple(dict.fromkeys(config.peers + invited))})


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; bootstrap/bootstrap.toml is an example to copy"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
