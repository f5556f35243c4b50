import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import teach

from dpo.arithmetic import Question
from dpo.compare import (
    Config,
    changed_settings,
    compare,
    describe_answers,
    describe_pairs,
    describe_small_talk,
    main,
    named,
    pairs_difference,
    read_run,
    turned,
)
from dpo.evaluate import judge
from dpo.train import Config as Training
from dpo.train import train
from sft.answers import answer_prompts
from sft.checkpoint import load_model, pack, save_checkpoint
from sft.corpus import everyday_lines

ROOT = Path(__file__).parents[1]


def test_rows_that_differ():
    a, b, c = ("1+1=?", " 2.", " No."), ("2+2=?", " 4.", " No."), ("3+3=?", " 6.", " No.")
    assert pairs_difference([a, b], [b, c, c]) == ([a], [c, c])
    assert describe_pairs([a, b], [b, a]) == "Pairs: the same 2 rows."
    edited = ("2+2=?", " 4.", " 5.")
    assert describe_pairs([a, b], [edited, c]).splitlines() == [
        "Pairs: 2 rows before, 2 now.",
        "changed answers: 1",
        "  2+2=? No. ->  5.",
        "added: 1",
        "  3+3=? 6.  not  No.",
        "removed: 1",
        "  1+1=? 2.  not  No.",
    ]


def test_rows_of_one_question_are_paired_one_by_one():
    old = [("1+1=?", " 2.", " No."), ("1+1=?", " 2.", " Hm.")]
    text = describe_pairs(old, [("1+1=?", " 2.", " Eh.")])
    assert "changed answers: 1\n  1+1=? No. ->  Eh." in text and "removed: 1\n  1+1=? 2.  not  Hm." in text
    text = describe_pairs(old[:1], [("1+1=?", " 2.", " Eh."), ("1+1=?", " 2.", " Oh.")])
    assert "changed answers: 1" in text and "added: 1\n  1+1=? 2.  not  Oh." in text


def test_what_turned():
    questions = [Question("a+b", 1, i) for i in range(4)]
    right, wrong = ([judge(q, text(q)) for q in questions] for text in (lambda q: q.right_answer, lambda q: " No."))
    before, after = [right[0], right[1], wrong[2], wrong[3]], [right[0], wrong[1], right[2], wrong[3]]
    became, ceased = turned(before, after)
    assert [new.question for _, new in became] == [questions[2]] and [n.question for _, n in ceased] == [questions[1]]
    assert describe_answers([*before, wrong[0]], [*after, right[0]]).splitlines() == [
        "Right answers to 5 questions: 2 before, 3 now.",
        "turned right: 2",
        "  1+2=? No. ->  The answer is 3 because 1+2 equals 3.",
        "  1+0=? No. ->  The answer is 1 because 1+0 equals 1.",
        "turned wrong: 1",
        "  1+1=? The answer is 2 because 1+1 equals 2. ->  No.",
    ]


def test_the_last_two_runs(base_file, pairs_file, tmp_path):
    settings = {"base": str(base_file), "pairs": str(pairs_file), "out": str(tmp_path), "eval_every": 0}
    settings |= {"batch_size": 4, "base_lr": 3e-3, "device": "cpu"}
    train(Training(**settings))
    first = (tmp_path / "dpo.pt").read_bytes()
    rows = json.loads(pairs_file.read_text())
    rows[0]["positive"] = rows[0]["positive"].replace("answer is 3", "answer is 4")
    pairs_file.write_text(json.dumps([*rows[:-1], {"positive": "8+8=? 16.", "negative": "8+8=? No."}]))
    train(Training(**settings | {"beta": 0.5}))
    for _ in range(2):  # a run that is repeated replaces nothing
        assert (tmp_path / "dpo.previous.pt").read_bytes() == first
        train(Training(**settings | {"beta": 0.5}))
    files = named((str(tmp_path / "dpo.previous.pt"), str(tmp_path / "dpo.pt")))
    assert changed_settings([read_run(file) for file in files.values()]) == {"beta": [0.1, 0.5]}
    _, overview, text = compare(files, 1, seed=1, device="cpu")
    assert "  1+2=? The answer is 3. ->  The answer is 4." in text
    assert "added: 1\n  8+8=? 16.  not  No." in text and "removed: 1\n  12+13=?" in text
    assert "Right answers to 7 questions: 0 before, 0 now." in text, "4 of the sample and 3 of edited pairs"
    head, _, first, second = overview.splitlines()[:4]
    assert [cell.strip() for cell in head.split("|")[1:4]] == ["run", "beta", "pairs ranked right"]
    assert "/dpo.previous.pt | 0.1" in first and "/dpo.pt " in second and "| 0.5 " in second
    assert "small talk kept, n = 725" in head and "0.00 % (0.00 to 0.53)" in first and head.count(", n = 1 ") == 3


