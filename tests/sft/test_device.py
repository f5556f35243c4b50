"""Device and precision: which are taken, what is tried first, what is said without memory."""

import pytest
import torch

import model
import sft.device as module
from sft.device import autocast, best_device, explain_out_of_memory


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


# A GPU is tried before it is believed

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


@pytest.fixture
def gpu(monkeypatch):
    """`gpu("cuda", numbers)`: such a device is there; what a trial on it gives, or raises.

    Returned is the list of the devices that were tried.
    """
    on_cpu, tried = module._try_attention(torch.device("cpu")), []
    module._computes.cache_clear()

    def add(kind, numbers):
        def try_attention(device):
            tried.append(device.type)
            if device.type == kind and isinstance(numbers, Exception):
                raise numbers
            return numbers(on_cpu.clone()) if device.type == kind else on_cpu

        monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
        monkeypatch.setattr(module, "_try_attention", try_attention)
        return tried

    yield add
    module._computes.cache_clear()


def rounded(numbers):
    """As on a card that multiplies with ten bits of each number."""
    return numbers * (1 + 2**-10)


def slightly_wrong(numbers):
    numbers[100] += 0.6
    return numbers


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_auto_takes_a_gpu_that_computes(gpu, capsys, kind):
    gpu(kind, rounded)
    assert best_device().type == kind
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("wrong", [slightly_wrong, lambda numbers: numbers * torch.nan])
def test_auto_leaves_a_gpu_that_computes_wrong(gpu, capsys, kind, wrong):
    gpu(kind, wrong)
    assert best_device().type == "cpu"
    said = f"{kind} computes other numbers than the CPU, so the CPU is taken; another version of "
    said += f"PyTorch may help, --device={kind} takes it nevertheless\n"
    assert capsys.readouterr() == ("", said)


def test_auto_leaves_a_card_without_kernels(gpu, capsys):
    gpu("cuda", RuntimeError(f"{NO_KERNEL}\nCompile with `TORCH_USE_CUDA_DSA` ..."))
    assert best_device().type == "cpu"
    err = capsys.readouterr().err
    assert err.startswith(f"cuda does not compute ({NO_KERNEL}), so the CPU is taken; ")
    assert err.count("\n") == 1


def test_a_gpu_is_tried_once(gpu, capsys):
    tried = gpu("mps", slightly_wrong)
    assert [best_device().type for _ in range(3)] == ["cpu"] * 3
    assert tried == ["cpu", "mps"]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_device_with_a_name_is_not_tried(gpu):
    tried = gpu("mps", slightly_wrong)
    assert best_device("mps").type == "mps"
    assert not tried


def test_nothing_is_tried_without_a_gpu(gpu, capsys):
    tried = gpu("none", slightly_wrong)
    assert best_device().type == "cpu"
    assert not tried
    assert capsys.readouterr() == ("", "")


attend = model._attend
WRONG = {
    "no mask": lambda q, k, v, mask, dropout: attend(q, k, v, None, dropout),
    "no mask, and all seen": lambda q, k, v, mask, dropout: attend(q, k, v, mask | True, dropout),
    "one row's mask for all": lambda q, k, v, mask, dropout: attend(q, k, v, mask[:1], dropout),
    "no gradient": lambda q, k, v, mask, dropout: attend(q, k.detach(), v, mask, dropout),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_trial_notices_wrong_attention(monkeypatch, kind):
    right = module._try_attention(torch.device("cpu"))
    monkeypatch.setattr(model, "_attend", WRONG[kind])
    wrong = module._try_attention(torch.device("cpu"))
    assert (right - wrong).abs().max() > 10 * module.ROUNDING


def test_the_trial_takes_no_random_numbers():
    before = torch.get_rng_state()
    module._try_attention(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


# Out of memory

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
    MemoryError(),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.80 GB, other allocations: ...)"),
    RuntimeError("Invalid buffer size: 24.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_out_of_memory_is_one_sentence(error):
    with pytest.raises(MemoryError) as told, explain_out_of_memory(32):
        raise error
    start = "out of memory with 32 pairs in one pass: set micro_batch to 16. "
    assert str(told.value).startswith(start)


def test_out_of_memory_with_one_pair_needs_room_elsewhere():
    with pytest.raises(MemoryError, match="close other programs"), explain_out_of_memory(1):
        raise OUT_OF_MEMORY[0]


@pytest.mark.parametrize(
    "words", ["CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", "mat1 and mat2 cannot be multiplied"]
)
def test_other_errors_stay_what_they_are(words):
    error = RuntimeError(words)
    with pytest.raises(RuntimeError) as told, explain_out_of_memory(32):
        raise error
    assert told.value is error
