"""Write the results of bench/results into the pages: `python -m bench.tables`.

A page names a text of a result in comments, which are invisible where it is read. A table stands
between two of them; a single figure stands just before one:

    <!-- results: seeds.table -->
    <!-- end -->
    The worst of ten seeds has 738<!--kinds.right--> right.

Before the full stop: the measurement. Behind it: a key of what its `render` gives. With --check
nothing is written; what differs is named, and a result of another base, pairs file or code is, too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measurements import MEASUREMENTS
from bench.results import Measurement
from configurator import run_program
from dpo.evaluation.tables import count_and_examples
from dpo.training.provenance import ROOT
from sft.files import write_atomically

PAGES = ("README.md", "dpo/README.md", "sft/README.md", "bench/README.md")
TABLE = re.compile(r"(<!-- results: ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"([^\s|(*<>]*)(<!--(\w+\.\w+)-->)")


@dataclass
class Config:
    """python -m bench.tables: write the results of the measurements into the pages."""

    check: bool = False  # change nothing; exit with 1 if a page or a result is out of date


def find_text(measurements: dict[str, Measurement], name: str) -> str:
    """What `seeds.table` stands for; ValueError if no measurement or no text is called so."""
    of, _, key = name.partition(".")
    if of not in measurements:
        raise ValueError(f"no result is called {of!r}; there are: {', '.join(measurements)}")
    texts = measurements[of].texts()
    if key not in texts:
        raise ValueError(f"{of} has no {key!r}; it has: {', '.join(texts)}")
    return texts[key]


def render(page: str, measurements: dict[str, Measurement]) -> tuple[str, list[str], list[str]]:
    """The page with the texts of the results; what differed, and what has no text and stays."""
    differ, missing = [], []

    def renewed(name: str, old: str, before: str = "", after: str = "") -> str:
        try:
            new = before + find_text(measurements, name) + after
        except ValueError as error:
            missing.append(str(error))
            return old
        if old != new:
            differ.append(f"{name}: {first_difference(old, new)}")
        return new

    def table(found: re.Match) -> str:
        begin, name, end = found.groups()
        old = found[0].removeprefix(begin).removesuffix(end)
        return begin + renewed(name, old, "\n", "\n\n") + end

    def figure(found: re.Match) -> str:
        old, mark, name = found.groups()
        return renewed(name, old) + mark

    return FIGURE.sub(figure, TABLE.sub(table, page)), differ, missing


def first_difference(old: str, new: str) -> str:
    """The first line that differs, as it is and as it should be."""
    lines = [text.strip().splitlines() or ["nothing"] for text in (old, new)]
    pairs = ((one, other) for one, other in zip(*lines, strict=False) if one != other)
    one, other = next(pairs, tuple(f"{len(part)} lines" for part in lines))
    return f"has {one!r}, its result {other!r}"


def problems(folder: Path, measurements: dict[str, Measurement]) -> Iterator[str]:
    """What is out of date in the pages of a folder, and in the results that are there."""
    for measurement in measurements.values():
        if measurement.path.exists() and (reason := measurement.outdated()):
            yield reason
    for page in PAGES:
        _, differ, missing = render((folder / page).read_text(encoding="utf-8"), measurements)
        yield from (f"{page}: {line}" for line in (*differ, *missing))


def write_pages(folder: Path, measurements: dict[str, Measurement]) -> None:
    """Write all that there is a result for; ValueError if something was missing."""
    all_missing = []
    for page in PAGES:
        path = folder / page
        text, differ, missing = render(path.read_text(encoding="utf-8"), measurements)
        write_atomically(path, text.encode())
        print(f"{page}: {len(differ)} changed")
        all_missing += [f"{page}: {line}" for line in missing]
    if all_missing:
        raise ValueError(f"{len(all_missing)} texts stay as they were; {all_missing[0]}")


def main(config: Config, folder: Path = ROOT) -> None:
    measurements = {one.name: one for one in MEASUREMENTS}
    if not config.check:
        write_pages(folder, measurements)
    elif found := list(problems(folder, measurements)):
        print("\n".join(count_and_examples("out of date", found)))
        raise ValueError(
            "pages or results are out of date: `python -m bench.everything` measures, "
            "`python -m bench.tables` writes the pages"
        )


if __name__ == "__main__":
    run_program(main, Config())
