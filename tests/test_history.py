import copy
import math

import pytest
import torch
from conftest import teach

from dpo.history import History, Observer, kl_to_reference
from dpo.pairs import Pair
from sft.answers import answer_prompts


def test_steps_and_looks_are_columns():
    history = History()
    history.append_look({"kl": 0.0})
    history.append({"loss": 0.7, "lr": 1e-5})
    history.append({"loss": 0.6, "lr": 2e-5})
    history.append_look({"kl": 0.3})
    assert len(history) == 2 and history["loss"] == [0.7, 0.6] and history["lr"] == [1e-5, 2e-5]
    assert history.looks == {"step": [0, 2], "kl": [0.0, 0.3]}


def test_kl_is_zero_for_the_same_model_and_agrees_with_drawn_log_ratios(tiny, tokenizer):
    reference, prompts = copy.deepcopy(tiny), ["1+1=?"] * 600
    generator = torch.Generator().manual_seed(3)
    assert kl_to_reference(tiny, reference, tokenizer, prompts[:8], generator) == pytest.approx(0, abs=1e-6)
    answers = [" The answer is 2.", " No."] * 4
    teach(tiny, tokenizer, ["1+1=?"] * 8, answers, steps=60)
    teach(reference, tokenizer, ["1+1=?"] * 8, answers[:2] * 3 + [" No."] * 2, steps=60)
    kl = kl_to_reference(tiny, reference, tokenizer, prompts, torch.Generator().manual_seed(4))
    drawn = answer_prompts(tiny, tokenizer, prompts, temperature=1.0, generator=torch.Generator().manual_seed(5))
    ratios = torch.tensor([_logp(tiny, tokenizer, a) - _logp(reference, tokenizer, a) for a in drawn])
    error = ratios.std().item() / math.sqrt(len(ratios))
    assert kl > 4 * error, "far enough from zero to mean something"
    assert abs(kl - ratios.mean().item()) < 4 * error


def _logp(model, tokenizer, answer):
    """log pi of an answer as it is drawn: it ends with its full stop, else with a newline."""
    prompt, ids = tokenizer.encode("1+1=?"), tokenizer.encode(answer if answer.endswith(".") else f"{answer}\n")
    logps = model(torch.tensor([prompt + ids]), full_seq=True)[0][0].log_softmax(dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(ids) - 1)
    return sum(logps[place, i].item() for place, i in zip(places, ids, strict=True))


def test_the_observer_asks_the_same_every_time(tiny, tokenizer):
    pairs = [Pair(f"{a}+1=?", f" {a + 1}.", " No.", a) for a in range(9)] + [Pair("How are you?", " Fine.", " No.", 10)]
    one, other = (Observer(tiny, tokenizer, pairs, n=4, seed=1) for _ in range(2))
    assert one.held_out == other.held_out and one.trained == other.trained
    assert all(q.held_out for q in one.held_out) and sum(q.additive for q in one.held_out) == 2
    assert len(one.held_out) == len(one.trained) == 4
    look = one.look(tiny)
    assert look == other.look(tiny) and look["exact/held_out"] == 0 and look["kl"] == pytest.approx(0, abs=1e-6)


def test_held_out_and_trained_answers_are_told_apart(tiny, tokenizer):
    pairs = [Pair("How are you?", " Fine.", " No.", 1), Pair("Who are you?", " Me.", " No.", 2)]
    observer = Observer(copy.deepcopy(tiny), tokenizer, pairs, n=2, seed=1)
    teach(tiny, tokenizer, ["How are you?", "Who are you?"], [" Fine.", " You."])
    look = observer.look(tiny)
    assert look["exact/trained"] == 0.5 and look["exact/held_out"] == 0.0 and look["kl"] > 0.05
    teach(tiny, tokenizer, [q.text for q in observer.held_out], [q.right_answer for q in observer.held_out])
    assert observer.look(tiny)["exact/held_out"] == 1.0
