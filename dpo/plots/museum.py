"""The museum: the loss of every exhibit, five runs as a band, beside that of the healthy run."""

import random
import string
from collections.abc import Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpo.loss import LN_2
from dpo.plots.style import BLUE, GREY, ORANGE, blank_axis, label_ends

COLUMNS = 3
MOST_LOSS = 0.8  # the axis ends here unless a curve is higher: most panels have one scale
FALLEN = 0.02  # a loss that is lower by this has fallen

Curves = list[list[float]]  # the preference loss of every step, a curve per seed


class DrawnResult(Protocol):
    """What is drawn of an exhibit; `dpo.museum.ExhibitResult` has all of it."""

    title: str
    verdict: str  # harm or none, and how many answers are right
    is_healthy: bool
    harmed: int  # runs that answer far less than the healthy ones
    curves: Curves
    healthy_curves: Curves  # of the same seeds


def museum_figure(results: Sequence[DrawnResult]) -> Figure:
    """A panel for every exhibit: its curves above those of the healthy run."""
    figure, panels = _panels(len(results))
    for axis, result in zip(panels, results, strict=True):
        _draw_pair(axis, result)
        axis.set_title(f"{result.title}\n{result.verdict}", fontsize=10, loc="left")
    harmful = [result for result in results if result.harmed]
    falling = sum(_falls(result.curves) for result in harmful)
    figure.suptitle(
        f"In {falling} of {len(harmful)} exhibits that do harm, the loss falls all the same\n"
        "Preference loss, step by step: with the mistake (orange), healthy (grey); dotted: ln 2",
        fontsize=12,
        x=0.01,
        ha="left",
    )
    return figure


def puzzle_order(results: Sequence[DrawnResult], seed: int = 1) -> dict[str, DrawnResult]:
    """The results in an order that the seed gives, under the letters A, B, C and so on."""
    shuffled = random.Random(seed).sample(results, len(results))
    return dict(zip(string.ascii_uppercase, shuffled, strict=False))


def museum_puzzle(results: Sequence[DrawnResult], seed: int = 1) -> Figure:
    """The curves of every result, the healthy one among them, under its letter of `puzzle_order`.

    Nothing else is told.
    """
    figure, panels = _panels(len(results))
    for axis, (letter, result) in zip(panels, puzzle_order(results, seed).items(), strict=True):
        _draw_band(axis, result.curves, BLUE)
        axis.set_ylim(0, _top(result.curves))
        axis.set_title(letter, fontsize=12, loc="left", fontweight="bold")
    runs = len(results[0].curves)
    figure.suptitle(
        "Which of these runs are broken?\n"
        f"Preference loss, step by step, and its median; runs in each panel: {runs}; dotted: ln 2",
        fontsize=12,
        x=0.01,
        ha="left",
    )
    return figure


def exhibit_figure(result: DrawnResult) -> Figure:
    """The curves of one exhibit above those of the healthy run."""
    figure, axis = blank_axis(6.5, 2.9)
    _draw_pair(axis, result)
    steps = len(result.curves[0])
    ends = [("healthy", result.healthy_curves, GREY)]
    if not result.is_healthy:
        ends.append(("with the mistake", result.curves, ORANGE))
    lowest = 0.07 * axis.get_ylim()[1]  # a name on the axis could not be read
    labels = [(max(lowest, _median(curves)[-1]), name, color) for name, curves, color in ends]
    label_ends(axis, labels, steps)
    axis.set_xlim(1, 1.4 * steps)  # room for the names
    axis.set_xticks([tick for tick in axis.get_xticks() if 1 <= tick <= steps])
    axis.annotate(
        "ln 2", (1.4 * steps, LN_2), (0, 2), textcoords="offset points",
        ha="right", color=GREY, fontsize=10,
    )  # fmt: skip
    axis.set_xlabel("step")
    axis.set_ylabel("preference loss")
    axis.set_title(f"{result.title}: {result.verdict}", fontsize=12, loc="left")
    return figure


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    """A figure with n axes, COLUMNS in a row."""
    rows = -(-n // COLUMNS)
    size = (9.5, 1.9 * rows + 0.6)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=size, layout="constrained", squeeze=False)
    plt.close(figure)
    for axis in axes.flat[n:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:n])


def _draw_pair(axis: Axes, result: DrawnResult) -> None:
    """The healthy curves, and above them those with the mistake, from zero on."""
    _draw_band(axis, result.healthy_curves, GREY)
    if not result.is_healthy:
        _draw_band(axis, result.curves, ORANGE)
    axis.set_ylim(0, _top(result.curves + result.healthy_curves))


def _draw_band(axis: Axes, curves: Curves, color: str) -> None:
    """All curves thin, their median thick, and a line at ln 2, where the healthy ones begin."""
    steps = range(1, len(curves[0]) + 1)
    axis.axhline(LN_2, color=GREY, linewidth=0.8, linestyle=":")
    for curve in curves:
        axis.plot(steps, curve, color=color, linewidth=0.7, alpha=0.45)
    style = "--" if color == GREY else "-"
    axis.plot(steps, _median(curves), style, color=color, linewidth=2)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.spines[["top", "right"]].set_visible(False)


def _median(curves: Curves) -> list[float]:
    return np.median(curves, axis=0).tolist()


def _top(curves: Curves) -> float:
    """Where the axis of the loss ends."""
    return max(MOST_LOSS, 1.05 * np.max(curves))


def _falls(curves: Curves) -> bool:
    median = _median(curves)
    return median[-1] < median[0] - FALLEN
