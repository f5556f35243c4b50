"""pass@k against brute force, and the answers that it is counted from."""

from itertools import combinations
from statistics import mean

import pytest
import torch

from dpo import pass_at_k as module
from dpo.pass_at_k import KS, count_right, pass_at_k, passes_table, sample_and_count
from sft.arithmetic import Question
from sft.generation import generate_answers

# The estimator


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_mean_over_all_picks(samples):
    for right in range(samples + 1):
        drawn = [i < right for i in range(samples)]
        for k in range(1, samples + 1):
            by_hand = mean(any(pick) for pick in combinations(drawn, k))
            assert pass_at_k(samples, right, k) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("k", [0, 65])
def test_pass_at_k_needs_k_answers(k):
    with pytest.raises(ValueError, match=f"k is {k}; it must be from 1 to the 64 answers"):
        pass_at_k(64, 3, k)


def test_program_needs_enough_answers():
    with pytest.raises(ValueError, match="pass@64 needs at least 64 answers"):
        module.main(module.Config(samples=10))


# Counting


@pytest.fixture
def draws(monkeypatch):
    """Three questions that are answered right the first time only, always, and never; the calls."""
    questions = [Question("a+b", 1, 2), Question("a*b", 3, 4), Question("a-b", 9, 4)]
    by_text, calls = {question.text: question for question in questions}, []

    def draw(model, tokenizer, prompts, temperature, generator, progress):
        calls.append((temperature, generator.initial_seed()))
        times, answers = dict.fromkeys(prompts, 0), []
        for text in prompts:
            times[text] += 1
            off_by = {"1+2=?": times[text] > 1, "3*4=?": 0, "9-4=?": 1}[text]
            answers.append(by_text[text].answer_text(by_text[text].answer + off_by))
        return answers

    monkeypatch.setattr(module, "generate_answers", draw)
    return questions, calls


def test_every_question_is_counted_by_itself(draws, tiny, tokenizer):
    # right once, always, never
    assert count_right(tiny, tokenizer, draws[0], samples=4, seed=1) == [1, 4, 0]


def test_answers_are_drawn_once_at_temperature_1(draws, tiny, tokenizer):
    count_right(tiny, tokenizer, draws[0], samples=4, seed=1)
    assert draws[1] == [(1.0, 1)]


@pytest.fixture
def passes(tiny, tokenizer, monkeypatch):
    """Of two questions: 16 of 64 answers to the first are right, none to the second."""

    def count(model, tokenizer, questions, *rest):
        return [16, 0] * (len(questions) // 2)

    monkeypatch.setattr(module, "count_right", count)
    settings = {"n": 2, "samples": 64, "seed": 1, "groups": ("held_out/additive",)}
    return sample_and_count(tiny, tokenizer, **settings)["held_out/additive"]


def test_passes_say_of_how_many(passes):
    assert passes["n"] == 2
    assert passes["samples"] == 64


def test_passes_are_means_over_questions(passes):
    assert passes["pass@1"]["rate"] == pytest.approx(0.125)  # half of 16/64
    assert passes["pass@64"]["rate"] == pytest.approx(0.5)


@pytest.mark.parametrize("k", KS)
def test_passes_lie_in_their_intervals(passes, k):
    share = passes[f"pass@{k}"]
    assert share["low"] < share["rate"] < share["high"]


def test_passes_table_has_group_and_rate(passes):
    text = passes_table({"base": {"held_out/additive": passes}})
    assert "held-out additive" in text
    assert "12.50 %" in text


# Draws


def draw_with(seed, model, tokenizer):
    generator = torch.Generator().manual_seed(seed)
    return generate_answers(model, tokenizer, ["1+2=?"] * 6, temperature=1.0, generator=generator)


def test_draws_depend_on_the_seed_only(tiny, tokenizer):
    assert draw_with(1, tiny, tokenizer) == draw_with(1, tiny, tokenizer)
    assert draw_with(1, tiny, tokenizer) != draw_with(2, tiny, tokenizer)


def test_draws_differ_among_themselves(tiny, tokenizer):
    assert len(set(draw_with(1, tiny, tokenizer))) > 1
