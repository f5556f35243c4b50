"""What a model answers: before and after, by form, character by character, among many draws."""

import itertools
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from dpo.evaluation.sampling import GROUP_NAMES
from dpo.evaluation.tokens import Character
from dpo.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    OUTCOMES,
    PERCENT_TICKS,
    blank_axis,
    ink_on,
    label_ends,
)

MAP_SIDE, STRIP_WIDTH = 170, 580  # of the drawn maps, in points
WRONG = "wrong (right):"  # above answers such as 51+98=159 (149)
LINE = 22  # characters of an answer side by side
SPECIAL = {" ": "␣", "\n": "⏎"}  # characters that could not be seen


def pass_at_k_figure(results: dict[str, dict], tuned: dict) -> Figure:
    """pass@k of one or two bases (`sample_and_count`), a panel per group.

    Beside it the greedy accuracy of the tuned model (a result of `evaluate`).
    """
    groups = list(next(iter(results.values())))
    figure, axes = plt.subplots(
        1, len(groups), figsize=(9, 3.4), layout="constrained", sharey=True, squeeze=False
    )
    plt.close(figure)
    for axis, group in zip(axes.flat, groups, strict=True):
        by_base = {name: result[group] for name, result in results.items()}
        _draw_passes(axis, by_base, greedy=tuned["groups"][group]["right"]["rate"])
        n = next(iter(by_base.values()))["n"]
        axis.set_title(f"{GROUP_NAMES[group]}, n = {n}", fontsize=11, loc="left")
    axes[0, 0].set_ylabel("at least one of k is right")
    title = "How often one of k drawn answers is right, and how often the tuned model's only one"
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    return figure


def _draw_passes(axis: Axes, by_base: dict[str, dict], greedy: float) -> None:
    """One group: a curve with its intervals per base, and a line at the tuned model's accuracy."""
    labels = []
    for (name, passes), color, style in zip(
        by_base.items(), (BLUE, GREY), ("-", "--"), strict=False
    ):
        shares = {
            int(key.removeprefix("pass@")): share
            for key, share in passes.items()
            if key.startswith("pass@")
        }
        ks = list(shares)
        rates, low, high = (
            [share[key] for share in shares.values()] for key in ("rate", "low", "high")
        )
        axis.plot(ks, rates, style, color=color, marker="o", markersize=4)
        axis.fill_between(ks, low, high, color=color, alpha=0.15, linewidth=0)
        labels.append((rates[-1], name, color))
    axis.plot([1, ks[-1]], [greedy] * 2, color=ORANGE, linewidth=1.4, linestyle=":")
    axis.annotate(
        f"tuned: {greedy:.0%}", (1, greedy), (0, 3), textcoords="offset points", color=ORANGE
    )
    axis.set_xscale("log", base=4)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.set_xticks([], minor=True)
    axis.set_xlim(0.9, ks[-1] * 4.5)  # room for the names
    axis.set_ylim(-0.04, 1.14)
    axis.set_yticks(*PERCENT_TICKS)
    label_ends(axis, labels, ks[-1])
    axis.set_xlabel("k, answers drawn at temperature 1")
    axis.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True, slots=True)
class Square:
    """What became of one fact family on a map: 17+19 stands 19 to the right and 17 up."""

    smaller: int
    larger: int
    outcome: str  # one of OUTCOMES
    set_aside: bool


def atlas_figure(maps: dict[str, list[Square]], mistakes: dict[str, list[str]]) -> Figure:
    """A map of fact families under each name: the last one is a strip, below all others.

    The mistakes are written beside their map: in its empty corner, or under the strip.
    """
    *names, strip = maps
    figure, axes = plt.subplot_mosaic(
        [names, [strip] * len(names)], figsize=(9, 6), layout="constrained", height_ratios=(2, 1)
    )
    plt.close(figure)
    for name in names:
        largest = max((square.larger for square in maps[name]), default=1)
        _draw_squares(axes[name], maps[name], MAP_SIDE / largest)
        _shape_map(axes[name], largest)
        text = "\n".join([WRONG, *mistakes[name]]) if mistakes[name] else ""
        axes[name].text(0.02, 0.98, text, va="top", fontsize=10, transform=axes[name].transAxes)
    _draw_squares(axes[strip], maps[strip], STRIP_WIDTH / 100)
    _shape_strip(axes[strip], mistakes[strip])
    for name, squares in maps.items():
        axes[name].set_title(f"{name}\n{_count_right(squares)}", fontsize=11, loc="left")
    squares = list(itertools.chain.from_iterable(maps.values()))
    title = f"{_count_right(squares)}. A square is a fact: 17+19 stands 19 to the right and 17 up"
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    figure.get_layout_engine().set(h_pad=0.08)
    _name_outcomes(figure)
    return figure


