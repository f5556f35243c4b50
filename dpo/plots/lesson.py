"""The figures of the lesson: answers drawn, a training, right answers, one character."""

import math
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from dpo.evaluation.forecast import ScoredPair
from dpo.evaluation.replies import Reply
from dpo.evaluation.sampling import count_right, group_replies
from dpo.loss import LN_2
from dpo.plots.style import BLUE, GREEN, GREY, ORANGE, PERCENT_TICKS, blank_axis, label_ends
from dpo.training.history import History

Batch = TypeVar("Batch")

TENFOLD = math.log(10)
WIDTH = 9.0  # inches: of 100 pixels, as wide as a page of the notebook

# Answers drawn at random

SAID = {"refused": "refuses", "right": "right answer", "wrong": "anything else"}
DRAWN_STYLES = ({"color": "#BBBBBB", "hatch": "//", "edgecolor": "white"}, {"color": BLUE})


def draws_figure(drawn: dict[str, list[Reply]]) -> Figure:
    """What a model says to one question when its answer is drawn: one run, or before and after.

    A bar is the share of an outcome; behind it stand the count and the commonest of its answers.
    """
    figure, axis = blank_axis(WIDTH, 1.2 + 0.75 * len(drawn) + 0.55)
    height = 0.8 / len(drawn)
    for run, (name, replies) in enumerate(drawn.items()):
        for row, outcome in enumerate(SAID):
            y = -row - height * (run - (len(drawn) - 1) / 2)
            texts = Counter(r.text.strip() for r in replies if r.outcome == outcome)
            _draw_share(axis, y, 0.9 * height, name, texts, len(replies), DRAWN_STYLES[run])
    axis.set_yticks([0, -1, -2], SAID.values(), fontsize=11)
    axis.set_xlim(0, 1)
    axis.set_xticks(*PERCENT_TICKS)
    first, *_ = drawn.values()
    axis.set_xlabel(f"share of {len(first)} answers drawn at temperature 1")
    rates = [f"{count_right(r) / len(r):.0%} ({name})" for name, r in drawn.items()]
    title = f"{first[0].question.text}   Of the drawn answers, {' and '.join(rates)} are right"
    axis.set_title(title, fontsize=12, loc="left", parse_math=False)
    return figure


def _draw_share(
    axis: Axes, y: float, height: float, name: str, texts: Counter, n: int, style: dict
) -> None:
    """One bar; its text stands behind it, or in front of its end where there is no room."""
    share = texts.total() / n
    axis.barh(y, share, height=height, **style)
    said = f': "{texts.most_common(1)[0][0]}"' if texts else ""
    text = textwrap.shorten(f"{name} {texts.total()}{said}", 64, placeholder=" ...")
    inside = share > 0.4
    axis.annotate(
        text,
        (share, y),
        (-6 if inside else 6, 0),
        textcoords="offset points",
        ha="right" if inside else "left",
        va="center",
        fontsize=10,
        color="white" if inside and style["color"] == BLUE else "black",
        bbox={"facecolor": style["color"], "edgecolor": "none", "pad": 1} if inside else None,
        parse_math=False,
    )


# A training


