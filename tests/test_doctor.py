"""What the doctor counts in a file of pairs, and what it advises."""

import pytest

from dpo.arithmetic import FORMS, domain, parse_question
from dpo.doctor import examine, findings, report
from dpo.pairs import Config, Pair, main
from dpo.plots import pairs_figure

REFUSAL = " Sorry, I don't know."


def pair(prompt, rejected=REFUSAL, chosen=None):
    return Pair(prompt, chosen or parse_question(prompt).right_answer, rejected, line=1)


def balanced(count):
    """So many pairs of seen families of each form, and none of Step 8."""
    return [pair(q.text) for form in FORMS for q in [q for q in domain(form) if not q.held_out][5 : 5 + count]]


def zeros(count):
    """So many questions of each form, or a few less, whose answer is 0."""
    found = [q for form in FORMS for q in [q for q in domain(form) if q.answer == 0][:count]]
    return [pair(question.text) for question in found if not question.held_out]


def test_counts_by_hand():
    found = examine(
        [
            pair("15+26=?"),  # carries
            pair("15+21=?", " The answer is 37 because 15+21 equals 37."),
            pair("1*17=?", " The answer is 17, I think."),  # trivial
            pair("x+17=36,x=?", " Blue."),  # borrows
            Pair("What's your name?", " My name is John.", " No.", 5),
        ]
    )
    assert (found.pairs, len(found.questions)) == (5, 4)
    assert {form: count for form, count in found.forms.items() if count} == {"a+b": 2, "x+a=b": 1, "a*b": 1}
    assert list(found.forms) == list(FORMS)
    assert found.operands == {15: 2, 26: 1, 21: 1, 1: 1, 17: 2, 36: 1}
    assert found.answers == {41: 1, 36: 1, 17: 1, 19: 1}
    assert found.rejected == {"refusal": 1, "wrong number": 1, "right number": 1, "something else": 2}
    counts = {name: (share.count, share.n) for name, share in found.shares.items()}
    assert counts["additive pairs that carry or borrow"] == (2, 3)
    assert counts["multiplicative pairs with a factor 0 or 1"] == (1, 1)
    asked = {q.family for q in found.questions if not q.held_out and q.additive}
    assert counts["seen additive facts that are asked"] == (len(asked), 4572)


def test_shares_of_the_whole_domain_are_the_usual_ones():
    shares = examine([pair(q.text) for form in FORMS for q in domain(form)]).shares
    for share in shares.values():
        assert share.rate == (1.0 if share.usual is None else share.usual)


def test_a_number_that_is_shown_twice_is_one_question():
    assert examine([pair("17+17=?")]).operands == {17: 1}


FOUND = {
    "few pairs, a pass makes 2 steps of 64": balanced(6),
    "no pair of the form a/x=b:": [p for p in balanced(30) if "/x" not in p.prompt],
    "90 pairs of the form a+b and 29 of a/x=b": [
        *(p for p in balanced(29)), *(pair(q.text) for q in [q for q in domain("a+b") if not q.held_out][40:101]),
    ],
    "56% of the answers are 0": [*balanced(30), *zeros(40)],
    "1 pairs ask a held-out fact": [*balanced(30), next(pair(q.text) for q in domain("a+b") if q.held_out)],
    "17+19=? will be asked in Step 8": [*balanced(30), pair("17+19=?")],
    "1 rejected answers have the right number": [*balanced(30), pair("15+21=?", " The answer is 36, or not.")],
}  # fmt: skip


@pytest.mark.parametrize("text", FOUND)
def test_what_is_odd_is_said_and_nothing_else(text):
    found = examine(FOUND[text])
    assert [advice for advice in findings(found) if text not in advice] == []
    assert f"think about: {text}" in report(found)


def test_nothing_odd():
    assert findings(examine(balanced(30))) == [] and report(examine(balanced(30))).endswith(
        "nothing odd about what they cover"
    )


def test_pairs_without_arithmetic_are_reported_and_drawn():
    found = examine([Pair("Who?", " You.", " No one.", 1)] * 300)
    assert findings(found) == ["no pair asks arithmetic: no test of this repository tells what a run learns from them"]
    assert "something else 300" in report(found)
    assert "300" in [text.get_text() for axis in pairs_figure(found).axes for text in axis.texts]


def test_figure_shows_the_counts():
    found = examine(balanced(4))
    axes = {axis.get_title("left"): axis for axis in pairs_figure(found).axes}
    assert [bar.get_width() for bar in axes["Pairs of each form"].patches] == [4] * 12
    heights = {bar.get_x() + 0.5: bar.get_height() for bar in axes["Questions with each answer"].patches}
    assert heights == dict(found.answers)
    assert [bar.get_width() for bar in axes["Coverage (a mark: the whole domain)"].patches] == [
        share.rate for share in found.shares.values()
    ]


def test_numbers_of_any_size_are_counted_and_drawn():
    found = examine([pair("317+219=?"), Pair(f"{10**100}+1=?", " 1.", " 2.", 1)])
    assert "0 of the numbers from 0 to 99; least often none" not in report(found) and 10**100 in found.operands
    axes = {axis.get_title("left"): axis for axis in pairs_figure(found).axes}
    assert len(axes["Questions that show each number (1 numbers are beyond)"].patches) == 3
    assert "least often none" in report(examine([pair("317+219=?")]))


def test_command(tmp_path, pairs_file, capsys):
    main(Config(files=(str(pairs_file),), report=True, figure=str(tmp_path / "pairs.png")))
    printed = capsys.readouterr().out
    assert "8 pairs, 8 of them arithmetic, in 1 forms" in printed and "think about: few pairs" in printed
    assert (tmp_path / "pairs.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="take the pairs of one file"):
        main(Config(files=(str(pairs_file),) * 2, figure="two.png"))
