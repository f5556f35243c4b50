import pytest
import torch

from sft.device import autocast, best_device


def test_names_of_devices():
    assert best_device("cpu").type == "cpu"
    assert best_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="device is 'gpu'; it must be one of auto, cpu, cuda, mps"):
        best_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no such device here; use --device=auto"):
            best_device("cuda:0")


def test_precision_is_chosen_by_the_hardware_or_by_name(monkeypatch):
    cpu, product = torch.device("cpu"), torch.ones(2, 2)
    for has_amx in (True, False):
        monkeypatch.setattr("sft.device._has_amx", lambda answer=has_amx: answer)
        for precision, low in (("auto", has_amx), ("float32", False), ("bfloat16", True)):
            with autocast(cpu, precision):
                assert ((product @ product).dtype == torch.bfloat16) == low
    with pytest.raises(
        ValueError, match="precision is 'half'; it must be one of auto, float32, bfloat16"
    ):
        autocast(cpu, "half")
