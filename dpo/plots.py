"""Every figure: matplotlib only, drawn on what a run recorded or a model answered."""

import textwrap
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from dpo.characters import Character, first_difference
from dpo.curves import LN_2
from dpo.evaluate import in_words
from dpo.history import History
from sft.files import check_folder

# Okabe-Ito colours: told apart by everyone; every line also has its own style and its name beside it.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SHOWN_NUMBERS = 1000  # larger ones are counted, but not drawn
PICTURES = (".png", ".svg", ".pdf")
PERCENT_TICKS = ([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])  # ticks of a rate
STEP_PANELS = {
    "Loss": {
        "loss": ("total", GREY, ":"),
        "loss/preference": ("preference", BLUE, "-"),
        "nll": ("NLL of chosen,\nper character", ORANGE, "--"),
    },
    "Implicit rewards: beta x log-ratio": {
        "rewards/chosen": ("chosen", BLUE, "-"),
        "rewards/rejected": ("rejected", ORANGE, "--"),
        "rewards/margins": ("margin", GREEN, "-."),
    },
    "Log-probability of an answer (nats)": {
        "logps/chosen": ("chosen", BLUE, "-"),
        "logps/rejected": ("rejected", ORANGE, "--"),
    },
    "Pairs ranked right": {"rewards/accuracies": ("of the batch", BLUE, "-")},
}
LOOK_PANELS = {
    "Questions answered right": {
        "exact/held_out": ("held-out", GREEN, "--"),
        "exact/trained": ("of the pairs", BLUE, "-"),
    },
    "Distance from the base: KL (nats)": {"kl": ("KL", BLUE, "-")},
}


class LiveFigure:
    """Six panels that grow while a run goes on. `display` is IPython's, so that nothing here needs a notebook."""

    def __init__(self, total_steps: int, display=None, seconds: float = 1.0):
        self.figure, self.axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
        self.total_steps, self.seconds = total_steps, seconds
        self.started = self.drawn = time.monotonic()
        self.failed, self.first_step = False, None  # a run that goes on has made steps before
        plt.close(self.figure)  # shown through the handle only, not once more by the cell
        self.handle = display(self.figure, display_id=True) if display else None

    def update(self, history: History, force: bool = False) -> None:
        """Redraw, at most once in `seconds`. A drawing that fails is said once and never stops the training."""
        self.first_step = self.first_step or len(history)
        if self.failed or (not force and time.monotonic() - self.drawn < self.seconds):
            return
        try:
            self._draw(history)
        except Exception as error:
            print(f"note: the figure is not drawn any more ({error}); the training goes on")
            self.failed = True

    def _draw(self, history: History) -> None:
        steps = list(range(1, len(history) + 1))
        panels = [(title, lines, steps, history.steps) for title, lines in STEP_PANELS.items()]
        if history.looks:
            panels += [(title, lines, history.looks["step"], history.looks) for title, lines in LOOK_PANELS.items()]
        for axis, panel in zip(self.axes.flat, panels, strict=False):
            _draw_panel(axis, *panel, self.total_steps)
        for axis in self.axes.flat[len(panels) :]:
            axis.set_axis_off()
        spent = time.monotonic() - self.started
        left = spent / (len(history) - self.first_step + 1) * (self.total_steps - len(history))
        state = f"about {left:.0f} s left" if left else f"{spent:.0f} s"
        self.figure.suptitle(f"step {len(history)} of {self.total_steps}, {state}", fontsize=11, x=0.01, ha="left")
        if self.handle:
            self.handle.update(self.figure)
        self.drawn = time.monotonic()


