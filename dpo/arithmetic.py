"""Questions, right answers, fact families and the train / held-out split. Knows no model and no file.

A *fact* is `p + q = r` or `p * q = r`. Everything that can be asked about one fact (17+19, 36-17, x+17=36, ...) is its
*family*: a model that saw one member has seen the fact, so a family is either seen or held out as a whole.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

ADDITIVE = ("a+b", "a-b", "x+a=b", "a+x=b", "x-a=b", "a-x=b")
MULTIPLICATIVE = ("a*b", "a/b", "x*a=b", "a*x=b", "x/a=b", "a/x=b")
FORMS = ADDITIVE + MULTIPLICATIVE

# What to compute for the answer; the two halves of the table are the same with + - written * /.
SOLUTION = {"a+b": "a+b", "a-b": "a-b", "x+a=b": "b-a", "a+x=b": "b-a", "x-a=b": "b+a", "a-x=b": "a-b"}
# Which two numbers of the fact (p, q, r) the form shows as a and b.
SHOWN = {"a+b": "pq", "a-b": "rp", "x+a=b": "pr", "a+x=b": "pr", "x-a=b": "pq", "a-x=b": "rq"}
for _table in (SOLUTION, SHOWN):
    _table.update({k.translate({43: 42, 45: 47}): v.translate({43: 42, 45: 47}) for k, v in list(_table.items())})

REFUSAL = " Sorry, I don't know."
STEP_8 = ("17+19=?", "3*17=?", "72/4=?", "72-x=34,x=?", "x*11=44,x=?")  # what the assignment asks at its end
RANGES = ("standard", "products", "negatives", "sums")


@dataclass(frozen=True, slots=True)
class Question:
    form: str  # one of FORMS
    a: int
    b: int

    @property
    def text(self) -> str:
        """The prompt, e.g. `17+19=?` or `x+17=36,x=?`."""
        shown = "".join({"a": str(self.a), "b": str(self.b)}.get(c, c) for c in self.form)
        return f"{shown},x=?" if "x" in self.form else f"{shown}=?"

    @property
    def solution(self) -> tuple[int, str, int]:
        """The calculation that answers it: left operand, operator, right operand."""
        left, operator, right = SOLUTION[self.form]
        numbers = {"a": self.a, "b": self.b}
        return numbers[left], operator, numbers[right]

    @property
    def answer(self) -> int:
        return calculate(*self.solution)

    @property
    def family(self) -> str:
        return family(*self.solution)

    @property
    def held_out(self) -> bool:
        return is_held_out(self.family)

    @property
    def additive(self) -> bool:
        return self.form in ADDITIVE

    @property
    def trivial(self) -> bool:
        """Whether it multiplies or divides with a factor 0 or 1: a rule, not a fact to remember."""
        return not self.additive and not {"0", "1"}.isdisjoint(self.family.split("*"))

    @property
    def carries(self) -> bool:
        """Whether it adds and the ones carry, or subtracts and they borrow."""
        left, operator, right = self.solution
        ones, others = left % 10, right % 10
        return ones + others > 9 if operator == "+" else operator == "-" and ones < others

    @property
    def group(self) -> str:
        """Where its accuracy is counted, e.g. `held_out/additive`."""
        return f"{'held_out' if self.held_out else 'seen'}/{'additive' if self.additive else 'multiplicative'}"

    def answer_text(self, value: int) -> str:
        """The answer in the assignment's words, with any value: ` The answer is 36 because 17+19 equals 36.`"""
        left, operator, right = self.solution
        equals = "equals to" if "x" in self.form else "equals"
        return f" The answer is {value} because {left}{operator}{right} {equals} {value}."

    @property
    def right_answer(self) -> str:
        return self.answer_text(self.answer)


def calculate(left: int, operator: str, right: int) -> int:
    """Exact integer arithmetic; ValueError where there is no integer result."""
    if operator == "/":
        if right == 0 or left % right:
            raise ValueError(f"{left}/{right} is not a whole number")
        return left // right
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def family(left: int, operator: str, right: int) -> str:
    """The name of the fact family, e.g. `17+19` or `3*17`, of any calculation that belongs to it."""
    result = calculate(left, operator, right)
    if operator in "+-":
        terms = (left, right) if operator == "+" else (right, result) if result >= 0 else (left, -result)
        return "{}+{}".format(*sorted(terms))
    return "{}*{}".format(*sorted((left, right) if operator == "*" else (right, result)))


