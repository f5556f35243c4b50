"""Kinds of questions: what is answered and what refused, and how a run moves the border."""

import math

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dpo.plots.style import BLUE, GREY, ORANGE, OUTCOMES, PERCENT_TICKS, blank_axis

# Marker, colour and place in the row of each model.
MODELS = {"before": ("o", GREY, 0.16), "after": ("D", BLUE, -0.16)}
HEADINGS = {
    "answered": "the base can calculate it",
    "refused": "it cannot, and has met the kind",
    "never": "it cannot, and never met the kind",
}
CHANCES = {f"{p} %": math.log(p / (100 - p)) for p in (1, 50, 99)}  # and their log-odds
CLOSE = 0.09  # of an axis: neighbours that are nearer to each other share a label


def kinds_figure(summaries: dict[str, dict]) -> Figure:
    """What one or more models do with each kind of question (`dpo.formats.summarise_kinds`).

    A panel per model, a bar per kind: how much is right, refused and wrong.
    """
    kinds = next(iter(summaries.values()))["kinds"]
    rows = _rows(kinds)
    figure, axes = plt.subplots(
        1,
        len(summaries),
        figsize=(3.4 + 2.8 * len(summaries), 1.4 + 0.27 * len(rows)),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    plt.close(figure)
    for axis, (name, summary) in zip(axes.flat, summaries.items(), strict=True):
        _draw_kinds(axis, rows, summary["kinds"])
        share = summary["wrong_with_confidence"]
        title = f"{name}: {100 * share['rate']:.1f} % of {share['n']:,} are\nwrong with confidence"
        axis.set_title(title, fontsize=12, loc="left", parse_math=False)
    _name_rows(axes[0, 0], rows)
    axes[0, 0].set_ylim(0.4, len(rows) + 0.6)
    figure.get_layout_engine().set(wspace=0.05)  # or 100 % and 0 % meet
    handles = [Patch(color=strong, label=outcome) for outcome, (_, strong) in OUTCOMES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure


def _draw_kinds(axis: Axes, rows: dict[int, str], kinds: dict[str, dict]) -> None:
    """For every kind the shares of the outcomes, one behind the other in a bar."""
    for y, row in rows.items():
        start = 0.0
        for outcome, (_, strong) in OUTCOMES.items() if row in kinds else ():
            width = kinds[row][outcome]["rate"]
            axis.barh(y, width, left=start, height=0.75, color=strong)
            start += width
    axis.set_xlim(0, 1.05)
    axis.set_xticks(*PERCENT_TICKS)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right"]].set_visible(False)


def odds_figure(odds: dict[str, dict], steps: int) -> Figure:
    """Log-odds of a refusal before and after a run, a row per kind.

    `odds` is what `dpo.border.summarise_odds` gives.
    """
    rows = _rows(odds)
    figure, axis = blank_axis(9, 1.9 + 0.29 * len(rows))
    axis.axvline(0, color="black", linewidth=1.2)
    for y, row in rows.items():
        for model, (marker, color, offset) in MODELS.items():
            if row in odds:
                _draw_range(axis, y + offset, odds[row][model], marker, color)
    _make_room(axis)
    _name_rows(axis, rows)
    _name_models(axis, odds[rows[len(rows) - 1]], len(rows), steps)
    _name_sides(axis)
    lowered = [kind["lowered"]["median"] for kind in odds.values()]
    axis.set_title(
        f"{steps} steps lower the log-odds of a refusal by {min(lowered):.1f} to "
        f"{max(lowered):.1f} nats, kind by kind:\nwhat comes below 0 is answered",
        fontsize=12,
        loc="left",
    )
    return figure


def _rows(kinds: dict[str, dict]) -> dict[int, str]:
    """Headings and kinds by their place, the first on top."""
    rows = []
    for group, heading in HEADINGS.items():
        members = [kind for kind, summary in kinds.items() if summary["in_base"] == group]
        rows += [heading, *members] if members else []
    return dict(zip(range(len(rows), 0, -1), rows, strict=True))


def _draw_range(axis: Axes, y: float, spread: dict, marker: str, color: str) -> None:
    """The median as a mark, the 10-90 % range as a line."""
    axis.plot([spread["low"], spread["high"]], [y, y], color=color, linewidth=1.6)
    axis.plot(spread["median"], y, marker, color=color, markersize=5.5)


def _make_room(axis: Axes) -> None:
    """For the name of the lower model, and for words on both sides of the border."""
    low, high = axis.get_xlim()
    low = min(low - 0.2 * (high - low), -0.4 * high)
    axis.set_xlim(low, max(high, -0.4 * low))


def _name_rows(axis: Axes, rows: dict[int, str]) -> None:
    axis.set_yticks(list(rows), list(rows.values()), parse_math=False)
    axis.set_ylim(-0.6, len(rows) + 0.6)
    axis.tick_params(axis="y", length=0)
    for label in axis.get_yticklabels():
        if label.get_text() in HEADINGS.values():
            label.set_fontweight("bold")


def _name_models(axis: Axes, first: dict, y: int, steps: int) -> None:
    """Their names above the marks of the first kind, away from each other."""
    names = {"before": "base", "after": f"after {steps} steps"}
    right = max(names, key=lambda model: first[model]["median"])
    for model, name in names.items():
        side = "left" if model == right else "right"
        x, color = first[model]["median"], MODELS[model][1]
        axis.text(x, y, name, ha=side, va="center", color=color, fontsize=11)


def _name_sides(axis: Axes) -> None:
    """What the two sides of the border mean, and the probabilities on top."""
    axis.text(-0.4, 0, "left of 0 it answers", ha="right", va="center", fontsize=11)
    axis.text(0.4, 0, "right of 0 it refuses", ha="left", va="center", fontsize=11)
    axis.set_xlabel(
        "log-odds of a refusal in nats; mark: median, line: 10 to 90 % of the questions"
    )
    top = axis.secondary_xaxis("top")
    top.set_xticks(list(CHANCES.values()), list(CHANCES))
    top.set_xlabel("probability of a refusal")


def border_figure(points: list[dict], marked: int, name: str) -> Figure:
    """What is right against what is wrong with confidence, after runs of more and more steps.

    `points` are those of `dpo.border`; the run of `marked` steps is pointed out by its name.
    """
    figure, axis = blank_axis(8, 5.4)
    places = list(map(_place, points))
    for point, (x, y) in zip(points, places, strict=True):
        risk, share = point["wrong_with_confidence"], point["right"]  # with 95 % intervals
        axis.plot([risk["low"], risk["high"]], [y, y], color=BLUE, alpha=0.3)
        axis.plot([x, x], [share["low"], share["high"]], color=BLUE, alpha=0.3)
    axis.plot(*zip(*places, strict=True), "-o", color=BLUE, markersize=5)
    right_end = 1.25 * max(0.08, *(x for x, _ in places))  # room for names
    axis.set_xlim(-0.02 * right_end, right_end)
    axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick < min(1.01, right_end)])
    axis.set_ylim(-0.1, 1.15)
    _name_points(axis, points, marked, name)
    _say_what_comes_of(axis, next(p for p in points if p["steps"] == marked), points[-1])
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_xlabel(f"wrong with confidence, of all {risk['n']:,} questions")
    axis.set_ylabel(f"right, of the {share['n']:,} questions that the base can calculate")
    return figure


