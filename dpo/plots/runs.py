"""Runs beside each other: what came of them, and the way there.

A result is what `dpo.compare` knows of a run: "groups" as `evaluate` gives them, "everyday" (how
many small-talk questions still get the answer of the corpus), and "history".
"""

from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dpo.evaluation.tables import describe_group
from dpo.plots.style import BLUE, GREEN, GREY, ORANGE, PERCENT_TICKS, ink_on, label_ends

MOST_CURVES = 6  # more lines in one panel are not told apart
RUN_COLORS = (BLUE, ORANGE, GREEN, GREY, "#CC79A7", "#56B4E9")
RUN_STYLES = ("-", "--", "-.", ":", "-", "--")
ENDS = {  # marker and colour of what is compared: held-out questions of both kinds, and talk
    "additive": ("o", BLUE),
    "multiplicative": ("^", ORANGE),
    "everyday": ("s", GREEN),
}


def runs_figure(results: dict[str, dict]) -> Figure:
    """Right answers at the end of every run and, of a few runs, the way there."""
    with_ways = len(results) <= MOST_CURVES
    rows = max(len(results), MOST_CURVES) if with_ways else len(results)
    figure, axes = plt.subplots(
        1,
        1 + with_ways,
        figsize=(13 if with_ways else 9, 1.6 + 0.42 * rows),
        layout="constrained",
        squeeze=False,
    )
    plt.close(figure)
    _draw_ends(axes[0, 0], results)
    if with_ways:
        _draw_ways(axes[0, 1], results)
    return figure


def _draw_ends(axis: Axes, results: dict[str, dict]) -> None:
    """For every run, from the top, a mark with its interval for each of ENDS."""
    places = range(len(results), 0, -1)
    for offset, (kind, (marker, color)) in zip((0.22, 0, -0.22), ENDS.items(), strict=True):
        for y, result in zip(places, results.values(), strict=True):
            _, share = _find_end(result, kind)
            axis.plot([share["low"], share["high"]], [y + offset] * 2, color=color, linewidth=1.4)
            axis.plot(share["rate"], y + offset, marker, color=color, markersize=6)
    axis.set_yticks(places, list(results), parse_math=False)
    axis.set_ylim(0.4, len(results) + 0.6)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xticks(*PERCENT_TICKS)
    axis.grid(axis="x", alpha=0.3)
    axis.set_title("Right answers at the end, with 95 % intervals", fontsize=11, loc="left")
    one = next(iter(results.values()))  # all are asked the same
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=_find_end(one, kind)[0])
        for kind, (marker, color) in ENDS.items()
    ]
    axis.figure.legend(
        handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=10
    )
    axis.spines[["top", "right"]].set_visible(False)


def _find_end(result: dict, kind: str) -> tuple[str, dict[str, float]]:
    """The name of one of ENDS, and its share in a result: of the test, or of validation."""
    if kind == "everyday":
        return "retention of small talk", result["everyday"]
    group = next(g for g in result["groups"] if g in (f"held_out/{kind}", f"validation/{kind}"))
    return describe_group(group), result["groups"][group]["right"]


def _draw_ways(axis: Axes, results: dict[str, dict]) -> None:
    """Exact match on validation questions at every eval of the runs that had evals."""
    labels, last = [], 1
    for (name, result), color, style in zip(results.items(), RUN_COLORS, RUN_STYLES, strict=False):
        evals = result["history"]["looks"]
        if evals:
            steps, exact = evals["step"], evals["exact/held_out"]
            axis.plot(steps, exact, style, color=color, marker="o", markersize=4)
            labels.append((exact[-1], name, color))
            last = max(last, steps[-1])
    axis.set_ylim(-0.05, 1.15)
    axis.set_yticks(*PERCENT_TICKS)
    label_ends(axis, labels, last)
    axis.set_xlim(0, 1.6 * last)  # room for the names
    axis.set_xticks([t for t in axis.get_xticks() if 0 <= t <= last])
    axis.set_xlabel("step")
    axis.set_title("Questions of validation answered right, on the way", fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def grid_figure(
    names: tuple[str, str], values: tuple[list, list], results: list[list[dict | None]]
) -> Figure:
    """Two settings against each other: a table of colours for each of ENDS.

    `results[i][j]` belongs to `values[0][i]` and `values[1][j]`; None for a run without a result.
    """
    rows, columns = map(len, values)
    size = (3.2 + 3 * 0.95 * columns, 2.2 + 0.55 * rows)
    figure, axes = plt.subplots(1, 3, figsize=size, layout="constrained")
    plt.close(figure)
    one = next(filter(None, chain.from_iterable(results)))  # all are asked the same
    for axis, kind in zip(axes, ENDS, strict=True):
        name, share = _find_end(one, kind)
        _draw_cells(axis, [[r and _find_end(r, kind)[1] for r in row] for row in results])
        axis.set_xticks(range(columns), [f"{value}" for value in values[1]])
        axis.set_yticks(range(rows), [f"{value}" for value in values[0]])
        axis.set_xlabel(names[1])
        axis.set_ylabel(names[0])
        axis.set_title(f"{name}\nn = {share['n']:,}", fontsize=11, loc="left")
        axis.spines[:].set_visible(False)
    return figure


def _draw_cells(axis: Axes, shares: list[list[dict | None]]) -> None:
    """A cell for each share, the darker the higher, with its rate in percent or a dash."""
    rates = np.array([[share["rate"] if share else np.nan for share in row] for row in shares])
    axis.imshow(rates, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(rates):
        text = "-" if np.isnan(value) else f"{100 * value:.0f} %"
        ink = ink_on(plt.get_cmap("Blues")(np.nan_to_num(value)))
        axis.text(j, i, text, ha="center", va="center", color=ink, fontsize=11)