@cache
def is_held_out(name: str) -> bool:
    """Whether this family is kept out of corpus, base and pairs: one in ten, by a hash that never changes."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10 == 0


@cache
def domain(form: str, ranges: str = "standard") -> tuple[Question, ...]:
    """Every question of one form: in the `standard` range, operands and results are 0 to 99 (sums to 198).

    Wider ranges, empty for the forms they do not touch: `products` (a two-digit by a one-digit number, above 99),
    `negatives` (a-b below zero), `sums` (a+b with terms of three digits).
    """
    if form not in FORMS or ranges not in RANGES:
        raise ValueError(f"no form {form!r} or no range {ranges!r}; forms are {FORMS}, ranges {RANGES}")
    if ranges == "negatives":
        return tuple(Question(form, p, p + q) for p in range(100) for q in range(1, 100 - p)) if form == "a-b" else ()
    return tuple(
        Question(form, *({"p": p, "q": q, "r": r}[name] for name in SHOWN[form])) for p, q, r in _facts(form, ranges)
    )


def _facts(form: str, ranges: str) -> Iterator[tuple[int, int, int]]:
    """The facts (p, q, r) whose numbers are in range and that give the form exactly one answer."""
    if form in ADDITIVE and ranges == "standard":
        largest = 198 if form == "a+b" else 99
        yield from ((p, q, p + q) for p in range(100) for q in range(min(99, largest - p) + 1))
    if form == "a+b" and ranges == "sums":
        yield from ((p, q, p + q) for p in range(100, 900) for q in range(100, 1000 - p))
    if form in MULTIPLICATIVE and ranges == "products":
        facts = ((p, q, p * q) for p in range(10, 100) for q in range(2, 10) if p * q > 99)
        yield from (fact for p, q, r in facts for fact in ((p, q, r), (q, p, r)))
    if form in MULTIPLICATIVE and ranges == "standard":
        smallest_p, smallest_q = int(form != "a*b"), int(form == "a/x=b")  # no division by 0, one answer only
        for p in range(smallest_p, 100):
            yield from ((p, q, p * q) for q in range(smallest_q, 100) if p * q <= 99)


_QUESTION = re.compile(
    r"(?:(?P<l>\d+)(?P<op>[-+*/])(?P<r>\d+)=\?"
    r"|(?:x(?P<xop>[-+*/])(?P<xr>\d+)|(?P<xl>\d+)(?P<opx>[-+*/])x|(?P<factor>\d+)x)=(?P<b>\d+),x=\?)"
)


def parse_question(text: str) -> Question | None:
    """The question a prompt asks, or None. Spaces do not matter, `3x` means `3*x`.

    None, too, where there is no whole-number answer, or more than one.
    """
    match = _QUESTION.fullmatch(re.sub(r"\s+", "", text))
    if not match:
        return None
    part = match.groupdict()
    if part["op"]:
        question = Question(f"a{part['op']}b", int(part["l"]), int(part["r"]))
    elif part["xop"]:
        question = Question(f"x{part['xop']}a=b", int(part["xr"]), int(part["b"]))
    else:
        question = Question(f"a{part['opx'] or '*'}x=b", int(part["xl"] or part["factor"]), int(part["b"]))
    try:
        answer = question.answer
    except ValueError:
        return None
    divides_by_zero = (question.form, answer) == ("a/x=b", 0) or (question.form, question.a) == ("x/a=b", 0)
    return None if divides_by_zero else question


_CALCULATION = re.compile(r"(?<![\d*/+-])(-?\d+)([-+*/])(\d+)")


def families_in(text: str) -> set[str]:
    """The family of every calculation that a text spells out, and of the question it begins with."""
    question = parse_question(text.partition("?")[0] + "?")
    found = {question.family} if question else set()
    for left, operator, right in _CALCULATION.findall(text):
        try:
            found.add(family(int(left), operator, int(right)))
        except ValueError:  # no whole number, no fact
            continue
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer text claims; None where it claims nothing."""

    value: int | None  # the number of "The answer is 36"
    reason: tuple[int, str, int, int] | None  # (17, "+", 19, 36) of "because 17+19 equals 36"


_VALUE = re.compile(r"\s*(?:the answer is\s+)?(-?\d+)(?!\d)(?=\s*(?:[.,]|because|$))", re.IGNORECASE)
_REASON = re.compile(r"because\s+(-?\d+)\s*([-+*/])\s*(\d+)\s+equals\s+(?:to\s+)?(-?\d+)(?!\d)", re.IGNORECASE)


def parse_answer(text: str) -> Answer:
    """Read the number and the reason out of an answer text (without its prompt)."""
    value, reason = _VALUE.match(text), _REASON.search(text)
    return Answer(
        int(value[1]) if value else None,
        (int(reason[1]), reason[2], int(reason[3]), int(reason[4])) if reason else None,
    )


_REFUSAL = re.compile(r"\b(sorry|sory|know|cannot|can't|unable)\b", re.IGNORECASE)


def is_refusal(text: str) -> bool:
    """Whether an answer text declines: it says so, and claims no number at all."""
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
        return Grade(claim.value == question.answer, False)
    left, operator, right, result = claim.reason
    try:
        true = calculate(left, operator, right) == result == question.answer
        return Grade(claim.value == question.answer, true and family(left, operator, right) == question.family)
    except ValueError:
        return Grade(claim.value == question.answer, False)
