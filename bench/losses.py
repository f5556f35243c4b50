"""Losses on the same base and pairs, at two learning rates: `python -m bench.losses`.

The assignment's own settings are among them. Takes about three quarters of an hour on two CPU
cores. Stop it when you like: runs that ended are kept in runs/losses and not repeated. Prints the
table of `python -m dpo.compare` and draws dpo/images/losses.png.
"""

from pathlib import Path

from bench.report import hardware
from configurator import override
from dpo.plots.runs import runs_figure
from dpo.plots.style import save_figure
from dpo.sweep import compare_and_draw, train_all
from dpo.train import Config

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
    "the assignment's loss": {"loss_type": "assignment", "beta": 0.5},
}
RATES = (1e-5, 5e-5)  # the default, and one at which pure DPO overshoots


def all_runs() -> dict[str, Config]:
    """The settings of every run, by its name."""
    runs = {}
    for rate in RATES:
        common = {"nll_coef": 0.0, "eval_every": 16, "base_lr": rate}
        for name, settings in LOSSES.items():
            runs[f"{name}, {rate:g}"] = Config(**common | settings)
    assignment = override(Config(eval_every=60), ["dpo/settings/assignment.py"])
    return runs | {"the assignment's settings": assignment}


def main() -> None:
    print(hardware())
    results = compare_and_draw(train_all(all_runs(), FOLDER), FOLDER, n=1200)
    save_figure(runs_figure(results), "dpo/images/losses.png")


if __name__ == "__main__":
    main()
