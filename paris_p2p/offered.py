"""ParisPipeline among diffusers' classes, so that `DiffusionPipeline.from_pretrained` finds it by its name.

diffusers looks the name that a saved pipeline gives up in its own package and nowhere else. Importing
diffusers here would take seconds, so the name is put there when somebody imports it, and ParisPipeline is
imported when somebody asks for the name.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Waiting(MetaPathFinder):
    """Stands first among the finders until diffusers is imported, and finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "diffusers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_offer(module: ModuleType) -> None:
            execute(module)
            _offer(sys.modules[fullname])  # diffusers puts another module in its own place

        spec.loader.exec_module = execute_and_offer  # type: ignore[method-assign]
        return spec


def offer_pipeline() -> None:
    """Lets diffusers know ParisPipeline, now or when it is imported; a second call does nothing."""
    if "diffusers" in sys.modules:
        _offer(sys.modules["diffusers"])
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _offer(module: ModuleType) -> None:
    """Gives the module a class of its own with one more attribute, which is looked up when it is read."""

    def pipeline(self: ModuleType) -> Any:
        from paris_p2p.generation.pipeline import ParisPipeline

        return ParisPipeline

    kind = type(module)
    if not hasattr(kind, "ParisPipeline"):
        module.__class__ = type(kind.__name__, (kind,), {"ParisPipeline": property(pipeline)})
