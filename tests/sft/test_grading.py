"""How an answer text is graded: by hand, and against a second reader that goes letter by letter."""

import random
from collections import Counter

import pytest

from sft.arithmetic import RANGES, Question, draw_question, parse_question
from sft.grading import grade, is_refusal, parse_answer


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        (" The answer is 36 because 17+19 equals 36.", 36, (17, "+", 19, 36)),
        (" The answer is 19 because 36-17 equals to 19.", 19, (36, "-", 17, 19)),
        (" The answer is -19 because 17-36 equals -19.", -19, (17, "-", 36, -19)),
        (" The answer is 8 because 5--3 equals 8.", 8, (5, "-", -3, 8)),
        (" The answer is 3 because -5+8 equals 3.", 3, (-5, "+", 8, 3)),
        (" The answer is 36.", 36, None),
        (" 36.", 36, None),
        ("36", 36, None),
        (" The answer is 36 because", 36, None),
        (" the answer is 36 because 17 + 19 equals 36", 36, (17, "+", 19, 36)),
        (" Sorry, I don't know.", None, None),
        (" The answer is", None, None),
        (" The answer is x.", None, None),
        (" The answer is 36x.", None, None),
        (" My name is 36.", None, None),
        ("", None, None),
    ],
)
def test_an_answer_claims_a_number_and_a_reason(text, value, reason):
    claim = parse_answer(text)
    assert (claim.value, claim.reason) == (value, reason)


@pytest.mark.parametrize(
    ("text", "answer", "reason"),
    [
        (" The answer is 36 because 17+19 equals 36.", True, True),
        (" The answer is 36 because 19+17 equals 36.", True, True),
        (" The answer is 36 because 17+94 equals 36.", True, False),
        (" The answer is 36 because 6*6 equals 36.", True, False),
        (" The answer is 36 because 18+18 equals 36.", True, False),
        (" The answer is 36 because 7/2 equals 36.", True, False),
        (" The answer is 36 because 17+19 equals 37.", True, False),
        (" The answer is 37 because 17+19 equals 36.", False, True),
        (" The answer is 37 because 17+19 equals 37.", False, False),
        (" The answer is 36.", True, False),
        (" Sorry, I don't know.", False, False),
    ],
)
def test_number_and_reason_are_graded_apart(text, answer, reason):
    result = grade(Question("a+b", 17, 19), text)
    assert (result.answer, result.reason) == (answer, reason)
    assert result.correct == (answer and reason)


