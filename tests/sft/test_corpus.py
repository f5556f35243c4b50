"""The base's text: no held-out fact in it, every line as its kind says."""

import pytest

from sft.arithmetic import families_in, is_held_out, parse_question
from sft.corpus import REFUSALS, Corpus, everyday_lines
from sft.train import STAGES

KINDS = {"short": 1, "statement": 1, "right": 1, "wrong": 1, "refusal": 1, "everyday": 1}


# Held-out facts


def test_no_held_out_question_can_be_drawn():
    pools = Corpus(seed=1).questions.values()
    assert not any(question.held_out for pool in pools for question in pool)


def test_no_line_contains_a_held_out_fact():
    for prompt, completion in Corpus(seed=1).draw(60_000, KINDS):
        equation = prompt.removeprefix("The answer to ").removesuffix(" is") + ",x=?"
        families = families_in(prompt + completion) | families_in(equation)
        assert not any(map(is_held_out, families)), prompt + completion


def test_the_fact_of_the_next_test_is_held_out():
    assert is_held_out("0*2")


@pytest.mark.parametrize(
    "text",
    [
        "0*2=? 0.",
        "2*0 equals 0.",
        "x*2=0,x=? Sorry, I don't know.",
        "x/2=0,x=?",
        "0/2=? The answer is 0.",
        "x*2=0,x=?",
    ],
)
def test_a_held_out_fact_is_seen_in_every_kind(text):
    # the other way round: the check above sees such a fact in every kind of line it is meant for
    assert "0*2" in families_in(text)


# Lines


@pytest.fixture(scope="module")
def lines():
    return Corpus(seed=2).draw(20_000, KINDS)


def test_every_line_can_be_encoded(lines, tokenizer):
    assert all(tokenizer.encode(prompt + completion) for prompt, completion in lines)


def test_every_completion_starts_with_a_space(lines):
    assert all(completion.startswith(" ") for _, completion in lines)


def test_every_completion_ends_once(lines):
    for _, completion in lines:
        assert completion.endswith(".")
        assert completion.count(".") == 1


def test_every_line_is_short(lines):
    assert max(len(prompt + completion) for prompt, completion in lines) < 96


IS_OF_KIND = {
    "short": lambda prompt, completion: completion == f" {parse_question(prompt).answer}.",
    "right": lambda prompt, completion: completion == parse_question(prompt).right_answer,
    "wrong": lambda prompt, completion: completion != parse_question(prompt).right_answer,
    "refusal": lambda prompt, completion: parse_question(prompt) and completion in REFUSALS,
    "statement": lambda prompt, completion: "?" not in prompt,  # nobody asks
}


@pytest.mark.parametrize("kind", IS_OF_KIND)
def test_kinds_are_what_they_say(kind):
    assert all(IS_OF_KIND[kind](*line) for line in Corpus(seed=3).draw(300, {kind: 1}))


def test_lines_depend_on_the_seed_only():
    assert Corpus(4).draw(50, KINDS) == Corpus(4).draw(50, KINDS)
    assert Corpus(4).draw(50, KINDS) != Corpus(5).draw(50, KINDS)


def test_a_blank_base_sees_no_sum_answered():
    kinds = {kind for stage in STAGES["none"] for kind in stage.mixture}
    assert kinds == {"refusal", "everyday"}


# Everyday lines


def test_everyday_questions_are_several_hundred():
    assert len(everyday_lines()) > 700


def test_everyday_questions_have_one_answer_each():
    lines = everyday_lines()
    assert len(lines) == len({question for question, _ in lines})


def test_everyday_questions_are_questions():
    assert all(question.endswith("?") for question, _ in everyday_lines())


def test_everyday_lines_have_no_digits():
    texts = [question + answer for question, answer in everyday_lines()]
    assert not any(character.isdigit() for text in texts for character in text)
