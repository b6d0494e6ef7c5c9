"""`paris-peer set`: what is typed becomes a question to the running peer, and its answer a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paris_p2p.errors import UsageError
from paris_p2p.shown import shown

if TYPE_CHECKING:
    from paris_p2p.peer.kept_changes import SetAnswer


def ask_settings(data_dir: Path, words: Sequence[str]) -> SetAnswer:
    """Changes settings of the peer that runs here, and returns all of them; UsageError, UnreachableError."""
    from paris_p2p.node.control_client import ask_control
    from paris_p2p.peer.kept_changes import SetAnswer

    changes: dict[str, str] = {}
    for word in words:
        key, is_given, value = word.partition("=")
        if not is_given:
            raise UsageError(
                f"{word[:40]!r} is no KEY=VALUE; write {word[:40]}=… or, to take it back, {word[:40]}="
            )
        changes[key.strip().removeprefix("--").replace("-", "_")] = value
    return SetAnswer.model_validate_json(
        ask_control(data_dir, "set", json.dumps({"words": changes}).encode())
    )


def settings_table(answer: SetAnswer) -> str:
    """Returns the settings as lines of key, value and source, and what is to be said below them."""
    rows = [(f"{one.key} = {shown(one.value) or 'none'}", shown(one.source)) for one in answer.settings]
    width = max((len(left) for left, _ in rows if len(left) < 40), default=0)
    lines = [f"{left:<{width}}  # {source}" for left, source in rows]
    return "\n".join([*lines, *(shown(said) for said in answer.said)])