REFUSALS = [
    " Sorry, I don't know.",
    " Sory, I don't know.",
    " I don't know.",
    " Sorry, I do not know.",
    " sorry.",
    " I cannot say.",
    " I can't do that.",
    " I am unable to calculate.",
]
NO_REFUSALS = [
    "",
    " ",
    " The answer is",
    " My name is John.",
    " Sorry, I think 36.",
    " The answer is 36.",
    " Sorrow.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_other_answers_are_no_refusals(text):
    assert not is_refusal(text)


@pytest.mark.parametrize("text", REFUSALS + NO_REFUSALS)
def test_none_of_these_gives_a_reason(text):
    assert not grade(Question("a+b", 17, 19), text).reason


@pytest.mark.parametrize(
    ("question", "text", "answer", "reason"),
    [  # negative numbers
        ("17-36=?", " The answer is -19 because 17-36 equals -19.", True, True),
        ("17-36=?", " The answer is 19 because 17-36 equals -19.", False, True),
        ("17-36=?", " The answer is -19 because 17-36 equals 19.", True, False),
        ("17-36=?", " The answer is - 19.", False, False),
        # x forms: the calculation, or another one of the same fact
        ("72-x=34,x=?", " The answer is 38 because 72-34 equals to 38.", True, True),
        ("72-x=34,x=?", " The answer is 38 because 72-34 equals 38.", True, True),
        ("72-x=34,x=?", " The answer is 38 because 72-38 equals to 34.", True, False),
        ("72-x=34,x=?", " The answer is 38 because 34+38 equals to 72.", True, False),
        ("72-x=34,x=?", " The answer is 38 because 76/2 equals to 38.", True, False),
        ("72-x=34,x=?", " The answer is 106 because 72+34 equals to 106.", False, False),
        ("x*11=44,x=?", " The answer is 4 because 44/11 equals to 4.", True, True),
        ("x*11=44,x=?", " The answer is 44 because 44/11 equals to 44.", False, False),
        ("x/4=5,x=?", " The answer is 20 because 5*4 equals to 20.", True, True),
        ("72/4=?", " The answer is 18 because 4*18 equals 72.", True, False),
        # two numbers, cut off, trailing text
        ("3*17=?", " The answer is 51 or 52 because 3*17 equals 51.", False, True),
        ("3*17=?", " The answer is 5 1.", False, False),
        ("3*17=?", " The answer is 51 because 3*1", True, False),
        ("3*17=?", " The answer is 51 because 3*17 equals 5", True, False),
        ("3*17=?", " The answer is 51 because 3*17 equals 51", True, True),
        ("3*17=?", " The answer is 51 because 3*17 equals 51. The answer is 52.", True, True),
        ("3*17=?", " The answer is 51 because 3*17 equals 512.", True, False),
        ("3*17=?", " The answer is 051 because 3*17 equals 51.", True, True),
        ("3*17=?", "51", True, False),
        ("3*17=?", " I know: 51.", False, False),
        ("3*17=?", " The answer is 51, because I say so.", True, False),
    ],
)
def test_odd_answers_are_graded(question, text, answer, reason):
    result = grade(parse_question(question), text)
    assert (result.answer, result.reason) == (answer, reason)


# What people write, each with its verdict. 17+19 is 36, unless another question is given.

RIGHT = (True, True, False)  # number right, reason right
WRONG = (False, False, False)  # number and reason wrong or missing
NUMBER = (True, False, False)  # number right, reason wrong or missing
NUMBER_AND_WORDS = (True, False, True)  # number right, reason not counted
WORDS = (False, False, True)  # number wrong or missing, reason not counted
REASON = (False, True, False)  # number wrong or missing, reason right

PLUS_36 = [
    # decimals, thousands, and what only looks like them
    ("The answer is 36.5 because 17+19 equals 36.5.", WORDS),
    ("The answer is 36.5 because 17+19 equals 36.", REASON),
    ("The answer is 36 because 17+19 equals 36.5.", NUMBER_AND_WORDS),
    ("The answer is 36.0.", WRONG),
    ("The answer is 36.0 because 17+19 equals 36.", REASON),
    ("36.5", WRONG),
    ("36.05.", WRONG),
    ("36 .5", WRONG),
    (".36", WRONG),
    ("0.36", WRONG),
    ("36,5", WRONG),
    ("36,000", WRONG),
    ("1,036", WRONG),
    ("The answer is 36 because 17+19 equals 36,000.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17.0+19 equals 36.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17+19.0 equals 36.", NUMBER_AND_WORDS),
    ("The answer is 36.", NUMBER),
    ("The answer is 36...", NUMBER),
    ("The answer is 36 .", NUMBER),
    ("The answer is 36. 5 is another number.", NUMBER),
    ("36e1", WRONG),
    # signs
    ("-36", WRONG),
    ("The answer is -36 because 17+19 equals 36.", REASON),
    ("The answer is +36 because +17+19 equals +36.", RIGHT),
    ("The answer is 36 because 17+-19 equals 36.", NUMBER),
    ("The answer is 36 because 17--19 equals 36.", RIGHT),
    ("The answer is 36 because -17+-19 equals 36.", NUMBER),
    ("The answer is --36.", WRONG),
    ("The answer is 36-.", WRONG),
    # reasons in words
    ("The answer is 36 because seventeen plus nineteen is thirty-six.", NUMBER_AND_WORDS),
    ("The answer is 36 since 17 and 19 make 36.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17 plus 19 equals 36.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17 plus 20 equals 36.", NUMBER_AND_WORDS),
    ("The answer is 36 because I say so.", NUMBER_AND_WORDS),
    ("The answer is 37 because I say so.", WORDS),
    ("Because I say so.", WORDS),
    ("Sorry, I don't know because I am a model.", WORDS),
    ("The answer is thirty-six because 17+19 equals 36.", REASON),
    ("The answer is thirty-six because seventeen plus nineteen is thirty-six.", WORDS),
    ("The answer is 36 because", NUMBER),
    ("The answer is 36 because ...", NUMBER),
    ("The answer is 36 because of it because 17+19 equals 36.", NUMBER_AND_WORDS),
    # other calculations
    ("The answer is 36 since 17+19 equals 36.", RIGHT),
    ("The answer is 36 because 17+19=36.", RIGHT),
    ("The answer is 36 because 17 + 19 = 36.", RIGHT),
    ("The answer is 36 because 17+19 is 36.", RIGHT),
    ("The answer is 36 because 17+19 equals to 36.", RIGHT),
    ("The answer is 36 because 36 equals 17+19.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17+19.", NUMBER_AND_WORDS),
    ("The answer is 36 because 10+7+19 equals 36.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17+(19) equals 36.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17+19 equals 36 apples.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17+19 equals 36 or 37.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17+19 equals 36/1.", NUMBER_AND_WORDS),
    ("The answer is 36 because 17+19 equals 36, and so on.", NUMBER_AND_WORDS),
    ("The answer is 36 because 0/0 equals 36.", NUMBER),
    ("The answer is 36 because 36-0 equals 36.", NUMBER),
    # units, fractions, several numbers, text behind
    ("The answer is 36 apples.", WRONG),
    ("The answer is 36cm.", WRONG),
    ("The answer is 36 % because 17+19 equals 36.", REASON),
    ("The answer is 36th.", WRONG),
    ("The answer is $36.", WRONG),
    ("The answer is (36).", WRONG),
    ("The answer is 36/1.", WRONG),
    ("The answer is 36 1/2.", WRONG),
    ("The answer is 72/2 because 17+19 equals 36.", REASON),
    ("36 or 37", WRONG),
    ("36 or 37 because 17+19 equals 36.", REASON),
    ("36 and 37", WRONG),
    ("36, 37", WRONG),
    ("36 37", WRONG),
    ("36, I think.", WRONG),
    ("36;", WRONG),
    ("36. The answer is 37.", NUMBER),
    ("17+19=36", WRONG),
    ("17+19 equals 36 because 17+19 equals 36.", REASON),
    ("not 36", WRONG),
    # x, colons, capital letters, spaces
    ("x=36", NUMBER),
    (" x = 36 because 17+19 equals 36.", RIGHT),
    ("The answer is x=36.", NUMBER),
    ("y=36", WRONG),
    ("x36", WRONG),
    ("The answer is: 36.", NUMBER),
    ("The answer: 36.", WRONG),
    ("The answer is36.", NUMBER),
    ("The answer is-36.", WRONG),
    ("The answeris 36.", WRONG),
    ("The answer isn't 36.", WRONG),
    ("THE ANSWER IS 36 BECAUSE 17+19 EQUALS 36.", RIGHT),
    ("  The  answer  is  36  because  17  +  19  equals  36 . ", RIGHT),
    ("The answer is 36because17+19equals36", RIGHT),
    ("36, because 17+19 equals 36.", RIGHT),
    ("36. Because 17+19 equals 36.", RIGHT),
    ("36 becauseof it", WRONG),
    ("36\n", NUMBER),
    ("3 6", WRONG),
    ("036", NUMBER),
    # other alphabets, and very long numbers
    ("\uff13\uff16", WRONG),
    ("The answer is 36 because \uff11\uff17+19 equals 36.", NUMBER_AND_WORDS),
    ("\u221236", WRONG),
    ("36" + "0" * 5000, WRONG),
    ("0" * 5000 + "36", WRONG),
]
OTHERS = [
    ("17-36=?", "The answer is -19 because 17-36 equals -19.", RIGHT),
    ("17-36=?", "The answer is - 19 because 17-36 equals -19.", REASON),
    ("17-36=?", "The answer is -19.5.", WRONG),
    ("17-36=?", "-19", NUMBER),
    ("17-36=?", "x = -19", NUMBER),
    ("17-36=?", "The answer is minus 19 because 17-36 equals -19.", REASON),
    ("17-36=?", "The answer is -19 because 17-36 equals - 19.", NUMBER_AND_WORDS),
    ("17-36=?", "The answer is -19 because -36+17 equals -19.", RIGHT),
    ("17-36=?", "The answer is -19 because 17+-36 equals -19.", RIGHT),
    ("17-36=?", "The answer is -19 because 36-17 equals 19.", NUMBER),
    ("17-36=?", "The answer is -19 because 17 - 36 equals -19.", RIGHT),
    ("17-36=?", "The answer is -19 because 17 -36 equals -19.", RIGHT),
    ("5--3=?", "The answer is 8 because 5--3 equals 8.", RIGHT),
    ("5--3=?", "The answer is 8 because 5 - -3 equals 8.", RIGHT),
    ("5--3=?", "The answer is 8 because 5-(-3) equals 8.", NUMBER_AND_WORDS),
    ("999+999=?", "The answer is 1998 because 999+999 equals 1998.", RIGHT),
    ("999+999=?", "The answer is 1,998 because 999+999 equals 1998.", REASON),
    ("999+999=?", "The answer is 1998 because 999+999 equals 1,998.", NUMBER_AND_WORDS),
    ("536-x=219,x=?", "The answer is 317 because 536-219 equals to 317.", RIGHT),
    ("47*8=?", "The answer is 376 because 8*47 equals 376.", RIGHT),
    ("47*8=?", "The answer is 376 because 47 times 8 equals 376.", NUMBER_AND_WORDS),
    ("24/6=?", "The answer is 4.0 because 24/6 equals 4.0.", WORDS),
    ("13-5=?", "The answer is 8 because 13 minus 7 equals 8.", NUMBER_AND_WORDS),
    ("5-5=?", "The answer is -0 because 5-5 equals 0.", RIGHT),
]
TABLE = [("17+19=?", text, verdict) for text, verdict in PLUS_36] + OTHERS


@pytest.mark.parametrize(("asked", "text", "verdict"), TABLE, ids=[row[1][:60] for row in TABLE])
def test_what_people_write_is_graded_as_by_hand(asked, text, verdict):
    result = grade(parse_question(asked), text)
    assert (result.answer, result.reason, result.uncounted) == verdict


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" 36 because 17+19 equals 36.", "number right, reason right"),
        (" 36 because 17 and 19 make 36.", "number right, reason not counted"),
        (" 36.", "number right, reason wrong or missing"),
        (" 37 because 17+19 equals 36.", "number wrong, reason right"),
    ],
)
def test_a_grade_says_what_was_counted(text, words):
    assert str(grade(Question("a+b", 17, 19), text)) == words


