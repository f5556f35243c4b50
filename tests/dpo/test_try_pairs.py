"""Your pairs beside the shipped ones: what differs, what is trained, what is asked and told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, make_tiny, texts_in, write_tiny_pairs

from dpo import train, try_pairs
from dpo.data.pair import Pair, PairsError
from dpo.evaluation.replies import judge
from dpo.evaluation.tables import SHOWN, rate
from dpo.formats import WITHOUT_ANSWER
from dpo.loss import LN_2
from dpo.plots.tries import trial_figure
from dpo.try_pairs import (
    BY_SIGN,
    MINE,
    NO_ANSWER,
    Asked,
    Edit,
    Trial,
    Tuned,
    draw_questions,
    find_edits,
    is_run_of,
)
from sft.arithmetic import REFUSAL, parse_question
from sft.checkpoint.weights import save_checkpoint

# Which lines differ

ONE, TWO, THREE = (Pair(f"{n}+{n}=?", f" {2 * n}.", " No.", line=n + 1) for n in (1, 2, 3))


def at(pair, line, **texts):
    """The same pair in another line, some of its texts replaced."""
    return replace(pair, line=line, **texts)


def test_the_order_of_lines_is_no_edit():
    assert find_edits([ONE, TWO, THREE], [at(THREE, 2), at(ONE, 3), at(TWO, 4)]) == []


def test_an_edit_is_changed_added_or_removed():
    changed, added = at(TWO, 2, chosen=" 5."), at(THREE, 3, prompt="4+4=?")
    edits = find_edits([ONE, TWO, THREE], [changed, added])
    assert edits == [Edit(TWO, changed), Edit(None, added), Edit(ONE, None), Edit(THREE, None)]
    assert [edit.kind for edit in edits] == ["changed", "added", "removed", "removed"]


def test_a_line_that_stands_twice_is_added_once():
    twice = at(ONE, 9)
    assert find_edits([ONE], [ONE, twice]) == [Edit(None, twice)]


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (Edit(TWO, at(TWO, 7, chosen=" 5.")), "line 7: 2+2=? 4. ->  5."),
        (
            Edit(TWO, at(TWO, 7, chosen=" No.", rejected=" 4.")),
            "line 7: 2+2=? 4. ->  No.; No. ->  4.",
        ),
        (Edit(None, TWO), "line 3: 2+2=? 4.  not  No."),
        (Edit(TWO, None), "shipped line 3: 2+2=? 4.  not  No."),
    ],
    ids=["one answer", "both answers", "added", "removed"],
)
def test_an_edit_tells_its_line(edit, text):
    assert str(edit) == text


# What is asked


@pytest.fixture(scope="module")
def asked():
    return draw_questions(12)


def test_questions_are_always_the_same(asked):
    assert draw_questions(12) == asked


def test_questions_are_of_the_test(asked):
    assert {one.question.split for one in asked if one.topic != NO_ANSWER} == {"test"}


def test_every_kind_without_an_answer_is_asked(asked):
    assert sum(one.topic == NO_ANSWER for one in asked) == 2 * len(WITHOUT_ANSWER)


@pytest.mark.parametrize("sign", BY_SIGN)
def test_usual_questions_are_counted_by_sign(asked, sign):
    members = [one for one in asked if one.topic == BY_SIGN[sign]]
    assert len(members) == 6  # two in each of three forms
    assert all(sign in one.prompt for one in members)


def test_other_numbers_are_counted_by_kind(asked):
    others = [one.topic for one in asked if one.topic not in (*BY_SIGN.values(), NO_ANSWER)]
    assert {topic: others.count(topic) for topic in others} == {
        "results below zero: 17-36=?": 12,
        "three digits: 317+219=?": 12,
        "two digits by one: 47*8=?": 12,
    }


# Whether a run was made already


@pytest.fixture
def made(tiny_run):
    return tiny_run(steps=1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"out": "elsewhere"}, {"eval_every": 9}, {"quiet": True}, {"micro_batch": 1}],
    ids=["the same", "folder", "evals", "quiet", "micro_batch"],
)
def test_a_run_is_known_whatever_does_not_change_it(made, settings):
    assert is_run_of(made.path, replace(made.config, **settings))


def test_a_run_is_known_by_its_files_wherever_they_lie(made, tmp_path):
    copies = {}
    for name in ("base", "pairs"):
        copies[name] = str(shutil.copy(getattr(made.config, name), tmp_path / f"copy of {name}"))
    assert is_run_of(made.path, replace(made.config, **copies))


@pytest.mark.parametrize("settings", [{"seed": 2}, {"steps": 2}, {"beta": 0.2}, {"base_lr": 1e-9}])
def test_a_run_with_other_settings_is_another(made, settings):
    assert not is_run_of(made.path, replace(made.config, **settings))


@pytest.mark.parametrize("name", ["base", "pairs"])
def test_a_run_from_other_files_is_another(made, tmp_path, name):
    other = tmp_path / "other"
    if name == "pairs":
        other.write_text(Path(made.config.pairs).read_text() + "\n")
    else:
        save_checkpoint(other, made.policy)
    assert not is_run_of(made.path, replace(made.config, **{name: str(other)}))


def test_other_code_makes_another_run(made, monkeypatch):
    monkeypatch.setattr("dpo.training.provenance.code_hash", lambda: "00000000")
    assert not is_run_of(made.path, made.config)


def test_a_base_is_no_run(made):
    assert not is_run_of(Path(made.config.base), made.config)


def test_no_file_is_no_run(made):
    assert not is_run_of(Path("none.pt"), made.config)


# A whole trial

QUICK = {"steps": 2, "base_lr": 1e-2, "device": "cpu"}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The working folder is a repository with a tiny base; the folders of what is trained."""
    shipped = write_tiny_pairs(tmp_path / "pairs.json")
    for folder in ("dpo", "sft"):
        (tmp_path / folder).mkdir()
    shipped.rename(tmp_path / "dpo/pos_neg_pairs.json")
    shutil.copy(ROOT / "sft/meta.pkl", tmp_path / "sft")
    save_checkpoint(tmp_path / "sft/gpt.pt", make_tiny())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(try_pairs, "EVERY_NTH", 70)
    trained, original = [], train.train

    def count_and_train(config):
        trained.append(config.out)
        return original(config)

    monkeypatch.setattr(train, "train", count_and_train)
    return trained


