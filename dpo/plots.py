"""Every figure, each with a text that says what it shows: matplotlib only, drawn on what a run recorded."""

import math
import time

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dpo.evaluate import headline
from dpo.train import History

# Okabe-Ito colours: told apart by everyone; every line also has its own style and its name beside it.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
LN_2 = math.log(2)  # the DPO loss of a policy that equals its reference
PANELS = {
    "Loss": {
        "loss/preference": ("preference loss", BLUE, "-"),
        "nll": ("NLL of chosen,\nper character", ORANGE, "--"),
    },
    "Implicit rewards: beta x log-ratio": {
        "rewards/chosen": ("chosen", BLUE, "-"),
        "rewards/rejected": ("rejected", ORANGE, "--"),
        "rewards/margins": ("margin", GREEN, "-."),
    },
    "Log-probability of an answer, in nats": {
        "logps/chosen": ("chosen", BLUE, "-"),
        "logps/rejected": ("rejected", ORANGE, "--"),
    },
    "Share of pairs, and of held-out questions": {"rewards/accuracies": ("pairs ranked\nright", PURPLE, "-")},
}


class LiveFigure:
    """Four panels that grow while a run goes on. `display` is IPython's, so that nothing here needs a notebook."""

    def __init__(self, total_steps: int, display=None, seconds: float = 1.0):
        self.figure, self.axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
        self.total_steps, self.seconds = total_steps, seconds
        self.started = self.drawn = time.monotonic()
        plt.close(self.figure)  # shown through the handle only, not once more by the cell
        self.handle = display(self.figure, display_id=True) if display else None

    def update(self, history: History, force: bool = False) -> None:
        """Redraw, at most once in `seconds`."""
        if not force and time.monotonic() - self.drawn < self.seconds:
            return
        for axis, (title, lines) in zip(self.axes.flat, PANELS.items(), strict=True):
            _draw_panel(axis, title, lines, history, self.total_steps)
        spent = time.monotonic() - self.started
        left = spent / len(history) * (self.total_steps - len(history))
        state = f"about {left:.0f} s left" if left else f"{spent:.0f} s"
        self.figure.suptitle(f"step {len(history)} of {self.total_steps}, {state}", fontsize=11, x=0.01, ha="left")
        if self.handle:
            self.handle.update(self.figure)
        self.drawn = time.monotonic()


def _draw_panel(axis, title: str, lines: dict, history: History, total_steps: int) -> None:
    axis.clear()
    steps = range(1, len(history) + 1)
    labels = []
    for name, (label, color, style) in lines.items():
        axis.plot(steps, history[name], color=color, linestyle=style, linewidth=1.8)
        labels.append((history[name][-1], label, color))
    if title.startswith("Share"):
        if history.held_out:
            axis.plot(*zip(*history.held_out, strict=True), color=GREEN, linestyle="--", marker="o", markersize=4)
            labels.append((history.held_out[-1][1], "held-out questions\nanswered right", GREEN))
        axis.set_ylim(-0.15, 1.3)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    if title == "Loss" and abs(history["loss/preference"][0] - LN_2) < 0.01:  # not for hinge and ipo
        axis.axhline(LN_2, color=GREY, linewidth=0.8, linestyle=":")
        axis.annotate("ln 2", (total_steps, LN_2), color=GREY, ha="right", va="bottom", fontsize=10)
    axis.margins(y=0.12)
    _label_ends(axis, labels, len(history))
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlim(0, total_steps * 1.42)  # room for the labels
    axis.set_xticks([t for t in axis.get_xticks() if 0 <= t <= total_steps])
    axis.set_xlabel("step", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _label_ends(axis, labels: list[tuple[float, str, str]], step: int) -> None:
    """The name of each line at its end, pushed apart where they would overlap."""
    low, high = axis.get_ylim()
    gap = (high - low) * 0.1
    placed = low - gap
    for value, label, color in sorted(labels):
        lines = label.count("\n") + 1
        placed = max(value, placed + gap * (1 + lines) / 2)
        axis.annotate(label, (step, placed), (6, 0), textcoords="offset points", color=color, va="center", fontsize=10)


def schedule_figure(rates: list[float]) -> Figure:
    """The learning rate of every step."""
    figure, axis = plt.subplots(figsize=(6, 2.4), layout="constrained")
    plt.close(figure)
    axis.plot(range(1, len(rates) + 1), rates, color=BLUE)
    axis.set_title("Learning rate", fontsize=11, loc="left")
    axis.set_xlabel("step")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def before_after_figure(before: dict, after: dict) -> Figure:
    """Share of right answers in two results of `evaluate`, row by row, with 95 % intervals."""
    results = {"before": headline(before), "after": headline(after)}
    names = list(results["after"])
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    plt.close(figure)
    for label, offset, color in (("before", 0.2, GREY), ("after", -0.2, BLUE)):
        for y, name in zip(range(len(names), 0, -1), names, strict=True):
            r = results[label][name]
            axis.barh(y + offset, r["rate"], height=0.36, color=color)
            axis.plot([r["low"], r["high"]], [y + offset] * 2, color="black", linewidth=1.2)
            text = f"{label} {r['rate']:.1%}"
            axis.annotate(text, (r["high"], y + offset), (6, 0), textcoords="offset points", va="center", fontsize=10)
    axis.set_yticks(range(len(names), 0, -1), [f"{name}\nn = {results['after'][name]['n']}" for name in names])
    axis.set_xlim(0, 1.2)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.set_xlabel("greedy answers with the right number and the right reason")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def describe(history: History) -> str:
    """The training figure in words."""
    first, last = ({name: values[i] for name, values in history.steps.items()} for i in (0, -1))
    lines = [
        f"{len(history)} steps; preference loss {first['loss/preference']:.4f} -> {last['loss/preference']:.4f}.",
        f"Rewards: chosen {last['rewards/chosen']:+.2f}, rejected {last['rewards/rejected']:+.2f}, "
        f"margin {last['rewards/margins']:.2f}; {last['rewards/accuracies']:.0%} of the last pairs ranked right.",
        f"Log-probability of the chosen answers {first['logps/chosen']:.2f} -> {last['logps/chosen']:.2f} nats, "
        f"of the rejected ones {first['logps/rejected']:.2f} -> {last['logps/rejected']:.2f}.",
    ]
    if history.held_out:
        step, best = max(history.held_out, key=lambda point: point[1])
        final = history.held_out[-1][1]
        lines.append(f"Held-out questions right: {final:.0%} at the end, at best {best:.0%} (step {step}).")
    return "\n".join(lines)
