"""For all tests: what hypothesis may not ask of a slow machine, and reports that can travel between
processes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.made.tiny_run import TinyRun

# Property tests guard claims, not speed: a slow machine must not fail them.
settings.register_profile("paris", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("paris")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half an emoji that a test logged or printed is none that a worker process could send."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """One tiny run for all tests of a process."""
    from tests.made.tiny_run import TinyRun  # torch takes seconds to load

    return TinyRun(tmp_path_factory.mktemp("tiny"))
