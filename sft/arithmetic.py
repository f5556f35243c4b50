"""Questions, right answers, fact families and their split.

A *fact* is `p + q = r` or `p * q = r`. Its *family* is everything that can be asked about it:
17+19, 36-17, x+17=36, 17-36, ... A model that saw one member has seen the fact. So a family is in
training or set aside as a whole. What can be asked stands in one table, `RANGES`. No model and no
file is known here.
"""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

ADDITIVE = ("a+b", "a-b", "x+a=b", "a+x=b", "x-a=b", "a-x=b")
MULTIPLICATIVE = ("a*b", "a/b", "x*a=b", "a*x=b", "x/a=b", "a/x=b")
FORMS = ADDITIVE + MULTIPLICATIVE

# What to compute for the answer.
SOLUTION = {
    "a+b": "a+b", "a-b": "a-b", "x+a=b": "b-a", "a+x=b": "b-a", "x-a=b": "b+a", "a-x=b": "a-b",
    "a*b": "a*b", "a/b": "a/b", "x*a=b": "b/a", "a*x=b": "b/a", "x/a=b": "b*a", "a/x=b": "a/b",
}  # fmt: skip
# Which two numbers of the fact (p, q, r) the form shows as a and b; the third one is the answer.
ADDITIVE_SHOWN = {
    "a+b": "pq", "a-b": "rp", "x+a=b": "pr", "a+x=b": "pr", "x-a=b": "pq", "a-x=b": "rq",
}  # fmt: skip
MULTIPLICATIVE_SHOWN = {
    "a*b": "pq", "a/b": "rp", "x*a=b": "pr", "a*x=b": "pr", "x/a=b": "pq", "a/x=b": "rq",
}  # fmt: skip
NEGATIVE_SHOWN = {"a-b": "pr", "x+a=b": "rp", "a+x=b": "rp", "a-x=b": "pr"}  # the answer is -q

# The side of a table where a family of each split is counted.
SIDES = {"train": "seen", "validation": "validation", "test": "held_out"}

REFUSAL = " Sorry, I don't know."
# What the assignment asks at its end.
STEP_8 = ("17+19=?", "3*17=?", "72/4=?", "72-x=34,x=?", "x*11=44,x=?")


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
    def split(self) -> str:
        """`train`, `validation` (to choose by) or `test` (to report)."""
        return split_of(self.family)

    @property
    def held_out(self) -> bool:
        """Whether it is set aside, for validation or for the test."""
        return is_held_out(self.family)

    @property
    def range(self) -> str | None:
        """The row of RANGES that it belongs to; None if the base is not made to answer it."""
        return next((name for name, span in RANGES.items() if span.includes(self)), None)

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
        """Where its accuracy is counted, e.g. `held_out/additive`.

        `held_out` are the families of the test; those of validation are counted apart.
        """
        kind = "additive" if self.additive else "multiplicative"
        return f"{SIDES[self.split]}/{kind}"

    def answer_text(self, value: int) -> str:
        """The answer in the assignment's words, with any value.

        For example ` The answer is 36 because 17+19 equals 36.`
        """
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
    """The name of the family that a calculation belongs to, e.g. `17+19` or `3*17`.

    Signs do not matter: 17-36=-19 is the fact 17+19=36.
    """
    result = calculate(left, operator, right)
    if operator in "+-":  # without signs, the largest of the three is the sum of the others
        return "{}+{}".format(*sorted(map(abs, (left, right, result)))[:2])
    factors = (left, right) if operator == "*" else (right, result)
    return "{}*{}".format(*sorted(map(abs, factors)))


@cache
def split_of(name: str) -> str:
    """Where a family belongs: one tenth to `test`, one to `validation`, the rest to `train`.

    By a hash that never changes (Python's own differs from process to process).
    """
    tenth = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10
    return {0: "test", 1: "validation"}.get(tenth, "train")


def is_held_out(name: str) -> bool:
    """Whether this family is set aside: kept out of corpus, base and pairs."""
    return split_of(name) != "train"


@dataclass(frozen=True)
class Range:
    """Facts with p and q below `terms` that fulfil `condition`, and how each form shows them."""

    terms: int
    shown: dict[str, str]  # form -> which two numbers of the fact are its a and b
    condition: Callable[[str, int, int, int], bool]  # of form, p, q, r

    def question(self, form: str, p: int, q: int) -> Question | None:
        """What the form asks about this fact; None if that is not in the range."""
        r = p + q if form in ADDITIVE else p * q
        if not self.condition(form, p, q, r):
            return None
        return Question(form, *({"p": p, "q": q, "r": r}[name] for name in self.shown[form]))

    def includes(self, question: Question) -> bool:
        if question.form not in self.shown:
            return False
        shown = self.shown[question.form]
        [asked] = set("pqr") - set(shown)
        fact = dict(zip(shown, (question.a, question.b), strict=True))
        fact[asked] = abs(question.answer)
        if not (0 <= fact["p"] < self.terms and 0 <= fact["q"] < self.terms):
            return False
        return self.question(question.form, fact["p"], fact["q"]) == question


