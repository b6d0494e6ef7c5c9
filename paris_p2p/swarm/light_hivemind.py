"""Has hivemind's DHT and its daemon's client loaded without the rest of hivemind, which loads torch.

`import hivemind.dht.node` runs `hivemind/__init__.py` first, which imports averaging, experts and optimizers
and with them PyTorch: 130 MiB and seconds of a core that a node has no use for. Here the three packages on
the way are made without their `__init__` having run; their modules are hivemind's own. Of what those take
from `hivemind.utils` by name, `_NAMES` says where it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_PACKAGES = ("hivemind", "hivemind.utils", "hivemind.dht")
_NAMES = {
    "get_logger": "logging",
    "MSGPackSerializer": "serializer",
    "SerializerBase": "serializer",
    "DHTExpiration": "timed_storage",
    "TimedStorage": "timed_storage",
    "ValueWithExpiration": "timed_storage",
    "get_dht_time": "timed_storage",
}


def keep_hivemind_light() -> None:
    """Has the three packages found here from now on, before hivemind is imported for the first time."""
    if not any(isinstance(each, _LightFinder) for each in sys.meta_path):
        sys.meta_path.insert(0, _LightFinder())


class _LightFinder(MetaPathFinder):
    """Finds the three packages where they are, with a loader that does not run them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in _PACKAGES else None
        if spec is not None:
            spec.loader = _LightLoader()
        return spec


class _LightLoader(Loader):
    """Makes a package of which nothing is run; the names of `hivemind.utils` are looked up when asked for."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leaves the making to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Gives `hivemind.utils` its names."""
        if module.__name__ == "hivemind.utils":
            vars(module)["__getattr__"] = _named


def _named(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"hivemind.utils has no {name!r} here: {__name__} names what a node uses of it")
    return getattr(import_module(f"hivemind.utils.{_NAMES[name]}"), name)
