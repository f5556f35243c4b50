"""Which device a name means, and in which precision it multiplies matrices fastest."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")


def best_device(name: str = "auto") -> torch.device:
    """The device of that name, if this machine has it; `auto` takes CUDA, then Apple's GPU, then the CPU."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    kind = name.partition(":")[0]
    if kind not in there:
        raise ValueError(f"device is {name!r}; it must be one of {', '.join(DEVICES)}")
    if not there[kind]:
        raise ValueError(f"device is {name!r}, but torch sees no such device here; use --device=auto")
    return torch.device(name)


def best_precision(device: torch.device, name: str = "auto") -> str:
    """`float32` or `bfloat16`; `auto` takes bfloat16 where the hardware multiplies it much faster.

    That is on CPUs with AMX (measured: README) and on CUDA cards from Ampere on (not measured yet).
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; it must be one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    fast = {"cpu": _has_amx, "cuda": lambda: torch.cuda.get_device_capability(device) >= (8, 0)}
    return "bfloat16" if fast.get(device.type, lambda: False)() else "float32"


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """A context for forward passes whose linear layers work in that precision.

    Weights, norms, the residual stream and the loss stay in float32, on a CPU attention, too.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=best_precision(device, precision) == "bfloat16")


@contextmanager
def out_of_memory_in_words(pairs: int) -> Iterator[None]:
    """MemoryError with the remedy, in place of what CUDA, the CPU or Python raise when a pass finds no memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        smaller = f"set micro_batch to {pairs // 2}" if pairs > 1 else "close other programs"
        raise MemoryError(
            f"out of memory with {pairs} pairs in one pass: {smaller}. That takes less memory, batch_size can stay, "
            "and the result is the same up to rounding"
        ) from None


def _has_amx() -> bool:
    return hasattr(torch.cpu, "get_capabilities") and torch.cpu.get_capabilities().get("amx_bf16", False)
