"""Has hivemind's DHT and its daemon's client loaded without the rest of hivemind, which loads torch.

`import hivemind.dht.node` runs `hivemind/__init__.py` first, which imports averaging, experts and optimizers
and with them PyTorch: 130 MiB and seconds of a core that a node has no use for. Here the three packages on
the way stand in `sys.modules` with their folders and without their `__init__` having run; their modules are
hivemind's own. Of what those take from `hivemind.utils` by name, `_NAMES` says where it is.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec

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
    """Puts the packages where imports look for them, unless hivemind is here as a whole already."""
    if "hivemind" in sys.modules:
        return
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"{name} is not installed; install paris-p2p anew")
        package = sys.modules[name] = module_from_spec(spec)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)
    for name, module in _NAMES.items():
        setattr(sys.modules["hivemind.utils"], name, getattr(import_module(f"hivemind.utils.{module}"), name))