class TrainingFigure:
    """Three panels that grow while a run goes on: the loss, both answers, the validation.

    `display` is IPython's; the figure appears in the cell that loops over `follow`.
    """

    def __init__(
        self,
        steps: int,
        beta: float,
        display: Callable | None = None,
        seconds: float = 1.0,
    ):
        self.figure, self.axes = plt.subplots(1, 3, figsize=(WIDTH, 3.8), layout="constrained")
        plt.close(self.figure)  # shown through the handle only, not once more by the cell
        self.steps, self.beta = steps, beta
        self.display, self.seconds = display, seconds
        self.handle, self.drawn, self.failed = None, -math.inf, False
        self.history: History | None = None  # as last drawn

    def follow(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, one after the other; in a cell that is run again, the figure comes again."""
        self.handle = None
        if self.history:
            self._redraw(self.history)
        yield from batches

    def update(self, history: History) -> None:
        """Redraw, at most once in `seconds` and at the end; a failure never stops the training."""
        early = time.monotonic() - self.drawn < self.seconds
        if not early or len(history) >= self.steps:
            self._redraw(history)

    def _redraw(self, history: History) -> None:
        if self.failed:
            return
        try:
            self._draw(history)
        except Exception as error:
            print(f"note: the figure is not drawn any more ({error}); the training goes on")
            self.failed = True

    def _draw(self, history: History) -> None:
        for axis in self.axes:
            axis.clear()
        steps = list(range(1, len(history) + 1))
        _draw_loss(self.axes[0], steps, history["loss/preference"], self.steps)
        _draw_answers(self.axes[1], steps, self._gains(history))
        _draw_validation(self.axes[2], history.evals)
        for axis in self.axes:
            axis.set_xlim(0, self.steps)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.set_xlabel("step")
            axis.spines[["top", "right"]].set_visible(False)
            for line in axis.lines:
                line.set_clip_on(False)  # a point on the edge is whole
        now = f"Step {len(history)} of {self.steps}: loss {history['loss/preference'][-1]:.3f}"
        if history.evals:
            now += f", {history.evals['exact/held_out'][-1]:.0%} of the validation questions right"
        self.figure.suptitle(now, fontsize=12, x=0.01, ha="left")
        if self.handle is None and self.display:
            self.handle = self.display(self.figure, display_id=True)
        elif self.handle:
            self.handle.update(self.figure)
        self.drawn, self.history = time.monotonic(), history

    def _gains(self, history: History) -> dict[str, list[float]]:
        """How much likelier the answers of each batch have become since the start, in nats."""
        names = ("chosen", "rejected")
        return {n: [reward / self.beta for reward in history[f"rewards/{n}"]] for n in names}


def _draw_loss(axis: Axes, steps: list[int], losses: list[float], last: int) -> None:
    axis.plot(steps, losses, "-o", color=BLUE, linewidth=1.8, markersize=3)
    axis.plot([0, last], [LN_2] * 2, ":", color=GREY, linewidth=1)
    axis.annotate("ln 2: no preference", (0, LN_2), (4, 3), textcoords="offset points", color=GREY)
    axis.set_ylim(0, max(0.85, 1.1 * max(losses)))
    axis.set_ylabel("nats")
    axis.set_title("The loss", fontsize=11, loc="left")


def _draw_answers(axis: Axes, steps: list[int], gains: dict[str, list[float]]) -> None:
    """How many times as likely as at the start; `gains` are the logarithms of that."""
    labels = []
    for (name, values), color, style in zip(
        gains.items(), (BLUE, ORANGE), ("-o", "--s"), strict=True
    ):
        axis.plot(steps, values, style, color=color, linewidth=1.8, markersize=3)
        labels.append((values[-1], name, color))
    furthest = max(TENFOLD, *(abs(value) for values in gains.values() for value in values))
    powers = math.ceil(furthest / TENFOLD)
    every = math.ceil(powers / 4)  # at most nine ticks
    tens = range(-every * (powers // every), powers + 1, every)
    axis.set_yticks([power * TENFOLD for power in tens], [_factor(power) for power in tens])
    axis.set_ylim(-1.05 * furthest, 1.05 * furthest)
    label_ends(axis, labels, steps[-1])
    axis.set_ylabel("times as likely as at the start")
    axis.set_title("Answers of the pairs", fontsize=11, loc="left")


def _factor(power: int) -> str:
    """`x 100` for 2, `1 : 100` for -2."""
    size = f"{10 ** abs(power):,}" if abs(power) < 4 else f"$10^{{{abs(power)}}}$"
    return f"1 : {size}" if power < 0 else f"x {size}"


def _draw_validation(axis: Axes, evals: dict[str, list[float]]) -> None:
    """Validation questions answered right, sums and products apart; a point where some were."""
    labels = []
    for kind, name, color, style in (
        ("additive", "sums,\ndifferences", BLUE, "-o"),
        ("multiplicative", "products,\nquotients", GREEN, "--s"),
    ):
        values = evals.get(f"exact/held_out/{kind}", [])
        if values:
            axis.plot(evals["step"], values, style, color=color, linewidth=1.8, markersize=5)
            labels.append((values[-1], f"{name}\n{values[-1]:.0%}", color))
    _as_percent(axis)
    label_ends(axis, labels, evals["step"][-1] if labels else 0)
    axis.set_ylabel("answered right")
    axis.set_title("Validation questions", fontsize=11, loc="left")


def _as_percent(axis: Axes) -> None:
    axis.set_ylim(-0.03, 1.06)
    axis.set_yticks(*PERCENT_TICKS)


# Right answers, before and after

MARKERS = (("o", GREY, "none"), ("o", BLUE, BLUE), ("D", ORANGE, "none"))


def right_figure(runs: dict[str, list[Reply]]) -> Figure:
    """Share of right answers of up to three models to the same questions, a row a group.

    The counts stand behind the rows, a column a run; the title is about what is set aside.
    """
    grouped = {run: group_replies(replies) for run, replies in runs.items()}
    names = list(next(iter(grouped.values())))
    figure, axis = blank_axis(WIDTH, 1.6 + 0.62 * len(names))
    places = [-row for row in range(len(names))]
    for column, ((run, groups), look) in enumerate(zip(grouped.items(), MARKERS, strict=False)):
        marker, color, face = look
        shares = [count_right(groups[name]) / len(groups[name]) for name in names]
        looks = {"color": color, "markerfacecolor": face, "markersize": 9, "clip_on": False}
        axis.plot(shares, places, marker, markeredgewidth=1.8, zorder=3, **looks)
        counts = [str(count_right(groups[name])) for name in names]
        _draw_column(axis, column, [run.replace(", ", ",\n"), *counts], color)
    _draw_column(axis, len(runs), ["n", *(str(len(groups[name])) for name in names)], "black")
    for place in places:
        axis.axhline(place, color="#DDDDDD", linewidth=0.8, zorder=0)
    axis.set_yticks(places, [name.replace(", ", ",\n") for name in names])
    axis.set_ylim(0.5 - len(names), 0.5)
    axis.set_xlim(0, 1)
    axis.set_xticks(*PERCENT_TICKS)
    axis.set_xlabel("answers with the right number and the right calculation")
    axis.set_title(_set_aside(grouped), fontsize=12, loc="left", pad=34)
    return figure


def _draw_column(axis: Axes, column: int, texts: list[str], color: str) -> None:
    """A head and the counts below it, on the right of the axis."""
    for row, text in enumerate(texts):
        place, shift = (1, 0.42 if row == 0 else 1 - row), (28 + 52 * column, 0)
        looks = {"ha": "center", "va": "bottom" if row == 0 else "center", "color": color}
        axis.annotate(text, place, shift, textcoords="offset points", fontsize=10, **looks)


def _set_aside(grouped: dict[str, dict[str, list[Reply]]]) -> str:
    """In words: right answers to what is set aside, before and after."""
    counts, n = [], 0
    for groups in grouped.values():
        members = [
            reply for name, found in groups.items() if "set aside" in name for reply in found
        ]
        counts, n = [*counts, count_right(members)], len(members)
    before, after, *_ = counts
    return f"Of {n} questions that were set aside, {before} are right before and {after} after"


# One character

LEAST = 0.02  # a smaller change of a probability is not written under its box
APART = 5  # boxes between two texts under them
LEGEND = "blue: became likelier, orange: became rarer; in percent"
SIGNS = {" ": "·", "\n": "⏎"}


def character_figure(before: list[ScoredPair], after: list[ScoredPair]) -> Figure:
    """How far each character of both answers to the first question became likelier or rarer.

    `before` and `after` are the same pairs, scored by the reference and by the policy. The title
    and the last line are about all of them.
    """
    it, now = before[0], after[0]
    answers = {"chosen": it.pair.chosen, "rejected": it.pair.rejected}
    figure, axis = blank_axis(WIDTH, 3.2)
    for y, (name, answer) in zip((2.3, 0.3), answers.items(), strict=True):
        _draw_characters(axis, y, f"{answer}\n", getattr(it, name), getattr(now, name))
        axis.text(-0.4, y + 0.5, name, ha="right", va="center", fontsize=11)
    axis.text(0, -1.2, _mean_parting(before, after), fontsize=11, va="center", parse_math=False)
    axis.set_xlim(-6, max(map(len, answers.values())) + 1.1)
    axis.set_ylim(-1.8, 4.1)
    axis.set_axis_off()
    axis.text(0, 3.75, f"{it.pair.prompt}   {LEGEND}", fontsize=10, va="center", parse_math=False)
    share = f"{parting_share(before, after):.0%} of the change in the chosen answers"
    title = f"{share} to {len(before)} questions is in one character"
    axis.set_title(title, fontsize=12, loc="left", parse_math=False)
    return figure


def parting_share(before: list[ScoredPair], after: list[ScoredPair]) -> float:
    """Of all changes of log-probability in the chosen answers, the share where the answers part.

    Rises and falls both count, by their size. 0 if nothing has changed.
    """
    total = there = 0.0
    for it, now in zip(before, after, strict=True):
        changes = [abs(new - old) for old, new in zip(it.chosen, now.chosen, strict=True)]
        total += sum(changes)
        there += changes[it.parting]
    return there / total if total else 0.0


def _mean_parting(before: list[ScoredPair], after: list[ScoredPair]) -> str:
    """In words: how likely the two characters where the answers part are, before and after."""

    def mean(scored: list[ScoredPair], name: str) -> float:
        return sum(math.exp(getattr(it, name)[it.parting]) for it in scored) / len(scored)

    chosen, rejected = (
        f"{mean(before, name):.0%} -> {mean(after, name):.0%}" for name in ("chosen", "rejected")
    )
    return (
        f"Where the answers of {len(before)} questions part, on average:\n"
        f"the character of the chosen one {chosen}, of the rejected one {rejected}"
    )


def _draw_characters(
    axis: Axes, y: float, text: str, before: list[float], after: list[float]
) -> None:
    """A box a character, blue where it became likelier and orange where rarer; logs in nats."""
    changes = [math.exp(new) - math.exp(old) for old, new in zip(before, after, strict=True)]
    for x, (character, change) in enumerate(zip(text, changes, strict=True)):
        color = BLUE if change > 0 else ORANGE
        strength = min(1.0, abs(change))
        axis.add_patch(Rectangle((x, y), 1, 1, facecolor=color, alpha=strength, edgecolor="none"))
        axis.add_patch(Rectangle((x, y), 1, 1, facecolor="none", edgecolor="#BBBBBB"))
        ink = "white" if strength > 0.7 else "black"
        shown = SIGNS.get(character, character)
        axis.text(x + 0.5, y + 0.48, shown, ha="center", va="center", color=ink, fontsize=11)
    written: list[int] = []
    for x in sorted(range(len(changes)), key=lambda place: -abs(changes[place])):
        if abs(changes[x]) >= LEAST and all(abs(x - other) >= APART for other in written):
            written.append(x)
            shares = f"{math.exp(before[x]):.0%} -> {math.exp(after[x]):.0%}"
            axis.text(x + 0.5, y - 0.4, shares, ha="center", va="center", fontsize=10)
