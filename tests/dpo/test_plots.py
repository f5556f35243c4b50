"""The figures show what they were given: lines, labels, colours, and room for the odd cases."""

from collections import Counter

import numpy as np
import pytest
from conftest import texts_in
from histories import made_up_run

from dpo.evaluation.replies import judge, sample_domain
from dpo.evaluation.tables import evaluate
from dpo.evaluation.tokens import Character
from dpo.pass_at_k import KS
from dpo.plots.answers import (
    LINE,
    answer_figure,
    pass_at_k_figure,
)
from dpo.plots.kinds import kinds_figure
from dpo.plots.style import check_picture
from dpo.plots.training import dials_figure
from sft.files import SaveError


@pytest.fixture(scope="module")
def questions():
    return sample_domain(12, seed=1)


@pytest.fixture(scope="module")
def before(questions):
    return evaluate([judge(question, " I don't know.") for question in questions])


@pytest.fixture(scope="module")
def after(questions):
    return evaluate([judge(question, question.right_answer) for question in questions])


# The dials


@pytest.fixture
def drawn():
    """The lines of the dials, by the titles of their panels."""
    return {
        axis.get_title("left"): [list(line.get_ydata()) for line in axis.lines]
        for axis in dials_figure(made_up_run()).axes
    }


def test_dials_have_the_margins(drawn):
    margins = made_up_run()["rewards/margins"]
    assert margins in drawn["Implicit rewards: beta x log-ratio"]


def test_dials_have_the_answers(drawn):
    evals = made_up_run().evals
    expected = [evals["exact/held_out"], evals["exact/trained"]]
    assert drawn["Questions answered right"] == expected


def test_dials_have_the_kl(drawn):
    assert drawn["Distance from the base: KL (nats)"] == [made_up_run().evals["kl"]]


def test_dials_without_evals_have_four_panels():
    run = made_up_run()
    run.evals = {}
    assert [axis.axison for axis in dials_figure(run).axes] == [True] * 4 + [False] * 2


# Rates


@pytest.fixture(params=[["this base"], ["this base", "blank base"]], ids=["one base", "two bases"])
def pass_at_k(request, after):
    """The figure of one or two bases with a rate of 0.4 everywhere, and their names."""
    share = {"n": 10, "count": 4, "rate": 0.4, "low": 0.2, "high": 0.7}
    group = {"n": 10, "samples": 64, "temperature": 1.0} | {f"pass@{k}": share for k in KS}
    bases = {name: {"held_out/additive": group} for name in request.param}
    return pass_at_k_figure(bases, after), request.param


def test_pass_at_k_figure_has_a_line_a_base(pass_at_k):
    figure, names = pass_at_k
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(KS)]
    assert [list(line.get_ydata()) for line in lines] == [[0.4] * 4] * len(names)


def test_pass_at_k_figure_names_its_lines(pass_at_k):
    figure, names = pass_at_k
    assert set(texts_in(figure)) == {*names, "tuned: 100%"}


# Kinds of questions


def shares(in_base, right, refused, wrong):
    """The outcomes of ten replies to a kind of which the base has seen so much."""
    counts = {"right": right, "refused": refused, "wrong": wrong}
    rates = {name: {"n": 10, "rate": count / 10} for name, count in counts.items()}
    return {"in_base": in_base, "n": 10} | rates


@pytest.fixture
def kinds():
    """The figure of two models that were asked two kinds."""
    before = {"sums": shares("answered", 0, 10, 0), "by zero": shares("never", 0, 10, 0)}
    after = {"sums": shares("answered", 9, 0, 1), "by zero": shares("never", 0, 4, 6)}
    summaries = {}
    for name, kinds, rate in (("before", before, 0.0), ("after", after, 0.35)):
        share = {"n": 20, "rate": rate}
        summaries[name] = {"wrong_with_confidence": share, "kinds": kinds}
    return kinds_figure(summaries)


def test_kinds_figure_has_a_panel_a_model(kinds):
    assert [axis.get_title("left") for axis in kinds.axes] == [
        "before: 0.0 % of 20 are\nwrong with confidence",
        "after: 35.0 % of 20 are\nwrong with confidence",
    ]


def test_kinds_figure_names_every_kind_under_its_heading(kinds):
    names = [tick.get_text() for tick in kinds.axes[0].get_yticklabels()]
    assert names == [
        "the base can calculate it",
        "sums",
        "it cannot, and never met the kind",
        "by zero",
    ]


def test_kinds_figure_has_bars_that_add_up(kinds):
    bars = [(bar.get_x(), bar.get_width()) for bar in kinds.axes[1].patches]
    # right, refused and wrong of the first kind, then of the second
    expected = [(0.0, 0.9), (0.9, 0.0), (0.9, 0.1), (0.0, 0.0), (0.0, 0.4), (0.4, 0.6)]
    assert np.allclose(bars, expected)


def test_kinds_figure_has_the_first_kind_on_top(kinds):
    heights = [bar.get_y() for bar in kinds.axes[1].patches]
    assert heights[0] > heights[3]


# Single characters


def test_answer_shows_shares_and_alternatives():
    characters = [Character("Y", 0.75, [("N", 0.2), (" ", 0.001)])]
    assert texts_in(answer_figure("Well?", characters))[-3:] == ["Y 75", "N 20", "␣"]


def test_answer_shows_no_share_of_what_is_certain():
    assert texts_in(answer_figure("Well?", [Character("\n", 1.0, [])]))[-1] == "⏎"


def test_answer_goes_on_in_a_second_line():
    figure = answer_figure("Well?", [Character("a", 1.0, [])] * (LINE + 2))
    lines = Counter(box.get_y() for box in figure.axes[0].patches)
    assert sorted(lines.values()) == [2, LINE]


# Pictures


def test_a_picture_has_the_ending_of_one(tmp_path):
    with pytest.raises(ValueError, match="name a picture that ends in"):
        check_picture(tmp_path / "runs.txt")


def test_a_picture_needs_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot write into"):
        check_picture(tmp_path / "file/picture.png")


def test_checking_a_picture_leaves_no_file(tmp_path):
    check_picture(tmp_path / "new/picture.png")
    assert not list((tmp_path / "new").iterdir())
