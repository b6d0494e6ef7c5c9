"""A run's networks that nobody trains: its text encoder, its codec, and the network that looks at first
frames.

Each is pinned by revision and hash, found in a folder of its own or by its name, and loaded when it is first
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris_p2p.codec.text import TextEncoder, load_text_encoder
from paris_p2p.codec.video import Codec, load_codec
from paris_p2p.device import Device, return_memory
from paris_p2p.features.image import Features, load_first_features

CODEC, TEXT, FEATURES = "codec", "text", "features"  # folders of an exported model, and the networks' names


@dataclass(frozen=True)
class Pin:
    """A network by name, and what its files must be."""

    name: str
    revision: str = ""
    sha256: str = ""

    @property
    def files(self) -> dict[str, str]:
        """Returns the pins as loaders take them."""
        return {"revision": self.revision, "sha256": self.sha256}


class FrozenNetworks:
    """Holds each network on the device that last asked for it, until it is let go."""

    def __init__(self, pins: Mapping[str, Pin], text_tokens: int, folder_of: Callable[[str], Path | None]):
        self.pins, self.text_tokens, self.folder_of = dict(pins), text_tokens, folder_of
        self._held: dict[str, tuple[str, Any]] = {}

    def text(self, device: Device) -> TextEncoder:
        """Returns the text encoder; UsageError, BlobError and more when its files are not what they were."""

        def load(pin: Pin, folder: Path | None) -> TextEncoder:
            return load_text_encoder(
                pin.name, folder, tokens=self.text_tokens, device=str(device), **pin.files
            )

        found: TextEncoder = self._get(TEXT, device, load)
        return found

    def codec(self, device: Device) -> Codec:
        """Returns the codec; UsageError, BlobError and more when its files are not what they were."""

        def load(pin: Pin, folder: Path | None) -> Codec:
            return load_codec(pin.name, folder, device=str(device), **pin.files)

        found: Codec = self._get(CODEC, device, load)
        return found

    def features(self, device: Device) -> Features | None:
        """Returns the network that looks at first frames, or None where the run has none."""

        def load(pin: Pin, folder: Path | None) -> Features:
            return load_first_features(pin.name, folder, device=str(device), **pin.files)

        return self._get(FEATURES, device, load) if FEATURES in self.pins else None

    def let_go(self, name: str, device: Device) -> None:
        """Forgets a network and gives its memory back; it is loaded again when it is needed again."""
        if self._held.pop(name, None) is not None:
            return_memory(device)

    def _get(self, name: str, device: Device, load: Callable[[Pin, Path | None], Any]) -> Any:
        where, found = self._held.get(name, ("", None))
        if where != str(device):
            self._held.pop(name, None)
            found = load(self.pins[name], self.folder_of(name))
            self._held[name] = (str(device), found)
        return found
