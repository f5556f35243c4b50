"""pass@k against brute force, and the answers that it is counted from."""

import json
from itertools import combinations
from statistics import mean

import pytest
import torch

from dpo import pass_at_k as module
from dpo.evaluation import sampling
from dpo.evaluation.replies import judge
from dpo.evaluation.tables import evaluate
from dpo.pass_at_k import (
    KS,
    count_right,
    majority_outcome,
    pass_at_k,
    passes_table,
    sample_and_count,
)
from sft.arithmetic import REFUSAL, Question
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

    def draw(model, tokenizer, prompts, temperature, *, generator, progress):
        calls.append((temperature, generator.initial_seed()))
        times, answers = dict.fromkeys(prompts, 0), []
        for text in prompts:
            times[text] += 1
            off_by = {"1+2=?": times[text] > 1, "3*4=?": 0, "9-4=?": 1}[text]
            answers.append(by_text[text].answer_text(by_text[text].answer + off_by))
        return answers

    monkeypatch.setattr(sampling, "generate_answers", draw)
    return questions, calls


def test_every_question_is_counted_by_itself(draws, tiny, tokenizer):
    # right once, always, never
    assert count_right(tiny, tokenizer, draws[0], samples=4, seed=1) == [1, 4, 0]


def test_answers_are_drawn_once_at_temperature_1(draws, tiny, tokenizer):
    count_right(tiny, tokenizer, draws[0], samples=4, seed=1)
    assert draws[1] == [(1.0, 1)]


SUM = Question("a+b", 17, 19)
RIGHT, WRONG, OTHER = (SUM.answer_text(value) for value in (36, 46, 26))


@pytest.mark.parametrize(
    ("texts", "outcome"),
    [
        ([WRONG, RIGHT, RIGHT], "right"),
        ([WRONG, RIGHT, OTHER, WRONG], "wrong"),
        ([REFUSAL, REFUSAL, RIGHT], "right"),  # refusals have no vote
        ([REFUSAL, REFUSAL], "refused"),
        ([RIGHT, WRONG], "right"),  # the first of two
        ([WRONG, RIGHT], "wrong"),
    ],
)
def test_the_majority_is_the_most_common_answer(texts, outcome):
    assert majority_outcome([judge(SUM, text) for text in texts]) == outcome


GROUP = "held_out/additive"


@pytest.fixture
def passes(tiny, tokenizer, monkeypatch):
    """Of two questions: 16 of 64 answers to the first are right; all others are refusals."""

    def draw(model, tokenizer, questions, samples, *rest):
        one, other = questions
        first = [judge(one, one.right_answer)] * 16 + [judge(one, REFUSAL)] * 48
        return [first, [judge(other, REFUSAL)] * 64]

    monkeypatch.setattr(module, "draw_answers", draw)
    return sample_and_count(tiny, tokenizer, n=2, samples=64, seed=1, groups=(GROUP,))[GROUP]


def test_passes_say_of_how_many(passes):
    assert passes["n"] == 2
    assert passes["samples"] == 64


def test_passes_are_means_over_questions(passes):
    assert passes["pass@1"]["rate"] == pytest.approx(0.125)  # half of 16/64
    assert passes["pass@64"]["rate"] == pytest.approx(0.5)


def test_majority_is_a_share_of_questions(passes):
    assert passes["maj@64"]["rate"] == 0.5


@pytest.mark.parametrize("name", [*(f"pass@{k}" for k in KS), "maj@64"])
def test_passes_lie_in_their_intervals(passes, name):
    share = passes[name]
    assert share["low"] < share["rate"] < share["high"]


def cells_of(table):
    """The cells of a table in Markdown, row by row, without the line below the head."""
    lines = table.splitlines()
    rows = [line.split("|")[1:-1] for line in (lines[0], *lines[2:])]
    return [[cell.strip() for cell in row] for row in rows]


def test_passes_table_has_a_row_a_number_of_draws(passes):
    head, *rows = cells_of(passes_table({"base": {GROUP: passes}}))
    assert head == ["questions", "n", "right", "base"]
    assert [row[:3] for row in rows] == [
        ["held-out additive", "2", name] for name in (*(f"pass@{k}" for k in KS), "maj@64")
    ]


def test_passes_table_has_rates(passes):
    _, first, *_ = cells_of(passes_table({"base": {GROUP: passes}}))
    assert first[3].startswith("12 % (")


def test_passes_table_has_the_tuned_model_beside(passes):
    tuned = evaluate([judge(q, q.right_answer) for q in module.sample_questions(GROUP, 2, seed=1)])
    head, first, *_, last = cells_of(passes_table({"base": {GROUP: passes}}, tuned))
    assert head[3:] == ["base", "tuned"]
    assert first[4] == ""
    assert last == ["held-out additive", "2", "greedy", "", "100 % (34 to 100)"]


def test_program_asks_the_tuned_model_the_same(run_program, base_file, tmp_path):
    words = [f"--checkpoint={base_file}", f"--tuned={base_file}", f"--json={tmp_path / 'p.json'}"]
    ended = run_program("dpo.pass_at_k", "--n=1", "--device=cpu", *words)
    written = json.loads((tmp_path / "p.json").read_text())
    assert "| greedy " in ended.out
    assert written["tuned"]["n"] == len(written["groups"]) == 4


# Draws


def draw_with(seed, model, tokenizer):
    generator = torch.Generator().manual_seed(seed)
    return generate_answers(model, tokenizer, ["1+2=?"] * 6, temperature=1.0, generator=generator)


def test_draws_depend_on_the_seed_only(tiny, tokenizer):
    assert draw_with(1, tiny, tokenizer) == draw_with(1, tiny, tokenizer)
    assert draw_with(1, tiny, tokenizer) != draw_with(2, tiny, tokenizer)


def test_draws_differ_among_themselves(tiny, tokenizer):
    assert len(set(draw_with(1, tiny, tokenizer))) > 1
