"""Progress bars with the time left, on standard output; and how to keep that quiet."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

from tqdm import tqdm


class Bar(tqdm):
    """A bar for `total` units of work; none without a label. Drawing that fails never stops the work."""

    def __init__(self, total: int, label: str, unit: str, done: int = 0):
        super().__init__(
            total=total, initial=done, desc=label, unit=unit, mininterval=1.0, file=sys.stdout, disable=not label
        )

    def display(self, *words, **settings) -> None:
        with suppress(Exception):
            super().display(*words, **settings)

    def update(self, n: float = 1) -> None:
        with suppress(Exception):
            super().update(n)

    def show(self, **values: str) -> None:
        """Set what stands behind the bar."""
        with suppress(Exception):
            self.set_postfix(**values, refresh=False)

    def close(self) -> None:
        with suppress(Exception):
            super().close()


@contextmanager
def hushed(quiet: bool = True) -> Iterator[None]:
    """Inside the block nothing is printed on standard output, if `quiet`."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield
