"""What becomes of small talk is counted, and shown by examples."""

import pytest
from conftest import make_tiny, shorten_small_talk, teach

from dpo.evaluation.retention import describe_retention
from sft.corpus import everyday_lines
from sft.generation import generate_answers

LINES = everyday_lines()


@pytest.fixture(scope="module")
def taught(tokenizer):
    """A tiny model that gives six everyday answers, and another answer to the seventh question."""
    model, lines = make_tiny(), [*LINES[:6], (LINES[6][0], " Hm.")]
    teach(model, tokenizer, [prompt for prompt, _ in lines], [answer for _, answer in lines])
    return model


@pytest.fixture
def told(taught, tokenizer, monkeypatch):
    """What is said of a tiny base without any knowledge and of the taught model."""
    shorten_small_talk(monkeypatch)
    return describe_retention(make_tiny(), taught, tokenizer)


def test_taught_model_says_what_it_was_taught(taught, tokenizer):
    assert generate_answers(taught, tokenizer, [LINES[6][0]]) == [" Hm."]


def test_retention_says_how_many_were_asked(told):
    assert told.startswith("Everyday questions: ")


def test_retention_shows_examples(told, tokenizer):
    [before] = generate_answers(make_tiny(), tokenizer, [LINES[0][0]])
    assert f"  {LINES[0][0]}{before} -> {LINES[0][1]}" in told


def test_retention_counts_the_corpus_answers(told, taught, tokenizer):
    answers = generate_answers(taught, tokenizer, [prompt for prompt, _ in LINES[:40]])
    own = sum(answer == right for answer, (_, right) in zip(answers, LINES, strict=False))
    assert own >= 6
    # Wilson's interval of 0 out of 40
    assert f"0 of 40 before, {own} of 40 after" in told


def test_a_model_answers_as_itself(taught, tokenizer, monkeypatch):
    shorten_small_talk(monkeypatch)
    same = describe_retention(taught, taught, tokenizer)
    # Wilson's interval of 40 out of 40
    assert "40 of 40 answered as before" in same
    assert same.endswith("answered otherwise: 0")