def edit_pairs():
    """Your pairs: of the shipped ones without the last, the first one with another answer."""
    rows = json.loads(Path("dpo/pos_neg_pairs.json").read_text())[:-1]
    rows[0]["positive"] = "1+2=? The answer is 4."
    Path(MINE).write_text(json.dumps(rows, indent=0))


@pytest.fixture
def trial(small):
    edit_pairs()
    return try_pairs.try_pairs(n=1, **QUICK)


def test_both_runs_are_made(trial, small):
    assert small == ["runs/try/shipped", "runs/try/yours"]


def test_both_runs_have_as_many_steps(trial):
    assert [len(loss) for loss in trial.losses.values()] == [2, 2]


def test_both_runs_start_at_ln_2(trial):
    assert [loss[0] for loss in trial.losses.values()] == pytest.approx([LN_2, LN_2])


def test_edited_questions_are_asked(trial):
    assert trial.prompts == ["1+2=?", "12+13=?"]
    assert len(trial.base) == len(trial.runs["yours"].edited) == 2


def test_all_is_asked_of_both(trial):
    assert {len(run.replies) for run in trial.runs.values()} == {len(draw_questions(1))}


def test_a_trial_leaves_shipped_pairs_and_dpo_alone(small):
    edit_pairs()
    files = {path: path.read_bytes() for path in Path("dpo").iterdir()}
    try_pairs.try_pairs(n=1, **QUICK)
    assert {path: path.read_bytes() for path in Path("dpo").iterdir()} == files