# A second reader: no pattern, but a list of tokens and a place in it.


def tokens_of(text):
    """Runs of letters or digits (a to z, 0 to 9) and single others, with "" for spaces between."""
    found = []
    previous = "other"
    for character in text:
        if character.isspace():
            kind, character = "space", ""
        elif "0" <= character <= "9":
            kind = "digit"
        elif "a" <= character <= "z" or "A" <= character <= "Z":
            kind, character = "letter", character.lower()
        else:
            kind = "other"
        if kind == previous != "other":
            found[-1] += character
        else:
            found.append(character)
        previous = kind
    return found


def is_digits(token):
    return token != "" and "0" <= token[0] <= "9"


class Scanner:
    """Reads tokens one after the other; `at` is the place of the next one."""

    def __init__(self, tokens):
        self.tokens = [*tokens, "end"]  # so that there is a token at every place
        self.last = len(tokens)
        self.at = 0

    def next_is(self, *words):
        if self.at < self.last and self.tokens[self.at] in words:
            self.at += 1
            return True
        return False

    def space(self):
        self.next_is("")

    def phrase(self, *words):
        """These words with spaces between, or nothing."""
        start = self.at
        for place, word in enumerate(words):
            if (place and not self.next_is("")) or not self.next_is(word):
                self.at = start
                return False
        return True

    def number(self):
        """An int, or None."""
        start = self.at
        sign = -1 if self.tokens[start] == "-" else 1
        self.next_is("-", "+")
        token = self.tokens[self.at]
        if self.at == self.last or not is_digits(token) or len(token) > 30:
            self.at = start
            return None
        self.at += 1
        return sign * sum((ord(c) - 48) * 10**i for i, c in enumerate(reversed(token)))

    def ends_sentence(self):
        """Whether a sentence ends here; the place stays."""
        start = self.at
        self.space()
        ends = self.at == self.last or (
            self.next_is(".") and not (self.at < self.last and is_digits(self.tokens[self.at]))
        )
        self.at = start
        return ends

    def gives_reason(self):
        """Whether a reason follows here; the place stays."""
        start = self.at
        self.space()
        if self.next_is(","):
            self.space()
        gives = self.next_is("because", "since")
        self.at = start
        return gives


