"""A GPU that is asked for and not here is said before a fetch begins, and without PyTorch in the node."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paris_p2p.doctor.graphics import TorchFacts, torch_apart
from paris_p2p.errors import DeviceError
from paris_p2p.peer import settings
from paris_p2p.peer.settings import check_device

LOOK = """
import sys
from paris_p2p.errors import DeviceError
from paris_p2p.peer.settings import check_device
from paris_p2p.peer.previews import _is_gpu
try:
    check_device("cuda:0")
except DeviceError as error:
    print(error)
_is_gpu()
print("torch" in sys.modules)
"""


def test_a_node_that_looks_for_its_gpu_has_no_torch_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_number_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "torch_apart", lambda: TorchFacts("2.6", "12.4", 2))
    check_device("cuda:1")
    check_device("cuda")
    with pytest.raises(DeviceError, match="there are 2 CUDA GPUs, numbered from 0"):
        check_device("cuda:2")
    monkeypatch.setattr(settings, "torch_apart", lambda: TorchFacts("2.6", "12.4", 0, why="driver too old"))
    with pytest.raises(DeviceError, match=r"sees no CUDA GPU \(driver too old\)"):
        check_device("cuda")


def test_the_processor_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "torch_apart", None)
    check_device("cpu")
    check_device("auto")


def test_a_torch_that_hangs_or_cannot_be_loaded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="does not say within"):
        torch_apart(limit_s=0.001)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DeviceError, match="cannot be loaded"):
        torch_apart()
