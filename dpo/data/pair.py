"""A preference pair, a file of them, and what is found in one: mistakes, or only oddities."""

from dataclasses import dataclass, field

SHOWN_PLACES = 5  # of each kind of finding
SHOWN_KINDS = 17  # of a file: with a line before and one after, it fits a screen


class PairsError(ValueError):
    """The pairs file cannot be used; the message lists what to mend, a line a kind."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and two answers, of which the first is preferred."""

    prompt: str
    chosen: str  # the two answers, as they follow the prompt
    rejected: str
    line: int  # where it starts in its file


@dataclass
class PairsFile:
    """The pairs of a file, and what is odd about them."""

    pairs: list[Pair] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake: its kind, which many places may share, and what is wrong here and how to mend it.

    Where mending could mean leaving something out, the sentence says what to do with it instead.
    """

    kind: str
    sentence: str


class _Kind:
    """How often one kind was found, at which first places, and what was said of the first."""

    __slots__ = ("count", "first", "places")

    def __init__(self, first: str):
        self.count, self.first, self.places = 0, first, []


class Findings:
    """What is found in a file, kept so that a file of any size is described in a few lines."""

    def __init__(self):
        self.kinds: dict[str, _Kind] = {}

    def __len__(self) -> int:
        return sum(kind.count for kind in self.kinds.values())

    def add(self, kind: str, place: str, first: str) -> None:
        """Count a finding; of each kind, the first places and the first text are kept."""
        found = self.kinds.get(kind)
        if found is None:
            found = self.kinds[kind] = _Kind(first)
        found.count += 1
        if len(found.places) < SHOWN_PLACES:
            found.places.append(place)

    def mistakes(self) -> list[str]:
        """A line a kind: where, and what is wrong at the first place."""
        lines = []
        for found in self.kinds.values():
            more = found.count - len(found.places)
            rest = f" and {more:,} more" if more else ""
            first = ", the first" if found.count > 1 else ""
            lines.append(f"{', '.join(found.places)}{rest}{first}: {found.first}")
        return self._cut(lines)

    def oddities(self, unit: str) -> list[str]:
        """A line a kind: how many pairs do that, and the first places, each a number of `unit`."""
        lines = []
        for kind, found in self.kinds.items():
            rest = " ..." if found.count > len(found.places) else ""
            example = f"; for instance {found.first}" if found.first else ""
            places = f"{unit} {', '.join(found.places)}{rest}"
            lines.append(f"{found.count:,} pairs {kind}: {places}{example}")
        return self._cut(lines)

    def _cut(self, lines: list[str]) -> list[str]:
        """The first lines, and how many others there are."""
        if len(lines) <= SHOWN_KINDS:
            return lines
        return [*lines[:SHOWN_KINDS], f"... and {len(lines) - SHOWN_KINDS:,} other kinds"]
