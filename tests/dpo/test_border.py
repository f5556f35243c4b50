"""The border: log-odds of a refusal, what runs of more and more steps make of them, the figures."""

import json
import tempfile
from itertools import combinations

import pytest
import torch
from conftest import make_terse, same_bits, texts_in

from dpo import border, train
from dpo.border import (
    GROUPS,
    border_odds,
    odds_table,
    points_table,
    run_lengths,
    summarise_odds,
    summarise_point,
    train_for,
)
from dpo.evaluation.replies import judge
from dpo.evaluation.tables import rate
from dpo.formats import FORMATS, WITHOUT_ANSWER, ask_kinds, sample_kind
from dpo.plots.kinds import border_figure, odds_figure
from sft.checkpoint.weights import load_model, save_checkpoint
from sft.knowledge import refusal_log_odds

ALL = [*FORMATS, *WITHOUT_ANSWER]
SUMS, PRODUCTS = "sums and differences: 17+19=?", "two digits by one: 47*8=?"
BOTH_SIDES = "two sides: x+4=17+19,x=?"
REFUSAL = " Sorry, I don't know."

# The log-odds of a refusal


def test_odds_are_of_every_kind(tiny, tokenizer):
    odds = border_odds(tiny, tokenizer, 2, seed=1)
    assert {name: len(values) for name, values in odds.items()} == dict.fromkeys(ALL, 2)


def test_odds_are_those_of_the_sample(tiny, tokenizer):
    _, prompts = sample_kind(SUMS, 3, 5, "test")
    expected = refusal_log_odds(tiny, tokenizer, prompts)
    assert torch.equal(border_odds(tiny, tokenizer, 3, 5, "test")[SUMS], expected)


def test_groups_have_every_kind_once():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(ALL)


def test_groups_say_what_the_base_has_met():
    assert BOTH_SIDES in GROUPS["never"]
    assert "remainder: 52/3=?" in GROUPS["refused"]


@pytest.fixture(scope="module")
def odds():
    """Three questions a kind: products lie lowest, and those without an answer highest.

    The run lowers all by 2 nats, except that SUMS are as written here.
    """
    before = {name: torch.tensor([1.0, 2.0, 3.0]) + 5 * (name in WITHOUT_ANSWER) for name in ALL}
    before[PRODUCTS] = torch.tensor([0.0, 0.5, 1.0])
    after = {name: values - 2 for name, values in before.items()}
    before[SUMS], after[SUMS] = torch.tensor([0.0, 2.0, 10.0]), torch.tensor([1.0, 3.0, 2.0])
    return summarise_odds(before, after)


def test_odds_have_median_and_range(odds):
    # 10 % of the way through three values are a fifth of the way from the first to the second
    assert odds[SUMS]["before"] == pytest.approx({"low": 0.4, "median": 2.0, "high": 8.4})


def test_odds_are_lowered_question_by_question(odds):
    # by -1, -1 and 8: the medians before and after are both 2
    assert odds[SUMS]["lowered"]["median"] == -1


def test_odds_come_group_by_group(odds):
    order = [kind["in_base"] for kind in odds.values()]
    assert order == ["answered"] * 9 + ["refused"] * 15 + ["never"] * 3


def test_odds_begin_with_the_kind_nearest_to_an_answer(odds):
    assert next(iter(odds)) == PRODUCTS


def test_odds_table_has_a_row_a_kind(odds):
    head, _, first, *others = odds_table(odds, 32).splitlines()[2:]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == [
        PRODUCTS,
        "answered",
        "3",
        "0.5 (0.1 to 0.9)",
        "-1.5 (-1.9 to -1.1)",
        "2.0 (2.0 to 2.0)",
    ]
    assert "after 32 steps" in head
    assert len(others) == len(ALL) - 1


# Risk against coverage


