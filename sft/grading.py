"""What an answer text claims, and whether it is right: number and reason, each by itself."""

import re
from dataclasses import dataclass

from sft.arithmetic import Question, calculate, family


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer text claims; None where it claims nothing."""

    value: int | None  # the number of "The answer is 36"
    reason: tuple[int, str, int, int] | None  # (17, "+", 19, 36) of "because 17+19 equals 36"


# Behind the number comes a full stop, a comma, "because" or the end: "36 apples" claims no number.
_VALUE = re.compile(
    r"\s*(?:the answer is\s+)?(-?\d+)(?!\d)(?=\s*(?:[.,]|because|$))", re.IGNORECASE
)
_REASON = re.compile(
    r"because\s+(-?\d+)\s*([-+*/])\s*(-?\d+)\s+equals\s+(?:to\s+)?(-?\d+)(?!\d)", re.IGNORECASE
)


def parse_answer(text: str) -> Answer:
    """Read the number and the reason out of an answer text (without its prompt)."""
    value, reason = _VALUE.match(text), _REASON.search(text)
    return Answer(
        int(value[1]) if value else None,
        (int(reason[1]), reason[2], int(reason[3]), int(reason[4])) if reason else None,
    )


_REFUSAL = re.compile(r"\b(sorry|sory|know|cannot|can't|unable)\b", re.IGNORECASE)


def is_refusal(text: str) -> bool:
    """Whether an answer text declines to answer: it says so, and has no digit."""
    return bool(_REFUSAL.search(text)) and not re.search(r"\d", text)


@dataclass(frozen=True, slots=True)
class Grade:
    answer: bool  # the number is right
    reason: bool  # the reason is true, about this fact, and gives that number

    @property
    def correct(self) -> bool:
        return self.answer and self.reason


def grade(question: Question, text: str) -> Grade:
    """Judge an answer text: "36 because 17+94 equals 36" has a right number and a wrong reason."""
    claim = parse_answer(text)
    if claim.reason is None:
        return Grade(claim.value == question.answer, False)  # no reason is no right reason
    left, operator, right, result = claim.reason
    try:
        true = calculate(left, operator, right) == result == question.answer
        return Grade(
            claim.value == question.answer,
            true and family(left, operator, right) == question.family,
        )
    except ValueError:  # the reason divides by zero, or has no whole number as its result
        return Grade(claim.value == question.answer, False)
