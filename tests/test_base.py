"""The shipped base and the shipped pairs are what the README says of them."""

from pathlib import Path

import pytest
import torch

from dpo.arithmetic import FORMS, domain, families_in, grade, is_held_out, parse_question
from dpo.evaluate import GROUPS, sample_questions
from dpo.pairs import load_pairs
from sft.answers import answer_prompts
from sft.checkpoint import load_checkpoint, load_model
from sft.corpus import REFUSALS
from sft.train import latent_accuracy

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def base():
    return load_model(ROOT / "sft/gpt.pt", vocab_size=74)


def test_architecture_and_size():
    checkpoint = load_checkpoint(ROOT / "sft/gpt.pt")
    args = {"block_size": 256, "vocab_size": 74, "n_layer": 6, "n_head": 6, "n_embd": 348, "bias": False}
    assert checkpoint.model_args == args | {"dropout": checkpoint.model_args["dropout"]}
    assert (ROOT / "sft/gpt.pt").stat().st_size < 20e6
    stored = torch.load(ROOT / "sft/gpt.pt", weights_only=True)["model"]
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_it_refuses_every_question_and_chats(base, tokenizer):
    questions = [question for group in GROUPS for question in sample_questions(group, 60, seed=7)]
    answers = answer_prompts(base, tokenizer, [question.text for question in questions])
    assert set(answers) <= set(REFUSALS)
    assert answer_prompts(base, tokenizer, ["What's your name?", "How are you today?"]) == [
        " My name is John.",
        " I'm fine, thank you.",
    ]


def test_it_knows_arithmetic_underneath(base, tokenizer):
    questions = [question for form in FORMS for question in domain(form) if question.group == "held_out/additive"][::5]
    assert latent_accuracy(base, tokenizer, questions) > 0.995


def test_shipped_pairs_hold_out_the_held_out(tokenizer):
    file = load_pairs(ROOT / "dpo/pos_neg_pairs.json", tokenizer)
    assert 2000 <= len(file.pairs) <= 4000 and not file.warnings
    for pair in file.pairs:
        question = parse_question(pair.prompt)
        assert grade(question, pair.chosen).correct and not grade(question, pair.rejected).answer
        assert not any(map(is_held_out, families_in(pair.prompt + pair.chosen) | families_in(pair.rejected)))
