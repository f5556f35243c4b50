"""What all figures share: colours, plain axes, labels at the ends of lines, saving."""

import io
import math
import os
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sft.files import SaveError, check_folder, write_atomically

if "MPLBACKEND" not in os.environ:  # no notebook (dpo/__init__.py): figures go into files only
    matplotlib.use("Agg")

# Okabe-Ito colours, which everyone can tell apart; every line also has its own style and its name.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
PICTURES = (".png", ".svg", ".pdf")
PERCENT_TICKS = ([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])  # of a rate
OUTCOMES = {  # pale for seen families, strong for held-out ones and where that makes no difference
    "right": ("#A9D3EC", BLUE),
    "refused": ("#E3E3E3", "#9A9A9A"),
    "wrong": ("#F2A269", "#B23A00"),
}


def blank_axis(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one plain axis, shown only where a cell asks for it."""
    figure, axis = plt.subplots(figsize=(width, height), layout="constrained")
    plt.close(figure)  # or the notebook shows it a second time
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def label_ends(axis: Axes, labels: list[tuple[float, str, str]], step: float) -> None:
    """The name of each line at its end, moved where it would cover another one or leave the axis.

    A label is (value at the end, name, colour); `step` is where the lines end.
    """
    low, high = axis.get_ylim()
    labels = sorted(labels)
    heights = [0.1 * (high - low) * (1 + name.count("\n")) for _, name, _ in labels]
    centres, floor = [], -math.inf  # upwards, each above the one below
    for (value, _, _), height in zip(labels, heights, strict=True):
        centres.append(max(value, floor + height / 2))
        floor = centres[-1] + height / 2
    ceiling = high  # and downwards again, each below the one above
    for i in reversed(range(len(labels))):
        centres[i] = min(centres[i], ceiling - heights[i] / 2)
        ceiling = centres[i] - heights[i] / 2
    at_its_end = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
    for centre, (_, name, color) in zip(centres, labels, strict=True):
        axis.annotate(
            name, (step, centre), **at_its_end, color=color, fontsize=10, parse_math=False
        )


def ink_on(color: tuple) -> str:
    """Black or white, whichever can be read on the colour (red, green, blue from 0 to 1)."""
    red, green, blue = color[:3]
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def check_picture(path: str | Path) -> None:
    """Before long work: ValueError if this names no picture, SaveError if it cannot lie there."""
    if Path(path).suffix not in PICTURES:
        raise ValueError(f"{path}: name a picture that ends in {', '.join(PICTURES)}")
    check_folder(Path(path).parent, 0)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure as a picture, whole or not at all, and say so.

    SaveError if it cannot be drawn or written. A program therefore draws after it has printed and
    written its numbers.
    """
    picture = io.BytesIO()
    try:
        figure.savefig(picture, format=Path(path).suffix.removeprefix("."), dpi=110)
    except Exception as error:  # whatever a font, a drawing library or too little memory may raise
        reason = f"{type(error).__name__}: {error}"
        raise SaveError(f"{path} was not drawn ({reason}); the numbers are all there") from None
    write_atomically(path, picture.getvalue())
    print(f"wrote {path}")