@pytest.fixture(scope="module")
def point():
    """Replies to every kind: with an answer right, refused, wrong, wrong; else refused, wrong."""
    replies = {}
    for name in FORMATS:
        [question], _ = sample_kind(name, 1, seed=1)
        texts = (question.right_answer, REFUSAL, "", " 5")
        replies[name] = [judge(question, text) for text in texts]
    for name in WITHOUT_ANSWER:
        replies[name] = [judge(None, text) for text in (REFUSAL, " The answer is 0.")]
    return summarise_point(replies)


@pytest.mark.parametrize(
    ("share", "count", "n"),
    [
        ("right", 9, 36),
        ("refused_with_answer", 9, 36),
        ("refused_without_answer", 18, 36),
        ("wrong_with_confidence", 18 + 18, 36 + 36),
    ],
)
def test_a_point_counts_its_questions(point, share, count, n):
    assert (point[share]["count"], point[share]["n"]) == (count, n)


def test_points_table_marks_the_run(point):
    text = points_table([{"steps": steps, **point} for steps in (0, 8, 32)], 8)
    assert [line.split("|")[1].strip() for line in text.splitlines()[4:]] == ["0", "**8**", "32"]


def test_points_table_says_of_how_many(point):
    head = points_table([{"steps": 0, **point}], 8).splitlines()[0]
    assert "the 36 questions that the base can calculate" in head
    assert "all 72" in head


# The runs


@pytest.mark.parametrize(
    ("steps", "lengths"),
    [(32, [0, 8, 16, 24, 32, 48, 64, 96, 128]), (1, [0, 1, 2, 3, 4])],
)
def test_runs_go_from_none_to_four_times_the_steps(steps, lengths):
    assert run_lengths(steps) == lengths


@pytest.fixture
def tiny_config(tiny_folder):
    """Settings of the border of the tiny base, with one question a kind."""
    files = {"base": str(tiny_folder / "base.pt"), "pairs": str(tiny_folder / "pairs.json")}
    return lambda **settings: border.Config(**files | {"n": 1, "device": "cpu"} | settings)


@pytest.mark.parametrize("settings", [{}, {"seed": 3}, {"base_lr": 1e-3}], ids=str)
def test_a_run_is_that_of_the_command(tiny_config, tmp_path, settings):
    config = tiny_config(**settings)
    about = {"base": config.base, "pairs": config.pairs, "out": str(tmp_path), "device": "cpu"}
    expected, _ = train.train(train.Config(**about, steps=3, **settings))
    assert same_bits(train_for(3, config), expected)


def test_a_run_leaves_no_file(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    train_for(1, tiny_config())
    assert not list(tmp_path.iterdir())


def test_a_run_says_nothing(tiny_config, capsys):
    train_for(1, tiny_config())
    assert capsys.readouterr().out == ""


# The program


@pytest.fixture(scope="module")
def terse_files(tokenizer, tiny_folder):
    """Settings of the border: a terse base and the tiny pairs."""
    save_checkpoint(tiny_folder / "terse.pt", make_terse(tokenizer))
    return {"base": str(tiny_folder / "terse.pt"), "pairs": str(tiny_folder / "pairs.json")}


@pytest.fixture(scope="module")
def written(terse_files, tmp_path_factory):
    """What the program writes into its file, and the pictures it draws."""
    folder = tmp_path_factory.mktemp("border")
    names = {"json": "b.json", "figure": "curve.png", "odds_figure": "odds.png"}
    files = {setting: str(folder / name) for setting, name in names.items()} | terse_files
    border.main(border.Config(**files, n=2, steps=2, base_lr=1e-2, device="cpu"))
    return json.loads((folder / "b.json").read_text()), folder


def test_program_has_a_point_a_run(written):
    # a quarter, half and three quarters of two steps are 0, 1 and 2, rounded
    assert [point["steps"] for point in written[0]["points"]] == [0, 1, 2, 3, 4, 6, 8]


def test_program_begins_with_the_base(written, terse_files):
    base = load_model(terse_files["base"])
    expected = summarise_point(ask_kinds(*base, 2, 1, "validation"))
    assert written[0]["points"][0] == {"steps": 0, **expected}


def test_program_compares_the_base_with_the_marked_run(written, terse_files):
    base, tokenizer = load_model(terse_files["base"])
    tuned = train_for(2, border.Config(**terse_files, base_lr=1e-2, device="cpu"))
    odds = (border_odds(model, tokenizer, 2, 1, "validation") for model in (base, tuned))
    assert written[0]["odds"] == summarise_odds(*odds)


def test_program_says_how_it_was_made(written):
    about = {"seed": 1, "split": "validation", "base_lr": 1e-2, "steps": 2}
    assert {name: written[0][name] for name in about} == about


@pytest.mark.parametrize("name", ["curve.png", "odds.png"])
def test_program_draws(written, name):
    assert (written[1] / name).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--steps=0", "steps is 0; a run needs at least one"),
        ("--figure=curve.txt", "curve.txt: name a picture that ends in .png, .svg, .pdf"),
        ("--odds_figure=odds.txt", "odds.txt: name a picture that ends in .png, .svg, .pdf"),
    ],
)
def test_program_refuses_before_it_loads(run_program, word, message):
    ended = run_program("dpo.border", word, "--base=none.pt")
    assert (ended.code, ended.err) == (1, f"error: {message}\n")


