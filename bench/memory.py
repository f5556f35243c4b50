"""Peak resident memory of training runs: `python -m bench.memory`.

Each run is a process of its own: the notebook's training as it is by default, and one on 3,072
pairs. Not for Windows.
"""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from bench.large import SETTINGS, pairs_file
from bench.results import Measurement, print_result
from configurator import override
from dpo.evaluation.tables import markdown
from dpo.train import Config, train

LARGE = str(SETTINGS / "large_file.py")
MIB = 2**20  # bytes
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes

Result = TypeVar("Result")


def in_new_process(work: Callable[..., Result], *arguments: object) -> Result:
    """What the function returns, from a process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def own_peak() -> int:
    """Largest resident set of this process, in bytes.

    On Linux `getrusage` would count what the parent held when it started this process, too.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024  # it is in kB


def peak_of_run(words: list[str]) -> int:
    """Peak of this process, in bytes, after what `python -m dpo.train WORDS` does."""
    train(override(Config(), [*words, "--out=runs/memory", "--quiet"]))
    return own_peak()


def measure() -> dict[str, dict[str, int]]:
    """Bytes of every run: its peak, and the sizes of its files."""
    many = in_new_process(pairs_file, 3072, "refusal")
    runs = {
        "default": [],
        "default, float32": ["--precision=float32"],
        "3,072 pairs, no evals": [LARGE, f"--pairs={many}", "--eval_every=0"],
    }
    results = {"torch and this program alone": {"peak": in_new_process(own_peak)}}
    for name, words in runs.items():
        pairs = many if name.startswith("3,072") else Config.pairs
        sizes = {"pairs": Path(pairs).stat().st_size, "base": Path(Config.base).stat().st_size}
        results[name] = {"peak": in_new_process(peak_of_run, words), **sizes}
    return results


def render(values: dict[str, dict[str, int]]) -> dict[str, str]:
    rows = [["run", "peak, MiB", "pairs file, MiB", "base file, MiB"]]
    for name, sizes in values.items():
        peak, pairs, base = (sizes.get(key, 0) / MIB for key in ("peak", "pairs", "base"))
        rows.append([name, f"{peak:,.0f}", f"{pairs:.1f}", f"{base:.1f}"])
    return {"table": markdown(rows)}


MEASUREMENT = Measurement("memory", "python -m bench.memory", measure, render, 2, of_base=False)

if __name__ == "__main__":
    print_result(MEASUREMENT)
