"""What an answer text claims, and whether it is right: number and reason, each by itself.

The form is "The answer is 36 because 17+19 equals 36.", and what people write for it. A number is
claimed only if it is the whole claim: 36.5, 1,036, 36/2, "36 or 37" and "36 apples" claim none. A
reason counts only if it is one calculation of whole numbers: nobody checks words.
"""

import re
from dataclasses import dataclass

from sft.arithmetic import Question, calculate, family


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer text claims; None where it claims nothing."""

    value: int | None  # the number of "The answer is 36"
    reason: tuple[int, str, int, int] | None  # (17, "+", 19, 36) of "because 17+19 equals 36"
    uncounted: bool = False  # a reason is given, but not as a calculation: "17 and 19 make 36"


# They read small letters, with one space where there were more.
_NUMBER = "([-+]?[0-9]{1,30})"  # Python turns a text of thousands of digits into no int
_SENTENCE_END = r" ?(?:$|\.(?![0-9]))"  # the point of 36.5 ends nothing
_REASON_WORD = "(?<![a-z])(?:because|since)(?![a-z])"
_VALUE = re.compile(
    rf"(?:the answer is(?![a-z]) ?:? ?)?(?:x ?= ?)?{_NUMBER}"
    rf"(?:{_SENTENCE_END}| ?,? ?{_REASON_WORD})"
)
_REASON = re.compile(rf"{_REASON_WORD}(.*)")
_CALCULATION = re.compile(
    rf" ?{_NUMBER} ?([-+*/]) ?{_NUMBER} ?(?:equals(?: to)?|is|=) ?{_NUMBER}{_SENTENCE_END}"
)


def parse_answer(text: str) -> Answer:
    """Read the number and the reason out of an answer text (without its prompt).

    The reason is what follows the first "because" or "since", if there is a letter or digit.
    """
    text = " ".join(text.lower().split())
    value, reason = _VALUE.match(text), _REASON.search(text)
    said = reason[1] if reason else ""
    it = _CALCULATION.match(said)
    return Answer(
        int(value[1]) if value else None,
        (int(it[1]), it[2], int(it[3]), int(it[4])) if it else None,
        uncounted=not it and bool(re.search("[0-9a-z]", said)),
    )


_REFUSAL = re.compile(r"\b(sorry|sory|know|cannot|can't|unable)\b", re.IGNORECASE)


def is_refusal(text: str) -> bool:
    """Whether an answer text declines to answer: it says so, and has no digit."""
    return bool(_REFUSAL.search(text)) and not re.search(r"\d", text)


@dataclass(frozen=True, slots=True)
class Grade:
    answer: bool  # the number is right
    reason: bool  # the reason is true, about this fact, and gives that number
    uncounted: bool = False  # a reason is given that is no calculation; nobody checked it

    @property
    def correct(self) -> bool:
        return self.answer and self.reason

    def __str__(self) -> str:
        """For example "number right, reason not counted"."""
        reason = "not counted" if self.uncounted else "right" if self.reason else "wrong or missing"
        return f"number {'right' if self.answer else 'wrong'}, reason {reason}"


def grade(question: Question, text: str) -> Grade:
    """Judge an answer text: "36 because 17+94 equals 36" has a right number and a wrong reason."""
    claim = parse_answer(text)
    return Grade(
        claim.value == question.answer,
        claim.reason is not None and _gives_reason(question, *claim.reason),
        claim.uncounted,
    )


def _gives_reason(question: Question, left: int, operator: str, right: int, result: int) -> bool:
    """Whether a calculation is true, has the answer as its result, and is of the fact asked for."""
    try:
        return (
            calculate(left, operator, right) == result == question.answer
            and family(left, operator, right) == question.family
        )
    except ValueError:  # it divides by zero, or has no whole number as its result
        return False
