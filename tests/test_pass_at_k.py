from itertools import combinations

import pytest
import torch

from dpo import pass_at_k as module
from dpo.arithmetic import Question
from dpo.pass_at_k import KS, count_right, pass_at_k, passes_table, sample_and_count
from sft.answers import answer_prompts


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_against_brute_force(samples):
    for right in range(samples + 1):
        drawn = [i < right for i in range(samples)]
        for k in range(1, samples + 1):
            picks = [any(pick) for pick in combinations(drawn, k)]
            assert pass_at_k(samples, right, k) == pytest.approx(sum(picks) / len(picks), abs=1e-12)


def test_it_needs_enough_answers():
    for k in (0, 65):
        with pytest.raises(ValueError, match=f"k is {k}; it must be from 1 to the 64 answers"):
            pass_at_k(64, 3, k)
    with pytest.raises(ValueError, match="pass@64 needs at least 64 answers"):
        module.main(module.Config(samples=10))


def test_every_question_is_counted_by_itself(tiny, tokenizer, monkeypatch):
    questions, seeds = [Question("a+b", 1, 2), Question("a*b", 3, 4), Question("a-b", 9, 4)], []

    def draw(model, tokenizer, prompts, temperature, generator, progress):
        assert temperature == 1.0
        seeds.append(generator.initial_seed())
        times = dict.fromkeys(prompts, 0)
        answers = []
        for text in prompts:  # right once for the first, always for the second, never for the third
            times[text] += 1
            question = questions[[q.text for q in questions].index(text)]
            value = question.answer + {"1+2=?": times[text] > 1, "3*4=?": 0, "9-4=?": 1}[text]
            answers.append(question.answer_text(value))
        return answers

    monkeypatch.setattr(module, "answer_prompts", draw)
    assert count_right(tiny, tokenizer, questions, samples=4, seed=1) == [1, 4, 0]
    assert seeds == [torch.Generator().manual_seed(1).initial_seed()]


def test_means_over_questions(tiny, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "count_right", lambda m, t, questions, *rest: [16, 0] * (len(questions) // 2))
    result = sample_and_count(tiny, tokenizer, n=2, samples=64, seed=1, groups=("held_out/additive",))
    passes = result["held_out/additive"]
    assert passes["n"] == 2 and passes["samples"] == 64
    assert passes["pass@1"]["rate"] == pytest.approx(0.125)  # half of 16/64
    assert passes["pass@64"]["rate"] == pytest.approx(0.5)
    assert all(passes[f"pass@{k}"]["low"] < passes[f"pass@{k}"]["rate"] < passes[f"pass@{k}"]["high"] for k in KS)
    assert "held-out additive" in passes_table({"base": result}) and "12.50 %" in passes_table({"base": result})


def test_draws_are_repeatable_and_differ(tiny, tokenizer):
    generators = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    draws = [answer_prompts(tiny, tokenizer, ["1+2=?"] * 6, temperature=1.0, generator=g) for g in generators]
    assert draws[0] == draws[1] != draws[2] and len(set(draws[0])) > 1
