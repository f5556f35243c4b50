"""What a model answers: before and after, by form, character by character, among many draws."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from dpo.evaluation.tables import describe_group
from dpo.evaluation.tokens import Character, first_difference
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

SPECIAL = {" ": "␣", "\n": "⏎"}  # characters that could not be seen


def pass_at_k_figure(results: dict[str, dict], tuned: dict) -> Figure:
    """pass@k of one or two bases (`sample_and_count`), a panel per group.

    Beside it the greedy accuracy of the tuned model (a result of `evaluate`).
    """
    groups = list(next(iter(results.values())))
    figure, axes = plt.subplots(
        1, len(groups), figsize=(10, 3.6), layout="constrained", sharey=True, squeeze=False
    )
    plt.close(figure)
    for axis, group in zip(axes.flat, groups, strict=True):
        by_base = {name: result[group] for name, result in results.items()}
        _draw_passes(axis, by_base, greedy=tuned["groups"][group]["right"]["rate"])
        n = next(iter(by_base.values()))["n"]
        axis.set_title(f"{describe_group(group)}, n = {n}", fontsize=11, loc="left")
    axes[0, 0].set_ylabel("at least one of k is right")
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


def atlas_figure(maps: dict[str, dict[str, np.ndarray]], held_out: dict[str, np.ndarray]) -> Figure:
    """A row of maps per model, a map per form: what became of a and b, held-out families darker.

    A map has the outcome (`right` ...) of a and b at row a and column b. Products are drawn for
    factors from 2: those with 0 and 1 are rules and not facts.
    """
    forms = list(held_out)
    figure, axes = plt.subplots(
        len(maps),
        len(forms),
        figsize=(12, 4.5 * len(maps) + 0.6),
        layout="constrained",
        squeeze=False,
    )
    plt.close(figure)
    for row, (name, by_form) in zip(axes, maps.items(), strict=True):
        for axis, form in zip(row, forms, strict=True):
            shown = slice(2 if form == "a*b" else 0, 100)
            cells = by_form[form][shown, shown]
            _draw_map(axis, cells, held_out[form][shown, shown], shown)
            right, asked = (cells == "right").sum(), (cells != "").sum()
            text = f"{form}, factors from 2" if shown.start else form
            axis.set_title(f"{name}: {text}\n{right:,} of {asked:,} right", fontsize=12, loc="left")
    handles = []
    for outcome, (pale, strong) in OUTCOMES.items():
        handles.append(Patch(color=pale, label=f"{outcome}, seen family"))
        handles.append(Patch(color=strong, label=f"{outcome}, held-out family"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure


def _draw_map(axis: Axes, cells: np.ndarray, held_out: np.ndarray, shown: slice) -> None:
    """One map of the numbers in `shown`; what was not asked stays white."""
    sides = (~held_out, held_out)  # in the order of the colours
    image = np.ones((*cells.shape, 3))  # (a, b, red green blue)
    for outcome, colors in OUTCOMES.items():
        for side, color in zip(sides, colors, strict=True):
            image[(cells == outcome) & side] = to_rgb(color)
    edges = np.arange(shown.start, shown.stop + 1) - 0.5  # of the cells
    axis.pcolormesh(edges, edges, image)
    wrong = cells == "wrong"
    if wrong.mean() < 0.05:
        # Few mistakes get a larger square: a hundredth of the width is easily overlooked.
        for side, color in zip(sides, OUTCOMES["wrong"], strict=True):
            a, b = np.nonzero(wrong & side)
            places = (b + shown.start, a + shown.start)
            axis.scatter(*places, s=22, marker="s", color=color, linewidths=0)
    axis.set_aspect("equal", adjustable="box")
    axis.set_xlabel("b")
    axis.set_ylabel("a", rotation=0)
    axis.spines[["top", "right"]].set_visible(False)


def strip_figure(prompt: str, answers: dict[str, str], changes: dict[str, list[float]]) -> Figure:
    """Chosen and rejected answer, a box a character, coloured by what tuning changed there.

    `changes` has the change of each character's log-probability in nats, from reference to policy,
    also of the newline that ends an answer (drawn as ⏎).
    """
    width = max(map(len, answers.values())) + 1
    figure, axis = blank_axis(13, 2.9)
    # One scale for both, with white in its middle: no change.
    limit = max(abs(change) for values in changes.values() for change in values) or 1.0
    scale = plt.cm.ScalarMappable(Normalize(-limit, limit), plt.get_cmap("PuOr"))
    decision = first_difference(*answers.values())
    for y, (name, answer) in zip((1.25, 0), answers.items(), strict=True):
        _draw_strip(axis, y, f"{answer}\n", scale.to_rgba(changes[name]))
        axis.add_patch(
            Rectangle(
                (decision, y), 1, 1, facecolor="none", edgecolor="black", linewidth=2.2, zorder=3
            )
        )
        total = f"{name}\n{sum(changes[name]):+.2f} nats"
        axis.text(-0.5, y + 0.5, total, ha="right", va="center", fontsize=11)
    chosen, rejected = changes["chosen"][decision], changes["rejected"][decision]
    axis.annotate(
        f"here the answers part: {chosen:+.2f} and {rejected:+.2f} nats",
        (decision + 0.5, 2.3),
        (decision + 0.5, 2.75),
        arrowprops={"arrowstyle": "-"},
        fontsize=11,
    )
    axis.set_xlim(-6, width + 0.5)
    axis.set_ylim(-0.2, 3.2)
    axis.set_axis_off()
    title = f"{prompt}   change of log-probability, reference to policy"
    axis.set_title(title, fontsize=12, loc="left")
    figure.colorbar(scale, ax=axis, pad=0.01, fraction=0.03).set_label("nats")
    return figure


def _draw_strip(axis: Axes, y: float, text: str, colors: np.ndarray) -> None:
    """A box of its colour for each character, from x = 0 on."""
    for x, (character, color) in enumerate(zip(text, colors, strict=True)):
        axis.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white"))
        shown, ink = SPECIAL.get(character, character), ink_on(color)
        axis.text(x + 0.5, y + 0.5, shown, ha="center", va="center", color=ink, fontsize=11)


def answer_figure(prompt: str, characters: list[Character]) -> Figure:
    """What was written, above its likeliest alternatives; the darker a box, the likelier."""
    alternatives = max(len(character.alternatives) for character in characters)
    figure, axis = blank_axis(13, 3)
    for x, character in enumerate(characters):
        column = [(character.text, character.probability), *character.alternatives]
        for row, (text, probability) in enumerate(column):
            _draw_choice(axis, x, -row, text, probability)
    names = ["written", *(f"alternative {i}" for i in range(1, alternatives + 1))]
    for row, name in enumerate(names):
        axis.text(-0.4, 0.5 - row, name, ha="right", va="center", fontsize=11)
    axis.set_xlim(-4, len(characters) + 0.2)
    axis.set_ylim(-alternatives - 0.1, 1.1)
    axis.set_axis_off()
    title = f"{prompt}   probability of each character, in percent (· below 0.5)"
    axis.set_title(title, fontsize=12, loc="left")
    return figure


def _draw_choice(axis: Axes, x: int, y: int, text: str, probability: float) -> None:
    """A box with a character and its probability in percent, grey if that is next to nothing."""
    color = plt.get_cmap("Blues")(0.85 * probability)  # the darkest would swallow the text
    axis.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white"))
    is_likely = probability >= 0.005
    ink = ink_on(color) if is_likely else "#999999"
    share = f"{100 * probability:.0f}" if is_likely else "·"
    centre = {"ha": "center", "va": "center", "color": ink}
    axis.text(x + 0.5, y + 0.68, SPECIAL.get(text, text), fontsize=11, **centre)
    axis.text(x + 0.5, y + 0.25, share, fontsize=8.5, **centre)
