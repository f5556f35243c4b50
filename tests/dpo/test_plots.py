"""The figures show what they were given: lines, labels, colours, and room for the odd cases."""

import numpy as np
import pytest
from conftest import texts_in
from histories import made_up_run

from dpo.evaluation.replies import judge, sample_domain
from dpo.evaluation.tables import evaluate
from dpo.evaluation.tokens import Character
from dpo.pass_at_k import KS
from dpo.plots.answers import (
    answer_figure,
    pass_at_k_figure,
    strip_figure,
)
from dpo.plots.kinds import kinds_figure
from dpo.plots.style import check_picture
from dpo.plots.training import LiveFigure
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


# The live figure


class Handle:
    """A place in a notebook; every figure that stands there, one after the other."""

    def __init__(self):
        self.shown = []

    def update(self, figure):
        self.shown.append(figure)


def test_live_figure_keeps_its_interval():
    handle = Handle()
    live = LiveFigure(60, display=lambda figure, display_id: handle, seconds=1000)
    live.update(made_up_run())
    assert not handle.shown
    live.update(made_up_run(), force=True)
    assert handle.shown == [live.figure]


@pytest.fixture
def drawn():
    """The lines of the live figure, by the titles of its panels."""
    live = LiveFigure(60)
    live.update(made_up_run(), force=True)
    return {
        axis.get_title("left"): [list(line.get_ydata()) for line in axis.lines]
        for axis in live.axes.flat
    }


def test_live_figure_draws_the_margins(drawn):
    margins = made_up_run()["rewards/margins"]
    assert margins in drawn["Implicit rewards: beta x log-ratio"]


def test_live_figure_draws_the_answers(drawn):
    evals = made_up_run().evals
    expected = [evals["exact/held_out"], evals["exact/trained"]]
    assert drawn["Questions answered right"] == expected


def test_live_figure_draws_the_kl(drawn):
    assert drawn["Distance from the base: KL (nats)"] == [made_up_run().evals["kl"]]


def test_live_figure_without_evals_has_four_panels():
    run, live = made_up_run(), LiveFigure(60)
    run.evals = {}
    live.update(run, force=True)
    assert [axis.axison for axis in live.axes.flat] == [True] * 4 + [False] * 2


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
        "before: 0.0 % of 20\nare wrong with confidence",
        "after: 35.0 % of 20\nare wrong with confidence",
    ]


def test_kinds_figure_names_every_kind_under_its_heading(kinds):
    names = [tick.get_text() for tick in kinds.axes[0].get_yticklabels()]
    assert names == ["it has an answer", "sums", "it has none, kept from the base", "by zero"]


def test_kinds_figure_has_bars_that_add_up(kinds):
    bars = [(bar.get_x(), bar.get_width()) for bar in kinds.axes[1].patches]
    # right, refused and wrong of the first kind, then of the second
    expected = [(0.0, 0.9), (0.9, 0.0), (0.9, 0.1), (0.0, 0.0), (0.0, 0.4), (0.4, 0.6)]
    assert np.allclose(bars, expected)


def test_kinds_figure_has_the_first_kind_on_top(kinds):
    heights = [bar.get_y() for bar in kinds.axes[1].patches]
    assert heights[0] > heights[3]


# Single characters

ANSWERS = {"chosen": " Yes.", "rejected": " No."}


@pytest.fixture(scope="module")
def strip():
    """Two answers that part at their second character, where the policy has changed most."""
    changes = {"chosen": [0.0, 2.0, 0.1, 0.0, 0.0, 0.0], "rejected": [0.0, -1.0, 0.0, 0.0, 0.0]}
    return strip_figure("Well?", ANSWERS, changes)


@pytest.fixture
def colours(strip):
    """The colour of every character, by its place."""
    boxes = [box for box in strip.axes[0].patches if box.get_linewidth() <= 2]
    return {box.get_xy(): np.array(box.get_facecolor()) for box in boxes}


def test_strip_says_where_the_answers_part(strip):
    assert "here the answers part: +2.00 and -1.00 nats" in texts_in(strip)


def test_strip_sums_up_the_changes(strip):
    assert "chosen\n+2.10 nats" in texts_in(strip)


def test_strip_marks_where_the_answers_part(strip):
    marked = [box.get_xy() for box in strip.axes[0].patches if box.get_linewidth() > 2]
    assert marked == [(1, 1.25), (1, 0)]


def test_strip_has_a_box_a_character(colours):
    # " Yes." and " No.", each with its newline
    assert len(colours) == 6 + 5


def test_strip_colours_tell_rise_from_fall(colours):
    assert not np.allclose(colours[1, 1.25], colours[1, 0])


def test_strip_without_a_change_has_one_colour(colours):
    assert np.allclose(colours[0, 1.25], colours[0, 0])


def test_strip_of_an_untrained_policy_is_drawn():
    nothing = {"chosen": [0.0] * 6, "rejected": [0.0] * 5}
    assert strip_figure("Well?", ANSWERS, nothing)


def test_answer_shows_shares_and_alternatives():
    characters = [Character("Y", 0.75, [("N", 0.2), (" ", 0.001)]), Character("\n", 1.0, [])]
    shown = texts_in(answer_figure("Well?", characters))
    assert shown[:6] == ["Y", "75", "N", "20", "␣", "·"]
    assert shown[6:8] == ["⏎", "100"]


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
