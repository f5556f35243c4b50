import pytest
import torch

from sft.device import autocast, best_device


def test_a_device_has_its_name():
    assert best_device("cpu").type == "cpu"


def test_the_best_device_is_one_of_three():
    assert best_device().type in ("cpu", "cuda", "mps")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device is 'gpu'; it must be one of auto, cpu, cuda, mps"):
        best_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device here")
def test_a_missing_device_is_refused():
    with pytest.raises(ValueError, match="torch sees no such device here; use --device=auto"):
        best_device("cuda:0")


@pytest.mark.parametrize(
    ("has_amx", "precision", "is_low"),
    [
        (True, "auto", True),
        (False, "auto", False),
        (True, "float32", False),
        (False, "float32", False),
        (True, "bfloat16", True),
        (False, "bfloat16", True),
    ],
)
def test_precision_follows_hardware_or_name(monkeypatch, has_amx, precision, is_low):
    monkeypatch.setattr("sft.device._has_amx", lambda: has_amx)
    ones = torch.ones(2, 2)
    with autocast(torch.device("cpu"), precision):
        assert ((ones @ ones).dtype == torch.bfloat16) == is_low


def test_an_unknown_precision_is_refused():
    message = "precision is 'half'; it must be one of auto, float32, bfloat16"
    with pytest.raises(ValueError, match=message):
        autocast(torch.device("cpu"), "half")