def _name_points(axis: Axes, points: list[dict], marked: int, name: str) -> None:
    """Their steps, below and to the right, where a rising curve never is; the marked one above."""
    beside = {"textcoords": "offset points", "fontsize": 10, "ha": "left"}
    groups: list[list[dict]] = []
    for point in points:
        if point["steps"] == marked:
            axis.plot(*_place(point), "o", color=ORANGE, markersize=9, zorder=3)
            label = f"{marked} steps, {name}"
            axis.annotate(label, _place(point), (-4, 12), color=ORANGE, weight="bold", **beside)
        elif groups and _are_close(axis, groups[-1][-1], point):
            groups[-1].append(point)
        else:
            groups.append([point])
    for group in groups:
        first, last = group[0]["steps"], group[-1]["steps"]
        label = f"{first}" if first == last else f"{first} to {last}"
        axis.annotate(f"{label} steps", _place(group[-1]), (6, -13), color=BLUE, **beside)


def _place(point: dict) -> tuple[float, float]:
    return point["wrong_with_confidence"]["rate"], point["right"]["rate"]


def _are_close(axis: Axes, one: dict, other: dict) -> bool:
    """Whether two labels, one beside each point, would cover each other."""
    x, y = (
        abs(a - b) / (high - low)
        for a, b, (low, high) in zip(
            _place(one), _place(other), (axis.get_xlim(), axis.get_ylim()), strict=True
        )
    )
    return max(x, y) < CLOSE


def _say_what_comes_of(axis: Axes, run: dict, longest: dict) -> None:
    """The title: both shares after the marked run and after the longest one."""
    (risk, right), (last_risk, last_right) = _place(run), _place(longest)
    sentence = (
        f"After {run['steps']} steps {100 * right:.0f} % of what has an answer is right, and "
        f"{100 * risk:.1f} % of all is wrong\nwith confidence; "
        f"after {longest['steps']} steps {100 * last_right:.0f} % and {100 * last_risk:.0f} %"
    )
    axis.set_title(sentence, fontsize=12, loc="left")
