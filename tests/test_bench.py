"""The measured systems do what they are said to do; the measuring itself is left to bench/."""

import random
from types import SimpleNamespace

import pytest
import torch
from conftest import teach

from bench import assignment
from bench.learning import TEST_SEED, TimedHistory, like_the_pairs
from bench.report import median_and_spread, ratio
from dpo.characters import answer_logps
from dpo.make_pairs import draw_questions
from model import GPT
from sft.answers import answer_prompts
from sft.rows import encode_row


def test_the_courses_generate_gives_the_answers_of_ours(tiny, tokenizer):
    prompts = ["1+2=?", "x+1=7,x=?", "Hi?"]
    teach(tiny, tokenizer, prompts, [" 3.", " 6. and more", " No"])
    tiny.config.block_size = 20
    for prompt, ours in zip(prompts, answer_prompts(tiny, tokenizer, prompts), strict=True):
        theirs = assignment.generate(tiny, torch.tensor([tokenizer.encode(prompt)]), 80)[0].tolist()
        assert tokenizer.decode(theirs) == prompt + ours


def test_the_courses_means_run_over_prompt_and_answer_and_step(tiny, tokenizer):
    rows = [encode_row(tokenizer, "1+2=?", answer) for answer in (" 3.", " Sorry.")]
    ids = assignment.padded(rows)
    assert ids.shape == (2, 64) and ids[0, 8:].eq(0).all()
    whole = answer_logps(tiny, tokenizer, "1", "+2=? 3.")[:-1]  # without the newline, which its mask drops
    chosen = assignment.mean_logps(tiny, ids)[0].item()
    assert chosen == pytest.approx(sum(whole) / len(whole), rel=1e-4)
    model = GPT(tiny.config)
    model.load_state_dict(tiny.state_dict())
    assignment.train_step(model, torch.optim.AdamW(model.parameters(), lr=1e-3), ids[:1], ids[1:], beta=0.5)
    assert assignment.mean_logps(model, ids)[0].item() > chosen


def test_seconds_leave_the_looks_out(monkeypatch):
    now = iter([0.0, 5.0, 8.0, 8.0, 20.0, 21.0, 21.0])
    monkeypatch.setattr("bench.learning.time", SimpleNamespace(perf_counter=lambda: next(now)))
    history = TimedHistory()
    history.append_look({"kl": 0.0})  # ended at 5
    history.append({"loss": 1.0})  # at 8: three seconds of work
    history.append_look({"kl": 0.1})  # ended at 20
    history.append({"loss": 0.9})  # at 21: one more
    assert history.looks["seconds"] == [0.0, 3.0] and history.seconds == 4.0


def test_ratios_are_taken_within_a_round():
    assert median_and_spread([3.0, 1.0, 2.0]) == "2.0 (1.0 to 3.0)"
    assert ratio([10.0, 2.0, 9.0], [5.0, 1.0, 3.0]) == "2.00"


def test_the_test_drawn_like_the_pairs_holds_no_held_out_family(tiny, tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr("bench.learning.answer_questions", lambda *given: asked.extend(given[2]) or [])
    half = {question.text for question in draw_questions(60, ["standard"], random.Random(TEST_SEED))[::2]}
    assert like_the_pairs(tiny, tokenizer, half, 60)["trained"] == 0.5
    assert len(asked) == 60 and not any(q.held_out for q in asked) and len({q.form for q in asked}) == 12
