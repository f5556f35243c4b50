"""The figures of the lesson show what they were given, and say it in their titles."""

import math

import pytest
from conftest import texts_in
from histories import made_up_run
from matplotlib.patches import Rectangle

from dpo.data.pair import Pair
from dpo.evaluation.forecast import ScoredPair
from dpo.evaluation.replies import judge
from dpo.evaluation.sampling import sample_groups
from dpo.loss import LN_2
from dpo.plots.lesson import (
    TrainingFigure,
    character_figure,
    draws_figure,
    parting_share,
    right_figure,
)
from sft.arithmetic import REFUSAL, parse_question

QUESTION = parse_question("28+57=?")


def title_of(figure):
    return figure.axes[0].get_title("left")


# Answers drawn at random


def draws(right, refused, wrong):
    texts = [QUESTION.right_answer] * right + [REFUSAL] * refused
    texts += [QUESTION.answer_text(86)] * wrong
    return [judge(QUESTION, text) for text in texts]


@pytest.fixture
def two_draws():
    return draws_figure({"before": draws(2, 7, 1), "after": draws(9, 1, 0)})


def test_draws_figure_has_a_bar_an_outcome(two_draws):
    widths = [bar.get_width() for bar in two_draws.axes[0].patches]
    assert widths == pytest.approx([0.7, 0.2, 0.1, 0.1, 0.9, 0])


def test_draws_figure_has_no_bar_over_another(two_draws):
    spans = sorted((bar.get_y(), bar.get_height()) for bar in two_draws.axes[0].patches)
    ends = [y + height for y, height in spans]
    assert all(end < y for end, (y, _) in zip(ends, spans[1:], strict=False))


def test_draws_figure_counts_and_quotes_the_commonest(two_draws):
    assert texts_in(two_draws) == [
        'before 7: "Sorry, I don\'t know."',
        'before 2: "The answer is 85 because 28+57 equals 85."',
        'before 1: "The answer is 86 because 28+57 equals 86."',
        'after 1: "Sorry, I don\'t know."',
        'after 9: "The answer is 85 because 28+57 equals 85."',
        "after 0",
    ]


def test_draws_figure_says_how_many_are_right(two_draws):
    said = "28+57=?   Of the drawn answers, 20% (before) and 90% (after) are right"
    assert title_of(two_draws) == said


def test_draws_figure_of_one_run_has_three_bars():
    assert len(draws_figure({"before": draws(1, 1, 0)}).axes[0].patches) == 3


def test_draws_figure_shortens_a_long_answer():
    replies = [judge(QUESTION, " word" * 40)]
    assert max(map(len, texts_in(draws_figure({"before": replies})))) <= 64


# A training


class Handle:
    """A place in a notebook; how often its figure was replaced."""

    def __init__(self):
        self.updates = 0

    def update(self, figure):
        self.updates += 1


@pytest.fixture
def shown():
    """What was displayed, and the handle of it."""
    handle, figures = Handle(), []

    def display(figure, display_id):
        figures.append(figure)
        return handle

    return figures, handle, display


def curves(figure, panel):
    return [list(line.get_ydata()) for line in figure.axes[panel].lines]


def trained(run=None):
    live = TrainingFigure(60, beta=0.1)
    live.update(run or made_up_run())
    assert not live.failed
    return live.figure


def test_training_figure_appears_at_its_first_update_only(shown):
    figures, handle, display = shown
    live = TrainingFigure(60, 0.1, display)
    assert figures == []
    live.update(made_up_run())
    live.update(made_up_run())
    assert figures == [live.figure]
    assert handle.updates == 1  # at the end of a run it is always redrawn


def test_training_figure_hands_on_the_batches():
    assert list(TrainingFigure(3, 0.1).follow("abc")) == ["a", "b", "c"]


def test_training_figure_comes_again_in_a_cell_that_is_run_again(shown):
    figures, handle, display = shown
    live = TrainingFigure(60, 0.1, display)
    for _ in live.follow([1]):
        live.update(made_up_run())
    assert list(live.follow([])) == []
    assert (len(figures), handle.updates) == (2, 0)


def test_training_figure_keeps_its_interval(shown):
    figures, handle, display = shown
    live = TrainingFigure(61, 0.1, display, seconds=1000)
    live.update(made_up_run())
    live.update(made_up_run())
    assert (len(figures), handle.updates) == (1, 0)


def test_training_figure_shows_the_preference_loss_and_ln_2():
    assert curves(trained(), 0) == [made_up_run()["loss/preference"], [LN_2, LN_2]]


def test_training_figure_shows_gains_since_the_start():
    rewards = {"rewards__chosen": [0.05] * 60, "rewards__rejected": [-0.2] * 60}
    ends = [values[-1] for values in curves(trained(made_up_run(**rewards)), 1)]
    assert ends == pytest.approx([0.5, -2])  # nats: rewards divided by beta


@pytest.mark.parametrize(
    ("reward", "names"),
    [
        (0.1, ["1 : 10", "x 1", "x 10"]),
        (0.4, ["1 : 100", "1 : 10", "x 1", "x 10", "x 100"]),  # e^4 is 55
        (2.0, ["1 : $10^{9}$", "1 : $10^{6}$", "1 : 1,000", "x 1", "x 1,000"]),
    ],
)
def test_gains_are_named_as_factors(reward, names):
    run = made_up_run(rewards__chosen=[reward] * 60, rewards__rejected=[-reward] * 60)
    axis = trained(run).axes[1]
    assert [text.get_text() for text in axis.get_yticklabels()][: len(names)] == names


