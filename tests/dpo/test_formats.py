"""Kinds of questions: what is asked, how it is written, and what a model does with each kind."""

import json

import pytest
from conftest import train_tiny

from dpo import formats
from dpo.evaluation.replies import SPLITS, judge
from dpo.formats import (
    FORMATS,
    WITHOUT_ANSWER,
    count_prompts,
    kinds_table,
    outcomes,
    prompts_of,
    sample_kind,
    summarise_kinds,
)
from sft.arithmetic import DRESSES, parse_question
from sft.unanswerable import KINDS

ALL = [*FORMATS, *WITHOUT_ANSWER]
REFUSAL = " Sorry, I don't know."


@pytest.fixture(scope="module", params=ALL)
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=FORMATS)
def answerable(request):
    return request.param


@pytest.fixture(scope="module", params=WITHOUT_ANSWER)
def unanswerable(request):
    return request.param


# Samples


def test_every_kind_has_a_name_of_its_own():
    assert len(set(ALL)) == len(FORMATS) + len(KINDS)


def test_a_kind_has_many_questions(kind):
    questions, prompts = sample_kind(kind, 40, seed=1)
    assert len(questions) == 40
    assert len(set(prompts)) == 40


def test_a_kind_ends_where_its_questions_end():
    _, prompts = sample_kind("products and quotients: 3*17=?", 10_000, seed=1)
    assert len(prompts) == 174


def test_a_kind_depends_on_the_seed(kind):
    assert sample_kind(kind, 40, seed=1) == sample_kind(kind, 40, seed=1)
    assert sample_kind(kind, 40, seed=1)[1] != sample_kind(kind, 40, seed=2)[1]


@pytest.mark.parametrize("split", SPLITS)
def test_a_kind_is_of_one_split(answerable, split):
    questions, _ = sample_kind(answerable, 40, 1, split)
    assert {question.split for question in questions} == {split}


def test_a_kind_without_families_has_two_samples(unanswerable):
    one, other = (sample_kind(unanswerable, 40, 1, split)[1] for split in SPLITS)
    assert one != other


def test_a_prompt_asks_its_question(kind):
    questions, prompts = sample_kind(kind, 40, seed=1)
    assert [parse_question(prompt) for prompt in prompts] == questions


def test_questions_without_an_answer_are_none(unanswerable):
    questions, _ = sample_kind(unanswerable, 40, seed=1)
    large = WITHOUT_ANSWER[unanswerable] in ("large_product", "four_digits")
    assert all(questions) if large else not any(questions)


def test_a_dressed_question_is_not_as_usual(answerable):
    is_dressed = FORMATS[answerable].write in DRESSES.values()
    for question, prompt in zip(*sample_kind(answerable, 40, seed=1), strict=True):
        assert (prompt != question.text) == is_dressed


def test_a_kind_has_its_forms_alike(answerable):
    questions, _ = sample_kind(answerable, 12, seed=1)
    forms = [question.form for question in questions]
    assert max(map(forms.count, forms)) - min(map(forms.count, forms)) <= 1


def test_an_example_is_of_its_kind(kind):
    example = kind.partition(": ")[2]
    claimed = [name for name, form in FORMATS.items() if form.is_asked_by(example)]
    assert claimed == ([kind] if kind in FORMATS else [])


@pytest.mark.parametrize(
    ("n", "split", "message"),
    [
        (0, "test", "n is 0; at least one question a kind is needed"),
        (1, "train", "split is 'train'; it must be one of test, validation"),
    ],
)
def test_mistakes_are_one_sentence(kind, n, split, message):
    with pytest.raises(ValueError, match=message):
        sample_kind(kind, n, 1, split)


# Pairs of each kind

PROMPTS = ["17+19=?", "36-17=?", "17 + 19 = ?", "3x=51,x=?", "317+219=?", "How are you?"]
COUNTS = {
    "sums and differences: 17+19=?": 2,
    "spaces around the signs: 17 + 19 = ?": 1,
    "no sign for times: 3x=51,x=?": 1,
    "three digits: 317+219=?": 1,
}


def test_prompts_are_counted_by_kind():
    assert {name: count for name, count in count_prompts(PROMPTS).items() if count} == COUNTS


def test_prompts_without_an_answer_are_not_told_apart():
    counts = count_prompts([*PROMPTS, "17/0=?"])
    assert {counts[name] for name in WITHOUT_ANSWER} == {None}


def test_a_model_has_its_prompts(tiny_folder, tmp_path):
    path = train_tiny(tiny_folder, out=str(tmp_path / "run")).path
    assert prompts_of(str(path))[:2] == ["1+2=?", "3+4=?"]


def test_a_base_has_no_prompts(base_file):
    assert prompts_of(str(base_file)) == []


# Outcomes


@pytest.fixture(scope="module")
def replies():
    """Of two kinds: one right, two refusals, three wrong ones; one refusal, one wrong."""
    questions, _ = sample_kind("two digits by one: 47*8=?", 6, seed=1)
    wrong = [" The answer is 1.", "", " 5"]
    texts = [questions[0].right_answer, REFUSAL, " I don't know.", *wrong]
    return {
        "two digits by one: 47*8=?": list(map(judge, questions, texts)),
        "times zero: x*0=5,x=?": [judge(None, text) for text in (REFUSAL, " The answer is 0.")],
    }


