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
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    amx = ", AMX" if best_precision(torch.device("cpu")) == "bfloat16" else ""
    return f"{processor}{amx}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def median_and_spread(values: list[float], digits: int = 1) -> str:
    """`2.0 (1.0 to 3.0)`: the median, the lowest and the highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(values: list[float], others: list[float]) -> str:
    """Median of the ratios round by round: a slow moment of the machine slows both of a round."""
    return f"{median(a / b for a, b in zip(values, others, strict=True)):.2f}"
