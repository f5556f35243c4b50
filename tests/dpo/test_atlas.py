"""The atlas asks everything once, counts what the table counts, and keeps its answers."""

import json
import re

import numpy as np
import pytest
from conftest import make_tiny
from matplotlib.colors import to_hex

from dpo import atlas
from dpo.atlas import describe_mistakes, outcome_map, whole_domain, worst_operands, wrong_digits
from dpo.evaluation.replies import judge
from dpo.evaluation.tables import evaluate
from sft.arithmetic import FORMS, Question, domain, parse_question
from sft.checkpoint.weights import save_checkpoint

REFUSAL = " Sorry, I don't know."


@pytest.fixture(scope="module")
def replies():
    """Of a model that refuses one question in seven, is off by ten in one of eleven, else right."""
    replies = []
    for i, question in enumerate(whole_domain()):
        wrong = question.answer_text(question.answer + 10)
        text = REFUSAL if i % 7 == 0 else wrong if i % 11 == 0 else question.right_answer
        replies.append(judge(question, text))
    return replies


@pytest.fixture(scope="module")
def result(replies):
    return evaluate(replies)


@pytest.fixture(scope="module")
def words(replies):
    return describe_mistakes(replies)


def number_wrong(rates):
    return rates["n"] - rates["right"]["count"] - rates["refused"]["count"]


def test_whole_domain_is_asked_once():
    questions = whole_domain()
    assert len(questions) == 38_683
    assert len(set(questions)) == 38_683


def test_whole_domain_has_texts_of_its_own():
    # so that the texts can name the kept answers
    assert len({question.text for question in whole_domain()}) == 38_683


def test_everything_is_the_domain_and_the_maps():
    # a - b below zero: a < b; products above 99 of two digits and one from 2
    below_zero = 100 * 99 // 2
    by_one = sum(2 for a in range(10, 100) for b in range(2, 10) if a * b > 99)
    assert len(atlas.everything()) == 38_683 + below_zero + by_one


# The maps


@pytest.mark.parametrize("form", atlas.MAPS)
@pytest.mark.parametrize("side", ["held_out", "seen"])
def test_maps_count_what_the_table_counts(replies, result, form, side):
    rates = [result["forms"][f"{side}/{form}"]]
    if side == "held_out":  # on the map, validation is held out, too
        rates.append(evaluate(replies, "validation")["forms"][f"validation/{form}"])
    cells = outcome_map(replies, form)[atlas.held_out_map(form) == (side == "held_out")]
    assert (cells != "").sum() == sum(rate["n"] for rate in rates)
    assert (cells == "right").sum() == sum(rate["right"]["count"] for rate in rates)
    assert (cells == "refused").sum() == sum(rate["refused"]["count"] for rate in rates)
    assert (cells == "wrong").sum() == sum(map(number_wrong, rates)) > 0


def test_map_has_a_in_rows_and_b_in_columns():
    reply = judge(Question("a-b", 90, 7), " The answer is 8.")
    assert outcome_map([reply], "a-b")[90, 7] == "wrong"


@pytest.fixture
def two_cells():
    """A figure of one right seen sum and one refused held-out sum, and where they are."""
    seen, held_out = (
        next(q for q in domain("a+b") if q.held_out == side) for side in (False, True)
    )
    replies = [judge(seen, seen.right_answer), judge(held_out, REFUSAL)]
    return atlas.draw({"after": replies}), (seen.a, seen.b), (held_out.a, held_out.b)


def test_figure_colours_cells_by_outcome_and_split(two_cells):
    figure, seen, held_out = two_cells
    image = figure.axes[0].collections[0].get_array()
    assert to_hex(image[seen]) == "#a9d3ec"
    assert to_hex(image[held_out]) == "#9a9a9a"


def test_figure_leaves_white_what_was_not_asked(two_cells):
    image = two_cells[0].axes[0].collections[0].get_array()
    assert np.all(image[99, 99] == 1)


def test_figure_marks_a_mistake_where_it_is():
    reply = judge(Question("a*b", 47, 8), " The answer is 8.")
    axis = atlas.draw({"after": [reply]}).axes[2]
    offsets = [tuple(o) for c in axis.collections[1:] for o in c.get_offsets()]
    assert offsets == [(8, 47)]  # b to the right, a upwards


def test_figure_counts_in_its_title(two_cells):
    assert two_cells[0].axes[0].get_title("left") == "after: a+b\n1 of 2 right"


# What the mistakes have in common


def test_words_count_the_wrong_answers(replies, words):
    wrong = sum(map(number_wrong, evaluate(replies)["forms"].values()))
    validation = evaluate(replies, "validation")["forms"]
    wrong += sum(number_wrong(validation[f"validation/{form}"]) for form in FORMS)
    assert f"wrong answers: {wrong:,} of 38,683" in words


