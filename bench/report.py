"""What the machine can do, and how measurements are reported: `python -m bench.report`.

The limits are those of the fastest of many calls: a machine is no faster than at its best moment.
"""

import math
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median

import torch

from bench.results import Measurement, print_result
from dpo.evaluation.tables import markdown
from model import GPT, GPTConfig
from sft.device import best_precision

CPU = torch.device("cpu")
SECONDS = 1.0  # of trying each product, and the copy
ROWS = 2400  # characters of a usual pass: 32 pairs of 75
COPIED = 2**28  # bytes of the copied tensor: more than any cache holds


def hardware() -> str:
    """Processor, threads and torch: what the measurements run on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    amx = ", AMX" if best_precision(CPU) == "bfloat16" else ""
    return f"{processor}{amx}, {torch.get_num_threads()} threads, torch {torch.__version__}"


# What limits


def precisions() -> list[str]:
    """Those in which products are worth measuring: bfloat16 only where it is fast.

    Where it is not, it can be thirty times slower than float32.
    """
    return ["float32", "bfloat16"] if best_precision(CPU) == "bfloat16" else ["float32"]


def fastest(call: Callable[[], object]) -> float:
    """Seconds of the quickest of as many calls as SECONDS allow; at least one."""
    best, end = math.inf, time.perf_counter() + SECONDS
    while True:
        started = time.perf_counter()
        call()
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended >= end:
            return best


def product_speed(precision: str, n_in: int, n_out: int) -> float:
    """FLOP/s of ROWS characters times the weights of a linear layer."""
    shapes = ((ROWS, n_in), (n_in, n_out), (ROWS, n_out))
    rows, weights, out = (torch.randn(shape).to(getattr(torch, precision)) for shape in shapes)
    seconds = fastest(lambda: torch.mm(rows, weights, out=out))
    return 2 * ROWS * n_in * n_out / seconds  # a multiplication and an addition each


def copy_speed() -> float:
    """Bytes a second that a copy moves: each is read and written."""
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    return 2 * COPIED / fastest(lambda: target.copy_(source))


@cache
def machine_limits() -> dict:
    """Measured once a process: `products`, FLOP/s by precision and layer, and `copy`, bytes/s."""
    width = GPTConfig.n_embd
    layers = {
        "query, key and value": (width, 3 * width),
        "output of attention": (width, width),
        "into the MLP": (width, 4 * width),
        "out of the MLP": (4 * width, width),
    }
    products = {
        precision: {name: product_speed(precision, *sides) for name, sides in layers.items()}
        for precision in precisions()
    }
    return {"products": products, "copy": copy_speed()}


def matrix_peak(precision: str) -> float:
    """FLOP/s of the fastest product of a layer."""
    return max(machine_limits()["products"][precision].values())


def matrix_weights(model: GPT) -> int:
    """How many weights each character is multiplied with: those of the blocks and the head."""
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    return sum(p.numel() for p in [*matrices, model.lm_head.weight])


def render(values: dict) -> dict[str, str]:
    """A row per layer; as figures GFLOP/s of the fastest by precision, and GB/s of a copy."""
    products = values["products"]
    rows = [["product with the weights of", *(f"{name}, GFLOP/s" for name in products)]]
    for layer in products["float32"]:
        rows.append([layer, *(f"{speeds[layer] / 1e9:,.0f}" for speeds in products.values())])
    peaks = {name: f"{max(speeds.values()) / 1e9:,.0f}" for name, speeds in products.items()}
    return {"table": markdown(rows), **peaks, "copy": f"{values['copy'] / 1e9:.1f}"}


# How it is reported


def median_and_spread(values: list[float], digits: int = 1) -> str:
    """`2.0 (1.0 to 3.0)`: the median, the lowest and the highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(values: list[float], others: list[float]) -> str:
    """Median of the ratios round by round: a slow moment of the machine slows both of a round."""
    return f"{median(a / b for a, b in zip(values, others, strict=True)):.2f}"


def share(values: list[float], limit: float) -> str:
    """The median in percent of the limit."""
    return f"{100 * median(values) / limit:.0f}"


MEASUREMENT = Measurement(
    "limits", "python -m bench.report", machine_limits, render, 0.2, of_base=False
)

if __name__ == "__main__":
    print_result(MEASUREMENT)
