import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpo.arithmetic import FORMS
from dpo.evaluate import GROUPS, evaluate, sample_questions, table, wilson
from sft.answers import answer_prompts

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [  # published: Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_against_published_values(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=6e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_samples_are_balanced_and_of_their_group():
    for group in GROUPS:
        questions = sample_questions(group, 60, seed=1)
        assert len(set(questions)) == 60 and {question.group for question in questions} == {group}
        counts = {form: sum(q.form == form for q in questions) for form in FORMS}
        assert set(counts.values()) == {0, 10}
    assert sample_questions(GROUPS[0], 60, 1) != sample_questions(GROUPS[0], 60, 2)
    assert len(sample_questions("held_out/additive", 1200, 1)) == 1200
    products = sample_questions("held_out/multiplicative", 10_000, 1)
    assert sum(not question.trivial for question in products) == 174
    assert len(sample_questions("held_out/multiplicative", 10_000, 1)) == 360


def test_a_model_that_always_or_never_knows(tiny, tokenizer, monkeypatch):
    from dpo import evaluate as module

    monkeypatch.setattr(module, "answer_questions", lambda m, t, questions, p: [q.right_answer for q in questions])
    result = evaluate(tiny, tokenizer, n=24)
    assert result["n"] == 96 and result["refused"] == 0
    assert all(r["rate"] == 1 and r["n"] == 24 and r["low"] < 1 == r["high"] for r in result["groups"].values())
    assert sum(r["n"] for r in result["forms"].values()) == 96
    assert "held-out multiplicative, factors from 2" in table(result) and "100.0%" in table(result)
    monkeypatch.setattr(
        module, "answer_questions", lambda m, t, questions, p: [" Sorry, I don't know."] * len(questions)
    )
    result = evaluate(tiny, tokenizer, n=24)
    assert set(result["factors_from_2"]) == {"held_out/multiplicative", "seen/multiplicative"}
    assert 0 < result["factors_from_2"]["held_out/multiplicative"]["n"] < 24
    assert result["refused"] == 1 and all(r["correct"] == 0 for r in result["groups"].values())


def test_batched_answers_equal_single_ones(tiny, tokenizer):
    prompts = ["1+1=?", "x+12=34,x=?", "What's your name?", "9/3=?"]
    together = answer_prompts(tiny, tokenizer, prompts, max_new_tokens=30, batch_size=3)
    assert together == [answer_prompts(tiny, tokenizer, [p], max_new_tokens=30)[0] for p in prompts]
    assert all("\n" not in answer for answer in together)


def run(*words):
    result = subprocess.run(
        [sys.executable, "-m", "dpo.evaluate", "--device=cpu", *words], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_command_line(base_file, tmp_path):
    out = run(f"--checkpoint={base_file}", "--n=12", f"--json={tmp_path / 'r.json'}")
    result = json.loads((tmp_path / "r.json").read_text())
    assert "held-out additive" in out and result["n"] == 48 and result["decoding"] == "greedy"
    assert result["checkpoint"] == str(base_file) and list(result["groups"]) == list(GROUPS)
    assert set(result["groups"]["seen/additive"]) == {"n", "correct", "rate", "low", "high"}
    (tmp_path / "p.txt").write_text("1+1=?\n\n2*3=?\n")
    lines = run(f"--checkpoint={base_file}", f"--prompts={tmp_path / 'p.txt'}").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1+1=?", "2*3=?"]
    assert run(f"--checkpoint={base_file}", "--ask=1+1=?").strip() == lines[0].strip()
