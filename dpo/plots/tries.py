"""Your pairs beside the shipped ones: the losses of both runs, and what both models answer."""

from typing import Protocol

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dpo.loss import LN_2
from dpo.plots.style import GREEN, GREY, OUTCOMES, PERCENT_TICKS, ink_on, label_ends

LINES = ((GREY, "--"), (GREEN, "-"))  # the shipped pairs, and yours
ROOM = 0.05  # the smallest share whose count has room in its bar


class DrawnTrial(Protocol):
    """What is drawn of a trial; `dpo.try_pairs.Trial` has all of it."""

    losses: dict[str, list[float]]  # preference loss of every step: "shipped" and "yours"
    outcomes: dict[str, dict[str, dict]]  # by topic and run: n, and the shares of OUTCOMES


def trial_figure(trial: DrawnTrial) -> Figure:
    """The two loss curves over each other; beside them two bars for every topic."""
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(9, 1.8 + 0.55 * len(trial.outcomes)),
        layout="constrained",
        width_ratios=(2, 3),
    )
    plt.close(figure)
    _draw_losses(left, trial.losses)
    _draw_topics(right, trial.outcomes)
    handles = [Patch(color=OUTCOMES[outcome][1], label=outcome) for outcome in OUTCOMES]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, frameon=False, fontsize=11)
    return figure


def _draw_losses(axis: Axes, losses: dict[str, list[float]]) -> None:
    """A curve for each run, and ln 2, where the loss of DPO starts."""
    labels = []
    for (name, loss), (color, style) in zip(losses.items(), LINES, strict=True):
        axis.plot(range(1, len(loss) + 1), loss, style, color=color, linewidth=1.8)
        labels.append((loss[-1], name, color))
    last = max(map(len, losses.values()))
    if abs(losses["yours"][0] - LN_2) < 0.01:  # only of losses that start there
        axis.plot([0, last], [LN_2] * 2, color=GREY, linewidth=0.8, linestyle=":")
        axis.annotate("ln 2", (last, LN_2), color=GREY, ha="right", va="bottom", fontsize=10)
    axis.margins(y=0.12)
    label_ends(axis, labels, last)
    axis.set_xlim(0, 1.3 * last)  # room for the names
    axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= last])
    axis.set_xlabel("step")
    axis.set_ylabel("loss, nats")
    ends = "\nand ".join(f"{loss[-1]:.2f} ({name})" for name, loss in losses.items())
    axis.set_title(f"The loss ends at {ends}", fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_topics(axis: Axes, topics: dict[str, dict[str, dict]]) -> None:
    """For every topic, from the top, a bar for each run."""
    places = range(len(topics), 0, -1)
    for y, runs in zip(places, topics.values(), strict=True):
        for offset, (name, shares) in zip((0.2, -0.2), runs.items(), strict=True):
            _draw_bar(axis, y + offset, shares)
            axis.text(1.02, y + offset, name, va="center", fontsize=10)
    names = [f"{topic}\nn = {next(iter(runs.values()))['n']}" for topic, runs in topics.items()]
    axis.set_yticks(places, names, parse_math=False)
    axis.set_ylim(0.5, len(topics) + 0.5)
    axis.set_xlim(0, 1.16)  # room for the names
    axis.set_xticks(*PERCENT_TICKS)
    right = " and ".join(f"{_count(topics, name, 'right')} ({name})" for name in runs)
    wrong = " and ".join(str(_count(topics, name, "wrong")) for name in runs)
    axis.set_title(f"Right: {right};\nwrong: {wrong}", fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _count(topics: dict[str, dict[str, dict]], name: str, outcome: str) -> int:
    """Answers of one run with that outcome, over all topics."""
    return sum(runs[name][outcome]["count"] for runs in topics.values())


def _draw_bar(axis: Axes, y: float, shares: dict) -> None:
    """The shares of the outcomes, one behind the other, with their counts where there is room."""
    start = 0.0
    for outcome in OUTCOMES:
        width, color = shares[outcome]["rate"], OUTCOMES[outcome][1]
        axis.barh(y, width, left=start, height=0.36, color=color)
        if width >= ROOM:
            text, ink = str(shares[outcome]["count"]), ink_on(to_rgb(color))
            middle = (start + width / 2, y)
            axis.text(*middle, text, ha="center", va="center_baseline", color=ink, fontsize=10)
        start += width