def test_what_is_made_is_not_made_again(trial, small):
    again = try_pairs.try_pairs(n=1, **QUICK)
    assert len(small) == 2
    assert again == trial


def test_new_edits_train_your_run_only(trial, small):
    Path(MINE).write_text(Path(MINE).read_text().replace("is 4.", "is 5."))
    try_pairs.try_pairs(n=1, **QUICK)
    assert small[2:] == ["runs/try/yours"]


def test_the_run_in_dpo_is_taken(small):
    train.train(train.Config(**QUICK, eval_every=0))
    edit_pairs()
    try_pairs.try_pairs(n=1, **QUICK)
    assert small == ["dpo", "runs/try/yours"]


def test_pairs_without_an_edit_are_one_run(small):
    trial = try_pairs.try_pairs(n=1, **QUICK)
    assert small == ["runs/try/shipped"]
    assert trial.runs["shipped"] == trial.runs["yours"]


def test_pairs_without_an_edit_are_to_be_edited(small):
    trial = try_pairs.try_pairs(n=1, **QUICK)
    assert f"No pair differs yet: edit {MINE} and run this again." in trial.describe()


def test_mistakes_are_said_before_anything_is_trained(small):
    Path(MINE).write_text('{"positive": "1+1=? 2."}')
    with pytest.raises(PairsError, match=r"my_pairs[.]json: 1 to mend\n.*'negative' is missing"):
        try_pairs.try_pairs(n=1, **QUICK)
    assert small == []


# The command


def test_first_call_makes_your_file(small, run_program):
    ended = run_program("dpo.try_pairs")
    assert ended.out.startswith(f"made {MINE}, a copy of dpo/pos_neg_pairs.json: edit it")
    assert Path(MINE).read_bytes() == Path("dpo/pos_neg_pairs.json").read_bytes()
    assert small == []


def test_second_call_tells_and_draws(small, run_program):
    edit_pairs()
    ended = run_program("dpo.try_pairs", "--n=1", "--figure=try.png", "--device=cpu")
    assert ended.code == 0, ended.err
    assert "\n8 shipped pairs, 7 of yours.\nchanged: 1\n" in ended.out
    assert Path("try.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_is_no_picture_is_refused(run_program):
    ended = run_program("dpo.try_pairs", "--figure=try.txt")
    assert "name a picture that ends in" in ended.err


# What is told


def reply(prompt, text):
    question = parse_question(prompt)
    return judge(question, question.right_answer if text == "right" else text)


def made_up(turned_wrong, edits=(), prompts=(), talk=(9, 9)):
    """Of 7 sums the shipped run knows all and yours all but some; and a question without answer."""
    sums = [f"1+{n}=?" for n in range(7)]
    asked = [Asked("sums", parse_question(prompt), prompt) for prompt in sums]
    asked.append(Asked(NO_ANSWER, None, "17/0=?"))
    yours = [REFUSAL] * turned_wrong + ["right"] * (7 - turned_wrong)
    runs = {}
    for (name, texts), kept in zip(
        (("shipped", ["right"] * 7), ("yours", yours)), talk, strict=True
    ):
        replies = [reply(prompt, text) for prompt, text in zip(sums, texts, strict=True)]
        replies.append(judge(None, " 17." if name == "shipped" else REFUSAL))
        runs[name] = Tuned([0.7, 0.5], replies, [f" {name}." for _ in prompts], kept)
    base = [REFUSAL for _ in prompts]
    return Trial("mine.json", (8, 9), list(edits), asked, list(prompts), base, runs)


def test_a_trial_counts_by_topic():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in made_up(3).table().splitlines()
        if line.startswith("| ")
    ]
    assert rows == [
        ["questions", "n", "right", "refused", "wrong"],
        ["sums", "7", "7 -> 4", "0 -> 3", "0 -> 0"],
        [NO_ANSWER, "1", "0 -> 0", "0 -> 1", "1 -> 0"],
    ]


