"""What a file of pairs holds."""

import textwrap
from collections import Counter

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpo.data.profile import PairsProfile, Share
from dpo.plots.style import BLUE, ORANGE, PERCENT_TICKS

SHOWN_NUMBERS = 1000  # larger ones are counted, but not drawn


def pairs_figure(profile: PairsProfile) -> Figure:
    """Forms, numbers, answers, rejected answers and coverage of a file of pairs."""
    figure, axes = plt.subplot_mosaic(
        [["forms", "operands", "answers"], ["forms", "shares", "rejected"]],
        figsize=(13, 5),
        width_ratios=[1, 1.7, 1.3],
        layout="constrained",
    )
    plt.close(figure)
    _draw_bars(axes["forms"], profile.forms, "Pairs of each form")
    _draw_numbers(axes["operands"], profile.operands, "Questions that show each number")
    _draw_numbers(axes["answers"], profile.answers, "Questions with each answer")
    _draw_bars(axes["rejected"], profile.rejected, "Rejected answers")
    _draw_shares(axes["shares"], profile.shares)
    return figure


def _draw_numbers(axis: Axes, counts: Counter[int], title: str) -> None:
    """A bar at each number, from 0 to 99 at least; the title says how many are not drawn."""
    shown = {number: count for number, count in counts.items() if abs(number) < SHOWN_NUMBERS}
    if len(shown) < len(counts):
        title += f" ({len(counts) - len(shown):,} numbers are beyond)"
    axis.bar(list(shown), list(shown.values()), width=1.0, color=BLUE)
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlim(min([0, *shown]) - 1, max([99, *shown]) + 1)
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.spines[["top", "right"]].set_visible(False)


def _draw_shares(axis: Axes, shares: dict[str, Share]) -> None:
    """A bar for each share, with an orange mark where it stands in the whole domain."""
    places = range(len(shares), 0, -1)  # the first on top
    axis.barh(places, [share.rate for share in shares.values()], color=BLUE, height=0.55)
    for y, share in zip(places, shares.values(), strict=True):
        text = f"{share.count:,} of {share.n:,}"
        at = max(share.rate, share.usual or 0)  # behind the bar and behind the mark
        axis.annotate(text, (at, y), (6, 0), textcoords="offset points", va="center", fontsize=10)
        if share.usual is not None:
            axis.plot([share.usual] * 2, [y - 0.4, y + 0.4], color=ORANGE, linewidth=2)
    axis.set_yticks(places, [textwrap.fill(name, 24) for name in shares])
    axis.set_xlim(0, 1.3)
    axis.set_xticks(*PERCENT_TICKS)
    axis.set_title("Coverage (a mark: the whole domain)", fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_bars(axis: Axes, counts: dict[str, int], title: str) -> None:
    """A bar for each name, the first on top, with its number behind it."""
    places = range(len(counts), 0, -1)
    axis.barh(places, list(counts.values()), color=BLUE, height=0.7)
    for y, count in zip(places, counts.values(), strict=True):
        axis.annotate(
            f"{count:,}", (count, y), (4, 0), textcoords="offset points", va="center", fontsize=10
        )
    axis.set_yticks(places, list(counts), parse_math=False)
    axis.set_xticks([])
    axis.set_xlim(0, 1.25 * max(1, *counts.values()))  # room for the numbers
    axis.set_title(title, fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
