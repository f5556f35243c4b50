"""The measured systems do what they are said to do; the measuring itself is left to bench/."""

import random
from types import SimpleNamespace

import pytest
import torch
from conftest import teach

from bench import assignment
from bench.learning import TEST_SEED, TimedHistory, like_the_pairs
from bench.report import median_and_spread, ratio
from dpo.evaluation.tokens import answer_logps
from dpo.make_pairs import draw_questions
from model import GPT
from sft.generation import generate_answers
from sft.sequences import encode_sequence

# The course's loop


def test_course_generates_the_answers_of_ours(tiny, tokenizer):
    prompts = ["1+2=?", "x+1=7,x=?", "Hi?"]
    teach(tiny, tokenizer, prompts, [" 3.", " 6. and more", " No"])
    tiny.config.block_size = 20
    for prompt, ours in zip(prompts, generate_answers(tiny, tokenizer, prompts), strict=True):
        theirs = assignment.generate(tiny, torch.tensor([tokenizer.encode(prompt)]), 80)[0].tolist()
        assert tokenizer.decode(theirs) == prompt + ours


@pytest.fixture
def course_ids(tokenizer):
    """A right answer and a refusal, as the course lays them out."""
    answers = (" 3.", " Sorry.")
    return assignment.padded([encode_sequence(tokenizer.encode, "1+2=?", a) for a in answers])


def test_course_rows_are_padded_with_newlines(course_ids):
    assert course_ids.shape == (2, 64)
    assert course_ids[0, 8:].eq(0).all()


def test_course_means_run_over_prompt_and_answer(tiny, tokenizer, course_ids):
    whole = answer_logps(tiny, tokenizer, "1", "+2=? 3.")
    scored = whole[:-1]  # without the newline, which its mask drops
    mean = assignment.mean_logps(tiny, course_ids)[0].item()
    assert mean == pytest.approx(sum(scored) / len(scored), rel=1e-4)


def test_course_step_raises_the_chosen_answer(tiny, course_ids):
    before = assignment.mean_logps(tiny, course_ids)[0].item()
    model = GPT(tiny.config)
    model.load_state_dict(tiny.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    assignment.train_step(model, optimizer, course_ids[:1], course_ids[1:], beta=0.5)
    assert assignment.mean_logps(model, course_ids)[0].item() > before


# What is measured


def test_seconds_leave_the_evals_out(monkeypatch):
    now = iter([0.0, 5.0, 8.0, 8.0, 20.0, 21.0, 21.0])
    monkeypatch.setattr("bench.learning.time", SimpleNamespace(perf_counter=lambda: next(now)))
    history = TimedHistory()
    history.append_eval({"kl": 0.0})  # ended at 5
    history.append({"loss": 1.0})  # at 8: three seconds of work
    history.append_eval({"kl": 0.1})  # ended at 20
    history.append({"loss": 0.9})  # at 21: one more
    assert history.evals["seconds"] == [0.0, 3.0]
    assert history.seconds == 4.0


def test_median_stands_with_its_range():
    assert median_and_spread([3.0, 1.0, 2.0]) == "2.0 (1.0 to 3.0)"


def test_ratio_is_taken_within_a_round():
    assert ratio([10.0, 2.0, 9.0], [5.0, 1.0, 3.0]) == "2.00"


def test_questions_like_the_pairs_are_seen_ones(tiny, tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "bench.learning.answer_questions", lambda *given: asked.extend(given[2]) or []
    )
    questions = draw_questions(60, ["standard"], random.Random(TEST_SEED))
    half = {question.text for question in questions[::2]}
    assert like_the_pairs(tiny, tokenizer, half, 60)["trained"] == 0.5
    assert len(asked) == 60
    assert not any(question.held_out for question in asked)
    assert len({question.form for question in asked}) == 12