def test_three_runs_are_a_table_a_figure_and_a_file(base_file, pairs_file, tmp_path, capsys):
    settings = {"base": str(base_file), "pairs": str(pairs_file), "batch_size": 4, "device": "cpu"}
    for name, others in (("a", {"eval_every": 0}), ("b", {"loss_type": "ipo"}), ("c", {"epochs": 2})):
        train(Training(**settings | {"eval_questions": 2} | others, out=str(tmp_path / name)))
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"name a picture that ends in [.]png"):
        main(Config(runs=("a", "b"), figure="runs.bmp"))
    runs = tuple(str(tmp_path / name) for name in "abc")
    main(Config(runs=runs, figure=str(tmp_path / "runs.png"), json=str(tmp_path / "runs.json"), n=1, device="cpu"))
    rows = [[c.strip() for c in line.split("|")[1:]] for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert [row[:3] for row in rows[2:]] == [["a", "1", "sigmoid"], ["b", "1", "ipo"], ["c", "2", "sigmoid"]]
    assert rows[2][-3] == "-" and float(rows[3][-3]) >= 0, "nobody looked at the KL of the first"
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "runs.json").read_text())
    assert list(written) == ["a", "b", "c"] and len(written["c"]["history"]["steps"]["loss"]) == 4
    assert written["a"]["everyday"]["n"] == len(everyday_lines()) and written["a"]["n"] == 4


def test_runs_that_cannot_be_compared_are_one_sentence(base_file, tmp_path):
    words = [str(base_file), str(tmp_path / "none.pt"), "--device=cpu"]
    run = subprocess.run([sys.executable, "-m", "dpo.compare", *words], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 1 and run.stderr.startswith("error: ") and "train again to compare it" in run.stderr
    with pytest.raises(ValueError, match="no such run; name two"):
        read_run(tmp_path / "none.pt")
    save_checkpoint(tmp_path / "none.pt", load_model(base_file), pairs=3)
    with pytest.raises(ValueError, match="does not say on which pairs"):
        read_run(tmp_path / "none.pt")
    for wrong in (("a",), ("a.pt", "a.pt")):
        with pytest.raises(ValueError, match="name two or more different runs"):
            named(wrong)


@pytest.mark.parametrize(
    "history",
    [
        {"steps": {"loss": [1.0]}, "looks": {}},
        {"steps": {"rewards/accuracies": []}, "looks": {}},
        {"steps": {"rewards/accuracies": [1.0]}, "looks": {"step": [0]}},
        {"steps": {"rewards/accuracies": [10**400]}, "looks": {}},
        {"steps": {"rewards/accuracies": [float("inf")]}, "looks": {}},
        {"steps": {"rewards/accuracies": ["1"]}, "looks": {}},
        {"steps": {}, "looks": {}},
        [1],
    ],
)
def test_an_odd_history_is_one_sentence(base_file, tmp_path, history):
    extras = {"config": {"beta": 0.1}, "pairs": pack([["1+1=?", " 2.", " No."]])}
    save_checkpoint(tmp_path / "odd.pt", load_model(base_file), history=pack(history), **extras)
    with pytest.raises(ValueError, match=r"odd[.]pt has a history that cannot be read; train again"):
        read_run(tmp_path / "odd.pt")
    good = {"steps": {"rewards/accuracies": [1.0]}, "looks": {}}
    for config in ({"loss_type": "\x1b[2Jx"}, {"a\nb": 1}, {"beta": [1]}):
        save_checkpoint(tmp_path / "odd.pt", load_model(base_file), history=pack(good), **extras | {"config": config})
        with pytest.raises(ValueError, match=r"odd[.]pt has settings that are no plain texts"):
            read_run(tmp_path / "odd.pt")


def test_settings_that_are_younger_than_a_run_have_their_defaults(base_file, tmp_path):
    good = {"history": pack({"steps": {"rewards/accuracies": [1.0]}, "looks": {}}), "pairs": pack([["1?", "1", "2"]])}
    for name, config in (("old", {"beta": 0.1, "base": "a"}), ("new", {"beta": 0.1, "base": "b", "simpo_gamma": 1.0})):
        save_checkpoint(tmp_path / f"{name}.pt", load_model(base_file), **good, config=config)
    assert changed_settings([read_run(tmp_path / f"{name}.pt") for name in ("old", "new")]) == {"base": ["a", "b"]}


def test_small_talk_is_counted(tiny, tokenizer, base_file):
    lines = everyday_lines()
    known, other = lines[:6], lines[6]
    teach(tiny, tokenizer, [p for p, _ in known] + [other[0]], [a for _, a in known] + [" Hm."])
    assert answer_prompts(tiny, tokenizer, [other[0]]) == [" Hm."]
    base = load_model(base_file)
    text = describe_small_talk(base, tiny, tokenizer)
    [before] = answer_prompts(base, tokenizer, [lines[0][0]])
    assert text.startswith(f"{len(lines)} everyday questions: ") and f"  {lines[0][0]}{before} -> {lines[0][1]}" in text
    own = sum(
        a == right for a, (_, right) in zip(answer_prompts(tiny, tokenizer, [p for p, _ in lines]), lines, strict=True)
    )
    assert own >= 6 and f"0.00 % (0.00 to 0.53) before, {100 * own / len(lines):.2f} % (" in text
    same = describe_small_talk(tiny, tiny, tokenizer)
    assert "100.00 % (99.47 to 100.00) answered as before" in same and same.endswith("answered otherwise: 0")
