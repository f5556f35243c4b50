"""Pairs are right, balanced and not held out; those from a model's own answers are graded."""

import json
import random
from collections import Counter
from itertools import pairwise

import pytest
from conftest import make_tiny

from dpo.data.pair_file import load_pairs
from dpo.make_pairs import Config, draw_questions, main, make_pairs
from sft.arithmetic import (
    FORMS,
    RANGES,
    STEP_8,
    domain,
    families_in,
    is_held_out,
    parse_question,
)
from sft.checkpoint.weights import save_checkpoint
from sft.grading import grade


@pytest.fixture(scope="module", params=["refusal", "near_miss", "base"])
def pairs(request, tmp_path_factory):
    """120 pairs with each kind of rejected answers."""
    base = tmp_path_factory.mktemp("pairs") / "base.pt"
    save_checkpoint(base, make_tiny())
    return make_pairs(Config(n=120, negatives=request.param, base=str(base)))


def test_pairs_are_so_many_different_questions(pairs):
    assert len(pairs) == 120
    assert len({pair.prompt for pair in pairs}) == 120


def test_pairs_have_all_forms_alike(pairs):
    forms = Counter(parse_question(pair.prompt).form for pair in pairs)
    assert forms == dict.fromkeys(FORMS, 10)


def test_each_form_stands_together_the_plainest_first(pairs):
    forms = [parse_question(pair.prompt).form for pair in pairs]
    assert list(dict.fromkeys(forms))[:4] == ["a+b", "a-b", "a*b", "a/b"]
    assert sum(one != other for one, other in pairwise(forms)) == len(FORMS) - 1


def test_few_pairs_have_a_factor_0_or_1():
    prompts = [pair.prompt for pair in make_pairs(Config(n=2400, negatives="refusal"))]
    products = [q for q in map(parse_question, prompts) if q.form == "a*b"]
    domain_share = sum(q.trivial for q in domain("a*b")) / len(domain("a*b"))
    assert sum(q.trivial for q in products) / len(products) < domain_share / 1.5


def test_pairs_have_no_prompt_of_step_8():
    pairs = make_pairs(Config(n=20_000, negatives="refusal"))
    assert not {pair.prompt for pair in pairs} & set(STEP_8)


def test_chosen_answers_are_right(pairs):
    assert all(grade(parse_question(pair.prompt), pair.chosen).correct for pair in pairs)


def test_rejected_answers_have_no_right_number(pairs):
    assert not any(grade(parse_question(pair.prompt), pair.rejected).answer for pair in pairs)


def test_rejected_answers_are_not_empty(pairs):
    assert all(pair.rejected.strip() for pair in pairs)


def test_pairs_have_no_held_out_fact(pairs):
    texts = [pair.prompt + answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    assert not any(is_held_out(family) for text in texts for family in families_in(text))


def test_wider_ranges_are_added():
    pairs = make_pairs(Config(n=600, negatives="refusal", ranges=",".join(RANGES)))
    assert {parse_question(pair.prompt).range for pair in pairs} == set(RANGES)


# Files


def make_file(path, **settings):
    main(Config(negatives="near_miss", out=str(path), **settings))
    return path.read_text()


def test_files_depend_on_the_seed_only(tmp_path):
    first = make_file(tmp_path / "a.json", n=2_000, seed=1)
    assert make_file(tmp_path / "b.json", n=2_000, seed=1) == first
    assert make_file(tmp_path / "c.json", n=2_000, seed=2) != first


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "pairs.json"
    make_file(path, n=20_000)
    return path


def test_files_have_one_pair_a_line(large_file):
    lines = large_file.read_text().splitlines()
    assert sum('"positive"' in line for line in lines) == 20_000
    assert len(json.loads("".join(lines))) == 20_000


def test_an_empty_line_parts_the_forms(large_file):
    lines = large_file.read_text().splitlines()
    assert lines.count("") == len(FORMS) - 1
    before, after = (lines[lines.index("") + step] for step in (-1, 1))
    assert '"positive": "' in before and "+" in before
    assert "-" in after


def test_large_files_load(large_file, tokenizer):
    assert len(load_pairs(large_file, tokenizer).pairs) == 20_000


# From a model's own answers


@pytest.fixture
def own_pairs(base_file, tmp_path, tokenizer, monkeypatch, capsys):
    """The first of four questions, the pairs from six answers to each, and what was printed."""
    questions = draw_questions(4, ["standard"], random.Random(1))
    often_right, never_right, always_right, says_held_out = questions
    right = {question.text: question.right_answer for question in questions}
    held_out = next(question for question in domain("a+b") if question.held_out)
    wrong, refusal = " The answer is 7.", " Sorry, I don't know."
    said = {
        often_right.text: [right[often_right.text]] * 3 + [refusal] + [wrong] * 2,
        never_right.text: [wrong] * 6,
        always_right.text: [right[always_right.text]] * 6,
        says_held_out.text: [right[says_held_out.text]] * 5 + [held_out.right_answer],
    }
    turns = {text: iter(answers) for text, answers in said.items()}

    def answer(model, tokenizer, prompts, *rest, **more):
        return [next(turns[prompt]) for prompt in prompts]

    monkeypatch.setattr("dpo.make_pairs.generate_answers", answer)
    main(Config(n=4, from_=str(base_file), samples=6, out=str(tmp_path / "own.json")))
    pairs = load_pairs(tmp_path / "own.json", tokenizer).pairs
    return often_right, pairs, capsys.readouterr().out


def test_own_answers_are_graded_and_paired(own_pairs):
    question, [pair], _ = own_pairs
    assert (pair.prompt, pair.chosen) == (question.text, question.right_answer)


def test_own_rejected_answer_is_the_commonest(own_pairs):
    assert own_pairs[1][0].rejected == " The answer is 7."


def test_own_answers_are_counted(own_pairs):
    # 3 + 0 + 6 + 5 of 24
    expected = "58.3% of 24 drawn answers are right; 1 of 4 questions have a right and a wrong one"
    assert expected in own_pairs[2]


def test_a_model_that_is_never_right_gives_none(base_file):
    with pytest.raises(ValueError, match="no question has a right and a wrong one: ask more"):
        make_pairs(Config(n=6, from_=str(base_file), samples=2))


# Mistakes


def test_the_shipped_pairs_are_not_replaced(base_file):
    with pytest.raises(ValueError, match="would replace the shipped"):
        main(Config(from_=str(base_file)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"from_": "x.pt", "samples": 1}, "samples must be at least 2"),
        ({"from_": "x.pt", "temperature": 0.0}, "temperature above 0"),
        (
            {"negatives": "insults"},
            "negatives is 'insults'; it must be one of base, refusal, near_miss",
        ),
        ({"ranges": "standard,huge"}, "ranges names 'huge'"),
        ({"n": 0}, "at least one pair"),
    ],
)
def test_mistakes_are_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        make_pairs(Config(**settings))
