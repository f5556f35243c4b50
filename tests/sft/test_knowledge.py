"""What a base knows under its refusals, kind by kind."""

import math

import pytest
import torch

from sft.arithmetic import Question
from sft.knowledge import (
    describe_knowledge,
    describe_refusals,
    latent_accuracy,
    refusal_log_odds,
    sample_answerable,
)

# Latent accuracy

QUESTIONS = [Question("a+b", 1, 2), Question("x+a=b", 5, 30), Question("a*b", 3, 4)]
TEXTS = [question.text + question.right_answer for question in QUESTIONS]
WRONG = TEXTS[1].replace("because 30", "because 31")


def knows(texts, tokenizer):
    """The forward pass of a model that goes on with these texts, and else writes newlines."""

    def forward(inputs, full_seq):
        logits = torch.zeros(*inputs.shape, 74)
        for row, ids in enumerate(inputs.tolist()):
            prompt = tokenizer.decode(ids).partition("?")[0] + "?"
            known = [text for text in texts if text.startswith(prompt)]
            following = [*tokenizer.encode(known[0] if known else ""), 0][1 : len(ids) + 1]
            logits[row, range(len(following)), following] = 1.0
        return logits, None

    return forward


@pytest.mark.parametrize(
    ("texts", "accuracy"),
    [(TEXTS, 1.0), ([TEXTS[0], WRONG, TEXTS[2]], 2 / 3)],
    ids=["all right", "a wrong reason"],
)
def test_latent_accuracy_counts_whole_answers(tokenizer, tiny, monkeypatch, texts, accuracy):
    monkeypatch.setattr(tiny, "forward", knows(texts, tokenizer))
    asked = [(question, question.text) for question in QUESTIONS]
    assert latent_accuracy(tiny, tokenizer, asked) == pytest.approx(accuracy)


# Log-odds of a refusal


@torch.no_grad()
@pytest.mark.parametrize("prompt", ["17+19=?", "x+17=36,x=?", "3*4=?"])
def test_log_odds_are_those_of_the_first_letter(tokenizer, tiny, prompt):
    ids = torch.tensor([tokenizer.encode(f"{prompt} ")])
    chances = tiny(ids)[0][0, -1].softmax(dim=-1)
    refuses = chances[tokenizer.encode("S")[0]] + chances[tokenizer.encode("I")[0]]
    [odds] = refusal_log_odds(tiny, tokenizer, [prompt])
    assert float(odds) == pytest.approx(float(torch.log(refuses / (1 - refuses))), abs=1e-4)


def test_log_odds_of_a_certain_refusal_are_not_cut_off(tokenizer, tiny, monkeypatch):
    scores = torch.zeros(1, 74)
    scores[0, tokenizer.encode("S")] = 40.0
    monkeypatch.setattr(tiny.lm_head, "forward", lambda hidden: scores.clone())
    [odds] = refusal_log_odds(tiny, tokenizer, ["17+19=?"])
    # e^40 for S and 1 for I against 72 other characters with 1 each
    assert float(odds) == pytest.approx(40 - math.log(72), abs=1e-4)


def test_log_odds_come_in_the_order_of_the_prompts(tokenizer, tiny):
    prompts = ["17+19=?", "x+17=36,x=?", "3*4=?"]
    alone = torch.cat([refusal_log_odds(tiny, tokenizer, [prompt]) for prompt in prompts])
    assert torch.allclose(refusal_log_odds(tiny, tokenizer, prompts), alone, atol=1e-4)


# Samples


@pytest.fixture(params=["validation", "test"])
def split(request):
    return request.param


def test_every_kind_has_so_many_questions(split):
    assert {len(members) for members in sample_answerable(split, 20).values()} == {20}


def test_a_sample_is_of_its_split_only(split):
    for members in sample_answerable(split, 20).values():
        assert {question.split for question, _ in members} == {split}


def test_small_products_have_no_factor_0_or_1(split):
    assert not any(
        question.trivial for question, _ in sample_answerable(split, 20)["small_products"]
    )


# In words


@pytest.mark.parametrize(
    "words",
    [
        "latent accuracy (validation, n=3): standard 0%, negatives 0%",
        "log-odds of a refusal, median: standard ",
        "two_steps",
    ],
)
def test_knowledge_is_described_kind_by_kind(tokenizer, tiny, words):
    assert words in describe_knowledge(tiny, tokenizer, "validation", 3)


def test_refusals_are_counted_over_all_kinds(tokenizer, tiny):
    # six kinds with an answer and eighteen without one
    said = describe_refusals(tiny, tokenizer, "test", 1)
    assert said == "greedy answers that refuse: 0 of 24"