# The figures


def labels_in(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


def test_odds_figure_has_a_row_a_kind_and_a_heading_a_group(odds):
    [axis] = odds_figure(odds, 32).axes
    assert set(labels_in(axis)) >= set(ALL)
    assert len(labels_in(axis)) == len(ALL) + len(GROUPS)


@pytest.mark.parametrize("model", ["before", "after"])
def test_odds_figure_marks_the_medians(odds, model):
    [axis] = odds_figure(odds, 32).axes
    marker = {"before": "o", "after": "D"}[model]
    drawn = [float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == marker]
    assert drawn == [kind[model]["median"] for kind in odds.values()]


def test_odds_figure_says_how_far(odds):
    [axis] = odds_figure(odds, 32).axes
    assert axis.get_title("left").startswith(
        "32 steps lower the log-odds of a refusal by -1.0 to 2.0"
    )


# steps, right and wrong with confidence, both in percent
CURVE = [(0, 0, 0), (8, 1, 0), (16, 40, 1), (24, 90, 4), (32, 96, 6), (48, 97, 20), (128, 96, 60)]


@pytest.fixture(scope="module")
def curve():
    points = [
        {"steps": steps, "right": rate(right, 100), "wrong_with_confidence": rate(wrong, 100)}
        for steps, right, wrong in CURVE
    ]
    return border_figure(points, 32, "the default")


def test_curve_names_its_points(curve):
    # the base and 8 steps lie so near to each other that they share a label
    names = ["32 steps, the default", "0 to 8 steps", "16 steps", "24 steps", "48 steps"]
    assert texts_in(curve) == [*names, "128 steps"]


def test_curve_goes_through_its_points(curve):
    [line] = [line for line in curve.axes[0].lines if len(line.get_xdata()) == len(CURVE)]
    drawn = zip(line.get_ydata(), line.get_xdata(), strict=True)
    assert list(drawn) == [(right / 100, wrong / 100) for _, right, wrong in CURVE]


def test_curve_says_what_comes_of_it(curve):
    assert curve.axes[0].get_title("left") == (
        "After 32 steps 96 % of what has an answer is right, and 6.0 % of all is wrong\n"
        "with confidence; after 128 steps 96 % and 60 %"
    )


def boxes_of(figure):
    """Where each text in the axes stands, once the figure is drawn."""
    figure.canvas.draw()
    texts = [text for axis in figure.axes for text in (*axis.texts, *axis.get_yticklabels())]
    return [text.get_window_extent() for text in texts]


@pytest.mark.parametrize("drawn", ["odds", "curve"])
def test_no_text_covers_another(request, drawn):
    figure = request.getfixturevalue(drawn)
    boxes = boxes_of(figure if drawn == "curve" else odds_figure(figure, 32))
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