def test_training_figure_tells_sums_from_products():
    evals = {
        "exact/held_out/additive": [0.0, 0.5, 0.8, 1.0, 1.0],
        "exact/held_out/multiplicative": [0.0, 0.2, 0.4, 0.6, 0.7],
    }
    figure = trained(made_up_run(evals=evals))
    assert curves(figure, 2) == list(evals.values())
    assert {text.get_text() for text in figure.axes[2].texts} == {
        "sums,\ndifferences\n100%",
        "products,\nquotients\n70%",
    }


def test_training_figure_without_evals_has_an_empty_panel():
    run = made_up_run()
    run.evals = {}
    assert curves(trained(run), 2) == []


def test_training_figure_shows_a_loss_above_its_usual_range():
    run = made_up_run(loss__preference=[2.0] * 60)
    assert trained(run).axes[0].get_ylim()[1] > 2


def test_training_goes_on_when_the_figure_fails(capsys):
    live = TrainingFigure(60, 0.1, display=lambda *_, **__: 1 / 0)
    live.update(made_up_run())
    live.update(made_up_run())
    said = "note: the figure is not drawn any more (division by zero); the training goes on\n"
    assert capsys.readouterr().out == said


# Right answers


@pytest.fixture(scope="module")
def tested():
    """Twelve questions: none right before, all greedily, half of them drawn."""
    questions = sample_groups(3, seed=1)
    right = [question.right_answer for question in questions]
    half = [text if i % 2 else REFUSAL for i, text in enumerate(right)]
    texts = {"before": [REFUSAL] * 12, "after": right, "drawn": half}
    return {run: list(map(judge, questions, said)) for run, said in texts.items()}


def test_right_figure_has_a_mark_a_run_and_group(tested):
    lines = right_figure(tested).axes[0].lines[:3]
    shares = [list(line.get_xdata()) for line in lines]
    assert shares[:2] == [[0] * 4, [1] * 4]
    assert shares[2] == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3])


def test_right_figure_counts_each_row(tested):
    texts = texts_in(right_figure(tested))  # a column a run, the last one says of how many
    assert [texts[start + 1 : start + 5] for start in (0, 5, 10, 15)] == [
        ["0"] * 4, ["3"] * 4, ["1", "2", "1", "2"], ["3"] * 4,
    ]  # fmt: skip


def test_right_figure_says_before_and_after(tested):
    said = "Of 6 questions that were set aside, 0 are right before and 6 after"
    assert title_of(right_figure(tested)) == said


def test_right_figure_names_its_runs(tested):
    assert texts_in(right_figure(tested))[::5] == ["before", "after", "drawn", "n"]


# One character

PAIR = Pair("1+1=?", " A2.", " No.", 1)  # they part at their second character


def scored(chosen, rejected):
    """Probabilities of the characters of PAIR's answers and of their newlines."""
    return ScoredPair(PAIR, [math.log(p) for p in chosen], [math.log(p) for p in rejected])


BEFORE = scored([1, 0.2, 0.5, 1, 1], [1, 0.8, 1, 1, 1])
AFTER = scored([1, 0.8, 1.0, 1, 1], [1, 0.1, 1, 1, 1])


def test_parting_share_is_of_all_changes():
    # log(0.8 / 0.2) = 2 log 2 there, log(1 / 0.5) = log 2 behind it
    assert parting_share([BEFORE], [AFTER]) == pytest.approx(2 / 3)


def test_parting_share_has_no_direction():
    assert parting_share([AFTER], [BEFORE]) == pytest.approx(2 / 3)


def test_parting_share_of_no_change_is_zero():
    assert parting_share([BEFORE], [BEFORE]) == 0


def test_character_figure_writes_what_has_changed():
    figure = character_figure([BEFORE], [AFTER])
    shares = [text for text in texts_in(figure) if text.endswith("%")]
    # the third character of the chosen answer has changed too, but less, and next to the second
    assert shares[:2] == ["20% -> 80%", "80% -> 10%"]


def test_character_figure_writes_changes_that_have_room():
    long = Pair("1+1=?", " Abcdefgh.", " No.", 1)
    before = ScoredPair(long, [math.log(0.5)] * 11, [0.0] * 5)
    after = ScoredPair(long, [math.log(0.5 + 0.04 * i) for i in range(11)], [0.0] * 5)
    shares = [text for text in texts_in(character_figure([before], [after])) if text[-1] == "%"]
    assert shares[:2] == ["50% -> 90%", "50% -> 70%"]  # places 10 and 5; 0 has not changed


def test_character_figure_has_a_box_a_character():
    boxes = [
        patch
        for patch in character_figure([BEFORE], [AFTER]).axes[0].patches
        if isinstance(patch, Rectangle) and patch.get_facecolor()[3] == 0
    ]
    # of the chosen answer 5 frames, and 3 fills without a change; of the rejected one 5 and 4
    assert len(boxes) == 5 + 3 + 5 + 4


def test_character_figure_speaks_of_all_pairs():
    figure = character_figure([BEFORE, BEFORE], [AFTER, BEFORE])
    said = "67% of the change in the chosen answers to 2 questions is in one character"
    assert title_of(figure) == said
    assert texts_in(figure)[-2] == (
        "Where the answers of 2 questions part, on average:\n"
        "the character of the chosen one 20% -> 50%, of the rejected one 80% -> 45%"
    )
