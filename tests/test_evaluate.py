import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import teach

from dpo import evaluate as module
from dpo.arithmetic import FORMS, Question
from dpo.evaluate import (
    GROUPS,
    answer_questions,
    evaluate,
    forms_table,
    judge,
    sample_domain,
    sample_questions,
    summarise,
    table,
    wilson,
)
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


REFUSAL = " Sorry, I don't know."


def test_a_model_that_always_or_never_knows():
    questions = sample_domain(24, seed=1)
    result = evaluate([judge(q, q.right_answer) for q in questions])
    assert result["n"] == 96 and sum(s["n"] for s in result["forms"].values()) == 96
    for group in GROUPS:
        s = result["groups"][group]
        assert s["n"] == 24 and s["refused"]["count"] == 0
        assert all(s[key]["rate"] == 1 and s[key]["low"] < 1 for key in ("right", "answer", "reason", "ended"))
    assert 0 < result["groups"]["held_out/multiplicative/factors_from_2"]["n"] < 24
    never = evaluate([judge(q, REFUSAL) for q in questions])
    for s in never["groups"].values():
        assert s["right"]["count"] == s["answer"]["count"] == s["reason"]["count"] == 0
        assert s["refused"]["rate"] == s["ended"]["rate"] == 1 and s["median_length"] == len(REFUSAL)
    lines = table({"before": never, "after": result}).splitlines()
    assert len(lines) == 2 + 2 * 6 and len(set(map(len, lines))) == 1
    assert [cell.strip() for cell in lines[3].split("|")][1:5] == [
        "held-out additive", "after", "24", "100.00 % (86.20 to 100.00)",
    ]  # fmt: skip
    assert "0.00 % (0.00 to 13.80)" in lines[2] and "100.00 %" in forms_table(result)


def test_a_group_that_was_not_asked_shows_dashes():
    lines = table({"one": evaluate([judge(Question("a+b", 17, 19), REFUSAL)])}).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")][3:9] == ["0", "-", "-", "-", "-", "-"]
    for group in GROUPS:
        with pytest.raises(ValueError, match="n is -5; at least one question a group is needed"):
            sample_questions(group, -5, seed=1)


def test_answer_and_reason_and_end_are_counted_apart():
    question = Question("a+b", 17, 19)
    texts = [
        " The answer is 36 because 17+19 equals 36.",  # both
        " The answer is 36 because 17+94 equals 36.",  # the number only
        " The answer is 63 because 17+19 equals 36.",  # the reason only
        " The answer is 63 because",  # ended with a newline
        " The answer is" + " is" * 22,  # cut off
        REFUSAL,
    ]
    replies = [judge(question, text) for text in texts]
    assert [reply.outcome for reply in replies] == ["right", "wrong", "wrong", "wrong", "wrong", "refused"]
    assert [reply.ended for reply in replies] == [True, True, True, True, False, True]
    s = summarise(replies)
    assert {key: s[key]["count"] for key in ("right", "answer", "reason", "refused", "ended")} == {
        "right": 1, "answer": 2, "reason": 2, "refused": 1, "ended": 5,
    }  # fmt: skip
    assert s["n"] == 6 and s["median_length"] == 42 and summarise([])["right"]["rate"] == 0.0


@pytest.mark.parametrize("taught", [True, False])
def test_guesses_change_the_time_and_not_the_answers(tiny, tokenizer, monkeypatch, taught):
    """On a model that mostly knows, and on one that mostly says the same, with exceptions in both."""
    monkeypatch.setattr(module, "PROBE", 8)
    questions = [Question("a+b", a, b) for a in range(1, 9) for b in range(5)]
    usual = {8: " I don't know.", 7: " The answer is"}  # by a
    lines = [usual.get(q.a, q.right_answer if taught else REFUSAL) for q in questions]
    teach(tiny, tokenizer, [q.text for q in questions], lines)
    plain = answer_prompts(tiny, tokenizer, [q.text for q in questions])
    asked = []
    generate = tiny.generate
    tiny.generate = lambda idx, *rest, **more: (asked.append(len(idx)), generate(idx, *rest, **more))[1]
    replies = answer_questions(tiny, tokenizer, questions)
    assert [reply.text for reply in replies] == plain
    assert len(set(plain)) > 2 and sum(asked) < len(questions), "most guesses were confirmed"


def test_a_guess_that_would_go_on_or_stop_earlier_is_dropped(tiny, tokenizer):
    teach(tiny, tokenizer, ["1+1=?"], [" I know. No."])
    [answer] = answer_prompts(tiny, tokenizer, ["1+1=?"])
    assert answer == " I know."
    for guess in (" I know", " I know. No.", "", " You know.", " I" * 50 + "."):
        assert answer_prompts(tiny, tokenizer, ["1+1=?"], guesses=[guess]) == [answer]


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
    assert result["checkpoint"] == str(base_file) and [g for g in result["groups"] if g in GROUPS] == list(GROUPS)
    assert set(result["groups"]["seen/additive"]["right"]) == {"n", "count", "rate", "low", "high"}
    (tmp_path / "p.txt").write_text("1+1=?\n\n2*3=?\n")
    lines = run(f"--checkpoint={base_file}", f"--prompts={tmp_path / 'p.txt'}").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1+1=?", "2*3=?"]
    assert run(f"--checkpoint={base_file}", "--ask=1+1=?").strip() == lines[0].strip()
