"""Questions in other dress: the writing changes, the question does not."""

import json

import pytest

from dpo import formats
from dpo.evaluation.replies import judge
from dpo.formats import FORMATS, formats_table, outcomes, sample_format
from sft.arithmetic import domain, parse_question

WITH_EXAMPLE = [name for name in FORMATS if ": " in name]


@pytest.fixture(params=FORMATS)
def name(request):
    return request.param


def test_a_format_has_many_questions(name):
    questions, prompts = sample_format(name, 40, seed=1)
    assert len(questions) == len(prompts) == 40
    assert len(set(questions)) == 40


def test_a_format_keeps_the_question(name):
    for question, prompt in zip(*sample_format(name, 40, seed=1), strict=True):
        assert parse_question(prompt).answer == question.answer
        assert parse_question(prompt).family == question.family


def test_a_format_changes_the_writing(name):
    # but not where the ranges, or nothing at all, are what is unusual
    as_usual = name in ("as in the pairs", "factors 0 and 1: 1*17=?")
    as_usual = as_usual or FORMATS[name].ranges != "standard"
    for question, prompt in zip(*sample_format(name, 40, seed=1), strict=True):
        assert (prompt == question.text) == as_usual


def test_a_format_depends_on_the_seed(name):
    assert sample_format(name, 40, seed=1)[0] != sample_format(name, 40, seed=2)[0]


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_an_example_is_of_its_format(name):
    form, example = FORMATS[name], name.partition(": ")[2]
    question = parse_question(example)
    assert any(question in domain(f, form.ranges) for f in form.forms)
    assert form.write(question.text) == example


def test_most_formats_have_an_example():
    assert len(WITH_EXAMPLE) == len(FORMATS) - 1


# Outcomes


@pytest.fixture
def six_replies():
    """One right, two refusals, three wrong ones."""
    questions, _ = sample_format("products above 99: 47*8=?", 6, seed=1)
    refusals, wrong = [" Sorry, I don't know.", " I don't know."], [" The answer is 1.", "", " 5"]
    texts = [questions[0].right_answer, *refusals, *wrong]
    return [judge(question, text) for question, text in zip(questions, texts, strict=True)]


def test_outcomes_add_up(six_replies):
    shares = outcomes(six_replies)
    assert [shares[key]["count"] for key in ("right", "refused", "wrong")] == [1, 2, 3]


def test_outcomes_are_shown_in_percent(six_replies):
    row = formats_table({"wide": six_replies}).splitlines()[2]
    assert [cell.split(" (")[0].strip() for cell in row.split("|")[3:6]] == [
        "16.67 %",
        "33.33 %",
        "50.00 %",
    ]


# Asking


def test_the_model_is_asked_in_the_format(tiny, tokenizer, monkeypatch):
    asked = []

    def answer(model, tokenizer, questions, prompts):
        asked.append(prompts)
        return [judge(question, "") for question in questions]

    monkeypatch.setattr(formats, "answer_questions", answer)
    assert list(formats.ask_formats(tiny, tokenizer, 3, seed=1)) == list(FORMATS)
    assert asked == [sample_format(name, 3, seed=1)[1] for name in FORMATS]


def test_a_question_a_format_is_needed(tiny, tokenizer):
    with pytest.raises(ValueError, match="n is 0; at least one question a format is needed"):
        formats.ask_formats(tiny, tokenizer, 0, seed=1)


def test_program_prints_and_writes_figures(base_file, tmp_path, capsys):
    settings = {"checkpoint": str(base_file), "json": str(tmp_path / "f.json"), "device": "cpu"}
    formats.main(formats.Config(n=2, **settings))
    result = json.loads((tmp_path / "f.json").read_text())
    assert "three-digit sums" in capsys.readouterr().out
    assert list(result) == list(FORMATS)
    assert all(shares["n"] == 2 for shares in result.values())