@pytest.fixture(scope="module")
def summary(replies):
    return summarise_kinds(replies, ["47*8=?"])


def test_outcomes_add_up(replies):
    shares = outcomes(replies["two digits by one: 47*8=?"])
    assert [shares[key]["count"] for key in ("right", "refused", "wrong")] == [1, 2, 3]


def test_nothing_is_right_without_an_answer(replies):
    shares = outcomes(replies["times zero: x*0=5,x=?"])
    assert [shares[key]["count"] for key in ("right", "refused", "wrong")] == [0, 1, 1]


def test_wrong_with_confidence_is_of_all_kinds(summary):
    share = summary["wrong_with_confidence"]
    assert (share["count"], share["n"]) == (4, 8)


@pytest.mark.parametrize(
    "line",
    [
        "- wrong with confidence: 50 % (",
        "- right: 17 % (3 to 56) of 6 that the base can calculate",
        "- refused: - of 0 that it cannot, of kinds that it has met",
        "- refused: 50 % (9 to 91) of 2 that it cannot, of kinds that it has never met",
    ],
)
def test_shares_of_the_groups_stand_above_the_table(summary, line):
    assert line in kinds_table(summary)


def test_the_share_that_is_wrong_is_of_all(summary):
    assert kinds_table(summary).splitlines()[0].endswith(" of 8 questions of 2 kinds")


def kind_rows(summary):
    """The cells of the table, head first."""
    rows = [line for line in kinds_table(summary).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (0, ["kind", "in the base", "in the pairs", "n", "right", "refused", "wrong"]),
        (1, ["two digits by one: 47*8=?", "answered", "1", "6", "1", "2", "3"]),
        (2, ["times zero: x*0=5,x=?", "never", "none", "2", "0", "1", "1"]),
    ],
    ids=["head", "with an answer", "without"],
)
def test_table_has_a_row_of_counts_a_kind(summary, row, cells):
    assert kind_rows(summary)[row] == cells


@pytest.fixture(scope="module")
def every_kind():
    """The table of all kinds; no question of any was asked."""
    return kind_rows(summarise_kinds({name: [] for name in reversed(ALL)}))


def test_table_groups_its_kinds(every_kind):
    in_base = list(dict.fromkeys(row[1] for row in every_kind[1:]))
    assert in_base == ["answered", "refused", "never"]
    assert [row[1] for row in every_kind[1:]] == sorted(
        (row[1] for row in every_kind[1:]), key=in_base.index
    )


def test_table_of_kinds_is_narrow():
    lines = kinds_table(summarise_kinds({name: [] for name in ALL})).splitlines()
    assert max(len(line) for line in lines if line.startswith("|")) < 115


@pytest.mark.parametrize(
    ("name", "met"),
    [
        ("sums and differences: 17+19=?", "answered"),
        ("remainder: 52/3=?", "refused"),
        ("two steps: 3*x+4=19,x=?", "never"),
    ],
)
def test_table_says_what_the_base_has_met(name, met):
    assert summarise_kinds({name: []})["kinds"][name]["in_base"] == met


# Asking


def test_the_model_is_asked_every_kind(tiny, tokenizer, monkeypatch):
    asked = []

    def answer(model, tokenizer, questions, prompts):
        asked.append(prompts)
        return [judge(question, "") for question in questions]

    monkeypatch.setattr(formats, "answer_questions", answer)
    assert list(formats.ask_kinds(tiny, tokenizer, 3, seed=1)) == ALL
    assert asked == [sample_kind(name, 3, seed=1)[1] for name in ALL]


@pytest.fixture(scope="module")
def written(tiny_folder, tmp_path_factory):
    """What the program writes into its file, and the picture it draws."""
    folder = tmp_path_factory.mktemp("formats")
    files = {"json": str(folder / "f.json"), "figure": str(folder / "f.png")}
    base = str(tiny_folder / "base.pt")
    formats.main(formats.Config(checkpoint=base, before=base, n=2, device="cpu", **files))
    found = json.loads((folder / "f.json").read_text())
    return {"split": found["split"], **found["models"][base]}, folder / "f.png"


def test_program_writes_every_kind(written):
    assert list(written[0]["kinds"]) == ALL


def test_program_asks_so_many(written):
    assert {shares["n"] for shares in written[0]["kinds"].values()} == {2}
    assert written[0]["wrong_with_confidence"]["n"] == 2 * len(ALL)


def test_program_says_which_split_it_asked(written):
    assert written[0]["split"] == "test"


def test_program_draws_the_kinds(written):
    assert written[1].stat().st_size > 10_000


def test_program_prints_the_table(run_program, base_file):
    words = (f"--checkpoint={base_file}", f"--before={base_file}", "--n=1", "--device=cpu")
    ended = run_program("dpo.formats", *words)
    assert f"{base_file}: of {len(ALL)} questions " in ended.out
    assert "\n- wrong with confidence: " in ended.out
    assert "| three digits: 317+219=? " in ended.out
