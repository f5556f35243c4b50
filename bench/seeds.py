"""The default run of `dpo.train` over ten seeds: `python -m bench.seeds`.

A seed is an order of the pairs; all else is the same. Every run is asked all held-out questions of
the test, all small talk, and some questions of every kind of `dpo.formats`.
"""

import time
from dataclasses import replace

from bench.controls import DPO, measure_shares, shipped_pairs, tune
from bench.report import median_and_spread
from bench.results import Measurement, print_result
from dpo import train
from dpo.evaluation.tables import counted, markdown
from model import GPT
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.progress import Bar
from sft.tokenizer import Tokenizer

SEEDS = 10  # runs: 1, 2, ... are their seeds
ASKED = {"group": 100_000, "kind": 20}  # questions at most: no held-out group has so many


def run_seed(base: GPT, tokenizer: Tokenizer, config: train.Config) -> dict:
    """Seconds of the reference's pass and all steps, without evals and files; then the shares."""
    pairs = shipped_pairs(tokenizer, config)
    started = time.perf_counter()
    policy = tune(base, tokenizer, pairs, config, (DPO,))
    seconds = time.perf_counter() - started
    shares = measure_shares(policy, tokenizer, ASKED["group"], ASKED["kind"])
    return {"seconds": seconds, "shares": shares}


def worst(runs: list[dict]) -> dict:
    """The lowest share of each sort, but the highest of what is wrong; the most seconds."""
    shares = {}
    for what in runs[0]["shares"]:
        pick = max if what.startswith("wrong") else min
        shares[what] = pick((run["shares"][what] for run in runs), key=lambda share: share["rate"])
    return {"seconds": max(run["seconds"] for run in runs), "shares": shares}


def seeds_table(runs: list[dict]) -> str:
    """A row per run, and the worst of each column below them."""
    rows = [["seed", *runs[0]["shares"], "seconds"]]
    rows_of = {str(seed): run for seed, run in enumerate(runs, start=1)}
    for name, run in (rows_of | {"worst": worst(runs)}).items():
        rows.append([name, *map(counted, run["shares"].values()), f"{run['seconds']:.1f}"])
    return markdown(rows)


def measure() -> dict:
    default, runs = train.Config(), []
    base, tokenizer = load_model(default.base, best_device(default.device))
    with Bar(SEEDS, "seeds", "run") as bar:
        for seed in range(1, SEEDS + 1):
            runs.append(run_seed(base, tokenizer, replace(default, seed=seed)))
            bar.update()
    return {"runs": runs}


def render(values: dict) -> dict[str, str]:
    """The table, and what the first screen quotes: the worst counts, and the seconds."""
    runs = values["runs"]
    additive, multiplicative, talk, wrong = worst(runs)["shares"].values()
    return {
        "table": seeds_table(runs),
        "worst_sums": f"{additive['count']:,}",
        "sums": f"{additive['n']:,}",
        "worst_products": f"{multiplicative['count']:,}",
        "products": f"{multiplicative['n']:,}",
        "worst_talk": f"{talk['count']:,}",
        "talk": f"{talk['n']:,}",
        "worst_wrong": f"{100 * wrong['rate']:.1f}",
        "seconds": median_and_spread([run["seconds"] for run in runs]),
    }


MEASUREMENT = Measurement("seeds", "python -m bench.seeds", measure, render, 8)

if __name__ == "__main__":
    print_result(MEASUREMENT)
