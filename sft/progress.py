"""Progress bars with the time left, in a terminal or a notebook; and a way to print nothing."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

from tqdm import tqdm


class Bar(tqdm):
    """A bar for `total` units of work; none without a label. If drawing it fails, work goes on.

    In a notebook the bar is a single output, which each refresh replaces, so that a saved notebook
    keeps only its last state. Printed as in a terminal, every refresh would stay as a line.
    """

    def __init__(self, total: int, label: str, unit: str, done: int = 0):
        # In a cell the kernel's own stream is standard output, but not while that is silenced.
        in_notebook = type(sys.stdout).__module__.startswith("ipykernel")
        self.output = _NotebookOutput() if in_notebook else None
        super().__init__(
            total=total,
            initial=done,
            desc=label,
            unit=unit,
            ascii=False if in_notebook else None,  # a terminal is asked whether it has blocks
            mininterval=1.0,  # seconds between two drawings
            file=io.StringIO() if in_notebook else sys.stdout,
            disable=not label,
        )

    def display(self, *words, **settings) -> None:
        with suppress(Exception):
            if self.output:
                self.output.show(str(self))
            else:
                super().display(*words, **settings)

    def update(self, n: float = 1) -> None:
        with suppress(Exception):
            super().update(n)

    def show(self, **values: str) -> None:
        """Write these values behind the bar when it is drawn next."""
        with suppress(Exception):
            self.set_postfix(**values, refresh=False)

    def close(self) -> None:
        with suppress(Exception):
            super().close()


class _NotebookOutput:
    """One output of the running cell, made at its first text and replaced by every later one."""

    def __init__(self):
        self.handle = None

    def show(self, text: str) -> None:
        from IPython.display import display  # a notebook has it, and nothing else here needs it

        if self.handle is None:
            self.handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self.handle.update({"text/plain": text}, raw=True)


@contextmanager
def silenced(quiet: bool = True) -> Iterator[None]:
    """If `quiet`, what is printed inside the block does not appear on standard output."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield
