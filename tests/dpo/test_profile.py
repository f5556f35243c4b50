"""What is counted in a file of pairs, and what is advised."""

import pytest
from conftest import texts_in

from dpo.data.pair import Pair
from dpo.data.profile import describe_profile, findings, profile_pairs
from dpo.pairs import Config, main
from dpo.plots.pairs import pairs_figure
from sft.arithmetic import FORMS, domain, parse_question

REFUSAL = " Sorry, I don't know."


def pair(prompt, rejected=REFUSAL, chosen=None):
    return Pair(prompt, chosen or parse_question(prompt).right_answer, rejected, line=1)


def seen(form):
    return [question for question in domain(form) if not question.held_out]


def balanced(count):
    """So many pairs of seen families of each form, and none of Step 8."""
    return [pair(question.text) for form in FORMS for question in seen(form)[5 : 5 + count]]


def zeros(count):
    """So many questions of each form, or a few less, whose answer is 0."""
    found = [q for form in FORMS for q in [q for q in domain(form) if q.answer == 0][:count]]
    return [pair(question.text) for question in found if not question.held_out]


# Counts


@pytest.fixture(scope="module")
def five():
    """The profile of five pairs that can be counted by hand."""
    pairs = [
        pair("15+26=?"),  # carries
        pair("15+21=?", " The answer is 37 because 15+21 equals 37."),
        pair("1*17=?", " The answer is 17."),  # trivial
        pair("x+17=36,x=?", " Blue."),  # borrows
        Pair("What's your name?", " My name is John.", " No.", 5),
    ]
    return profile_pairs(pairs)


def test_profile_counts_pairs_and_questions(five):
    assert five.pairs == 5
    assert len(five.questions) == 4


def test_profile_counts_forms(five):
    asked = {form: count for form, count in five.forms.items() if count}
    assert asked == {"a+b": 2, "x+a=b": 1, "a*b": 1}


def test_profile_has_every_form(five):
    assert list(five.forms) == list(FORMS)


def test_profile_counts_operands(five):
    assert five.operands == {15: 2, 26: 1, 21: 1, 1: 1, 17: 2, 36: 1}


def test_profile_counts_answers(five):
    assert five.answers == {41: 1, 36: 1, 17: 1, 19: 1}


def test_profile_counts_rejected_answers_by_kind(five):
    kinds = {"refusal": 1, "wrong number": 1, "right number": 1, "something else": 2}
    assert five.rejected == kinds


def test_profile_counts_carries(five):
    share = five.shares["additive pairs that carry or borrow"]
    assert (share.count, share.n) == (2, 3)


def test_profile_counts_factors_0_and_1(five):
    share = five.shares["multiplicative pairs with a factor 0 or 1"]
    assert (share.count, share.n) == (1, 1)


def test_profile_counts_seen_facts(five):
    share = five.shares["seen additive facts that are asked"]
    asked = {q.family for q in five.questions if not q.held_out and q.additive}
    assert (share.count, share.n) == (len(asked), 4058)


def test_profile_counts_a_number_shown_twice_once():
    assert profile_pairs([pair("17+17=?")]).operands == {17: 1}


@pytest.fixture(scope="module")
def shares_of_all():
    return profile_pairs([pair(q.text) for form in FORMS for q in domain(form)]).shares


def test_whole_domain_has_the_usual_shares(shares_of_all):
    usual = [1.0 if share.usual is None else share.usual for share in shares_of_all.values()]
    assert [share.rate for share in shares_of_all.values()] == usual


# Advice

UNEVEN = [*balanced(29), *(pair(question.text) for question in seen("a+b")[39:100])]
HELD_OUT = next(question for question in domain("a+b") if question.held_out)
FOUND = {
    "no pair of the form a/x=b:": [p for p in balanced(30) if "/x" not in p.prompt],
    "90 pairs of the form a+b and 29 of a/x=b": UNEVEN,
    "50% of the answers are 0": [*balanced(30), *zeros(40)],
    "1 pairs ask a held-out fact": [*balanced(30), pair(HELD_OUT.text)],
    "17+19=? will be asked in Step 8": [*balanced(30), pair("17+19=?")],
    "1 rejected answers have the right number": [
        *balanced(30),
        pair("15+21=?", " The answer is 36."),
    ],
}


@pytest.mark.parametrize("text", FOUND)
def test_what_is_odd_is_said(text):
    assert f"think about: {text}" in describe_profile(profile_pairs(FOUND[text]))


@pytest.mark.parametrize("text", FOUND)
def test_nothing_else_is_said(text):
    others = [advice for advice in findings(profile_pairs(FOUND[text])) if text not in advice]
    assert others == []


def test_balanced_pairs_get_no_advice():
    assert findings(profile_pairs(balanced(30))) == []


def test_balanced_pairs_are_said_to_be_fine():
    text = describe_profile(profile_pairs(balanced(30)))
    assert text.endswith("nothing odd about what they cover")


# Pairs without arithmetic


@pytest.fixture
def small_talk():
    return profile_pairs([Pair("Who?", " You.", " No one.", 1)] * 300)


def test_small_talk_gets_its_own_advice(small_talk):
    assert findings(small_talk) == [
        "no pair asks arithmetic: no test of this repository tells what a run learns from them"
    ]


def test_small_talk_is_counted(small_talk):
    assert "something else 300" in describe_profile(small_talk)


def test_small_talk_is_drawn(small_talk):
    assert "300" in texts_in(pairs_figure(small_talk))


# The figure


@pytest.fixture(scope="module")
def found():
    return profile_pairs(balanced(4))


@pytest.fixture(scope="module")
def panels(found):
    return {axis.get_title("left"): axis for axis in pairs_figure(found).axes}


def test_figure_shows_forms(panels):
    bars = panels["Pairs of each form"].patches
    assert [bar.get_width() for bar in bars] == [4] * 12


def test_figure_shows_answers(panels, found):
    bars = panels["Questions with each answer"].patches
    heights = {bar.get_x() + 0.5: bar.get_height() for bar in bars}
    assert heights == dict(found.answers)


def test_figure_shows_coverage(panels, found):
    bars = panels["Coverage (a mark: the whole domain)"].patches
    assert [bar.get_width() for bar in bars] == [share.rate for share in found.shares.values()]


# Numbers of any size


@pytest.fixture(scope="module")
def huge():
    return profile_pairs([pair("317+219=?"), Pair(f"{10**100}+1=?", " 1.", " 2.", 1)])


def test_huge_numbers_are_counted(huge):
    assert 10**100 in huge.operands
    assert "0 of the numbers from 0 to 99; least often none" not in describe_profile(huge)


def test_huge_numbers_are_drawn_as_beyond(huge):
    titles = [axis.get_title("left") for axis in pairs_figure(huge).axes]
    title = "Questions that show each number (1 numbers are beyond)"
    assert len(pairs_figure(huge).axes[titles.index(title)].patches) == 3


def test_large_numbers_alone_leave_none_of_the_usual():
    assert "least often none" in describe_profile(profile_pairs([pair("317+219=?")]))


# The program


def test_program_reports_and_draws(pairs_file, base_file, tmp_path, capsys):
    picture = str(tmp_path / "pairs.png")
    main(Config(files=(str(pairs_file),), report=True, base=str(base_file), figure=picture))
    printed = capsys.readouterr().out
    assert "8 pairs, 8 of them arithmetic, in 1 forms" in printed
    assert "think about: no pair of the form a-b" in printed
    assert (tmp_path / "pairs.png").read_bytes().startswith(b"\x89PNG")


def test_program_draws_one_file_only(pairs_file):
    with pytest.raises(ValueError, match="take the pairs of one file"):
        main(Config(files=(str(pairs_file),) * 2, figure="two.png"))
