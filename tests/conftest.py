"""For all tests: one thread each, what hypothesis may not ask of a slow machine, the order of files that are
tested side by side, and reports that can travel between processes.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.made.tiny_run import TinyRun

# Libraries read these when they are loaded, also in the processes that tests start. Two threads of a small
# sum, which wait for each other where others work too, take ten times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Property tests guard claims, not speed: a slow machine must not fail them.
settings.register_profile("paris", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("paris")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, files that take long begin first, or the last of them would hold up the end; the others
    come mixed, since the files of one folder are alike: all of them compute, or all of them wait.
    """
    if not hasattr(config, "workerinput"):
        return
    long = {item.path for item in items if item.get_closest_marker("long")}

    def place(item: pytest.Item) -> tuple[bool, str]:
        return item.path not in long, blake3(str(item.path.relative_to(config.rootpath)).encode()).hexdigest()

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half an emoji that a test logged or printed is none that a worker process could send."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts() -> Generator[None]:
    """No test pulls the plug, so nothing here waits for the disk; those that ask in which order files are
    synced, or what follows when that fails, put their own in this place.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda _: None)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """One tiny run for all tests of a process."""
    from tests.made.tiny_run import TinyRun  # torch takes seconds to load

    return TinyRun(tmp_path_factory.mktemp("tiny"))
