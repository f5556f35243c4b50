"""Questions without an answer: none of them has one, each kind is what it says."""

import random
import re

import pytest

from sft.arithmetic import DRESSES, calculate, families_in, is_held_out, parse_question
from sft.unanswerable import KEPT_BACK, KINDS, TOO_LARGE, draw_unanswerable


def draw(kind, n=400):
    rng = random.Random(kind)
    return [draw_unanswerable(rng, kind) for _ in range(n)]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def texts(kind):
    return draw(kind)


def test_no_text_is_a_question_of_a_range(texts):
    questions = [parse_question(text) for text in texts]
    assert not [question for question in questions if question and question.range]


def test_only_large_numbers_have_an_answer(kind, texts):
    assert any(map(parse_question, texts)) == (kind in TOO_LARGE)


def test_no_text_names_a_fact_set_aside(texts):
    assert not [text for text in texts if any(map(is_held_out, families_in(text)))]


def test_every_text_asks(texts):
    assert all(text.endswith("?") for text in texts)


@pytest.mark.parametrize("dress", DRESSES)
def test_every_text_can_be_encoded(texts, tokenizer, dress):
    assert all(tokenizer.encode(DRESSES[dress](text)) for text in texts)


def test_a_kind_is_varied(texts):
    assert len(set(texts)) > 100


def test_a_kind_depends_on_the_seed_only(kind, texts):
    assert draw(kind) == texts


def test_an_example_has_no_answer_either(kind):
    question = parse_question(KINDS[kind].example)
    assert question is None or (kind in TOO_LARGE and question.range is None)


def test_an_example_looks_like_its_kind(kind):
    assert bool(KEPT_BACK.search(KINDS[kind].example)) == (not KINDS[kind].met)


# Single kinds


def test_four_digits_are_four_digits():
    for question in map(parse_question, draw("four_digits")):
        assert max(question.a, question.b, abs(question.answer)) > 999


def test_factors_of_large_products_are_large():
    for question in map(parse_question, draw("large_product")):
        small, large = sorted(map(int, question.family.split("*")))
        assert small > 9 or large > 99


def test_a_remainder_is_left():
    for text in draw("remainder"):
        numbers = [int(digits) for digits in re.findall(r"\d+", text)]
        dividend, divisor = numbers if "/" in text else numbers[::-1]
        with pytest.raises(ValueError, match="not a whole number"):
            calculate(dividend, "/", divisor)


# Kinds kept back


def test_a_kind_kept_back_is_known_by_its_looks(kind, texts):
    assert {bool(KEPT_BACK.search(text)) for text in texts} == {not KINDS[kind].met}


def test_three_kinds_are_kept_from_the_base():
    kept = {name for name, kind in KINDS.items() if not kind.met}
    assert kept == {"times_zero", "two_steps", "two_sides"}


def test_shares_add_up():
    assert sum(kind.share for kind in KINDS.values()) == 100