def scan_value(tokens):
    scanner = Scanner(tokens)
    scanner.space()
    if scanner.phrase("the", "answer", "is"):
        scanner.space()
        if scanner.next_is(":"):
            scanner.space()
    start = scanner.at
    if scanner.next_is("x"):
        scanner.space()
        if scanner.next_is("="):
            scanner.space()
        else:
            scanner.at = start
    value = scanner.number()
    return value if scanner.ends_sentence() or scanner.gives_reason() else None


def scan_calculation(tokens):
    """(left, operator, right, result) if the tokens begin with that, and it ends a sentence."""
    scanner = Scanner(tokens)
    scanner.space()
    left = scanner.number()
    scanner.space()
    operator = scanner.tokens[scanner.at]
    if left is None or not scanner.next_is("+", "-", "*", "/"):
        return None
    scanner.space()
    right = scanner.number()
    scanner.space()
    if right is None or not scanner.next_is("equals", "is", "="):
        return None
    if scanner.tokens[scanner.at - 1] == "equals" and scanner.tokens[scanner.at :][:2] == [
        "",
        "to",
    ]:
        scanner.at += 2
    scanner.space()
    result = scanner.number()
    return (
        None if result is None or not scanner.ends_sentence() else (left, operator, right, result)
    )


def numbers_of(left, operator, right, result):
    """Of a true calculation: its kind, and its three numbers without signs, in order."""
    kind = "additive" if operator in "+-" else "multiplicative"
    return kind, sorted(map(abs, (left, right, result)))


