"""A device that is not there is an error with words; what is there is described."""

from __future__ import annotations

import pytest
import torch

from paris_p2p.errors import DeviceError
from paris_p2p.work.device import pick_device, resident_bytes, set_threads


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cuda:x", "cuda:", "cuda:-1", "mps"])
def test_a_device_that_is_not_there_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(DeviceError, match=name):
        pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU does")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert str(pick_device("auto")) == "cpu"
    with pytest.raises(DeviceError, match="0 are here"):
        pick_device("cuda")


def test_autocast_follows_the_precision_that_is_told() -> None:
    device = pick_device("cpu")
    with device.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if device.precision == "bf16" else torch.float32)
    assert device.memory_bytes() >= resident_bytes() // 2 > 0


def test_threads_are_limited_and_zero_leaves_them() -> None:
    set_threads(1)
    set_threads(0)
    assert torch.get_num_threads() == 1
