"""The device to compute on, and the precision in which it multiplies matrices fastest."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from model import CausalSelfAttention, GPTConfig

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
CORES = torch.get_num_threads()  # before anybody asks for fewer threads
NO_MEMORY = (  # the words for it in an error of torch's
    "out of memory",  # CUDA and MPS
    "STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
    "can't allocate memory",  # a CPU
    "not enough memory",  # a CPU with Windows
    "Invalid buffer size",  # MPS, of a single tensor
)
ROUNDING = 1e-2  # most that two devices may differ by; a wrong mask makes 0.6 and more

Part = TypeVar("Part")
Result = TypeVar("Result")


def best_device(name: str = "auto") -> torch.device:
    """The device of that name, or with `auto` the best there is: CUDA, Apple's GPU, the CPU.

    With `auto` a GPU is tried first: if it fails or computes otherwise than the CPU, a sentence
    on standard error says so and the CPU is taken. ValueError if there is no such device here.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        usable = (kind for kind in ("cuda", "mps") if there[kind] and _computes(kind))
        name = next(usable, "cpu")
    kind = name.partition(":")[0]  # "cuda:1" is the second card
    if kind not in there:
        raise ValueError(f"device is {name!r}; it must be one of {', '.join(DEVICES)}")
    if not there[kind]:
        raise ValueError(
            f"device is {name!r}, but torch sees no such device here; use --device=auto"
        )
    return torch.device(name)


@cache
def _computes(kind: str) -> bool:
    """Whether such a device computes what the CPU does; if not, why, printed once.

    A build of torch may lack the kernels of an old card, and MPS had wrong ones for our kind of
    mask until 2026 (pytorch#182285, pytorch#184180).
    """
    try:
        here, there = (_try_attention(torch.device(name)) for name in ("cpu", kind))
        is_same = torch.allclose(here, there, ROUNDING, ROUNDING)  # never with NaN
        reason = "" if is_same else "computes other numbers than the CPU"
    except RuntimeError as error:
        reason = f"does not compute ({str(error).splitlines()[0]})"
    if reason:
        remedy = f"another version of PyTorch may help, --device={kind} takes it nevertheless"
        print(f"{kind} {reason}, so the CPU is taken; {remedy}", file=sys.stderr)
    return not reason


def _try_attention(device: torch.device) -> Tensor:
    """What a layer of our attention gives there, and its gradients, in a row, on the CPU.

    As in a packed pair, each of two rows of eight ids hides some of them from others. So few ids
    and heads that are 64 wide are what the fast kernels are made for.
    """
    with torch.random.fork_rng(devices=()):  # nobody else's random numbers change
        torch.default_generator.manual_seed(0)
        layer, x = CausalSelfAttention(GPTConfig(n_head=2, n_embd=128), 0), torch.randn(2, 8, 128)
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool).tril()
    mask[0, :, 5:, 2:5] = mask[1, :, 4:, 1:4] = False
    positions = torch.arange(8, device=device)[None]
    y = layer.to(device)(x.to(device), positions, None, mask.to(device))  # (2, 8, 128)
    y.square().sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    return torch.cat([part.detach().cpu().flatten() for part in (y, *gradients)])


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
        # CUDA and Python have a class for it, all else only words.
        named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not named and not any(words in str(error) for words in NO_MEMORY):
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
