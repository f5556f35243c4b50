"""Questions that the base cannot answer, in kinds: it is to refuse them.

Some kinds are kept from the base and from all pairs. They show whether the model has learnt a rule,
or a list by heart.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from sft.arithmetic import (
    ADDITIVE,
    ADDITIVE_SHOWN,
    MULTIPLICATIVE,
    MULTIPLICATIVE_SHOWN,
    RANGES,
    Question,
    draw_question,
    families_in,
    is_held_out,
    parse_question,
)

SIGNS = "+-*/"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOWELS = "aeiou"
NUMBER_WORDS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred",
)  # fmt: skip
IN_WORDS = ("What is {} {} {}?", "How much is {} {} {}?", "{} {} {}=?", "{} {} {} is what?")
SIGN_WORDS = ("plus", "minus", "times", "divided by", "and", "less")
MADE_UP = (
    "What is the capital of {}?", "What is the opposite of {}?", "What color is {}?", "Who is {}?",
    "What does a {} say?", "What is {}?", "Where is {}?", "What is the plural of {}?",
    "Who made {}?", "Do you know {}?", "Which day comes after {}?", "What do you use a {} for?",
    "How old is {}?", "Where does a {} live?",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    write: Callable[[random.Random], str]
    share: int  # of the unanswerable lines of the corpus, in percent; 0: kept from base and pairs
    example: str

    @property
    def met(self) -> bool:
        return self.share > 0


def _shown(fact: tuple[int, int, int], form: str, letters: str) -> str:
    """The text of a question whose numbers are those of the fact (p, q, r) that `letters` name."""
    return Question(form, *(fact["pqr".index(letter)] for letter in letters)).text


def _large_product(rng: random.Random) -> str:
    """Factors of two digits each, or of three or four and one: `47*38=?`, `1786/x=47,x=?`."""
    if rng.random() < 0.7:
        p, q = rng.randrange(10, 100), rng.randrange(10, 100)
    else:
        p, q = rng.randrange(100, 10 ** rng.randint(3, 4)), rng.randrange(2, 10)
    p, q = rng.sample((p, q), 2)
    form = rng.choice(("a*b", *MULTIPLICATIVE))
    return _shown((p, q, p * q), form, MULTIPLICATIVE_SHOWN[form])


def _four_digits(rng: random.Random) -> str:
    """A sum or difference with a number of four to six digits: `4817+219=?`, `17-4000=?`."""
    p, q = rng.randrange(1000, 10 ** rng.randint(4, 6)), rng.randrange(10 ** rng.randint(1, 6))
    p, q = rng.sample((p, q), 2)
    form = rng.choice(ADDITIVE)
    return _shown((p, q, p + q), form, rng.choice((ADDITIVE_SHOWN[form], "pq")))


def _remainder(rng: random.Random) -> str:
    """A real division, its dividend moved so that a remainder is left: `52/3=?`, `x*17=60,x=?`."""
    form = rng.choice(("a/b", "x*a=b", "a*x=b", "a/x=b"))
    divisor = 0
    while divisor < 2:
        question = draw_question(rng, rng.choice(("standard", "products")), form)
        dividend, divisor = (question.a, question.b) if "/" in form else (question.b, question.a)
    dividend = abs(dividend + rng.choice((-1, 1)) * rng.randrange(1, divisor))
    return Question(form, *((dividend, divisor) if "/" in form else (divisor, dividend))).text


def _three_operands(rng: random.Random) -> str:
    """`17+19-4=?`, `3*4*5*6=?`, `x+17+4=36,x=?`."""
    if rng.random() < 0.3:
        terms = rng.sample(("x", *(str(_number(rng)) for _ in range(2))), 3)
        return f"{rng.choice('+-').join(terms)}={_number(rng)},x=?"
    text = str(_number(rng))
    for _ in range(rng.choice((2, 2, 2, 3))):
        text += rng.choice(SIGNS) + str(_number(rng))
    return f"{text}=?"


def _number(rng: random.Random) -> int:
    return rng.randrange(10 ** rng.randint(1, 2))


def _x_twice(rng: random.Random) -> str:
    """`x+x=34,x=?`, `x*x=49,x=?`, `17-x=x,x=?`."""
    sign, number = rng.choice(SIGNS), _number(rng)
    wordings = (
        f"x{sign}x={number}",
        f"{number}{sign}x=x",
        f"x{sign}{number}=x",
        f"x=x{sign}{number}",
    )
    return f"{rng.choice(wordings)},x=?"


def _turned_round(rng: random.Random) -> str:
    """`36=x+17,x=?`, `36=17+x,x=?`."""
    form = rng.choice([form for form in ADDITIVE + MULTIPLICATIVE if "x" in form])
    left, right = draw_question(rng, "standard", form).text.removesuffix(",x=?").split("=")
    return f"{right}={left},x=?"


def _nothing_asked(rng: random.Random) -> str:
    """`17+19=40,x=?`, `x=?`."""
    equation = f"{_number(rng)}{rng.choice(SIGNS)}{_number(rng)}={_number(rng)},"
    return f"{rng.choice(('', equation, equation))}x=?"


def _decimals(rng: random.Random) -> str:
    """`1.5+2=?`, `x*0.25=7,x=?`."""
    one = f"{_number(rng)}.{rng.randrange(1, 100)}"
    first, second = rng.sample((one, rng.choice((str(_number(rng)), one[::-1]))), 2)
    sign = rng.choice(SIGNS)
    return rng.choice(
        (f"{first}{sign}{second}=?", f"x{sign}{first}={second},x=?", f"{first}{sign}x={second},x=?")
    )


def _damaged(rng: random.Random) -> str:
    """A question with characters lost, added or changed: `17+=?`, `1*+9=?`, `x+17=,x=?`."""
    ranges = rng.choice(("standard", "three_digits"))
    question = draw_question(rng, ranges, rng.choice(list(RANGES[ranges].shown)))
    text = list(question.text[:-1])
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(text))
        text[place : place + rng.randint(0, 1)] = rng.choice(("", *"+-*/=,.x", rng.choice(LETTERS)))
        text = text or ["="]
    return "".join(text) + "?"


def _salad(rng: random.Random) -> str:
    """Digits and signs at random: `=4x*?`."""
    return "".join(rng.choices("0123456789" + SIGNS + "=x,", k=rng.randint(2, 12))) + "?"


def _gibberish(rng: random.Random) -> str:
    """Letters at random: `qwj kpl?`."""
    words = ("".join(rng.choices(LETTERS, k=rng.randint(2, 8))) for _ in range(rng.randint(1, 4)))
    return " ".join(words).capitalize() + "?"


def _made_up_words(rng: random.Random) -> str:
    """A common question about a word that does not exist: `What is the capital of Blatoku?`"""
    word = "".join(rng.choice(LETTERS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 4)))
    return rng.choice(MADE_UP).format(rng.choice((word, word.capitalize())))


def _in_words(rng: random.Random) -> str:
    """`What is seven plus two?`"""
    first, second = rng.choices(NUMBER_WORDS, k=2)
    return rng.choice(IN_WORDS).format(first, rng.choice(SIGN_WORDS), second)


def _by_zero(rng: random.Random) -> str:
    """`17/0=?`, `x/0=17,x=?`."""
    return rng.choice(("{}/0=?", "x/0={},x=?")).format(rng.randrange(1, 100))


def _times_zero(rng: random.Random) -> str:
    """`x*0=5,x=?`, `0*x=5,x=?`, `5/x=0,x=?`."""
    return rng.choice(("x*0={}", "0*x={}", "{}/x=0")).format(rng.randrange(1, 100)) + ",x=?"


def _two_steps(rng: random.Random) -> str:
    """`3*x+4=19,x=?`, with a whole answer."""
    x, a, b = rng.randrange(2, 20), rng.randrange(2, 10), rng.randrange(1, 50)
    c, d = a * x + b, a * x
    wordings = (
        f"{a}*x+{b}={c}",
        f"x*{a}+{b}={c}",
        f"{b}+{a}*x={c}",
        f"{c}-{a}*x={b}",
        f"x*{a}-{d}=0",
        f"{c}-x*{a}={b}",
    )
    return f"{rng.choice(wordings)},x=?"


def _two_sides(rng: random.Random) -> str:
    """`x+4=17+19,x=?`, `17+19=x+4,x=?`, with a whole answer."""
    form = rng.choice(("a+b", "a-b"))
    question, x = draw_question(rng, "standard", form), rng.randrange(1, 100)
    known = question.text.removesuffix("=?")
    beside = question.answer - x
    unknown = f"x{'+' if beside >= 0 else '-'}{abs(beside)}"
    return f"{'='.join(rng.sample((known, unknown), 2))},x=?"


def _other_letters(rng: random.Random) -> str:
    """`y+17=36,y=?`."""
    form = rng.choice([form for form in ADDITIVE + MULTIPLICATIVE if "x" in form])
    return draw_question(rng, "standard", form).text.replace(
        "x", rng.choice(LETTERS.replace("x", ""))
    )


# What looks like a question that can be calculated is hard to tell from one: so the largest shares
# go to remainders (only who divides can tell) and large products.
KINDS = {
    "remainder": Kind(_remainder, 24, "52/3=?"),
    "large_product": Kind(_large_product, 24, "47*38=?"),
    "four_digits": Kind(_four_digits, 8, "4817+219=?"),
    "three_operands": Kind(_three_operands, 5, "17+19-4=?"),
    "x_twice": Kind(_x_twice, 4, "x+x=34,x=?"),
    "turned_round": Kind(_turned_round, 3, "36=x+17,x=?"),
    "nothing_asked": Kind(_nothing_asked, 4, "17+19=40,x=?"),
    "other_letters": Kind(_other_letters, 3, "y+17=36,y=?"),
    "decimals": Kind(_decimals, 2, "1.5+2=?"),
    "damaged": Kind(_damaged, 9, "17+=?"),
    "salad": Kind(_salad, 3, "=4x*?"),
    "gibberish": Kind(_gibberish, 1, "Qwj kpl?"),
    "made_up_words": Kind(_made_up_words, 4, "What is Blatoku?"),
    "in_words": Kind(_in_words, 4, "What is seven plus two?"),
    "by_zero": Kind(_by_zero, 2, "17/0=?"),
    "times_zero": Kind(_times_zero, 0, "x*0=5,x=?"),
    "two_steps": Kind(_two_steps, 0, "3*x+4=19,x=?"),
    "two_sides": Kind(_two_sides, 0, "x+4=17+19,x=?"),
}

# What the kinds kept back look like: x times 0, x with factor and a term, a calculation on both
# sides. No other kind may show it by chance.
KEPT_BACK = re.compile(
    r"(?<![\d.])0\*?x|x\*0(?![\d.])|/x=0(?!\d)"
    r"|[\d*]x[-+]|x[*/]\d+[-+]|[-+]\d+[*/]?x|[-+]x[*/]\d"
    r"|[\dx][-+*/][\dx]+=[\dx]+[-+*/][\dx]"
)
TOO_LARGE = ("large_product", "four_digits")  # well-formed questions that are out of every range


def draw_unanswerable(rng: random.Random, kind: str) -> str:
    """A question of that kind that cannot be answered and that names no family set aside."""
    while True:
        text = KINDS[kind].write(rng)
        question = parse_question(text)  # a damaged question can by chance be a good one
        by_chance = KINDS[kind].met and KEPT_BACK.search(text)
        too_large = kind in TOO_LARGE and question is not None and question.range is None
        usable = (question is None or too_large) and not by_chance
        if usable and not any(map(is_held_out, families_in(text))):
            return text
