"""Runs beside each other: what differs in pairs, settings, answers; and files that are no runs."""

import json

import pytest
from conftest import shorten_small_talk, train_tiny, write_tiny_pairs

from dpo.compare import (
    Config,
    changed_settings,
    compare,
    describe_answers,
    describe_balance,
    describe_pairs,
    flipped,
    main,
    named,
    pairs_difference,
    read_run,
)
from dpo.evaluation.replies import judge
from sft.arithmetic import Question
from sft.checkpoint.weights import save_checkpoint, to_json_tensor

# Pairs

ONE, TWO, THREE = (("1+1=?", " 2.", " No."), ("2+2=?", " 4.", " No."), ("3+3=?", " 6.", " No."))


def test_rows_that_differ_count_as_often_as_there():
    assert pairs_difference([ONE, TWO], [TWO, THREE, THREE]) == ([ONE], [THREE, THREE])


def test_the_order_of_rows_is_no_difference():
    assert describe_pairs([ONE, TWO], [TWO, ONE]) == "Pairs: the same 2 rows."


def test_changed_added_and_removed_rows_are_told():
    edited = ("2+2=?", " 4.", " 5.")
    assert describe_pairs([ONE, TWO], [edited, THREE]).splitlines() == [
        "Pairs: 2 rows before, 2 now.",
        "changed answers: 1",
        "  2+2=? No. ->  5.",
        "added: 1",
        "  3+3=? 6.  not  No.",
        "removed: 1",
        "  1+1=? 2.  not  No.",
    ]


def test_a_second_row_of_a_question_is_removed():
    text = describe_pairs([ONE, ("1+1=?", " 2.", " Hm.")], [("1+1=?", " 2.", " Eh.")])
    assert "changed answers: 1\n  1+1=? No. ->  Eh." in text
    assert "removed: 1\n  1+1=? 2.  not  Hm." in text


def test_a_second_row_of_a_question_is_added():
    text = describe_pairs([ONE], [("1+1=?", " 2.", " Eh."), ("1+1=?", " 2.", " Oh.")])
    assert "changed answers: 1" in text
    assert "added: 1\n  1+1=? 2.  not  Oh." in text


# Answers

SUMS = [Question("a+b", 1, i) for i in range(4)]
RIGHT = [judge(question, question.right_answer) for question in SUMS]
WRONG = [judge(question, " No.") for question in SUMS]
BEFORE = [RIGHT[0], RIGHT[1], WRONG[2], WRONG[3]]
AFTER = [RIGHT[0], WRONG[1], RIGHT[2], WRONG[3]]


def test_flipped_answers_became_or_ceased_to_be_right():
    became, ceased = flipped(BEFORE, AFTER)
    assert [new.question for _, new in became] == [SUMS[2]]
    assert [new.question for _, new in ceased] == [SUMS[1]]


def test_flipped_answers_are_told():
    assert describe_answers([*BEFORE, WRONG[0]], [*AFTER, RIGHT[0]]).splitlines() == [
        "Right answers to 5 questions: 2 before, 3 now.",
        "newly right: 2",
        "  1+2=? No. ->  The answer is 3 because 1+2 equals 3.",
        "  1+0=? No. ->  The answer is 1 because 1+0 equals 1.",
        "no longer right: 1",
        "  1+1=? The answer is 2 because 1+1 equals 2. ->  No.",
    ]


def test_balance_counts_fact_families():
    """Of 1+2: two better; of 1+3: one better, one worse, so neither; of 1+4: one worse."""
    asked = [Question(f, a, b) for a, b in ((1, 2), (1, 3), (1, 4)) for f in ("a+b", "x-a=b")]
    right = [judge(question, question.right_answer) for question in asked]
    wrong = [judge(question, " No.") for question in asked]
    before = [*wrong[:2], wrong[2], right[3], *right[4:]]
    after = [*right[:2], right[2], wrong[3], wrong[4], right[5]]
    assert describe_balance(before, after) == (
        "Facts: 1 better, 1 worse; the chance of so uneven a split by luck is 1 (sign test)."
    )


def test_balance_has_a_small_chance_where_all_got_better():
    # 2 / 2^4 for four families
    assert "4 better, 0 worse" in describe_balance(WRONG, RIGHT)
    assert "by luck is 0.12 (" in describe_balance(WRONG, RIGHT)


