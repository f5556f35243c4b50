import json

import pytest

from dpo import formats
from dpo.arithmetic import domain, parse_question
from dpo.evaluate import judge
from dpo.formats import FORMATS, formats_table, outcomes, sample_format


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_changes_the_writing_and_not_the_question(name):
    questions, prompts = sample_format(name, 40, seed=1)
    assert len(set(questions)) == len(questions) == 40
    usual = name in ("as in the pairs", "factors 0 and 1: 1*17=?") or FORMATS[name].ranges != "standard"
    for question, prompt in zip(questions, prompts, strict=True):
        assert parse_question(prompt).answer == question.answer
        assert parse_question(prompt).family == question.family
        assert (prompt == question.text) == usual
    assert sample_format(name, 40, seed=2)[0] != questions


def test_the_examples_in_the_names_are_of_their_format():
    for name, form in FORMATS.items():
        _, _, example = name.partition(": ")
        if example:
            question = parse_question(example)
            assert question in {q for f in form.forms for q in domain(f, form.ranges)}
            assert form.write(question.text) == example


def test_outcomes_add_up():
    questions, _ = sample_format("products above 99: 47*8=?", 6, seed=1)
    texts = [questions[0].right_answer, " Sorry, I don't know.", " The answer is 1.", "", " 5", " I don't know."]
    replies = [judge(q, text) for q, text in zip(questions, texts, strict=True)]
    shares = outcomes(replies)
    assert [shares[key]["count"] for key in ("right", "refused", "wrong")] == [1, 2, 3]
    row = formats_table({"wide": replies}).splitlines()[2]
    assert "16.67 %" in row and "33.33 %" in row and "50.00 %" in row


def test_the_model_is_asked_in_the_format(tiny, tokenizer, monkeypatch):
    asked = {}

    def answer(model, tokenizer, questions, prompts):
        asked[len(asked)] = prompts
        return [judge(question, "") for question in questions]

    monkeypatch.setattr(formats, "answer_questions", answer)
    replies = formats.ask_formats(tiny, tokenizer, 3, seed=1)
    assert list(replies) == list(FORMATS)
    assert list(asked.values()) == [sample_format(name, 3, 1)[1] for name in FORMATS]
    with pytest.raises(ValueError, match="n is 0; at least one question a format is needed"):
        formats.ask_formats(tiny, tokenizer, 0, seed=1)


def test_command(base_file, tmp_path, capsys):
    formats.main(formats.Config(checkpoint=str(base_file), n=2, json=str(tmp_path / "f.json"), device="cpu"))
    assert "three-digit sums" in capsys.readouterr().out
    result = json.loads((tmp_path / "f.json").read_text())
    assert list(result) == list(FORMATS) and all(shares["n"] == 2 for shares in result.values())
