"""The default run of `dpo.train` over several seeds: `python -m bench.seeds --seeds=10`.

A seed is an order of the pairs; all else is the same. Every run is asked all held-out questions of
the test, all small talk, and 100 questions of every kind of `dpo.formats`. About ten minutes on two
CPU cores. Stop it when you like: runs that ended are kept in runs/seeds and not repeated. Prints a
row per seed and the worst of all, and writes runs/seeds/results.json.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.controls import CONTROLS, ingredients, kept, measure, shipped_pairs, tune
from bench.report import hardware, median_and_spread
from configurator import run_program
from dpo import train
from dpo.evaluation.tables import markdown, percent
from model import GPT
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import write_json
from sft.progress import Bar
from sft.tokenizer import Tokenizer

FOLDER = Path("runs/seeds")
DEFAULT = CONTROLS["DPO, the default run"]
ASKED = {"group": 100_000, "kind": 100}  # questions at most: no held-out group has so many


@dataclass
class Config:
    """python -m bench.seeds: train the default run over several seeds, and test each."""

    seeds: int = 10  # runs: 1, 2, ... are their seeds


def run_seed(base: GPT, tokenizer: Tokenizer, config: train.Config) -> dict:
    """Seconds of the reference's pass and all steps, without evals and files; then the shares."""
    pairs = shipped_pairs(tokenizer, config)
    started = time.perf_counter()
    policy = tune(base, tokenizer, pairs, config, DEFAULT)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "shares": measure(policy, tokenizer, ASKED["group"], ASKED["kind"])}


def worst(runs: list[dict]) -> dict:
    """The lowest share of each sort, but the highest of what is wrong; the most seconds."""
    shares = {}
    for what in runs[0]["shares"]:
        pick = max if what.startswith("wrong") else min
        shares[what] = pick((run["shares"][what] for run in runs), key=lambda share: share["rate"])
    return {"seconds": max(run["seconds"] for run in runs), "shares": shares}


def seeds_table(runs: list[dict]) -> str:
    """A row per run, and the worst of each column below them."""
    shares = runs[0]["shares"].items()
    rows = [["seed", *(f"{what}, n = {share['n']:,}" for what, share in shares), "seconds"]]
    rows_of = {str(seed): run for seed, run in enumerate(runs, start=1)}
    for name, run in (rows_of | {"worst": worst(runs)}).items():
        rows.append([name, *map(percent, run["shares"].values()), f"{run['seconds']:.1f}"])
    return markdown(rows)


def main(config: Config) -> None:
    if config.seeds < 1:
        raise ValueError(f"seeds is {config.seeds}; at least one run is needed")
    default, runs = train.Config(), []
    base, tokenizer = load_model(default.base, best_device(default.device))
    with Bar(config.seeds, "seeds", "run") as bar:
        for seed in range(1, config.seeds + 1):
            own = replace(default, seed=seed)
            run = partial(run_seed, base, tokenizer, own)
            runs.append(kept(FOLDER / f"{seed}.json", ingredients(own, ASKED), run))
            bar.update()
    seconds = median_and_spread([run["seconds"] for run in runs])
    print(
        f"{hardware()}; {default.steps} steps of {default.batch_size} pairs, in {seconds} s with "
        f"the reference's pass\ngreedy answers, 95 % intervals\n\n{seeds_table(runs)}"
    )
    write_json(FOLDER / "results.json", {"runs": runs, "worst": worst(runs)})


if __name__ == "__main__":
    run_program(main, Config())