def _standard(form: str, p: int, q: int, r: int) -> bool:
    """Operands and results are 0 to 99, sums to 198."""
    if form in ADDITIVE:
        return r <= (198 if form == "a+b" else 99)
    # No division by 0, and one answer only: in x*0=0 and 0/x=0, x could be many numbers.
    return r <= 99 and p >= (form != "a*b") and q >= (form == "a/x=b")


def _negative(form: str, p: int, q: int, r: int) -> bool:
    return q >= 1 and r <= 99


def _three_digits(form: str, p: int, q: int, r: int) -> bool:
    """Numbers to 999 (sums to 1998), at least one above 99 and the question not a standard one."""
    if form == "a+b":
        return max(p, q) >= 100
    return 100 <= r <= (1998 if form == "x-a=b" else 999)


def _product(form: str, p: int, q: int, r: int) -> bool:
    """A two-digit by a one-digit number, above 99; the factors in either order."""
    return 2 <= min(p, q) <= 9 and r > 99


RANGES = {
    "standard": Range(100, ADDITIVE_SHOWN | MULTIPLICATIVE_SHOWN, _standard),
    "negatives": Range(100, NEGATIVE_SHOWN, _negative),
    "three_digits": Range(1000, ADDITIVE_SHOWN, _three_digits),
    "products": Range(100, MULTIPLICATIVE_SHOWN, _product),
}


@cache
def domain(form: str, ranges: str = "standard") -> tuple[Question, ...]:
    """Every question of one form in one of RANGES; empty for the forms it does not have.

    Half a million of a form in `three_digits`, where `pool` has enough.
    """
    if form not in FORMS or ranges not in RANGES:
        raise ValueError(
            f"no form {form!r} or no range {ranges!r}; forms are {FORMS}, ranges {tuple(RANGES)}"
        )
    span = RANGES[ranges]
    if form not in span.shown:
        return ()
    asked = (span.question(form, p, q) for p in range(span.terms) for q in range(span.terms))
    return tuple(question for question in asked if question)


def draw_question(rng: random.Random, ranges: str, form: str) -> Question:
    """A question of that range and form, each as likely as any other."""
    span = RANGES[ranges]
    while True:
        question = span.question(form, rng.randrange(span.terms), rng.randrange(span.terms))
        if question:
            return question


@cache
def pool(form: str, ranges: str = "standard") -> tuple[Question, ...]:
    """Questions to choose from: the whole domain, but in `three_digits` 5,000, always the same."""
    if ranges != "three_digits" or form not in ADDITIVE:
        return domain(form, ranges)
    rng = random.Random(form)
    return tuple(dict.fromkeys(draw_question(rng, ranges, form) for _ in range(5000)))


def spaced(text: str) -> str:
    """`x+17=36,x=?` as `x + 17 = 36,x = ?`."""
    return "".join(f" {c} " if c in "+-*/=" else c for c in text)


# Other ways to write a question; none of them changes what it asks.
DRESSES: dict[str, Callable[[str], str]] = {
    "no_sign_for_times": lambda text: re.sub(r"(\d)\*x", r"\1x", text),
    "spaces_around_signs": spaced,
    "space_after_comma": lambda text: text.replace(",", ", "),
}


_QUESTION = re.compile(
    r"(?:(?P<l>-?\d+)(?P<op>[-+*/])(?P<r>-?\d+)=\?"
    r"|(?:x(?P<xop>[-+*/])(?P<xr>-?\d+)|(?P<xl>-?\d+)(?P<opx>[-+*/])x|(?P<factor>-?\d+)x)"
    r"=(?P<b>-?\d+),x=\?)"
)


def parse_question(text: str) -> Question | None:
    """The question that a prompt asks. Spaces do not matter, and `3x` means `3*x`.

    None if it asks no such question, or if its answer is not one whole number.
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
        question = Question(
            f"a{part['opx'] or '*'}x=b", int(part["xl"] or part["factor"]), int(part["b"])
        )
    try:
        answer = question.answer
    except ValueError:
        return None
    # The solutions of 0/x=5 (0/5) and x/0=5 (5*0) are numbers, but the questions divide by 0.
    x_is_zero = (question.form, answer) == ("a/x=b", 0)
    a_is_zero = (question.form, question.a) == ("x/a=b", 0)
    return None if x_is_zero or a_is_zero else question


_CALCULATION = re.compile(r"(?<![\d*/+-])(-?\d+)([-+*/])(-?\d+)")
_SPACES_AROUND_SIGNS = re.compile(r"\s*([-+*/])\s*")


def families_in(text: str) -> set[str]:
    """The families of all calculations in a text, and of the question that it begins with."""
    question = parse_question(text.partition("?")[0] + "?")
    found = {question.family} if question else set()
    for left, operator, right in _CALCULATION.findall(_SPACES_AROUND_SIGNS.sub(r"\1", text)):
        try:
            found.add(family(int(left), operator, int(right)))
        except ValueError:  # no whole number, no fact
            continue
    return found
