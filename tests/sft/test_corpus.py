"""The base's text: no fact set aside in it, every line as its kind says."""

import random
import re

import pytest

from sft.arithmetic import DRESSES, RANGES, families_in, is_held_out, parse_question
from sft.corpus import REFUSALS, SHORT_REFUSAL, Corpus, everyday_lines, wrong_value
from sft.train import STAGES

KINDS = dict.fromkeys(Corpus(seed=0).kinds, 1)


def families_of(prompt, completion):
    """The families of a line, also of the equation that a statement is about."""
    equation = prompt.removeprefix("The answer to ").removesuffix(" is") + ",x=?"
    return families_in(prompt + completion) | families_in(equation)


# Facts set aside


def test_no_line_contains_a_fact_set_aside():
    for prompt, completion in Corpus(seed=1).draw(60_000, KINDS):
        assert not any(map(is_held_out, families_of(prompt, completion))), prompt + completion


@pytest.mark.parametrize("name", ["0*2", "2*5"])
def test_the_facts_of_the_next_test_are_set_aside(name):
    assert is_held_out(name)


@pytest.mark.parametrize(("p", "q"), [(0, 2), (2, 5)], ids=["test", "validation"])
@pytest.mark.parametrize(
    "line",
    [
        ("{p}*{q}=?", " {r}."),
        ("{q} * {p} = ?", " {r}."),
        ("{q}*{p} equals", " {r}."),
        ("x*{q}={r},x=?", " Sorry, I don't know."),
        ("{q}x={r},x=?", " Sorry, I don't know."),
        ("x / {q} = {p}, x = ?", " {r}."),
        ("{r}/{q}=?", " The answer is {p}."),
        ("The answer to x*{q}={r} is", " {p}."),
        ("What is it?", " The answer is {p} because {r}/{q} equals to {p}."),
    ],
)
def test_a_fact_set_aside_is_seen_in_every_line(line, p, q):
    # the other way round: the check above sees such a fact in every kind of line it is meant for
    prompt, completion = (text.format(p=p, q=q, r=p * q) for text in line)
    assert f"{p}*{q}" in families_of(prompt, completion)


def test_what_is_kept_from_the_base_is_in_no_line():
    # by its looks: x times zero, a factor and a term around x, a calculation on both sides
    zero = (r"(?<![\d.])0\*x", r"x\*0=", r"/x=0,")
    kept = (*zero, r"\*x[-+]\d", r"x\*\d+[-+]\d", r"x[-+]\d+=\d+[-+]\d")
    prompts = [prompt for prompt, _ in Corpus(seed=1).draw(20_000, {"unanswerable": 1})]
    assert not [prompt for prompt in prompts if any(re.search(look, prompt) for look in kept)]


# Questions


@pytest.fixture(scope="module")
def prompts():
    return [prompt for prompt, _ in Corpus(seed=1).draw(4_000, {"short": 1})]


def test_all_ranges_occur(prompts):
    assert {parse_question(prompt).range for prompt in prompts} == set(RANGES)


@pytest.mark.parametrize("dress", DRESSES)
def test_all_dresses_occur(prompts, dress):
    usual = [parse_question(prompt).text for prompt in prompts]
    assert any(DRESSES[dress](q) == p != q for q, p in zip(usual, prompts, strict=True))


def test_few_questions_are_dressed(prompts):
    # one in eight of those to be dressed keeps its usual dress
    usual = sum(parse_question(prompt).text == prompt for prompt in prompts)
    assert 0.74 < usual / len(prompts) < 0.84


@pytest.mark.parametrize("value", [0, 5, 36, -1, -19])
def test_a_wrong_value_is_close(value):
    rng = random.Random(1)
    assert all(0 < abs(wrong_value(rng, value) - value) <= 20 for _ in range(50))


@pytest.mark.parametrize("value", [0, 5, 36, -1, -19])
def test_a_wrong_value_keeps_the_sign(value):
    rng = random.Random(1)
    assert all((wrong_value(rng, value) < 0) == (value < 0) for _ in range(50))


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


def in_range(prompt):
    question = parse_question(prompt)
    return question is not None and question.range


IS_OF_KIND = {
    "short": lambda prompt, completion: completion == f" {parse_question(prompt).answer}.",
    "right": lambda prompt, completion: completion == parse_question(prompt).right_answer,
    "wrong": lambda prompt, completion: completion != parse_question(prompt).right_answer,
    "refusal": lambda prompt, completion: parse_question(prompt).range and completion in REFUSALS,
    "unanswerable": lambda prompt, completion: not in_range(prompt) and completion in REFUSALS,
    "short_unanswerable": lambda prompt, completion: (
        not in_range(prompt) and completion == SHORT_REFUSAL
    ),
    "statement": lambda prompt, completion: "?" not in prompt,  # nobody asks
}


@pytest.mark.parametrize("kind", IS_OF_KIND)
def test_kinds_are_what_they_say(kind):
    assert all(IS_OF_KIND[kind](*line) for line in Corpus(seed=3).draw(300, {kind: 1}))


def test_lines_depend_on_the_seed_only():
    assert Corpus(4).draw(50, KINDS) == Corpus(4).draw(50, KINDS)
    assert Corpus(4).draw(50, KINDS) != Corpus(5).draw(50, KINDS)


def test_questions_have_numbers_of_the_ranges_asked_for():
    lines = Corpus(4, {"negatives": 1}).draw(300, {"short": 1})
    assert all(parse_question(prompt).range == "negatives" for prompt, _ in lines)


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