def test_balance_of_the_same_answers_is_not_told():
    assert describe_balance(RIGHT, RIGHT) == ""


# Two runs


@pytest.fixture(scope="module")
def two_runs(tiny_folder, tmp_path_factory):
    """A run, and in the same folder one with another beta and three edited pairs; both files."""
    folder = tmp_path_factory.mktemp("two")
    pairs_file = write_tiny_pairs(folder / "pairs.json")
    settings = {"base": str(tiny_folder / "base.pt"), "out": str(folder), "batch_size": 4}
    train_tiny(folder, **settings, base_lr=3e-3)
    rows = json.loads(pairs_file.read_text())
    rows[0]["positive"] = rows[0]["positive"].replace("answer is 3", "answer is 4")
    rows[-1] = {"positive": "8+8=? 16.", "negative": "8+8=? No."}
    pairs_file.write_text(json.dumps(rows))
    train_tiny(folder, **settings, base_lr=3e-3, beta=0.5)
    return named((str(folder / "dpo.previous.pt"), str(folder / "dpo.pt")))


@pytest.fixture(scope="module")
def compared(two_runs):
    """The table of the two runs, and what changed, in words; little small talk."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_small_talk(patch)
        _, overview, changes = compare(two_runs, 1, seed=1, device="cpu")
    return overview, changes


@pytest.mark.parametrize(("split", "name"), [("test", "held-out"), ("validation",) * 2])
def test_runs_are_compared_by_one_split(two_runs, monkeypatch, split, name):
    shorten_small_talk(monkeypatch)
    _, overview, _ = compare(two_runs, 1, seed=1, device="cpu", split=split)
    head = overview.splitlines()[0]
    asked = [cell.strip() for cell in head.split("|") if "tive, n =" in cell]
    assert asked == [f"{name} additive, n = 1", f"{name} multiplicative, n = 1"]


def test_settings_that_changed(two_runs):
    runs = [read_run(file) for file in two_runs.values()]
    assert changed_settings(runs) == {"beta": [0.1, 0.5]}


def test_edited_answers_are_told(compared):
    assert "  1+2=? The answer is 3. ->  The answer is 4." in compared[1]


def test_added_pairs_are_told(compared):
    assert "added: 1\n  8+8=? 16.  not  No." in compared[1]


def test_removed_pairs_are_told(compared):
    assert "removed: 1\n  12+13=?" in compared[1]


def test_edited_questions_are_asked_as_well(compared):
    # 4 of the sample and 3 of edited pairs
    assert "Right answers to 7 questions: 0 before, 0 now." in compared[1]


def test_table_has_a_column_for_what_changed(compared):
    head = compared[0].splitlines()[0]
    assert [cell.strip() for cell in head.split("|")[1:4]] == ["run", "beta", "pairs ranked right"]


def test_table_says_how_many_were_asked(compared):
    assert compared[0].splitlines()[0].count(", n = 1 ") == 3
    assert "| 0 of 40 " in compared[0].splitlines()[2]  # small talk


def test_table_has_a_row_a_run(compared):
    _, _, first, second, *_ = compared[0].splitlines()
    assert "/dpo.previous.pt | 0.1" in first
    assert "/dpo.pt " in second
    assert "| 0.5 " in second


def test_table_has_intervals(compared):
    # Wilson's interval of 0 out of 1
    assert "0 % (0 to 79)" in compared[0].splitlines()[2]


# Three runs


@pytest.fixture(scope="module")
def three_runs(tiny_folder):
    """Runs without evals, with another loss, and of two epochs: their folders."""
    for name, settings in (
        ("a", {"eval_every": 0}),
        ("b", {"eval_every": 10, "loss_type": "ipo"}),
        ("c", {"eval_every": 10, "epochs": 2}),
    ):
        out = str(tiny_folder / name)
        train_tiny(tiny_folder, batch_size=4, eval_questions=2, out=out, **settings)
    return tuple(str(tiny_folder / name) for name in "abc")


@pytest.fixture
def drawn(three_runs, tmp_path, capsys, monkeypatch):
    """Rows of the printed table, the picture's bytes, the file of figures; little small talk."""
    shorten_small_talk(monkeypatch)
    figure, figures = tmp_path / "runs.png", tmp_path / "runs.json"
    main(Config(runs=three_runs, figure=str(figure), json=str(figures), n=1, device="cpu"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in lines]
    return rows, figure.read_bytes(), json.loads(figures.read_text())


def test_three_runs_are_a_table_a_figure_and_a_file(drawn):
    rows, picture, figures = drawn
    changed = [["a", "1", "sigmoid"], ["b", "1", "ipo"], ["c", "2", "sigmoid"]]
    assert [row[:3] for row in rows[2:]] == changed
    assert rows[2][-3] == "-"  # the first had no evals
    assert float(rows[3][-3]) >= 0
    assert picture.startswith(b"\x89PNG")
    assert list(figures) == ["a", "b", "c"]
    assert len(figures["c"]["history"]["steps"]["loss"]) == 4
    assert figures["a"]["everyday"]["n"] == 40
    assert figures["a"]["n"] == 4


def test_a_figure_that_is_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"name a picture that ends in [.]png"):
        main(Config(runs=("a", "b"), figure="runs.bmp"))


