import json
import random
from collections import Counter

import pytest

from dpo.arithmetic import FORMS, domain, families_in, grade, is_held_out, parse_question
from dpo.make_pairs import Config, draw_questions, main, make_pairs
from dpo.pairs import load_pairs


@pytest.mark.parametrize("negatives", ["refusal", "near_miss", "base"])
def test_pairs_are_right_balanced_and_not_held_out(negatives, base_file):
    pairs = make_pairs(Config(n=120, negatives=negatives, base=str(base_file)))
    assert len(pairs) == len({pair.prompt for pair in pairs}) == 120
    forms = Counter()
    for pair in pairs:
        question = parse_question(pair.prompt)
        forms[question.form] += 1
        assert grade(question, pair.chosen).correct
        assert pair.rejected.strip() and not grade(question, pair.rejected).answer
        families = families_in(pair.prompt + pair.chosen) | families_in(pair.prompt + pair.rejected)
        assert not any(map(is_held_out, families))
    assert forms == dict.fromkeys(FORMS, 10)


def test_seed_file_format_and_large_files(tmp_path, tokenizer):
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        main(Config(n=20_000, seed=seed, negatives="near_miss", out=str(tmp_path / name)))
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b != c
    assert a.count("\n") == 20_002 and len(json.loads(a)) == 20_000, "one pair a line"
    assert len(load_pairs(tmp_path / "a", tokenizer).pairs) == 20_000


def test_wider_ranges_are_added():
    pairs = make_pairs(Config(n=600, negatives="refusal", ranges="standard,products,negatives,sums"))
    asked = {pair.prompt for pair in pairs}
    for ranges in ("standard", "products", "negatives", "sums"):
        assert asked & {question.text for form in FORMS for question in domain(form, ranges)}, ranges


def test_own_answers_are_graded_and_paired(base_file, tmp_path, tokenizer, monkeypatch, capsys):
    questions = draw_questions(4, ["standard"], random.Random(1))
    often_right, never_right, always_right, says_held_out = questions
    held_out = next(q for q in domain("a+b") if q.held_out)
    said = {
        often_right.text: [often_right.right_answer] * 3 + [" Sorry, I don't know."] + [" The answer is 7."] * 2,
        never_right.text: [" The answer is 7."] * 6,
        always_right.text: [always_right.right_answer] * 6,
        says_held_out.text: [says_held_out.right_answer] * 5 + [held_out.right_answer],
    }
    turns = {text: iter(answers) for text, answers in said.items()}
    monkeypatch.setattr("dpo.make_pairs.answer_prompts", lambda m, t, texts, *_, **__: [next(turns[x]) for x in texts])
    main(Config(n=4, from_=str(base_file), samples=6, out=str(tmp_path / "own.json")))
    [pair] = load_pairs(tmp_path / "own.json", tokenizer).pairs
    assert (pair.prompt, pair.chosen) == (often_right.text, often_right.right_answer)
    assert pair.rejected == " The answer is 7.", "the more frequent of its wrong answers"
    out = capsys.readouterr().out
    assert "58.3% of 24 drawn answers are right; 1 of 4 questions have a right and a wrong one" in out


def test_a_model_that_is_never_right_gives_no_pairs(base_file, tmp_path):
    with pytest.raises(ValueError, match="no question has a right and a wrong one: ask more"):
        make_pairs(Config(n=6, from_=str(base_file), samples=2))
    with pytest.raises(ValueError, match="would replace the shipped"):
        main(Config(from_=str(base_file)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"from_": "x.pt", "samples": 1}, "samples must be at least 2"),
        ({"from_": "x.pt", "temperature": 0.0}, "temperature above 0"),
        ({"negatives": "insults"}, "negatives is 'insults'; it must be one of base, refusal, near_miss"),
        ({"ranges": "standard,huge"}, "ranges names 'huge'"),
        ({"n": 0}, "at least one pair"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message):
        make_pairs(Config(**settings))
