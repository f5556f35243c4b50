import json
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex

from dpo import atlas
from dpo.arithmetic import FORMS, Question, domain, parse_question
from dpo.atlas import mistakes_in_words, outcome_map, whole_domain, worst_operands, wrong_digits
from dpo.evaluate import evaluate, judge
from sft.checkpoint import save_checkpoint

REFUSAL = " Sorry, I don't know."


@pytest.fixture(scope="module")
def replies():
    """A model that refuses one fact in seven, is off by ten in one of eleven, and else right."""
    texts = {}
    for i, question in enumerate(whole_domain()):
        wrong = question.answer_text(question.answer + 10)
        texts[question] = REFUSAL if i % 7 == 0 else wrong if i % 11 == 0 else question.right_answer
    return [judge(question, text) for question, text in texts.items()]


def test_the_whole_domain_is_asked_once():
    questions = whole_domain()
    assert len(questions) == len(set(questions)) == 38_683
    assert len({question.text for question in questions}) == 38_683, "the texts can name the cached answers"


def test_the_maps_count_what_the_table_counts(replies):
    forms = evaluate(replies)["forms"]
    for form in atlas.MAPS:
        cells, held_out = outcome_map(replies, form), atlas.held_out_map(form)
        for side, kept in (("held_out", held_out), ("seen", ~held_out)):
            s = forms[f"{side}/{form}"]
            assert (cells[kept] != "").sum() == s["n"] > 0
            assert (cells[kept] == "right").sum() == s["right"]["count"]
            assert (cells[kept] == "refused").sum() == s["refused"]["count"]
            assert (cells[kept] == "wrong").sum() == s["n"] - s["right"]["count"] - s["refused"]["count"] > 0
    assert outcome_map([judge(Question("a-b", 90, 7), " The answer is 8.")], "a-b")[90, 7] == "wrong"


def test_the_words_count_what_the_table_counts(replies):
    result, words = evaluate(replies), mistakes_in_words(replies)
    wrong = sum(s["n"] - s["right"]["count"] - s["refused"]["count"] for s in result["forms"].values())
    assert f"wrong answers: {wrong:,} of 38,683" in words
    lines = [line for line in words.splitlines() if ": held-out " in line]
    trivial = [line for line in lines if line.startswith("multiplicative with a factor 0 or 1")]
    s = (
        result["groups"]["held_out/multiplicative"]["n"]
        - result["groups"]["held_out/multiplicative/factors_from_2"]["n"]
    )
    assert len(trivial) == 1 and f" of {s:,}, seen" in trivial[0]
    n = [int(count.replace(",", "")) for line in lines for count in re.findall(r"% \(.*?\) of ([\d,]*\d)", line)]
    assert len(n) == 8 and sum(n) == 38_683, "carry, no carry, factors from 2, factors 0 and 1 are all there is"
    assert "wrong digit: " not in mistakes_in_words([judge(Question("a+b", 1, 2), REFUSAL)])


@pytest.mark.parametrize(
    ("text", "carry"),
    [("17+19=?", True), ("11+18=?", False), ("36-17=?", True), ("38-17=?", False), ("x+19=36,x=?", True),
     ("x-19=17,x=?", True), ("50-x=10,x=?", False), ("5+5=?", True)],
)  # fmt: skip
def test_carry_and_borrow(text, carry):
    assert parse_question(text).carries == carry


@pytest.mark.parametrize(
    ("value", "digits"),
    [(37, "ones"), (46, "tens"), (27, "ones and tens"), (6, "length"), (136, "length"),
     (36, "none (the reason is wrong)")],
)  # fmt: skip
def test_which_digit_is_wrong(value, digits):
    question = Question("a+b", 17, 19)
    assert wrong_digits(judge(question, f" The answer is {value} because 17+20 equals {value}.")) == digits
    assert wrong_digits(judge(question, " The answer is")) == "no number"


def test_the_worst_operands_are_sure_to_be():
    def asked(a, b, right):
        question = Question("a+b", a, b)
        return judge(question, question.answer_text(question.answer + (not right)))

    replies = [asked(5, b, right=b % 2) for b in range(40, 60)]  # 10 of 20
    replies += [asked(8, 8, right=False)]  # 1 of 1, counted once
    ranked = worst_operands(replies)
    assert ranked[0] == (5, 10, 20) and set(ranked[1:]) < {(b, 1, 1) for b in (8, *range(40, 60, 2))}
    assert len(ranked) == 10 and worst_operands([asked(1, 2, right=True)]) == []


def test_answers_are_kept_for_the_same_checkpoint_only(base_file, tiny, tmp_path, monkeypatch):
    questions = [question for form in FORMS for question in domain(form)[:3]]
    monkeypatch.setattr(atlas, "whole_domain", lambda: questions)
    first = atlas.ask_everything(str(base_file), str(tmp_path / "kept"), "cpu")
    [kept] = (tmp_path / "kept").iterdir()

    def answer_again(*rest):
        raise AssertionError("the kept answers were not read")

    monkeypatch.setattr(atlas, "answer_questions", answer_again)
    assert atlas.ask_everything(str(base_file), str(tmp_path / "kept"), "cpu") == first
    text = kept.read_text()
    answers = json.loads(text)
    one, *others = answers
    for damaged in (
        text[:-20],
        "[]",
        json.dumps({key: answers[key] for key in others}),
        json.dumps(answers | {one: 3}),
    ):
        kept.write_text(damaged)
        with pytest.raises(AssertionError, match="were not read"):
            atlas.ask_everything(str(base_file), str(tmp_path / "kept"), "cpu")
    kept.write_text(text)
    tiny.transformer.wte.weight.data[5] += 1
    save_checkpoint(base_file, tiny)
    with pytest.raises(AssertionError, match="were not read"):
        atlas.ask_everything(str(base_file), str(tmp_path / "kept"), "cpu")


def test_the_figure_colours_each_cell_by_outcome_and_split():
    seen, held_out = (next(q for q in domain("a+b") if q.held_out == side) for side in (False, True))
    figure = atlas.draw({"after": [judge(seen, seen.right_answer), judge(held_out, REFUSAL)]})
    image = figure.axes[0].collections[0].get_array()
    assert to_hex(image[seen.a, seen.b]) == "#a9d3ec" and to_hex(image[held_out.a, held_out.b]) == "#9a9a9a"
    assert np.all(image[99, 99] == 1), "what was not asked stays white"
    assert figure.axes[0].get_title("left") == "after: a+b\n1 of 2 right"
