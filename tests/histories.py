"""A run that goes well, made up, with whatever else somebody wants to see in its curves."""

import math

from dpo.training.history import History

STEPS = 60


def ramp(start, end):
    return [start + (end - start) * i / (STEPS - 1) for i in range(STEPS)]


def made_up_run(evals=None, **curves):
    """A history with some of its curves replaced (`rewards__chosen` is `rewards/chosen`).

    `evals` replaces columns of the five evals.
    """
    steps = {
        "loss/preference": ramp(math.log(2), 0.5), "loss": ramp(0.7, 0.51), "nll": ramp(0.04, 0.01),
        "rewards/chosen": ramp(0, 0.3), "rewards/rejected": ramp(0, -0.3),
        "rewards/margins": ramp(0, 0.6),
        "rewards/accuracies": [min(1.0, 0.5 + i / 20) for i in range(STEPS)],
        "logps/chosen": ramp(-4, -1), "logps/rejected": ramp(-2, -5),
        "grad_norm": [1.0] * STEPS, "lr": [1e-5] * STEPS,
    }  # fmt: skip
    columns = {
        "step": [0, 15, 30, 45, 60],
        "kl": [0.0, 0.2, 0.5, 0.9, 1.2],
        "exact/held_out": [0.0, 0.3, 0.6, 0.8, 0.9],
        "exact/trained": [0.0, 0.3, 0.7, 0.9, 0.95],
    }
    replaced = {name.replace("__", "/"): values for name, values in curves.items()}
    return History(steps | replaced, columns | (evals or {}))
