"""Which device a name means, and in which precision it multiplies matrices fastest."""

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


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """A context for forward passes: `float32`, or `bfloat16` for the matrix products and float32 for the rest.

    `auto` takes bfloat16 where the hardware multiplies it faster: CPUs with AMX (measured: bench/README.md) and CUDA
    cards from Ampere on (not measured yet).
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    faster = {"cpu": _has_amx, "cuda": lambda: torch.cuda.get_device_capability(device) >= (8, 0)}
    low = precision == "bfloat16" or precision == "auto" and faster.get(device.type, lambda: False)()
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def _has_amx() -> bool:
    return hasattr(torch.cpu, "get_capabilities") and torch.cpu.get_capabilities().get("amx_bf16", False)
