"""How measurements are reported: the machine, and medians with their spread."""

import platform
from pathlib import Path
from statistics import median

import torch

from sft.device import best_precision


def hardware() -> str:
    """Processor, threads and torch: what the measurements run on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )
    amx = ", AMX" if best_precision(torch.device("cpu")) == "bfloat16" else ""
    return f"{model or platform.machine()}{amx}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def median_and_spread(values: list[float], digits: int = 1) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(values: list[float], others: list[float]) -> str:
    """Median of the ratios round by round: a slow moment of the machine slows both systems of its round."""
    return f"{median(a / b for a, b in zip(values, others, strict=True)):.2f}"