# Files that are not runs


def test_a_base_is_no_run(run_program, base_file, tmp_path):
    ended = run_program("dpo.compare", base_file, tmp_path / "none.pt", "--device=cpu")
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert "train again to compare it" in ended.err


def test_a_missing_run_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no such run; name two"):
        read_run(tmp_path / "none.pt")


@pytest.mark.parametrize("wrong", [("a",), ("a.pt", "a.pt")], ids=["one", "the same twice"])
def test_two_different_runs_are_needed(wrong):
    with pytest.raises(ValueError, match="name two or more different runs"):
        named(wrong)


GOOD_HISTORY = {"steps": {"rewards/accuracies": [1.0]}, "looks": {}}


@pytest.fixture
def save_run(tiny, tmp_path):
    """`save_run(**extras)` writes a file that is a run but for what is given; its path."""

    def save(name="odd.pt", history=GOOD_HISTORY, config=None, **others):
        pairs = to_json_tensor([["1+1=?", " 2.", " No."]])
        extras = {"config": config or {"beta": 0.1}, "pairs": pairs} | others
        save_checkpoint(tmp_path / name, tiny, history=to_json_tensor(history), **extras)
        return tmp_path / name

    return save


def test_a_whole_run_is_read(save_run):
    assert read_run(save_run()).pairs == [("1+1=?", " 2.", " No.")]


def test_pairs_that_are_no_texts_are_refused(save_run):
    with pytest.raises(ValueError, match="does not say on which pairs"):
        read_run(save_run(pairs=3))


@pytest.mark.parametrize(
    "history",
    [
        {"steps": {"loss": [1.0]}, "looks": {}},
        {"steps": {"rewards/accuracies": []}, "looks": {}},
        {"steps": {"rewards/accuracies": [1.0]}, "looks": {"step": [0]}},
        {"steps": {"rewards/accuracies": [10**400]}, "looks": {}},
        {"steps": {"rewards/accuracies": [float("inf")]}, "looks": {}},
        {"steps": {"rewards/accuracies": ["1"]}, "looks": {}},
        {"steps": {}, "looks": {}},
        [1],
    ],
)
def test_an_odd_history_is_one_sentence(save_run, history):
    message = r"odd[.]pt has a history that cannot be read; train again"
    with pytest.raises(ValueError, match=message):
        read_run(save_run(history=history))


@pytest.mark.parametrize("config", [{"loss_type": "\x1b[2Jx"}, {"a\nb": 1}, {"beta": [1]}])
def test_odd_settings_are_one_sentence(save_run, config):
    with pytest.raises(ValueError, match=r"odd[.]pt has settings that are no plain texts"):
        read_run(save_run(config=config))


def test_a_setting_that_a_run_lacks_is_a_dash(save_run):
    old = save_run("old.pt", config={"beta": 0.1, "base": "a"})
    new = save_run("new.pt", config={"beta": 0.1, "base": "b", "simpo_gamma": 1.0})
    changed = changed_settings([read_run(old), read_run(new)])
    assert changed == {"base": ["a", "b"], "simpo_gamma": ["-", 1.0]}