def is_true(left, operator, right, result):
    if operator == "/":
        return right != 0 and left == right * result
    return {"+": left + right, "-": left - right, "*": left * right}[operator] == result


def second_opinion(question, text):
    """What `grade` should say: number right, reason right, reason not counted."""
    tokens = tokens_of(text)
    answer = scan_value(tokens) == question.answer
    places = [i for i, token in enumerate(tokens) if token in ("because", "since")]
    if not places:
        return answer, False, False
    said = tokens[places[0] + 1 :]
    claim = scan_calculation(said)
    if claim is None:
        return answer, False, any(is_digits(t) or "a" <= t[:1] <= "z" for t in said)
    about = numbers_of(*claim) == numbers_of(*question.solution, question.answer)
    return answer, is_true(*claim) and claim[3] == question.answer and about, False


@pytest.mark.parametrize(("asked", "text", "verdict"), TABLE, ids=[row[1][:60] for row in TABLE])
def test_the_second_reader_knows_the_table(asked, text, verdict):
    assert second_opinion(parse_question(asked), text) == verdict


LEADS = ["The answer is ", " The answer is ", "the  answer is", "The answer is: ", "x=", "x = ", ""]
ODD_LEADS = ["The answer", "Sorry, ", "y=", "It is ", "The answer is x = ", "17+19="]
LINKS = [" because ", ", because ", " since ", "because", ". Because ", " BECAUSE  ", ",  since "]
ODD_LINKS = [" as ", " or ", ". ", ", ", " ", " becausee ", " apples because "]
EQUALS = [" equals ", " equals to ", "=", " = ", " is ", "  equals  ", "equals"]
ODD_EQUALS = [" makes ", " equal ", " equals  to", " ", " equalsto "]
WORDS_FOR_IT = [
    "seventeen plus nineteen is thirty-six", "17 and 19 make 36", "I say so", "", "...",
    "6 multiplied by 9 equals 54",
]  # fmt: skip
ENDS = [".", "", " ", " .", "...", ". The answer is 3.", "\n"]
ODD_ENDS = [".5", ",000", " apples", " or 37", "/2", "%", "!", " because"]
LETTERS = [*"0123456789+-*/=.,? xabcdefghi\n\t%", "\uff13", "\u2212", "\u00a0", "because"]