def _count_right(squares: list[Square]) -> str:
    right = sum(square.outcome == "right" for square in squares)
    return f"{right:,} of {len(squares):,} facts are right"


def _draw_squares(axis: Axes, squares: list[Square], side: float) -> None:
    """All squares, `side` points wide; mistakes come last and large enough to be seen."""
    for outcome, colors in OUTCOMES.items():
        size = max(side, 4.5 if outcome == "wrong" else 1.8)
        for color, set_aside in zip(colors, (False, True), strict=True):
            drawn = [s for s in squares if (s.outcome, s.set_aside) == (outcome, set_aside)]
            x, y = [s.larger for s in drawn], [s.smaller for s in drawn]
            axis.scatter(x, y, s=size**2, marker="s", color=color, linewidths=0)


def _shape_map(axis: Axes, largest: int) -> None:
    """Both axes alike; above the diagonal there is nothing."""
    axis.set_xlim(-0.02 * largest, 1.02 * largest)
    axis.set_ylim(axis.get_xlim())
    axis.set_box_aspect(1)
    axis.set_xlabel("larger number")
    axis.set_ylabel("smaller number")
    axis.spines[["top", "right"]].set_visible(False)


def _shape_strip(axis: Axes, mistakes: list[str]) -> None:
    """Factors from 2: one of both has one digit."""
    axis.set_xlim(1, 100)
    axis.set_ylim(1.4, 9.6)
    axis.set_yticks([2, 5, 9])
    axis.set_ylabel("smaller factor")
    wrong = f"\n{WRONG}   {'   '.join(mistakes)}" if mistakes else ""
    axis.set_xlabel(f"larger factor{wrong}")
    axis.spines[["top", "right"]].set_visible(False)


def _name_outcomes(figure: Figure) -> None:
    """A legend: the colours of what is known to the base, and of what was set aside."""
    handles = []
    for outcome, colors in OUTCOMES.items():
        for color, side in zip(colors, ("", ", set aside"), strict=True):
            handles.append(Patch(color=color, label=f"{outcome}{side}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)


def answer_figure(prompt: str, characters: list[Character]) -> Figure:
    """What was written, above its likeliest alternatives; the darker a box, the likelier."""
    names = ["written", *["or"] * max(len(character.alternatives) for character in characters)]
    lines = [characters[i : i + LINE] for i in range(0, len(characters), LINE)]
    step = len(names) + 0.5  # from a line to the next one
    figure, axis = blank_axis(9, 0.5 + 0.32 * step * len(lines))
    for i, line in enumerate(lines):
        for row, name in enumerate(names):
            axis.text(-0.3, 0.5 - i * step - row, name, ha="right", va="center", fontsize=10)
        for x, character in enumerate(line):
            column = [(character.text, character.probability), *character.alternatives]
            for row, (text, probability) in enumerate(column):
                _draw_choice(axis, x, -i * step - row, text, probability)
    axis.set_xlim(-2.6, LINE + 0.2)
    axis.set_ylim(0.4 - len(lines) * step, 1.1)
    axis.set_axis_off()
    title = f"{prompt}   How likely each character was, in percent (no number: 100; grey: 0)"
    axis.set_title(title, fontsize=12, loc="left")
    return figure


def _draw_choice(axis: Axes, x: int, y: float, text: str, probability: float) -> None:
    """A box with a character and its probability in percent, without it if that is 0 or 100."""
    color = plt.get_cmap("Blues")(0.85 * probability)  # the darkest would swallow the text
    axis.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white"))
    share = f"{100 * probability:.0f}"
    ink = "#767676" if share == "0" else ink_on(color)
    shown = SPECIAL.get(text, text)
    said = shown if share in ("0", "100") else f"{shown} {share}"
    axis.text(x + 0.5, y + 0.5, said, fontsize=10, color=ink, ha="center", va="center")
