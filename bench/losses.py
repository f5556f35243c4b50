"""Losses on the same base and pairs, at two learning rates: `python -m bench.losses`.

The default run with each loss, and the assignment's own settings. Stop it when you like: runs that
ended are kept in runs/losses and not repeated. Draws dpo/images/losses.png.
"""

import json
from pathlib import Path

import torch

from bench.results import Measurement, print_result
from configurator import override
from dpo.evaluation.kl import kl_to_reference
from dpo.evaluation.replies import sample_questions
from dpo.evaluation.tables import counted, describe_group, markdown, percent
from dpo.plots.runs import runs_figure
from dpo.plots.style import save_figure
from dpo.sweep import compare_and_draw, train_all
from dpo.train import Config
from model import GPT
from sft.checkpoint.weights import load_model
from sft.tokenizer import Tokenizer

FOLDER = Path("runs/losses")
LOSSES: dict[str, dict] = {
    "DPO": {},
    "DPO + NLL": {"nll_coef": 0.2},
    "IPO": {"loss_type": "ipo"},
    "hinge": {"loss_type": "hinge"},
    "cDPO": {"loss_type": "cdpo"},
    "robust DPO": {"loss_type": "robust"},
    "DPOP": {"loss_type": "dpop"},
    "length-normalised DPO": {"loss_type": "length_norm", "beta": 5.0},  # the beta of its paper
    "SimPO": {"loss_type": "simpo", "beta": 2.0},
    "APO-zero": {"loss_type": "apo_zero"},
    "APO-down": {"loss_type": "apo_down"},
    "ORPO": {"loss_type": "orpo", "nll_coef": 1.0},
    "KTO": {"loss_type": "kto"},
    "the assignment's loss": {"loss_type": "assignment", "beta": 0.5},
}
RATES = (Config.base_lr, 5 * Config.base_lr)
N, KL_N = 100, 32  # questions a group, and for the KL


def all_runs() -> dict[str, Config]:
    """The settings of every run, by its name."""
    runs = {}
    for rate in RATES:
        for name, settings in LOSSES.items():
            runs[f"{name}, {rate:g}"] = Config(eval_every=0, base_lr=rate, **settings)
    assignment = override(Config(eval_every=0), ["dpo/settings/assignment.py"])
    return runs | {"the assignment's settings": assignment}


def ends_of_runs(results: dict[str, dict]) -> dict[str, dict]:
    """What is kept of the figures of `dpo.compare`: shares of right answers and of small talk."""
    ends = {}
    for name, result in results.items():
        right = {
            describe_group(group): figures["right"]
            for group, figures in result["groups"].items()
            if not group.startswith("seen")
        }
        ends[name] = {"right": right, "talk": result["everyday"]}
    return ends


def ends_table(values: dict[str, dict]) -> str:
    """A row per run of `ends_of_runs`, with its KL if that was measured."""
    first = next(iter(values.values()))
    heads = [f"{what}, n = {share['n']:,}" for what, share in first["right"].items()]
    kl = [f"KL to the base, nats, n = {KL_N}"] if "kl" in first else []
    rows = [["run", *heads, "small talk kept", *kl]]
    for name, run in values.items():
        cells = [*map(percent, run["right"].values()), counted(run["talk"])]
        rows.append([name, *cells, *([f"{run['kl']:.2f}"] if kl else [])])
    return markdown(rows)


def kl_of(path: Path, base: GPT, tokenizer: Tokenizer) -> float:
    """KL of a run's model to its base, in nats an answer to a held-out sum."""
    asked = [question.text for question in sample_questions("held_out/additive", KL_N, seed=1)]
    generator = torch.Generator().manual_seed(1)
    return kl_to_reference(load_model(path)[0], base, tokenizer, asked, generator)


def measure() -> dict[str, dict]:
    paths = train_all(all_runs(), FOLDER)
    compare_and_draw(paths, FOLDER, N)
    results = json.loads((FOLDER / "runs.json").read_text(encoding="utf-8"))
    save_figure(runs_figure(results), "dpo/images/losses.png")
    base, ends = load_model(Config.base), ends_of_runs(results)
    return {name: end | {"kl": kl_of(paths[name], *base)} for name, end in ends.items()}


MEASUREMENT = Measurement(
    "losses", "python -m bench.losses", measure, lambda values: {"table": ends_table(values)}, 7
)

if __name__ == "__main__":
    print_result(MEASUREMENT)
