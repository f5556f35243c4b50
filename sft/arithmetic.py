"""Questions, right answers, fact families and the train / held-out split.

A *fact* is `p + q = r` or `p * q = r`. Its *family* is everything that can be asked about it:
17+19, 36-17, x+17=36, ... A model that saw one member has seen the fact. So a family is seen or
held out as a whole. No model and no file is known here.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

ADDITIVE = ("a+b", "a-b", "x+a=b", "a+x=b", "x-a=b", "a-x=b")
MULTIPLICATIVE = ("a*b", "a/b", "x*a=b", "a*x=b", "x/a=b", "a/x=b")
FORMS = ADDITIVE + MULTIPLICATIVE
# What to compute for the answer. The loop below adds the second half: the same with + - as * /.
TIMES_FOR_PLUS = str.maketrans("+-", "*/")
SOLUTION = {
    "a+b": "a+b",
    "a-b": "a-b",
    "x+a=b": "b-a",
    "a+x=b": "b-a",
    "x-a=b": "b+a",
    "a-x=b": "a-b",
}
# Which two numbers of the fact (p, q, r) the form shows as a and b.
SHOWN = {"a+b": "pq", "a-b": "rp", "x+a=b": "pr", "a+x=b": "pr", "x-a=b": "pq", "a-x=b": "rq"}
for _table in (SOLUTION, SHOWN):
    for _form, _entry in list(_table.items()):  # the multiplicative half: * for +, / for -
        _table[_form.translate(TIMES_FOR_PLUS)] = _entry.translate(TIMES_FOR_PLUS)

REFUSAL = " Sorry, I don't know."
# What the assignment asks at its end.
STEP_8 = ("17+19=?", "3*17=?", "72/4=?", "72-x=34,x=?", "x*11=44,x=?")
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
        """Whether it adds and the ones carry, or subtracts and the ones borrow."""
        left, operator, right = self.solution
        ones, others = left % 10, right % 10
        return ones + others > 9 if operator == "+" else operator == "-" and ones < others

    @property
    def group(self) -> str:
        """Where its accuracy is counted, e.g. `held_out/additive`."""
        split = "held_out" if self.held_out else "seen"
        return f"{split}/{'additive' if self.additive else 'multiplicative'}"

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
    """The name of the family that a calculation belongs to, e.g. `17+19` or `3*17`."""
    result = calculate(left, operator, right)
    if operator == "+":
        terms = (left, right)
    elif operator == "-":  # 17-36=-19 is the fact 17+19=36
        terms = (right, result) if result >= 0 else (left, -result)
    else:
        terms = (left, right) if operator == "*" else (right, result)
    return ("{}+{}" if operator in "+-" else "{}*{}").format(*sorted(terms))


@cache
def is_held_out(name: str) -> bool:
    """Whether this family is kept out of corpus, base and pairs.

    One in ten is, by a hash that never changes (Python's own differs from process to process).
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10 == 0


@cache
def domain(form: str, ranges: str = "standard") -> tuple[Question, ...]:
    """Every question of one form. In the `standard` range operands and results are 0 to 99.

    (The results of a+b go to 198.) Other ranges have only some forms, and are empty for the rest:
    `products` (a two-digit by a one-digit number, above 99), `negatives` (a-b below zero) and
    `sums` (a+b with terms of three digits).
    """
    if form not in FORMS or ranges not in RANGES:
        raise ValueError(
            f"no form {form!r} or no range {ranges!r}; forms are {FORMS}, ranges {RANGES}"
        )
    if ranges == "negatives":
        return (
            tuple(Question(form, p, p + q) for p in range(100) for q in range(1, 100 - p))
            if form == "a-b"
            else ()
        )
    return tuple(
        Question(form, *({"p": p, "q": q, "r": r}[name] for name in SHOWN[form]))
        for p, q, r in _facts(form, ranges)
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
        # No division by 0, and one answer only: in x*0=0 and 0/x=0, x could be many numbers.
        smallest_p, smallest_q = int(form != "a*b"), int(form == "a/x=b")
        for p in range(smallest_p, 100):
            yield from ((p, q, p * q) for q in range(smallest_q, 100) if p * q <= 99)


_QUESTION = re.compile(
    r"(?:(?P<l>\d+)(?P<op>[-+*/])(?P<r>\d+)=\?"
    r"|(?:x(?P<xop>[-+*/])(?P<xr>\d+)|(?P<xl>\d+)(?P<opx>[-+*/])x|(?P<factor>\d+)x)"
    r"=(?P<b>\d+),x=\?)"
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


_CALCULATION = re.compile(r"(?<![\d*/+-])(-?\d+)([-+*/])(\d+)")


def families_in(text: str) -> set[str]:
    """The families of all calculations in a text, and of the question that it begins with."""
    question = parse_question(text.partition("?")[0] + "?")
    found = {question.family} if question else set()
    for left, operator, right in _CALCULATION.findall(text):
        try:
            found.add(family(int(left), operator, int(right)))
        except ValueError:  # no whole number, no fact
            continue
    return found
