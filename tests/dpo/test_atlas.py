"""The atlas asks everything once, counts what the table counts, and keeps its answers."""

import json
import re

import pytest
from conftest import make_tiny
from matplotlib.colors import to_hex

from dpo import atlas
from dpo.atlas import describe_mistakes, whole_domain, worst_operands, wrong_digits
from dpo.evaluation.replies import judge
from dpo.evaluation.tables import evaluate
from dpo.plots.answers import Square
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
    # facts p+q with a negative result: p from 0, q from 1, p <= q, p + q at most 99
    below_zero = sum(1 for p in range(50) for q in range(max(p, 1), 100 - p))
    by_one = sum(1 for p in range(2, 10) for q in range(10, 100) if p * q > 99)
    expected = 38_683 + below_zero + atlas.MOST_FAMILIES + by_one
    assert len(atlas.everything()) == expected


# The maps


@pytest.fixture(scope="module")
def sample():
    return atlas.sample_maps(50, seed=3)


def test_sample_asks_so_many_facts_of_every_map(sample):
    counts = [len(atlas.replies_of_map(list(map(refused, sample)), name)) for name in atlas.MAPS]
    assert counts == [50] * 4


def test_sample_asks_about_a_fact_once(sample):
    # of a map: 17+19 can be on the map of sums, and on that of results below zero
    assert len({(question.family, question.range) for question in sample}) == 200


def test_sample_is_another_one_with_another_seed(sample):
    assert atlas.sample_maps(50, seed=4) != sample


def refused(question):
    return judge(question, REFUSAL)


def right(question):
    return judge(question, question.right_answer)


def off_by_ten(question):
    return judge(question, question.answer_text(question.answer + 10))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("17+19=?", "sums and differences"),
        ("x-17=19,x=?", "sums and differences"),
        ("17-36=?", "results below zero"),
        ("317+219=?", "three digits"),
        ("51/17=?", "products and quotients"),
        ("47*8=?", "products and quotients"),
    ],
)
def test_question_is_on_one_map(text, name):
    reply = refused(parse_question(text))
    assert [m for m in atlas.MAPS if atlas.replies_of_map([reply], m)] == [name]


def test_factors_0_and_1_are_on_no_map():
    reply = refused(parse_question("1*17=?"))
    assert not any(atlas.replies_of_map([reply], name) for name in atlas.MAPS)


def test_square_stands_for_all_questions_of_a_fact():
    asked = [parse_question(text) for text in ("19+17=?", "36-17=?", "x+19=36,x=?")]
    [square] = atlas.squares(list(map(right, asked)))
    assert square == Square(17, 19, "right", set_aside=False)


def test_square_of_a_set_aside_fact_says_so():
    [square] = atlas.squares([right(parse_question("28+57=?"))])  # Step 4 of the lesson asks it
    assert square.set_aside


@pytest.mark.parametrize("order", [1, -1])
def test_worst_reply_makes_the_square(order):
    one, other = parse_question("17+19=?"), parse_question("19+17=?")
    assert outcomes([right(one), refused(other)][::order]) == ["refused"]
    assert outcomes([off_by_ten(one), refused(other)][::order]) == ["wrong"]


def outcomes(replies):
    return [square.outcome for square in atlas.squares(replies)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" The answer is 46 because 17+19 equals 46.", "17+19=46 (36)"),
        (" The answer is 36 because 17+20 equals 37.", "17+19=36, wrong reason"),
        (" The answer is", "17+19=no number (36)"),
    ],
)
def test_mistake_is_written_as_a_calculation(text, said):
    assert atlas.describe_mistake(judge(parse_question("17+19=?"), text)) == said


def test_mistakes_are_spread_over_the_replies():
    wrong = [off_by_ten(Question("a+b", 10, b)) for b in range(10, 90)]
    said = [f"10+{b}={b + 20} ({b + 10})" for b in (10, 30, 50, 70)]
    assert sorted(atlas.mistakes(wrong, 4)) == said


def test_mistakes_begin_with_the_longest():
    # above a diagonal, the first line has most room
    said = atlas.mistakes(
        [off_by_ten(Question("a+b", 1, 2)), off_by_ten(Question("a+b", 90, 9))], 4
    )
    assert said == ["90+9=109 (99)", "1+2=13 (3)"]


def test_right_answers_are_no_mistakes():
    assert atlas.mistakes([right(Question("a+b", 1, 2))], 4) == []


# The figure


@pytest.fixture(scope="module")
def drawn():
    """One known sum right, one set-aside sum refused, one product wrong."""
    known, aside, product = map(parse_question, ("17+19=?", "28+57=?", "47*8=?"))
    return atlas.draw([right(known), refused(aside), off_by_ten(product)])


def places(axis):
    """Where there are squares, by their colour."""
    return {
        to_hex(collection.get_facecolor()[0]): collection.get_offsets().tolist()
        for collection in axis.collections
        if len(collection.get_offsets())
    }


def test_figure_has_the_larger_number_to_the_right_and_the_smaller_upwards(drawn):
    assert places(drawn.axes[0]) == {"#a9d3ec": [[19, 17]], "#9a9a9a": [[57, 28]]}


def test_figure_has_products_in_the_strip(drawn):
    [offsets] = places(drawn.axes[-1]).values()
    assert offsets == [[47, 8]]


def test_figure_counts_facts_map_by_map(drawn):
    titles = [axis.get_title("left").split("\n")[1] for axis in drawn.axes]
    assert titles == [f"{n} facts are right" for n in ("1 of 2", "0 of 0", "0 of 0", "0 of 1")]


def test_figure_counts_all_facts_in_its_title(drawn):
    assert drawn.get_suptitle().startswith("1 of 3 facts are right.")


def test_figure_says_what_was_wrong(drawn):
    assert drawn.axes[-1].get_xlabel().endswith("47*8=386 (376)")


def test_figure_has_large_enough_mistakes():
    wrong = atlas.draw([off_by_ten(parse_question("317+219=?"))]).axes[2]
    fine = atlas.draw([right(parse_question("317+219=?"))]).axes[2]
    sizes = [
        max(c.get_sizes()[0] for c in a.collections if len(c.get_offsets())) for a in (wrong, fine)
    ]
    assert sizes[0] > 4 * sizes[1]


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
    counts = [n for line in lines for n in re.findall(r"[\d,]+ of ([\d,]*\d)", line)]
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
