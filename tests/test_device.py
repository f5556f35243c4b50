import pytest
import torch

from sft.device import best_device


def test_names_of_devices():
    assert best_device("cpu").type == "cpu" and best_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="device is 'gpu'; it must be one of auto, cpu, cuda, mps"):
        best_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no such device here; use --device=auto"):
            best_device("cuda:0")
