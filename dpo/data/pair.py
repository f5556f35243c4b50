"""A preference pair, a file of them, and the error that says what to mend."""

from dataclasses import dataclass, field


class PairsError(ValueError):
    """The pairs file cannot be used; the message lists what to mend, line by line."""


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
