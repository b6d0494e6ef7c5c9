"""An operator's options: flags, the environment, and a TOML file like bootstrap/bootstrap.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ByteSize
from pydantic_settings import NoDecode

from paris_p2p.byte_size import Bytes
from paris_p2p.errors import InviteError
from paris_p2p.invite import Invite
from paris_p2p.option_sources import (
    Addresses,
    HomeOptions,
    Loaded,
    NodeOptions,
    load_options,
    variable_of,
    words,
)
from paris_p2p.peer_settings import MetricsAddress
from paris_p2p.time_span import Duration

_DEFAULT_PORT = 31337
FORGET_ENDED_S = 7 * 86400.0


def _check_run(text: str) -> str:
    """Returns a run id, or a whole invite."""
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        try:
            Invite.parse(text)
        except InviteError as error:
            raise ValueError(f"{error}; a bare run id of 64 hex digits does too") from error
    return text


RunText = Annotated[str, AfterValidator(_check_run)]


def _check_invite(text: str) -> str:
    """Returns a whole invite."""
    try:
        Invite.parse(text)
    except InviteError as error:
        raise ValueError(str(error)) from error
    return text


InviteText = Annotated[str, AfterValidator(_check_invite)]


class ServeOptions(HomeOptions, NodeOptions):
    """Says what a bootstrap node may use, and what it holds."""

    port: int = _DEFAULT_PORT
    peers: Addresses = ()
    max_disk: Bytes | None = ByteSize(50 * 10**9)
    # invites or run ids to hold; empty: any run that comes
    mirror: Annotated[tuple[RunText, ...], NoDecode, BeforeValidator(words)] = ()
    # invites that let this node store for private runs
    admit: Annotated[tuple[InviteText, ...], NoDecode, BeforeValidator(words)] = ()
    forget_ended: Duration = FORGET_ENDED_S  # since a run's owner ended it

    public_page: MetricsAddress = ""  # where everybody sees a page of it

    def mirrored(self) -> frozenset[str]:
        """Returns the run ids this node may hold; empty means any."""
        return frozenset(text if ":" not in text else Invite.parse(text).run for text in self.mirror)

    def admitting(self) -> tuple[Invite, ...]:
        """Returns the invites to private runs that this node stores for."""
        return tuple(Invite.parse(text) for text in self.admit)

    def known_peers(self) -> tuple[str, ...]:
        """Returns the nodes to join; an invite names some, so that nobody writes them twice."""
        named = (*(text for text in self.mirror if ":" in text), *self.admit)
        invited = (peer for text in named for peer in Invite.parse(text).peers)
        return tuple(dict.fromkeys((*self.peers, *invited)))


def load_serve(typed: Mapping[str, Any], file: Path | None = None) -> Loaded[ServeOptions]:
    """Returns the options out of all places; a data folder that nobody named lies in the user's own.

    PARIS_DATA_DIR names the folder that all commands share, in which this node has one of its own.
    """
    loaded = load_options(ServeOptions, typed, file=file)
    if loaded.origins.get("data_dir", "") in ("", variable_of("data_dir")):
        own = {"data_dir": loaded.options.data_dir / "bootstrap"}
        return replace(loaded, options=loaded.options.model_copy(update=own))
    return loaded