def test_words_count_trivial_questions(result, words):
    groups = result["groups"]
    trivial = groups["held_out/multiplicative"]["n"]
    trivial -= groups["held_out/multiplicative/factors_from_2"]["n"]
    start = "multiplicative with a factor 0 or 1"
    [line] = [line for line in words.splitlines() if line.startswith(start)]
    assert f" of {trivial:,}, validation" in line


def test_words_count_every_question_once(words):
    # with and without a carry, factors from 2, factors 0 and 1: test, validation and seen of each
    lines = [line for line in words.splitlines() if ": held-out " in line]
    counts = [n for line in lines for n in re.findall(r"% \(.*?\) of ([\d,]*\d)", line)]
    assert len(counts) == 12
    assert sum(int(count.replace(",", "")) for count in counts) == 38_683


def test_words_have_no_digits_without_a_mistake():
    assert "wrong digit: " not in describe_mistakes([judge(Question("a+b", 1, 2), REFUSAL)])


@pytest.mark.parametrize(
    ("text", "carry"),
    [
        ("17+19=?", True),
        ("11+18=?", False),
        ("36-17=?", True),
        ("38-17=?", False),
        ("x+19=36,x=?", True),
        ("x-19=17,x=?", True),
        ("50-x=10,x=?", False),
        ("5+5=?", True),
    ],
)
def test_carry_and_borrow(text, carry):
    assert parse_question(text).carries == carry


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        (" The answer is 37 because 17+20 equals 37.", "ones"),
        (" The answer is 46 because 17+20 equals 46.", "tens"),
        (" The answer is 27 because 17+20 equals 27.", "ones and tens"),
        (" The answer is 6 because 17+20 equals 6.", "length"),
        (" The answer is 136 because 17+20 equals 136.", "length"),
        (" The answer is 36 because 17+20 equals 36.", "none (the reason is wrong)"),
        (" The answer is", "no number"),
    ],
)
def test_which_digit_is_wrong(text, digits):
    assert wrong_digits(judge(Question("a+b", 17, 19), text)) == digits


def asked(a, b, right):
    question = Question("a+b", a, b)
    return judge(question, question.answer_text(question.answer + (not right)))


@pytest.fixture
def ranked():
    """5 is wrong in 10 of 20 sums, each time with another number; 8+8 is wrong, too."""
    replies = [asked(5, b, right=b % 2) for b in range(40, 60)]
    return worst_operands([*replies, asked(8, 8, right=False)])


def test_worst_operand_is_the_surest(ranked):
    # one mistake in one question is no record
    assert ranked[0] == (5, 10, 20)


def test_an_operand_counts_once_in_8_plus_8(ranked):
    assert set(ranked[1:]) < {(b, 1, 1) for b in (8, *range(40, 60, 2))}


def test_ten_operands_are_told(ranked):
    assert len(ranked) == 10


def test_no_operand_is_worst_without_a_mistake():
    assert worst_operands([asked(1, 2, right=True)]) == []


# Answers are kept


@pytest.fixture
def kept(base_file, tmp_path, monkeypatch):
    """Replies to three questions of each form, the file that keeps them, and how to ask again."""
    questions = [question for form in FORMS for question in domain(form)[:3]]
    monkeypatch.setattr(atlas, "everything", lambda: questions)

    def ask():
        return atlas.ask_everything(str(base_file), str(tmp_path / "kept"), "cpu")

    def answer_again(*rest):
        raise AssertionError("the kept answers were not read")

    replies = ask()
    monkeypatch.setattr(atlas, "answer_questions", answer_again)
    [path] = (tmp_path / "kept").iterdir()
    return replies, path, ask


def test_answers_are_kept(kept):
    replies, _, ask = kept
    assert ask() == replies


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: json.dumps(dict(list(json.loads(text).items())[1:])),
        lambda text: json.dumps(json.loads(text) | {"0+0=?": 3}),
    ],
    ids=["cut off", "a list", "one answer less", "a number for an answer"],
)
def test_damaged_answers_are_not_taken(kept, damage):
    _, path, ask = kept
    text = path.read_text()
    assert "0+0=?" in json.loads(text)
    path.write_text(damage(text))
    with pytest.raises(AssertionError, match="were not read"):
        ask()


def test_answers_of_other_weights_are_not_taken(kept, base_file):
    model = make_tiny()
    model.transformer.wte.weight.data[5] += 1
    save_checkpoint(base_file, model)
    with pytest.raises(AssertionError, match="were not read"):
        kept[2]()
