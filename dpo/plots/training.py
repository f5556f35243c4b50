"""The dials of a training: all that a run has recorded."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpo.loss import LN_2
from dpo.plots.style import BLUE, GREEN, GREY, ORANGE, PERCENT_TICKS, label_ends
from dpo.training.history import History

Lines = dict[str, tuple[str, str, str]]  # by column of the history: label, colour, style
STEP_PANELS: dict[str, Lines] = {
    "Loss": {
        "loss": ("total", GREY, ":"),
        "loss/preference": ("preference", BLUE, "-"),
        "nll": ("NLL of chosen,\nper character", ORANGE, "--"),
    },
    "Implicit rewards: beta x log-ratio": {
        "rewards/chosen": ("chosen", BLUE, "-"),
        "rewards/rejected": ("rejected", ORANGE, "--"),
        "rewards/margins": ("margin", GREEN, "-."),
    },
    "Log-probability of an answer (nats)": {
        "logps/chosen": ("chosen", BLUE, "-"),
        "logps/rejected": ("rejected", ORANGE, "--"),
    },
    "Pairs ranked right": {"rewards/accuracies": ("of the batch", BLUE, "-")},
}
EVAL_PANELS: dict[str, Lines] = {
    "Questions answered right": {
        "exact/held_out": ("held-out,\nvalidation", GREEN, "--"),
        "exact/trained": ("of the pairs", BLUE, "-"),
    },
    "Distance from the base: KL (nats)": {"kl": ("KL", BLUE, "-")},
}
FEW_STEPS = 64  # a run of so many shows each of them as a point
RATE_PANELS = ("Pairs ranked right", "Questions answered right")


def dials_figure(history: History) -> Figure:
    """Six panels of what a run has recorded; without evals two stay empty."""
    figure, axes = plt.subplots(2, 3, figsize=(9, 5.4), layout="constrained")
    plt.close(figure)  # or a notebook shows it a second time
    steps = list(range(1, len(history) + 1))
    panels = [(title, lines, steps, history.steps) for title, lines in STEP_PANELS.items()]
    if history.evals:
        at = history.evals["step"]
        panels += [(title, lines, at, history.evals) for title, lines in EVAL_PANELS.items()]
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, *panel, len(history))
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def _draw_panel(
    axis: Axes,
    title: str,
    lines: Lines,
    steps: list[float],
    columns: dict[str, list[float]],
    total_steps: int,
) -> None:
    """The lines of one panel, each with its label at its end."""
    labels = []
    for name, (label, color, style) in lines.items():
        axis.plot(steps, columns[name], style, color=color, linewidth=1.8)
        if title in EVAL_PANELS or total_steps <= FEW_STEPS:
            axis.lines[-1].set(marker="o", markersize=4)
        labels.append((columns[name][-1], label, color))
    if title in RATE_PANELS:
        axis.set_ylim(-0.05, 1.1)
        axis.set_yticks(*PERCENT_TICKS)
    else:
        axis.margins(y=0.12)
    if (
        title == "Loss" and abs(columns["loss/preference"][0] - LN_2) < 0.01
    ):  # only of losses that start there
        axis.plot([0, total_steps], [LN_2] * 2, color=GREY, linewidth=0.8, linestyle=":")
        axis.annotate("ln 2", (total_steps, LN_2), color=GREY, ha="right", va="bottom", fontsize=10)
    label_ends(axis, labels, steps[-1])
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlim(0, total_steps * 1.45)  # room for the labels
    axis.set_xticks([t for t in axis.get_xticks() if 0 <= t <= total_steps])
    axis.set_xlabel("step", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