def test_a_trial_tells_what_turned():
    text = made_up(2).describe()
    counts = "Right answers to 7 questions: 7 with the shipped pairs, 5 with yours."
    assert f"{counts}\nnewly right: 0\nno longer right: 2" in text


def test_a_trial_says_what_chance_would_do():
    # 2 of 2 turned wrong: as two coins that fall alike
    assert "0 better, 2 worse" in made_up(2).describe()
    assert "by luck is 0.5 (sign test)" in made_up(2).describe()


def test_a_trial_where_nothing_turned_has_no_chance():
    assert "sign test" not in made_up(0).describe()


def test_a_trial_shows_edited_questions():
    edits = [Edit(None, ONE)]
    assert (
        "\n  1+1=?\n    base     Sorry, I don't know.\n    shipped  shipped.\n    yours    yours.\n"
        in made_up(0, edits, ["1+1=?"]).describe()
    )


def test_a_trial_shows_a_silent_answer():
    trial = made_up(0, prompts=["1+1=?"])
    trial.runs["yours"].edited[0] = ""
    assert "yours    (nothing)" in trial.describe()


def test_a_trial_tells_the_small_talk():
    last = made_up(0, talk=(9, 4)).describe().splitlines()[-1]
    assert last == "Small talk kept, of 73 questions: shipped 9, yours 4."


def test_what_is_told_does_not_grow_with_the_pairs():
    few, many = (
        made_up(0, [Edit(None, at(ONE, n)) for n in range(count)]).describe()
        for count in (SHOWN + 1, 1000)
    )
    assert few.count("\n") == many.count("\n")


# The figure


def shares(right, refused, wrong):
    n = right + refused + wrong
    counts = {"right": right, "refused": refused, "wrong": wrong}
    return {"n": n} | {name: rate(count, n) for name, count in counts.items()}


@pytest.fixture
def drawn():
    """The figure of two topics; the loss of the first run ends higher."""
    topics = {
        "sums": {"shipped": shares(10, 0, 0), "yours": shares(5, 2, 3)},
        NO_ANSWER: {"shipped": shares(0, 99, 1), "yours": shares(0, 100, 0)},
    }
    losses = {"shipped": [LN_2, 0.6, 0.5], "yours": [LN_2, 0.5, 0.3]}
    return trial_figure(SimpleNamespace(losses=losses, outcomes=topics))


def test_figure_has_both_losses_and_ln_2(drawn):
    curves = [list(line.get_ydata()) for line in drawn.axes[0].lines]
    assert curves == [[LN_2, 0.6, 0.5], [LN_2, 0.5, 0.3], [LN_2, LN_2]]


def test_figure_has_no_ln_2_where_no_loss_starts_there():
    trial = SimpleNamespace(losses={"shipped": [25.0], "yours": [25.0]}, outcomes={})
    trial.outcomes = {"sums": {"shipped": shares(1, 0, 0), "yours": shares(1, 0, 0)}}
    assert len(trial_figure(trial).axes[0].lines) == 2


def test_figure_says_how_it_ended(drawn):
    assert [axis.get_title("left") for axis in drawn.axes] == [
        "The loss ends at 0.50 (shipped)\nand 0.30 (yours)",
        "Right: 10 (shipped) and 5 (yours);\nwrong: 1 and 3",
    ]


def test_figure_has_bars_that_add_up(drawn):
    bars = [(bar.get_x(), bar.get_width()) for bar in drawn.axes[1].patches[3:6]]
    assert np.allclose(bars, [(0.0, 0.5), (0.5, 0.2), (0.7, 0.3)])


def test_figure_names_runs_and_counts_what_has_room(drawn):
    # of the first topic, then of the second; one in a hundred has no room for its count
    first = ["10", "shipped", "5", "2", "3", "yours"]
    second = ["99", "shipped", "100", "yours"]
    assert texts_in(drawn)[3:] == [*first, *second]


def test_figure_has_the_first_topic_on_top(drawn):
    heights = [bar.get_y() for bar in drawn.axes[1].patches]
    assert heights[0] > heights[3] > heights[6] > heights[9]
