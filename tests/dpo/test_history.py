"""What a run records, and the evals that it records now and then."""

import copy
import math

import pytest
import torch
from conftest import make_tiny, teach

from dpo.data.pair import Pair
from dpo.evaluation.kl import kl_to_reference
from dpo.training.history import History
from dpo.training.monitor import Monitor
from sft.generation import generate_answers
from sft.sequences import Sequence, collate_sequences


@pytest.fixture
def history():
    """An eval, two steps, an eval."""
    history = History()
    history.append_eval({"kl": 0.0})
    history.append({"loss": 0.7, "lr": 1e-5})
    history.append({"loss": 0.6, "lr": 2e-5})
    history.append_eval({"kl": 0.3})
    return history


def test_length_of_a_history_is_its_steps(history):
    assert len(history) == 2


def test_steps_are_columns(history):
    assert history["loss"] == [0.7, 0.6]
    assert history["lr"] == [1e-5, 2e-5]


def test_evals_are_columns_with_their_step(history):
    assert history.evals == {"step": [0, 2], "kl": [0.0, 0.3]}


def test_files_keep_the_name_looks(history):
    # that is what evals are called in files, also in those written before
    assert history.state_dict() == {"steps": history.steps, "looks": history.evals}


def test_history_comes_back_from_its_state(history):
    again = History()
    again.load_state_dict(history.state_dict())
    assert again == history


# The KL to the reference


@pytest.fixture(scope="module")
def pair_of_models(tokenizer):
    """A policy that says one thing as often as the other, and a reference that says No to most."""
    policy, reference = make_tiny(), make_tiny()
    answers = [" The answer is 2.", " No."] * 4
    teach(policy, tokenizer, ["1+1=?"] * 8, answers, steps=60)
    teach(reference, tokenizer, ["1+1=?"] * 8, answers[:2] * 3 + [" No."] * 2, steps=60)
    return policy, reference


@torch.no_grad()
def drawn_log_ratios(policy, reference, tokenizer, n):
    """log pi - log pi_ref of n answers that the policy draws."""
    generator = torch.Generator().manual_seed(5)
    prompt = tokenizer.encode("1+1=?")
    answers = generate_answers(
        policy, tokenizer, ["1+1=?"] * n, temperature=1.0, generator=generator
    )
    # as it was drawn, an answer ends with its full stop, else with a newline
    ended = [answer if answer.endswith(".") else f"{answer}\n" for answer in answers]
    batch = collate_sequences([Sequence(prompt, tokenizer.encode(text)) for text in ended])
    one, other = (
        model(batch.inputs, full_seq=True)[0].log_softmax(dim=-1) for model in (policy, reference)
    )
    ratios = (one - other).gather(2, batch.targets[..., None])[..., 0]
    return (ratios * batch.completion_mask).sum(dim=1)


def test_kl_agrees_with_drawn_log_ratios(pair_of_models, tokenizer):
    generator = torch.Generator().manual_seed(4)
    kl = kl_to_reference(*pair_of_models, tokenizer, ["1+1=?"] * 600, generator)
    ratios = drawn_log_ratios(*pair_of_models, tokenizer, 600)
    error = ratios.std().item() / math.sqrt(len(ratios))
    assert kl > 4 * error  # far enough from zero to mean something
    assert abs(kl - ratios.mean().item()) < 4 * error


def test_kl_of_the_same_model_is_zero(tiny, tokenizer):
    generator = torch.Generator().manual_seed(3)
    kl = kl_to_reference(tiny, copy.deepcopy(tiny), tokenizer, ["1+1=?"] * 8, generator)
    assert kl == pytest.approx(0, abs=1e-6)


# Evals


@pytest.fixture
def monitors(tiny, tokenizer):
    """The same monitor twice: four questions of validation, four of ten pairs."""
    pairs = [Pair(f"{a}+1=?", f" {a + 1}.", " No.", a) for a in range(9)]
    pairs.append(Pair("How are you?", " Fine.", " No.", 10))
    return [Monitor(tiny, tokenizer, pairs, n=4, seed=1) for _ in range(2)]


def test_monitor_asks_the_same_every_time(monitors):
    one, other = monitors
    assert one.validation == other.validation
    assert one.trained == other.trained


def test_monitor_asks_so_many(monitors):
    assert len(monitors[0].validation) == 4
    assert len(monitors[0].trained) == 4


def test_monitor_asks_validation_only(monitors):
    assert {question.split for question in monitors[0].validation} == {"validation"}


def test_monitor_asks_additive_ones_to_one_half(monitors):
    assert sum(question.additive for question in monitors[0].validation) == 2


def test_evals_of_one_policy_are_the_same(monitors, tiny):
    one, other = monitors
    assert one.evaluate(tiny) == other.evaluate(tiny)


def test_evals_start_with_nothing_right_and_no_kl(monitors, tiny):
    values = monitors[0].evaluate(tiny)
    assert values["exact/held_out"] == 0
    assert values["kl"] == pytest.approx(0, abs=1e-6)


@pytest.fixture
def small_talk(tiny, tokenizer):
    """A monitor of two pairs that are no arithmetic."""
    pairs = [Pair("How are you?", " Fine.", " No.", 1), Pair("Who are you?", " Me.", " No.", 2)]
    return Monitor(copy.deepcopy(tiny), tokenizer, pairs, n=2, seed=1)


def test_evals_count_chosen_answers(small_talk, tiny, tokenizer):
    teach(tiny, tokenizer, ["How are you?", "Who are you?"], [" Fine.", " You."])
    values = small_talk.evaluate(tiny)
    assert values["exact/trained"] == 0.5
    assert values["exact/held_out"] == 0.0
    assert values["kl"] > 0.05


def test_evals_count_right_answers(small_talk, tiny, tokenizer):
    questions = small_talk.validation
    teach(tiny, tokenizer, [q.text for q in questions], [q.right_answer for q in questions])
    assert small_talk.evaluate(tiny)["exact/held_out"] == 1.0
