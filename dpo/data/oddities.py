"""What can be trained on but is probably not meant: a warning a kind, with its first pairs.

One more kind of oddity is one function in ODDITIES. It gives the pairs' deed in words (the same for
all of the kind), where (the pair, perhaps with a reason) and perhaps an example.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from dpo.data.pair import Findings, Pair
from sft.arithmetic import Question, parse_question
from sft.grading import Grade, grade, is_refusal, parse_answer

RIGHT = Grade(answer=True, reason=True)
SHOWN = 60  # characters of an example


class Asked(NamedTuple):
    """What a prompt asks: worked out once, however many pairs have it."""

    question: Question | None  # None if it asks no arithmetic
    text: str  # how the question is usually written
    right_answer: str  # in the assignment's words
    is_held_out: bool
    place: str  # of the first pair with this prompt
    chosen: str  # its answer


class Inspected(NamedTuple):
    """A pair, and what the functions in ODDITIES need to know about it."""

    pair: Pair
    place: str  # its line or number
    same: str  # the place of the first pair with these three texts, perhaps this one
    asked: Asked
    verdict: Grade | None  # on the chosen answer, if there is a question


Oddity = tuple[str, str, str]  # the pairs' deed; where, perhaps with a reason; perhaps an example


def _stands_twice(it: Inspected) -> Oddity | None:
    if it.same == it.place:
        return None
    return "stand twice", f"{it.place} (as {it.same})", ""


def _has_another_answer(it: Inspected) -> Oddity | None:
    if it.same != it.place or it.asked.chosen == it.pair.chosen:
        return None
    deed = "give a question another positive answer than an earlier line"
    return deed, f"{it.place} (and {it.asked.place})", ""


def _repeats_question(it: Inspected) -> Oddity | None:
    prompt = it.pair.prompt.strip()
    if not (_begins(it.pair.chosen, prompt) or _begins(it.pair.rejected, prompt)):
        return None
    return "repeat the question in the answer; leave it out there", it.place, ""


def _begins(answer: str, prompt: str) -> bool:
    return answer.lstrip().startswith(prompt)


_POINT = re.compile(r"[.,](?<=\d.)\d")  # found much faster than the whole number
_BROKEN_NUMBER = re.compile(r"\d+[.,]\d[\d.,]*\d|\d+[.,]\d")


def _has_broken_number(it: Inspected) -> Oddity | None:
    for answer in (it.pair.chosen, it.pair.rejected):
        if _POINT.search(answer):
            number = _BROKEN_NUMBER.search(answer)
            deed = (
                "have a decimal or thousands in an answer, which is no whole number here, and a "
                "model's answer ends at its first full stop; write digits only"
            )
            return deed, it.place, shorten(number[0])
    return None


def _has_wrong_number(it: Inspected) -> Oddity | None:
    if it.verdict is None or it.verdict.answer or _repeats_question(it):
        return None
    if grade(it.asked.question, it.pair.rejected).answer:
        deed = "have the right number in the negative answer only; exchange the two answers"
        return deed, it.place, shorten(it.pair.prompt + it.pair.rejected)
    if is_refusal(it.pair.chosen):
        deed = "refuse in the positive answer what can be calculated"
    elif parse_answer(it.pair.chosen).value is None:
        deed = (
            "have no number in the positive answer that is read as one; write it like The answer "
            "is 36"
        )
    else:
        deed = "have a wrong number in the positive answer"
    return deed, f"{it.place} (right: {it.asked.question.answer})", ""


_REASON = re.compile(r"\b(?:because|since)\b", re.IGNORECASE)


def _has_wrong_reason(it: Inspected) -> Oddity | None:
    """A number without a reason is no oddity, and a wrong number is one already."""
    verdict = it.verdict
    if verdict is None or not verdict.answer or verdict.reason or verdict.uncounted:
        return None
    if not _REASON.search(it.pair.chosen):
        return None
    return "have a wrong reason in the positive answer", it.place, ""


SIGNS = {  # in words, as they stand between two numbers
    "+": r"plus|added to|and",
    "-": r"minus|less",
    "*": r"times|multiplied by|x|\u00d7",
    "/": r"divided by|over",
}
_IN_WORDS = [
    (re.compile(rf"(?<=\d)\s+(?:{words})\s+(?=-?\d)", re.IGNORECASE), sign)
    for sign, words in SIGNS.items()
]
_RESULT = re.compile(r"\s+(?:gives|makes|make|is|are)\s+(?=-?\d+\.?$)", re.IGNORECASE)


def _has_reason_in_words(it: Inspected) -> Oddity | None:
    """A reason that is no calculation counts for none; where its words say one, it is checked."""
    if it.verdict is None or not it.verdict.uncounted or _has_broken_number(it):
        return None
    place = it.place
    if it.verdict.answer:
        text = it.pair.chosen
        for words, sign in _IN_WORDS:
            text = words.sub(sign, text)
        in_signs = grade(it.asked.question, _RESULT.sub(" equals ", text))
        if not in_signs.uncounted and not in_signs.reason:
            place = f"{it.place} (which is false)"
    deed = "have a reason in words, which is not counted; write it like 6*9 equals 54"
    return deed, place, shorten(_REASON.split(it.pair.chosen, maxsplit=1)[-1].strip())


def _asks_held_out_fact(it: Inspected) -> Oddity | None:
    if not it.asked.is_held_out:
        return None
    return "ask for a held-out fact, so that held-out accuracy means less", it.place, ""


def _writes_unusually(it: Inspected) -> Oddity | None:
    if it.asked.question is None or it.pair.prompt == it.asked.text:
        return None
    instance = f"{shorten(it.pair.prompt)} instead of {shorten(it.asked.text)}"
    return "write a question unlike the others", it.place, instance


_SIGN_WORD = r"\b(?:plus|minus|times|multiplied by|divided by)\b"
_SIGN = rf"(?:[-+*/^%:]|{_SIGN_WORD})"
_UNKNOWN = r"(?:\b[a-z]\b|[?_])"  # x, or what else stands for the number that is asked for
_NUMBER_WORD = r"\w*(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|teen|ty)"
_ARITHMETIC = re.compile(
    rf"\d\)?\s*{_SIGN}\s*(?:[(\dx]|{_UNKNOWN})|{_UNKNOWN}\s*[-+*/]\s*\d|\bx\s*[-+*/=]|"
    rf"[-+*/]\s*x\b|\d\s*x\b.*=|\d\s*=\s*\?|\d+ [a-z]+ [-+*/] \d|"
    rf"\b{_NUMBER_WORD} {_SIGN_WORD} {_NUMBER_WORD}\b",
    re.IGNORECASE,
)


def _cannot_be_checked(it: Inspected) -> Oddity | None:
    if it.asked.question is not None or not _ARITHMETIC.search(it.pair.prompt):
        return None
    deed = "look like arithmetic but cannot be checked here, nor is it known what is right"
    return deed, it.place, shorten(it.pair.prompt)


def _has_odd_spaces(it: Inspected) -> Oddity | None:
    if _is_well_spaced(it.pair.chosen) or _repeats_question(it):
        return None
    deed = "do not have exactly one space between question and answer, and none after it"
    return deed, it.place, ""


def _begins_unlike(it: Inspected) -> Oddity | None:
    if _is_well_spaced(it.pair.rejected) or _repeats_question(it):
        return None
    deed = (
        "do not have exactly one space between question and negative answer, and none after it: "
        "a space alone can tell both answers apart"
    )
    return deed, it.place, shorten(it.pair.prompt[-12:] + it.pair.rejected)


def _is_well_spaced(answer: str) -> bool:
    return answer[0] == " " and answer[1] != " " and answer[-1] != " "


def shorten(text: str) -> str:
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


ODDITIES: tuple[Callable[[Inspected], Oddity | None], ...] = (
    _stands_twice,
    _has_another_answer,
    _repeats_question,
    _has_broken_number,
    _has_wrong_number,
    _has_wrong_reason,
    _has_reason_in_words,
    _asks_held_out_fact,
    _writes_unusually,
    _cannot_be_checked,
    _has_odd_spaces,
    _begins_unlike,
)


def find_oddities(pairs: list[Pair]) -> list[str]:
    """What can be trained on but is probably not meant: a sentence a kind, with its first places.

    A place is a line, or the pair's number where several pairs share a line.
    """
    found = Findings()
    share_lines = len({pair.line for pair in pairs}) < len(pairs)
    first_same: dict[tuple[str, str, str], str] = {}
    prompts: dict[str, Asked] = {}
    for number, pair in enumerate(pairs, start=1):
        place = str(number if share_lines else pair.line)
        same = first_same.setdefault((pair.prompt, pair.chosen, pair.rejected), place)
        asked = prompts.get(pair.prompt)
        if asked is None:
            asked = prompts[pair.prompt] = _read_prompt(pair, place)
        inspected = Inspected(pair, place, same, asked, _judge(asked, pair.chosen))
        for find_oddity in ODDITIES:
            if oddity := find_oddity(inspected):
                found.add(*oddity)
    return found.oddities("pair" if share_lines else "line")


def _read_prompt(first: Pair, place: str) -> Asked:
    """What the prompt of this pair asks, which is the first with it."""
    question = parse_question(first.prompt)
    if question is None:
        return Asked(None, "", "", False, place, first.chosen)
    known = question.text, question.right_answer, question.held_out
    return Asked(question, *known, place, first.chosen)


def _judge(asked: Asked, chosen: str) -> Grade | None:
    """The grade of an answer, if there is a question; the usual answer is not read for it."""
    if asked.question is None:
        return None
    return RIGHT if chosen == asked.right_answer else grade(asked.question, chosen)
