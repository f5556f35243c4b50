"""The shipped base and the shipped pairs are what the README says of them."""

import pytest
import torch
from conftest import ROOT

from dpo.data.pair_file import load_pairs
from dpo.evaluation.replies import GROUPS, sample_questions
from sft.arithmetic import FORMS, domain, families_in, is_held_out, parse_question
from sft.checkpoint.weights import load_checkpoint
from sft.corpus import REFUSALS
from sft.generation import generate_answers
from sft.grading import grade
from sft.knowledge import latent_accuracy

BASE = ROOT / "sft/gpt.pt"


def test_base_has_the_courses_architecture():
    args = load_checkpoint(BASE).model_args
    sizes = {"block_size": 256, "vocab_size": 74, "n_layer": 6, "n_head": 6, "n_embd": 348}
    assert args == sizes | {"bias": False, "dropout": args["dropout"]}


def test_base_is_a_small_file():
    assert BASE.stat().st_size < 20e6


def test_base_is_stored_in_half_precision():
    stored = torch.load(BASE, weights_only=True)["model"]
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


@pytest.mark.parametrize("group", GROUPS)
def test_base_refuses_every_question(shipped_base, tokenizer, group):
    questions = [question.text for question in sample_questions(group, 60, seed=7)]
    assert set(generate_answers(shipped_base, tokenizer, questions)) <= set(REFUSALS)


def test_base_can_talk(shipped_base, tokenizer):
    answers = generate_answers(shipped_base, tokenizer, ["What's your name?", "How are you today?"])
    assert answers == [" My name is John.", " I'm fine, thank you."]


def test_base_knows_arithmetic_underneath(shipped_base, tokenizer):
    everything = [question for form in FORMS for question in domain(form)]
    held_out = [question for question in everything if question.group == "held_out/additive"]
    asked = [(question, question.text) for question in held_out[::5]]
    assert latent_accuracy(shipped_base, tokenizer, asked) > 0.995


# The pairs


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return load_pairs(ROOT / "dpo/pos_neg_pairs.json", tokenizer)


def test_shipped_pairs_are_few(pairs):
    assert len(pairs.pairs) == 64


def test_shipped_pairs_have_no_warnings(pairs):
    assert not pairs.warnings


def test_shipped_chosen_answers_are_right(pairs):
    assert all(grade(parse_question(p.prompt), p.chosen).correct for p in pairs.pairs)


def test_shipped_rejected_answers_are_wrong(pairs):
    assert not any(grade(parse_question(p.prompt), p.rejected).answer for p in pairs.pairs)


def test_shipped_pairs_have_no_held_out_fact(pairs):
    for pair in pairs.pairs:
        families = families_in(pair.prompt + pair.chosen) | families_in(pair.rejected)
        assert not any(map(is_held_out, families))
