"""The device to compute on, and the precision in which it multiplies matrices fastest."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
CORES = torch.get_num_threads()  # before anybody asks for fewer threads

Part = TypeVar("Part")
Result = TypeVar("Result")


def best_device(name: str = "auto") -> torch.device:
    """The device of that name, or with `auto` the best there is: CUDA, Apple's GPU, the CPU.

    ValueError if there is no such device on this machine.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    kind = name.partition(":")[0]  # "cuda:1" is the second card
    if kind not in there:
        raise ValueError(f"device is {name!r}; it must be one of {', '.join(DEVICES)}")
    if not there[kind]:
        raise ValueError(
            f"device is {name!r}, but torch sees no such device here; use --device=auto"
        )
    return torch.device(name)


def best_precision(device: torch.device, name: str = "auto") -> str:
    """`float32` or `bfloat16`; `auto` takes bfloat16 where the hardware multiplies it much faster.

    Those are CPUs with AMX (measured: bench/README.md) and CUDA cards since Ampere (unmeasured).
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; it must be one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    # Asked only for the device at hand: without a card, torch.cuda raises. 8.0 is Ampere.
    fast = {"cpu": _has_amx, "cuda": lambda: torch.cuda.get_device_capability(device) >= (8, 0)}
    return "bfloat16" if fast.get(device.type, lambda: False)() else "float32"


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """A context for forward passes: in it, linear layers multiply in that precision.

    Weights, norms, the residual stream and the loss stay in float32. So does attention on a CPU.
    """
    enabled = best_precision(device, precision) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def in_parallel(
    work: Callable[[Part], Result], parts: list[Part], device: torch.device
) -> Iterator[Result]:
    """The results of all parts, in order. On a CPU each part has a core of its own.

    Cores that share one matrix product wait for the slowest: on a busy machine that halves the
    speed.
    """
    workers = min(CORES, len(parts)) if device.type == "cpu" else 1
    threads = CORES // workers
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
    with pool:
        yield from pool.map(work, parts)


@contextmanager
def explain_out_of_memory(pairs: int) -> Iterator[None]:
    """Where a forward or backward pass runs out of memory, a MemoryError that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # CUDA and Python have a class for it; torch's allocator on the CPU has only these words.
        named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not named and "can't allocate memory" not in str(error):
            raise
        smaller = f"set micro_batch to {pairs // 2}" if pairs > 1 else "close other programs"
        raise MemoryError(
            f"out of memory with {pairs} pairs in one pass: {smaller}. That takes less memory, "
            "batch_size can stay, and the result is the same up to rounding"
        ) from None


def _has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware; an older torch cannot say."""
    known = hasattr(torch.cpu, "get_capabilities")
    return known and torch.cpu.get_capabilities().get("amx_bf16", False)
