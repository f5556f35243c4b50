"""The figures show what they were given: lines, labels, colours, and room for the odd cases."""

import numpy as np
import pytest
from test_curves import history

from dpo.characters import Character
from dpo.evaluate import evaluate, judge, sample_domain
from dpo.pass_at_k import KS
from dpo.plots import (
    LiveFigure,
    answer_figure,
    before_after_figure,
    check_picture,
    pass_at_k_figure,
    schedule_figure,
    strip_figure,
)
from sft.files import SaveError


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.fixture(scope="module")
def results():
    questions = sample_domain(12, seed=1)
    return [
        evaluate([judge(q, t(q)) for q in questions]) for t in (lambda q: " I don't know.", lambda q: q.right_answer)
    ]


def test_the_live_figure_draws_every_metric_once_and_without_looks():
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(figure)

    live = LiveFigure(60, display=lambda figure, display_id: Handle(), seconds=1000)
    run = history()
    live.update(run)
    assert not shown, "not drawn twice within the interval"
    live.update(run, force=True)
    assert shown == [live.figure]
    drawn = {axis.get_title("left"): [list(line.get_ydata()) for line in axis.lines] for axis in live.axes.flat}
    assert run["rewards/margins"] in drawn["Implicit rewards: beta x log-ratio"]
    assert drawn["Questions answered right"] == [run.looks["exact/held_out"], run.looks["exact/trained"]]
    assert drawn["Distance from the base: KL (nats)"] == [run.looks["kl"]]
    run.looks = {}
    blind = LiveFigure(60)
    blind.update(run, force=True)
    assert [axis.axison for axis in blind.axes.flat] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("names", [["this base"], ["this base", "blank base"]])
def test_pass_at_k_with_and_without_a_second_base(results, names):
    share = {"n": 10, "count": 4, "rate": 0.4, "low": 0.2, "high": 0.7}
    group = {"n": 10, "samples": 64, "temperature": 1.0} | {f"pass@{k}": share for k in KS}
    figure = pass_at_k_figure({name: {"held_out/additive": group} for name in names}, results[1])
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(KS)]
    assert len(lines) == len(names) and all(list(line.get_ydata()) == [0.4] * 4 for line in lines)
    assert set(texts(figure)) == {*names, "tuned: 100%"}


def test_bars_before_and_after(results):
    figure = before_after_figure(*results)
    assert texts(figure) == ["before 0.0%"] * 6 + ["after 100.0%"] * 6
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.0] * 6 + [1.0] * 6


def test_the_strip_marks_where_the_answers_part():
    answers = {"chosen": " Yes.", "rejected": " No."}
    changes = {"chosen": [0.0, 2.0, 0.1, 0.0, 0.0, 0.0], "rejected": [0.0, -1.0, 0.0, 0.0, 0.0]}
    figure = strip_figure("Well?", answers, changes)
    assert "here the answers part: +2.00 and -1.00 nats" in texts(figure) and "chosen\n+2.10 nats" in texts(figure)
    axis = figure.axes[0]
    marked = [box.get_xy() for box in axis.patches if box.get_linewidth() > 2]
    assert marked == [(1, 1.25), (1, 0)]
    colors = {box.get_xy(): np.array(box.get_facecolor()) for box in axis.patches if box.get_linewidth() <= 2}
    assert len(colors) == 11 and not np.allclose(colors[1, 1.25], colors[1, 0])
    assert np.allclose(colors[0, 1.25], colors[0, 0]), "no change has one colour"
    assert strip_figure("Well?", answers, {"chosen": [0.0] * 6, "rejected": [0.0] * 5}), "an untrained policy"


def test_the_answer_shows_shares_and_rivals():
    shown = texts(answer_figure("Well?", [Character("Y", 0.75, [("N", 0.2), (" ", 0.001)]), Character("\n", 1.0, [])]))
    assert shown[:6] == ["Y", "75", "N", "20", "␣", "·"] and shown[6:8] == ["⏎", "100"]


def test_the_schedule():
    [line] = schedule_figure([0.1, 0.2, 0.1]).axes[0].lines
    assert list(line.get_xdata()) == [1, 2, 3] and list(line.get_ydata()) == [0.1, 0.2, 0.1]


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="name a picture that ends in"):
        check_picture(tmp_path / "runs.txt")
    with pytest.raises(SaveError, match="cannot write into"):
        check_picture(tmp_path / "file/picture.png")
    check_picture(tmp_path / "new/picture.png")
    assert not list((tmp_path / "new").iterdir())
