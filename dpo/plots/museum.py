"""The museum: each exhibit's loss beside the healthy run's, its wrong line, and what it answers."""

import textwrap
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dpo.loss import LN_2
from dpo.plots.style import BLUE, GREEN, GREY, ORANGE


class DrawnResult(Protocol):
    """What is drawn of an exhibit; `dpo.museum.ExhibitResult` has all of it."""

    exhibit: type  # has a title and a lesson
    baseline: type  # the exhibit of the same run without the mistake
    curve: list[float]  # preference loss of every step
    ends: tuple[float, float]  # loss of the first step, and mean of the last ones
    ranked: float  # share of the last pairs that are ranked right
    replies: list  # to the questions that were asked
    shares: dict[str, dict[str, float]]  # rates of the replies
    sample: str  # a question and its answer
    change: tuple[str, str] | None  # the right line and the wrong one


def museum_figure(results: list[DrawnResult]) -> Figure:
    """Two columns for each baseline, curves and words, its exhibits below each other.

    The first result of each baseline is the healthy run.
    """
    by_baseline: dict[type, list[DrawnResult]] = {}
    for result in results:
        by_baseline.setdefault(result.baseline, []).append(result)
    figure, axes = _empty_museum(max(map(len, by_baseline.values())), len(by_baseline))
    for column, members in enumerate(by_baseline.values()):
        for row, result in enumerate(members):
            _draw_exhibit(axes[row, 2 * column], result, healthy=members[0])
            _write_placard(axes[row, 2 * column + 1], result)
    handles = [
        Line2D([], [], color=BLUE, label="preference loss, step by step: healthy"),
        Line2D([], [], color=ORANGE, label="with the mistake"),
        Line2D([], [], color=GREY, linestyle="--", label="the healthy run again"),
        Line2D([], [], color=GREY, linestyle=":", linewidth=0.8, label="ln 2"),
    ]
    columns = 4 if len(by_baseline) > 1 else 2
    figure.legend(handles=handles, loc="lower left", ncols=columns, frameon=False, fontsize=10)
    return figure


def _empty_museum(rows: int, baselines: int) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, 2 x baselines), none of them shown yet."""
    figure, axes = plt.subplots(
        rows,
        2 * baselines,
        figsize=(6.6 * baselines, 2.35 * rows + 0.6),
        width_ratios=[1, 2.1] * baselines,
        squeeze=False,
        dpi=75,
    )
    plt.close(figure)
    figure.subplots_adjust(
        left=0.03, right=0.995, top=1 - 0.2 / rows, bottom=0.4 / rows, wspace=0.1, hspace=0.55
    )
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _draw_exhibit(axis: Axes, result: DrawnResult, healthy: DrawnResult) -> None:
    """The loss of every step, above that of the healthy run."""
    axis.set_axis_on()
    axis.axhline(LN_2, color=GREY, linewidth=0.8, linestyle=":")
    own_color = BLUE if result is healthy else ORANGE
    for run, color, style in ((healthy, GREY, "--"), (result, own_color, "-")):
        axis.plot(range(1, len(run.curve) + 1), run.curve, style, color=color, linewidth=1.6)
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.tick_params(labelsize=8.5)
    axis.set_title(result.exhibit.title, fontsize=11.5, loc="left", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)


def _write_placard(axis: Axes, result: DrawnResult) -> None:
    """Figures, the two lines of code, a sample and the lesson, one text below the other."""
    shares = ", ".join(f"{name} {share['rate']:.0%}" for name, share in result.shares.items())
    loss = "loss {:.3f} -> {:.3f}".format(*result.ends)
    code = {"family": "monospace", "fontsize": 8.5}
    lines: list[tuple[str, dict]] = [
        (f"{len(result.replies)} answers: {shares}", {"fontweight": "bold"}),
        (f"{loss}, {result.ranked:.0%} of the pairs ranked right", {}),
    ]
    if result.change:
        right, wrong = result.change
        lines += _wrapped(f"right  {right}", 52, code | {"color": GREEN})
        lines += _wrapped(f"wrong  {wrong}", 52, code | {"color": ORANGE})
    lines += _wrapped(f"says   {result.sample}", 52, code)
    lines += _wrapped(result.exhibit.lesson, 56, {"style": "italic"})
    for i, (line, style) in enumerate(lines):
        y = 1.14 - 0.135 * i  # from a little above the axis, in parts of its height
        axis.text(0.02, y, line, **{"fontsize": 9.5} | style, parse_math=False, va="top")


def _wrapped(text: str, width: int, style: dict) -> list[tuple[str, dict]]:
    """The text in lines of that many characters at most; code is indented where it goes on."""
    indent = " " * 7 if "family" in style else ""
    lines = textwrap.wrap(text, width, subsequent_indent=indent, drop_whitespace=True)
    return [(line, style) for line in lines]
