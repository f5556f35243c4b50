"""Which device a name means."""

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


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