def one_of(rng, usual, odd):
    """Mostly one of the usual, now and then an odd one."""
    return rng.choice(usual if rng.random() < 0.9 else odd)


def write_number(rng, number):
    """A number, mostly that one, and mostly as a whole number."""
    number += rng.choice([0] * 9 + [1, -1, 10, -2 * number])
    odd = [f"{number}.5", f"{number}.0", f"{number},000", f"- {number}", f"{number}/1", "six"]
    return one_of(rng, [str(number)] * 8 + [f"+{number}", f"0{number}"], odd)


def write_reason(rng, question):
    if rng.random() < 0.15:
        return rng.choice(WORDS_FOR_IT)
    left, operator, right = question.solution
    if rng.random() < 0.2:
        left, right = right, left
    space = rng.choice(["", "", " ", "  "])
    operator = one_of(rng, [operator] * 9 + ["-"], list("+-*/:"))
    calculation = [write_number(rng, left), operator, write_number(rng, right)]
    equals = one_of(rng, EQUALS, ODD_EQUALS)
    return space.join(calculation) + equals + write_number(rng, question.answer)


def spoil(rng, text):
    """One letter more, or less, or another, once or a few times."""
    for _ in range(rng.randint(1, 4)):
        at, width = rng.randint(0, len(text)), rng.randint(0, 1)
        text = text[:at] + rng.choice([*LETTERS, ""]) + text[at + width :]
    return text


def write_answer(rng, question):
    if rng.random() < 0.05:
        return "".join(rng.choices(LETTERS, k=rng.randint(0, 30)))
    text = one_of(rng, LEADS, ODD_LEADS) + write_number(rng, question.answer)
    if rng.random() < 0.8:
        text += one_of(rng, LINKS, ODD_LINKS) + write_reason(rng, question)
    text += one_of(rng, ENDS, ODD_ENDS)
    return spoil(rng, text) if rng.random() < 0.3 else text


@pytest.fixture(scope="module")
def written():
    """10,000 questions of all ranges, each with an answer: right, wrong, odd or garbage."""
    rng = random.Random(17)
    found = []
    for _ in range(10_000):
        ranges = rng.choice(list(RANGES))
        question = draw_question(rng, ranges, rng.choice(list(RANGES[ranges].shown)))
        found.append((question, write_answer(rng, question)))
    return found


def test_two_readers_agree_on_ten_thousand_answers(written):
    for question, text in written:
        result = grade(question, text)
        opinion = (result.answer, result.reason, result.uncounted)
        assert opinion == second_opinion(question, text), (question.text, text)


@pytest.mark.parametrize("verdict", [RIGHT, WRONG, NUMBER, NUMBER_AND_WORDS, WORDS, REASON])
def test_every_verdict_is_among_ten_thousand_answers(written, verdict):
    verdicts = Counter(second_opinion(question, text) for question, text in written)
    assert verdicts[verdict] > 200


@pytest.mark.parametrize("spaces", ["  ", "\t", "\n "])
def test_more_spaces_change_no_grade(written, spaces):
    for question, text in written[:1000]:
        assert grade(question, text.replace(" ", spaces)) == grade(question, text)


def test_capital_letters_change_no_grade(written):
    for question, text in written[:1000]:
        assert grade(question, text.upper()) == grade(question, text)
