"""What a file of pairs holds, and how likely its answers are under the base."""

import math
import textwrap
from collections import Counter

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpo.data.profile import PairsProfile, Share
from dpo.evaluation.forecast import OBSTACLES, Obstacle, ScoredPair, find_obstacle
from dpo.plots.style import BLUE, GREY, ORANGE, PERCENT_TICKS, blank_axis

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


def likelihood_figure(scored: list[ScoredPair]) -> Figure:
    """A point a pair: how likely its chosen answer is under the base, and its rejected one.

    Pairs that leave the base no choice have a marker of their kind. The title names the commonest.
    """
    figure, axis = blank_axis(8.6, 5)
    kinds: dict[Obstacle | None, list[ScoredPair]] = {kind: [] for kind in (None, *OBSTACLES)}
    for it in scored:
        kinds[find_obstacle(it)].append(it)
    for (kind, members), marker in zip(kinds.items(), "os^Dv", strict=True):
        at = [it.rejected_logp for it in members], [it.chosen_logp for it in members]
        name = f"{len(members):,} {_what(kind)}"
        if members and kind:
            name += f" (first: line {members[0].pair.line})"
        looks = {"color": ORANGE if kind else BLUE, "ms": 7, "alpha": 0.6, "clip_on": False}
        axis.plot(*at, marker, label=textwrap.fill(name, 34) if members else None, **looks)
    _draw_square(axis, min(min(it.chosen_logp, it.rejected_logp) for it in scored))
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, labelspacing=1)
    commonest = max(kinds, key=lambda kind: len(kinds[kind]))
    n, share = len(scored), len(kinds[commonest])
    who = f"All {n:,} pairs" if share == n else f"{share:,} of {n:,} pairs"
    axis.set_title(f"{who} {_what(commonest)}", fontsize=12, loc="left")
    axis.set_xlabel("probability of the rejected answer")
    axis.set_ylabel("probability of the chosen answer")
    return figure


def _what(kind: Obstacle | None) -> str:
    return kind.name if kind else "leave the base a choice"


def _draw_square(axis: Axes, lowest: float) -> None:
    """Both axes alike, in nats: linear from 0 to -1 and logarithmic below; with their diagonal."""
    limit = 1.5 * min(lowest, -2)
    shares = (1, 0.6, 0.3, 0.1, 0.01) if limit > -30 else (1, 0.6, 0.1)
    ticks = {f"{p:.0%}".replace("%", " %"): math.log(p) for p in shares}
    ticks |= {f"$10^{{{power}}}$": power * math.log(10) for power in (-4, -10, -30, -100)}
    ticks = {name: logp for name, logp in ticks.items() if logp > limit}
    axis.set_xscale("symlog", linthresh=1)
    axis.set_yscale("symlog", linthresh=1)
    axis.set_xticks(list(ticks.values()), list(ticks))
    axis.set_yticks(list(ticks.values()), list(ticks))
    axis.minorticks_off()
    axis.set(xlim=(limit, 0), ylim=(limit, 0), aspect="equal")
    axis.plot([limit, 0], [limit, 0], ":", color=GREY, linewidth=1.2, zorder=0)
    meaning = (
        "Dotted: both alike; above it, the base prefers the chosen answer. Both scales are "
        "logarithmic below 37 %."
    )
    axis.text(1.04, 0.05, textwrap.fill(meaning, 34), transform=axis.transAxes, color=GREY)
