"""Peak resident memory of training runs: `python -m bench.memory`.

Each run is a process of its own: the notebook's training as it is by default, and one on 3,072
pairs. Not for Windows.
"""

import os
import resource
import sys
from pathlib import Path

from bench.results import Measurement, print_result
from dpo import make_pairs
from dpo.evaluation.tables import markdown
from dpo.train import Config

MANY_PAIRS, LARGE = Path("runs/many_pairs.json"), "dpo/settings/large_file.py"
MIB = 2**20  # bytes
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def peak_bytes(words: list[str]) -> int:
    """Largest resident set of `python -m dpo.train WORDS`; RuntimeError if it fails."""
    child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-m", "dpo.train", *words])
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"dpo.train {words} ended with status {status}")
    return usage.ru_maxrss * UNIT


def measure() -> dict[str, dict[str, int]]:
    """Bytes of every run: its peak, and the sizes of its files."""
    make_pairs.main(make_pairs.Config(n=3072, negatives="refusal", out=str(MANY_PAIRS)))
    alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    runs = {
        "default": [],
        "default, float32": ["--precision=float32"],
        "3,072 pairs, no evals": [LARGE, f"--pairs={MANY_PAIRS}", "--eval_every=0"],
    }
    results = {"torch and this program alone": {"peak": alone}}
    for name, words in runs.items():
        pairs = next((w.partition("=")[2] for w in words if w.startswith("--pairs=")), Config.pairs)
        sizes = {"pairs": Path(pairs).stat().st_size, "base": Path(Config.base).stat().st_size}
        peak = peak_bytes([*words, "--out=runs/memory", "--quiet"])
        results[name] = {"peak": peak, **sizes}
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
