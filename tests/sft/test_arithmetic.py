"""Questions, right answers, fact families, the split, and ranges."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sft.arithmetic import (
    ADDITIVE,
    DRESSES,
    FORMS,
    MULTIPLICATIVE,
    RANGES,
    Question,
    calculate,
    domain,
    draw_question,
    families_in,
    family,
    is_held_out,
    parse_question,
    pool,
    split_of,
)
from sft.grading import grade

ROOT = Path(__file__).parents[2]
ALL = [question for form in FORMS for question in domain(form)]


@pytest.mark.parametrize(
    ("text", "answer", "name"),
    [
        ("17+19=?", " The answer is 36 because 17+19 equals 36.", "17+19"),
        ("36-17=?", " The answer is 19 because 36-17 equals 19.", "17+19"),
        ("3*17=?", " The answer is 51 because 3*17 equals 51.", "3*17"),
        ("51/3=?", " The answer is 17 because 51/3 equals 17.", "3*17"),
        ("x+17=36,x=?", " The answer is 19 because 36-17 equals to 19.", "17+19"),
        ("17+x=36,x=?", " The answer is 19 because 36-17 equals to 19.", "17+19"),
        ("x-17=19,x=?", " The answer is 36 because 19+17 equals to 36.", "17+19"),
        ("36-x=17,x=?", " The answer is 19 because 36-17 equals to 19.", "17+19"),
        ("x*3=51,x=?", " The answer is 17 because 51/3 equals to 17.", "3*17"),
        ("3*x=51,x=?", " The answer is 17 because 51/3 equals to 17.", "3*17"),
        ("x/3=17,x=?", " The answer is 51 because 17*3 equals to 51.", "3*17"),
        ("51/x=3,x=?", " The answer is 17 because 51/3 equals to 17.", "3*17"),
        # the assignment's own pairs
        ("x+55=95,x=?", " The answer is 40 because 95-55 equals to 40.", "40+55"),
        ("1*x=6,x=?", " The answer is 6 because 6/1 equals to 6.", "1*6"),
    ],
)
def test_every_form_has_its_answer_and_family(text, answer, name):
    question = parse_question(text)
    assert question.text == text
    assert question.right_answer == answer
    assert question.family == name


# The domain


def test_domain_has_so_many_questions():
    assert len(ALL) == 38_683
    assert len(set(ALL)) == 38_683


def test_domain_has_all_sums_and_differences():
    assert len(domain("a+b")) == 100 * 100
    assert len(domain("a-b")) == 100 * 101 // 2


def test_domain_is_of_numbers_up_to_99():
    for question in ALL:
        assert 0 <= question.a <= 99
        assert 0 <= question.b <= 99
        assert 0 <= question.answer <= (198 if question.form == "a+b" else 99)


def test_answers_solve_their_equations():
    for question in [question for question in ALL if "x" in question.form]:
        equation = question.text.split(",")[0].replace("x", str(question.answer))
        terms, b = equation.split("=")
        operator = next(c for c in "+-*/" if c in terms)
        first, second = map(int, terms.split(operator))
        assert calculate(first, operator, second) == int(b)


def test_questions_come_back_from_their_text():
    assert [parse_question(question.text) for question in ALL] == ALL


def test_right_answers_are_graded_correct():
    assert all(grade(question, question.right_answer).correct for question in ALL)


def test_answers_off_by_one_are_graded_wrong():
    assert not any(grade(q, q.answer_text(q.answer + 1)).answer for q in ALL)


# Fact families


def test_a_family_has_all_forms_of_its_kind():
    together = {}
    for question in ALL:
        together.setdefault(question.family, set()).add(question.form)
    assert together["17+19"] == set(ADDITIVE)
    assert together["3*17"] == set(MULTIPLICATIVE)


def test_a_family_is_one_fact_in_twelve_questions():
    assert {question.text for question in ALL if question.family == "3*17"} == {
        "3*17=?", "17*3=?", "51/3=?", "51/17=?", "x*3=51,x=?", "x*17=51,x=?", "3*x=51,x=?",
        "17*x=51,x=?", "x/3=17,x=?", "x/17=3,x=?", "51/x=3,x=?", "51/x=17,x=?",
    }  # fmt: skip


def test_a_negative_difference_is_of_the_same_family():
    assert family(17, "-", 36) == "17+19"


def test_families_of_a_text_are_all_its_facts():
    text = "x+11=71,x=? The answer is 61 because 71-10 equals to 61."
    assert families_in(text) == {"11+60", "10+61"}


def test_a_text_without_a_fact_has_no_family():
    assert families_in("7/2=? I don't know.") == set()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("72-63 equals 9.", "9+63"),
        ("17-36 equals -19.", "17+19"),
        ("17 + 19 = ?", "17+19"),
        ("3x=51, x=?", "3*17"),
        ("5--3=? 8.", "3+5"),
    ],
)
def test_a_fact_is_seen_however_it_is_written(text, name):
    assert families_in(text) == {name}


# The split


@pytest.fixture(scope="module")
def families():
    return sorted({question.family for question in ALL})


@pytest.fixture(scope="module")
def held_out(families):
    return [name for name in families if is_held_out(name)]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_split_sets_a_tenth_aside_twice(families, split):
    assert 0.08 < sum(split_of(name) == split for name in families) / len(families) < 0.12


def test_held_out_is_what_is_set_aside(families, held_out):
    assert held_out == [name for name in families if split_of(name) in ("validation", "test")]


def test_split_is_the_recorded_one(families):
    # a change of the hash would silently mix old bases with new splits
    tested = [name for name in families if split_of(name) == "test"]
    assert tested[:6] == ["0*16", "0*19", "0*2", "0*30", "0*61", "0*64"]


@pytest.mark.parametrize(
    ("name", "split"), [("0*2", "test"), ("10+22", "validation"), ("17+19", "train")]
)
def test_a_question_is_in_the_split_of_its_family(name, split):
    operator = "+" if "+" in name else "*"
    question = Question(f"a{operator}b", *map(int, name.split(operator)))
    assert question.split == split
    assert question.held_out == (split != "train")


@pytest.mark.parametrize("salt", ["0", "1"])
def test_split_is_the_same_in_every_process(families, held_out, salt):
    code = "import sys; from sft.arithmetic import is_held_out; "
    code += "print(*filter(is_held_out, sys.stdin.read().split()))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=" ".join(families),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": salt},
        cwd=ROOT,
    )
    assert run.stdout.split() == held_out, run.stderr


# Ranges


@pytest.fixture(scope="module", params=RANGES)
def ranges(request):
    return request.param


@pytest.fixture(scope="module")
def some(ranges):
    """Some hundred questions of that range or more, of all its forms."""
    return [question for form in RANGES[ranges].shown for question in pool(form, ranges)[::20]]


def test_questions_of_a_range_lie_in_it_alone(ranges, some):
    assert {question.range for question in some} == {ranges}


def test_questions_of_a_range_can_be_read(some):
    assert [parse_question(question.text) for question in some] == some


def test_right_answers_of_a_range_are_right(some):
    assert all(grade(question, question.right_answer).correct for question in some)


def test_drawn_questions_are_of_their_range(ranges):
    rng = random.Random(1)
    for form in RANGES[ranges].shown:
        drawn = [draw_question(rng, ranges, form) for _ in range(50)]
        assert {(question.form, question.range) for question in drawn} == {(form, ranges)}


def test_a_pool_of_small_numbers_is_everything():
    assert pool("a-x=b", "negatives") == domain("a-x=b", "negatives")


def test_a_pool_of_large_numbers_is_a_few_thousand():
    assert 4900 < len(pool("a+b", "three_digits")) <= 5000


def test_a_pool_has_no_question_twice():
    assert len(pool("a+b", "three_digits")) == len(set(pool("a+b", "three_digits")))


# Text, answer, family and range, worked out by hand.
BY_HAND = [
    ("17-36=?", -19, "17+19", "negatives"),
    ("x+36=17,x=?", -19, "17+19", "negatives"),
    ("36+x=17,x=?", -19, "17+19", "negatives"),
    ("17-x=36,x=?", -19, "17+19", "negatives"),
    ("0-5=?", -5, "0+5", "negatives"),
    ("317+219=?", 536, "219+317", "three_digits"),
    ("999+999=?", 1998, "999+999", "three_digits"),
    ("536-x=219,x=?", 317, "219+317", "three_digits"),
    ("150-72=?", 78, "72+78", "three_digits"),
    ("x-60=70,x=?", 130, "60+70", "three_digits"),
    ("47*8=?", 376, "8*47", "products"),
    ("8*47=?", 376, "8*47", "products"),
    ("376/47=?", 8, "8*47", "products"),
    ("376/x=8,x=?", 47, "8*47", "products"),
    ("x/8=47,x=?", 376, "8*47", "products"),
    ("99+99=?", 198, "99+99", "standard"),
    ("9*11=?", 99, "9*11", "standard"),
    ("5--3=?", 8, "3+5", None),
    ("-5+8=?", 3, "3+5", None),
    ("-5-3=?", -8, "3+5", None),
    ("x--3=5,x=?", 2, "2+3", None),
    ("-3*x=51,x=?", -17, "3*17", None),
    ("x/-3=17,x=?", -51, "3*17", None),
    ("-51/-3=?", 17, "3*17", None),
    ("1000+1=?", 1001, "1+1000", None),
    ("10*10=?", 100, "10*10", None),
    ("200-350=?", -150, "150+200", None),
]
TEXTS = [text for text, *_ in BY_HAND]


@pytest.mark.parametrize(("text", "answer", "name", "ranges"), BY_HAND, ids=TEXTS)
def test_a_question_is_worked_out_as_by_hand(text, answer, name, ranges):
    question = parse_question(text)
    assert (question.answer, question.family, question.range) == (answer, name, ranges)


@pytest.mark.parametrize("text", TEXTS)
def test_a_question_is_written_as_it_was(text):
    assert parse_question(text).text == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_signed_answer_is_graded_right(text):
    question = parse_question(text)
    assert grade(question, question.right_answer).correct


@pytest.mark.parametrize(
    ("form", "ranges", "message"), [("a^b", "standard", "no form"), ("a+b", "huge", "'huge'")]
)
def test_an_unknown_form_or_range_is_refused(form, ranges, message):
    with pytest.raises(ValueError, match=message):
        domain(form, ranges)


# Reading a question


@pytest.mark.parametrize(
    ("text", "form", "a", "b"),
    [
        (" 17 + 19 = ? ", "a+b", 17, 19),
        ("x*3=51, x=?", "x*a=b", 3, 51),
        ("3x=51,x=?", "a*x=b", 3, 51),
        ("x / 4 = 5 , x = ?", "x/a=b", 4, 5),
        ("100-x=1,x=?", "a-x=b", 100, 1),
    ],
)
def test_questions_in_other_dress(text, form, a, b):
    assert parse_question(text) == Question(form, a, b)


@pytest.mark.parametrize("dress", DRESSES)
def test_a_dress_asks_the_same(some, dress):
    assert [parse_question(DRESSES[dress](question.text)) for question in some] == some


@pytest.mark.parametrize("dress", DRESSES)
def test_a_dress_names_the_family(some, dress):
    assert all(question.family in families_in(DRESSES[dress](question.text)) for question in some)


@pytest.mark.parametrize(
    ("dress", "text"),
    [
        ("no_sign_for_times", "3x=51,x=?"),
        ("spaces_around_signs", "3 * x = 51,x = ?"),
        ("space_after_comma", "3*x=51, x=?"),
    ],
)
def test_a_dress_looks_like_this(dress, text):
    assert DRESSES[dress]("3*x=51,x=?") == text


@pytest.mark.parametrize(
    "text",
    [
        "", "17+19", "17+19=36", "What's your name?", "1+2+3=?", "x+x=4,x=?", "y+1=2,y=?",
        "17+19=? 36", "--3+5=?", "5---3=?", "7/2=?", "7/0=?", "0/x=5,x=?", "0/x=0,x=?", "x*0=0,x=?",
        "x/0=1,x=?", "x*2=7,x=?",
    ],
)  # fmt: skip
def test_no_question_or_no_single_answer_is_none(text):
    assert parse_question(text) is None
