"""One tiny run for all tests of this folder, and one thread for torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.work.tiny_run import TinyRun


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return TinyRun(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