def _draw_panel(axis, title: str, lines: dict, steps: list, columns: dict, total_steps: int) -> None:
    axis.clear()
    labels = []
    for name, (label, color, style) in lines.items():
        marker = "o" if title in LOOK_PANELS else None
        axis.plot(steps, columns[name], color=color, linestyle=style, linewidth=1.8, marker=marker, markersize=4)
        labels.append((columns[name][-1], label, color))
    if title in ("Pairs ranked right", "Questions answered right"):
        axis.set_ylim(-0.05, 1.1)
        axis.set_yticks(*PERCENT_TICKS)
    else:
        axis.margins(y=0.12)
    if title == "Loss" and abs(columns["loss/preference"][0] - LN_2) < 0.01:  # not for hinge and ipo
        axis.plot([0, total_steps], [LN_2] * 2, color=GREY, linewidth=0.8, linestyle=":")
        axis.annotate("ln 2", (total_steps, LN_2), color=GREY, ha="right", va="bottom", fontsize=10)
    _label_ends(axis, labels, steps[-1])
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlim(0, total_steps * 1.45)  # room for the labels
    axis.set_xticks([t for t in axis.get_xticks() if 0 <= t <= total_steps])
    axis.set_xlabel("step", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _label_ends(axis, labels: list[tuple[float, str, str]], step: float) -> None:
    """The name of each line at its end, pushed apart where they would overlap."""
    low, high = axis.get_ylim()
    gap = (high - low) * 0.1
    placed = low - gap
    for value, label, color in sorted(labels):
        lines = label.count("\n") + 1
        placed = max(value, placed + gap * (1 + lines) / 2)
        at_its_end = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(label, (step, placed), **at_its_end, color=color, fontsize=10, parse_math=False)


def schedule_figure(rates: list[float]) -> Figure:
    """The learning rate of every step."""
    figure, axis = _blank(6, 2.4)
    axis.plot(range(1, len(rates) + 1), rates, color=BLUE)
    axis.set_title("Learning rate", fontsize=11, loc="left")
    axis.set_xlabel("step")
    axis.set_ylim(bottom=0)
    return figure


def _blank(width: float, height: float):
    """A figure with one plain axis, shown only where a cell asks for it."""
    figure, axis = plt.subplots(figsize=(width, height), layout="constrained")
    plt.close(figure)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def before_after_figure(before: dict, after: dict) -> Figure:
    """Share of right answers in two results of `evaluate`, group by group, with 95 % intervals."""
    groups = list(after["groups"])
    figure, axis = _blank(8, 4.2)
    for label, result, offset, color in (("before", before, 0.2, GREY), ("after", after, -0.2, BLUE)):
        for y, group in zip(range(len(groups), 0, -1), groups, strict=True):
            r = result["groups"][group]["right"]
            axis.barh(y + offset, r["rate"], height=0.36, color=color)
            axis.plot([r["low"], r["high"]], [y + offset] * 2, color="black", linewidth=1.2)
            text = f"{label} {r['rate']:.1%}"
            axis.annotate(text, (r["high"], y + offset), (6, 0), textcoords="offset points", va="center", fontsize=10)
    names = [f"{in_words(group)}\nn = {after['groups'][group]['n']:,}" for group in groups]
    axis.set_yticks(range(len(groups), 0, -1), names)
    axis.set_xlim(0, 1.2)
    axis.set_xticks(*PERCENT_TICKS)
    axis.set_xlabel("greedy answers with the right number and the right reason")
    return figure


def pass_at_k_figure(results: dict[str, dict], tuned: dict) -> Figure:
    """pass@k of one or two bases, a panel per group, beside the greedy accuracy of the tuned model (`evaluate`)."""
    groups = list(next(iter(results.values())))
    figure, axes = plt.subplots(1, len(groups), figsize=(10, 3.6), layout="constrained", sharey=True, squeeze=False)
    plt.close(figure)
    for axis, group in zip(axes.flat, groups, strict=True):
        labels = []
        for (name, result), color, style in zip(results.items(), (BLUE, GREY), ("-", "--"), strict=False):
            points = {int(k.removeprefix("pass@")): v for k, v in result[group].items() if k.startswith("pass@")}
            axis.plot(list(points), [p["rate"] for p in points.values()], style, color=color, marker="o", markersize=4)
            low, high = ([p[side] for p in points.values()] for side in ("low", "high"))
            axis.fill_between(list(points), low, high, color=color, alpha=0.15, linewidth=0)
            labels.append((points[max(points)]["rate"], name, color))
        greedy = tuned["groups"][group]["right"]["rate"]
        axis.plot([1, max(points)], [greedy] * 2, color=ORANGE, linewidth=1.4, linestyle=":")
        axis.annotate(f"tuned: {greedy:.0%}", (1, greedy), (0, 3), textcoords="offset points", color=ORANGE)
        axis.set_xscale("log", base=4)
        axis.set_xticks(list(points), [str(k) for k in points])
        axis.set_xticks([], minor=True)
        axis.set_xlim(0.9, max(points) * 4.5)
        axis.set_ylim(-0.04, 1.14)
        axis.set_yticks(*PERCENT_TICKS)
        _label_ends(axis, labels, max(points))
        axis.set_title(f"{in_words(group)}, n = {result[group]['n']}", fontsize=11, loc="left")
        axis.set_xlabel("k, answers drawn at temperature 1")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("at least one of k is right")
    return figure


def runs_figure(results: dict[str, dict]) -> Figure:
    """Runs beside each other (`dpo.compare`): right answers at the end, and, of a few, the way there."""
    curves = len(results) <= MOST_CURVES
    width, height = (13 if curves else 9), 1.6 + 0.42 * max(len(results), 6 * curves)
    figure, axes = plt.subplots(1, 1 + curves, figsize=(width, height), layout="constrained", squeeze=False)
    plt.close(figure)
    _draw_ends(axes[0, 0], results)
    if curves:
        _draw_ways(axes[0, 1], results)
    return figure


MOST_CURVES = 6  # more lines in one panel are not told apart
RUN_COLORS = (BLUE, ORANGE, GREEN, GREY, "#CC79A7", "#56B4E9")
ENDS = {"held_out/additive": ("o", BLUE), "held_out/multiplicative": ("^", ORANGE), "everyday": ("s", GREEN)}


def _draw_ends(axis, results: dict[str, dict]) -> None:
    places = range(len(results), 0, -1)
    for offset, (group, (marker, color)) in zip((0.22, 0, -0.22), ENDS.items(), strict=True):
        for y, result in zip(places, results.values(), strict=True):
            share = _share(result, group)
            axis.plot([share["low"], share["high"]], [y + offset] * 2, color=color, linewidth=1.4)
            axis.plot(share["rate"], y + offset, marker, color=color, markersize=6)
    axis.set_yticks(places, list(results), parse_math=False)
    axis.set_ylim(0.4, len(results) + 0.6)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xticks(*PERCENT_TICKS)
    axis.grid(axis="x", alpha=0.3)
    axis.set_title("Right answers at the end, with 95 % intervals", fontsize=11, loc="left")
    names = {group: "small talk kept" if group == "everyday" else in_words(group) for group in ENDS}
    handles = [Line2D([], [], color=c, marker=m, linestyle="", label=names[g]) for g, (m, c) in ENDS.items()]
    axis.figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _share(result: dict, group: str) -> dict:
    return result["everyday"] if group == "everyday" else result["groups"][group]["right"]


def _draw_ways(axis, results: dict[str, dict]) -> None:
    labels, last = [], 1
    for (name, result), color, style in zip(
        results.items(), RUN_COLORS, ("-", "--", "-.", ":", "-", "--"), strict=False
    ):
        looks = result["history"]["looks"]
        if looks:
            axis.plot(looks["step"], looks["exact/held_out"], style, color=color, marker="o", markersize=4)
            labels.append((looks["exact/held_out"][-1], name, color))
            last = max(last, looks["step"][-1])
    axis.set_ylim(-0.05, 1.15)
    axis.set_yticks(*PERCENT_TICKS)
    _label_ends(axis, labels, last)
    axis.set_xlim(0, 1.6 * last)  # room for the names
    axis.set_xticks([t for t in axis.get_xticks() if 0 <= t <= last])
    axis.set_xlabel("step")
    axis.set_title("Held-out questions answered right, on the way", fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def grid_figure(names: tuple[str, str], values: tuple[list, list], results: list[list[dict]]) -> Figure:
    """Two settings against each other: right answers and small talk kept in a table of colours, a panel each.

    `results[i][j]` belongs to `values[0][i]` and `values[1][j]`; None for a run that came to no result.
    """
    figure, axes = plt.subplots(
        1, 3, figsize=(3.2 + 3 * 0.95 * len(values[1]), 2.2 + 0.55 * len(values[0])), layout="constrained"
    )
    plt.close(figure)
    for axis, group in zip(axes, ENDS, strict=True):
        shares = [[_share(result, group) if result else None for result in row] for row in results]
        rates = np.array([[share["rate"] if share else np.nan for share in row] for row in shares])
        axis.imshow(rates, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(rates):
            text = "-" if np.isnan(value) else f"{100 * value:.0f} %"
            ink = _ink(plt.get_cmap("Blues")(np.nan_to_num(value)))
            axis.text(j, i, text, ha="center", va="center", color=ink, fontsize=11)
        axis.set_xticks(range(len(values[1])), [f"{v}" for v in values[1]])
        axis.set_yticks(range(len(values[0])), [f"{v}" for v in values[0]])
        axis.set_xlabel(names[1])
        axis.set_ylabel(names[0])
        title = "small talk kept" if group == "everyday" else in_words(group)
        n = next(share["n"] for row in shares for share in row if share)
        axis.set_title(f"{title}, n = {n:,}", fontsize=11, loc="left")
        axis.spines[:].set_visible(False)
    return figure


def check_picture(path: str | Path) -> None:
    """ValueError unless the file's name ends like that of a picture, and its folder takes it.

    To be asked before long work.
    """
    if Path(path).suffix not in PICTURES:
        raise ValueError(f"{path}: name a picture that ends in {', '.join(PICTURES)}")
    check_folder(Path(path).parent, 0)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure as a picture, and say so."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


# Each outcome pale for seen families and strong for held-out ones.
OUTCOMES = {"right": ("#A9D3EC", BLUE), "wrong": ("#F2A269", "#B23A00"), "refused": ("#E3E3E3", "#9A9A9A")}


def atlas_figure(maps: dict[str, dict[str, np.ndarray]], held_out: dict[str, np.ndarray]) -> Figure:
    """A row of maps per model, a map per form: outcome (`right` ...) at row a, column b; held-out families darker.

    Products are drawn for factors from 2, on logarithmic axes: those with 0 and 1 are rules and not facts.
    """
    forms = list(held_out)
    figure, axes = plt.subplots(
        len(maps), len(forms), figsize=(12, 4.5 * len(maps) + 0.6), layout="constrained", squeeze=False
    )
    plt.close(figure)
    for row, (name, by_form) in zip(axes, maps.items(), strict=True):
        for axis, form in zip(row, forms, strict=True):
            shown = slice(2, 50) if form == "a*b" else slice(0, 100)
            cells = by_form[form][shown, shown]
            _draw_map(axis, cells, held_out[form][shown, shown], shown)
            right, asked = (cells == "right").sum(), (cells != "").sum()
            text = f"{form}, factors from 2" if shown.start else form
            axis.set_title(f"{name}: {text}\n{right:,} of {asked:,} right", fontsize=12, loc="left")
    handles = [
        Patch(color=colors[i], label=f"{outcome}, {side} family")
        for outcome, colors in OUTCOMES.items()
        for i, side in enumerate(("seen", "held-out"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure


def _draw_map(axis, cells: np.ndarray, held_out: np.ndarray, shown: slice) -> None:
    image = np.ones((*cells.shape, 3))
    for outcome, colors in OUTCOMES.items():
        for kept, color in zip((~held_out, held_out), colors, strict=True):
            image[(cells == outcome) & kept] = to_rgb(color)
    edges = np.arange(shown.start, shown.stop + 1) - 0.5
    axis.pcolormesh(edges, edges, image)
    wrong = cells == "wrong"
    if shown.start == 0 and wrong.mean() < 0.05:  # a hundredth of the width is easily overlooked
        for kept, color in zip((~held_out, held_out), OUTCOMES["wrong"], strict=True):
            a, b = np.nonzero(wrong & kept)
            axis.scatter(b, a, s=22, marker="s", color=color, linewidths=0)
    if shown.start:  # products
        axis.set_xscale("log")
        axis.set_yscale("log")
        for side in (axis.xaxis, axis.yaxis):
            side.set_ticks([2, 3, 5, 10, 20, 40], ["2", "3", "5", "10", "20", "40"])
            side.set_ticks([], minor=True)
    axis.set_aspect("equal", adjustable="box")
    axis.set_xlabel("b")
    axis.set_ylabel("a", rotation=0)
    axis.spines[["top", "right"]].set_visible(False)


def strip_figure(prompt: str, answers: dict[str, str], changes: dict[str, list[float]]) -> Figure:
    """Chosen and rejected answer, a box a character, coloured by the change of its log-probability in nats.

    `changes` holds reference to policy, the newline that ends an answer included (drawn as ⏎).
    """
    width = max(map(len, answers.values())) + 1
    figure, axis = _blank(13, 2.9)
    limit = max(abs(change) for values in changes.values() for change in values) or 1.0
    norm, colors = Normalize(-limit, limit), plt.get_cmap("PuOr")
    decision = first_difference(*answers.values())
    for y, (name, answer) in zip((1.25, 0), answers.items(), strict=True):
        for x, (text, change) in enumerate(zip(f"{answer}⏎", changes[name], strict=True)):
            color = colors(norm(change))
            axis.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white"))
            shown = text.replace(" ", "␣")
            axis.text(x + 0.5, y + 0.5, shown, ha="center", va="center", color=_ink(color), fontsize=11)
        axis.add_patch(Rectangle((decision, y), 1, 1, facecolor="none", edgecolor="black", linewidth=2.2, zorder=3))
        total = f"{name}\n{sum(changes[name]):+.2f} nats"
        axis.text(-0.5, y + 0.5, total, ha="right", va="center", fontsize=11)
    axis.annotate(
        f"here the answers part: {changes['chosen'][decision]:+.2f} and {changes['rejected'][decision]:+.2f} nats",
        (decision + 0.5, 2.3), (decision + 0.5, 2.75), arrowprops={"arrowstyle": "-"}, fontsize=11,
    )  # fmt: skip
    axis.set_xlim(-6, width + 0.5)
    axis.set_ylim(-0.2, 3.2)
    axis.set_axis_off()
    axis.set_title(f"{prompt}   change of log-probability, reference to policy", fontsize=12, loc="left")
    bar = figure.colorbar(plt.cm.ScalarMappable(norm, colors), ax=axis, pad=0.01, fraction=0.03)
    bar.set_label("nats")
    return figure


def _ink(color: tuple) -> str:
    """Black or white, whichever can be read on the colour."""
    red, green, blue = color[:3]
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def answer_figure(prompt: str, characters: list[Character]) -> Figure:
    """An answer character by character: what was written, above its likeliest rivals, the darker the likelier."""
    rivals = max(len(c.rivals) for c in characters)
    figure, axis = _blank(13, 3)
    colors = plt.get_cmap("Blues")
    for x, character in enumerate(characters):
        for y, (text, probability) in enumerate([(character.text, character.probability), *character.rivals]):
            color, seen = colors(0.85 * probability), probability >= 0.005
            ink = _ink(color) if seen else "#999999"
            axis.add_patch(Rectangle((x, -y), 1, 1, facecolor=color, edgecolor="white"))
            shown = {" ": "␣", "\n": "⏎"}.get(text, text)
            share = f"{100 * probability:.0f}" if seen else "·"
            axis.text(x + 0.5, 0.68 - y, shown, ha="center", va="center", color=ink, fontsize=11)
            axis.text(x + 0.5, 0.25 - y, share, ha="center", va="center", color=ink, fontsize=8.5)
    names = ["written", *(f"rival {i}" for i in range(1, rivals + 1))]
    for y, name in enumerate(names):
        axis.text(-0.4, 0.5 - y, name, ha="right", va="center", fontsize=11)
    axis.set_xlim(-4, len(characters) + 0.2)
    axis.set_ylim(-rivals - 0.1, 1.1)
    axis.set_axis_off()
    axis.set_title(f"{prompt}   probability of each character, in percent (· below 0.5)", fontsize=12, loc="left")
    return figure


def pairs_figure(found) -> Figure:
    """What a file of pairs holds (`dpo.doctor.examine`): forms, numbers, answers, what is rejected, what is covered."""
    figure, axes = plt.subplot_mosaic(
        [["forms", "operands", "answers"], ["forms", "shares", "rejected"]],
        figsize=(13, 5), width_ratios=[1, 1.7, 1.3], layout="constrained",
    )  # fmt: skip
    plt.close(figure)
    _bars(axes["forms"], found.forms, "Pairs of each form")
    for name, counts, title in (
        ("operands", found.operands, "Questions that show each number"),
        ("answers", found.answers, "Questions with each answer"),
    ):
        shown = {number: count for number, count in counts.items() if abs(number) < SHOWN_NUMBERS}
        beyond = f" ({len(counts) - len(shown):,} numbers are beyond)" if len(shown) < len(counts) else ""
        axes[name].bar(list(shown), list(shown.values()), width=1.0, color=BLUE)
        axes[name].set_title(title + beyond, fontsize=11, loc="left")
        axes[name].set_xlim(min([0, *shown]) - 1, max([99, *shown]) + 1)
        axes[name].yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes[name].spines[["top", "right"]].set_visible(False)
    _bars(axes["rejected"], found.rejected, "Rejected answers")
    _draw_shares(axes["shares"], found.shares)
    return figure


def _bars(axis, counts: dict[str, int], title: str) -> None:
    """A bar for each name, the first on top, with its number behind it."""
    places = range(len(counts), 0, -1)
    axis.barh(places, list(counts.values()), color=BLUE, height=0.7)
    for y, count in zip(places, counts.values(), strict=True):
        axis.annotate(f"{count:,}", (count, y), (4, 0), textcoords="offset points", va="center", fontsize=10)
    axis.set_yticks(places, list(counts), parse_math=False)
    axis.set_xticks([])
    axis.set_xlim(0, 1.25 * max(1, *counts.values()))
    axis.set_title(title, fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_shares(axis, shares: dict) -> None:
    places = range(len(shares), 0, -1)
    axis.barh(places, [share.rate for share in shares.values()], color=BLUE, height=0.55)
    for y, share in zip(places, shares.values(), strict=True):
        text = f"{share.count:,} of {share.n:,}"
        at = max(share.rate, share.usual or 0)
        axis.annotate(text, (at, y), (6, 0), textcoords="offset points", va="center", fontsize=10)
        if share.usual is not None:
            axis.plot([share.usual] * 2, [y - 0.4, y + 0.4], color=ORANGE, linewidth=2)
    axis.set_yticks(places, [textwrap.fill(name, 24) for name in shares])
    axis.set_xlim(0, 1.3)
    axis.set_xticks(*PERCENT_TICKS)
    axis.set_title("Coverage (a mark: the whole domain)", fontsize=11, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def museum_figure(visits: list) -> Figure:
    """Every exhibit of `dpo.museum`: its loss beside the healthy run's, the line that was wrong, what it answers.

    The exhibits of a room stand below each other.
    """
    rooms = [[seen for seen in visits if seen.room is room] for room in dict.fromkeys(seen.room for seen in visits)]
    rows, columns = max(map(len, rooms)), len(rooms)
    figure, axes = plt.subplots(
        rows, 2 * columns, figsize=(6.6 * columns, 2.35 * rows + 0.6), width_ratios=[1, 2.1] * columns, squeeze=False,
        dpi=75,
    )  # fmt: skip
    plt.close(figure)
    figure.subplots_adjust(left=0.03, right=0.995, top=1 - 0.2 / rows, bottom=0.4 / rows, wspace=0.1, hspace=0.55)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, room in enumerate(rooms):
        for row, seen in enumerate(room):
            _draw_exhibit(axes[row, 2 * column], seen, healthy=room[0])
            _write_placard(axes[row, 2 * column + 1], seen)
    handles = [
        Line2D([], [], color=BLUE, label="preference loss, step by step: healthy"),
        Line2D([], [], color=ORANGE, label="with the mistake"),
        Line2D([], [], color=GREY, linestyle="--", label="the healthy run again"),
        Line2D([], [], color=GREY, linestyle=":", linewidth=0.8, label="ln 2"),
    ]
    figure.legend(handles=handles, loc="lower left", ncols=4 if columns > 1 else 2, frameon=False, fontsize=10)
    return figure


def _draw_exhibit(axis, seen, healthy) -> None:
    axis.set_axis_on()
    axis.axhline(LN_2, color=GREY, linewidth=0.8, linestyle=":")
    for run, color, style in ((healthy, GREY, "--"), (seen, BLUE if seen is healthy else ORANGE, "-")):
        axis.plot(range(1, len(run.curve) + 1), run.curve, style, color=color, linewidth=1.6)
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.tick_params(labelsize=8.5)
    axis.set_title(seen.exhibit.title, fontsize=11.5, loc="left", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)


def _write_placard(axis, seen) -> None:
    shares = ", ".join(f"{name} {share['rate']:.0%}" for name, share in seen.shares.items())
    code = {"family": "monospace", "fontsize": 8.5}
    lines = [(f"{len(seen.replies)} answers: {shares}", {"fontweight": "bold"})]
    lines += [("loss {:.3f} -> {:.3f}".format(*seen.ends) + f", {seen.ranked:.0%} of the pairs ranked right", {})]
    for word, line, color in zip(("right", "wrong"), seen.change or (), (GREEN, ORANGE), strict=False):
        lines += _wrapped(f"{word}  {line}", 52, code | {"color": color})
    lines += _wrapped(f"says   {seen.sample}", 52, code)
    lines += _wrapped(seen.exhibit.lesson, 56, {"style": "italic"})
    for i, (line, style) in enumerate(lines):
        axis.text(0.02, 1.14 - 0.135 * i, line, **{"fontsize": 9.5} | style, parse_math=False, va="top")


def _wrapped(text: str, width: int, style: dict) -> list[tuple[str, dict]]:
    """The text in lines of that many characters at most; code is indented where it goes on."""
    indent = " " * 7 if "family" in style else ""
    return [(line, style) for line in textwrap.wrap(text, width, subsequent_indent=indent, drop_whitespace=True)]
