"""Questions, graded replies, tables with intervals, and the program that prints them."""

import io
import json

import pytest
from conftest import make_tiny, teach

from dpo.evaluation import replies as module
from dpo.evaluation.replies import (
    GROUPS,
    SPLITS,
    answer_questions,
    groups_of,
    judge,
    sample_domain,
    sample_questions,
)
from dpo.evaluation.tables import evaluate, forms_table, summarise, table, wilson
from sft.arithmetic import FORMS, Question, domain
from sft.generation import generate_answers

REFUSAL = " Sorry, I don't know."


# Intervals


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [  # published: Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_against_published_values(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_without_questions_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


# Samples


EVERY_GROUP = [*GROUPS, *groups_of("validation")[:2]]


@pytest.mark.parametrize("group", EVERY_GROUP)
def test_samples_are_of_their_group(group):
    assert {question.group for question in sample_questions(group, 60, seed=1)} == {group}


@pytest.mark.parametrize("group", EVERY_GROUP)
def test_samples_have_all_forms_alike(group):
    questions = sample_questions(group, 60, seed=1)
    counts = {form: sum(q.form == form for q in questions) for form in FORMS}
    assert set(counts.values()) == {0, 10}
    assert len(set(questions)) == 60


def test_samples_depend_on_the_seed():
    assert sample_questions(GROUPS[0], 60, 1) != sample_questions(GROUPS[0], 60, 2)


def test_samples_of_sums_can_be_large():
    assert len(sample_questions("held_out/additive", 1200, 1)) == 1200


def test_samples_of_products_end_with_the_domain():
    products = sample_questions("held_out/multiplicative", 10_000, 1)
    assert len(products) == 360
    assert sum(not question.trivial for question in products) == 174


@pytest.mark.parametrize("group", GROUPS)
def test_samples_need_a_question(group):
    with pytest.raises(ValueError, match="n is -5; at least one question a group is needed"):
        sample_questions(group, -5, seed=1)


# Test and validation


@pytest.mark.parametrize("split", SPLITS)
def test_a_sample_is_of_one_split_and_seen_ones(split):
    assert {question.split for question in sample_domain(20, 1, split)} == {split, "train"}


def test_the_sample_is_that_of_the_test():
    assert sample_domain(20, 1) == sample_domain(20, 1, "test")


def test_every_question_is_in_one_group():
    groups = {question.group for form in FORMS for question in domain(form)}
    assert groups == set(EVERY_GROUP)


@pytest.mark.parametrize("split", SPLITS)
def test_figures_never_mix_test_and_validation(split):
    asked = sample_domain(20, 1, "test") + sample_domain(20, 1, "validation")
    result = evaluate([judge(question, question.right_answer) for question in asked], split)
    counts = [result["groups"][group]["n"] for group in groups_of(split)]
    assert counts == [20, 20, 40, 40]  # the seen ones were asked twice


@pytest.mark.parametrize("split", SPLITS)
def test_figures_say_of_which_split_they_are(split):
    assert evaluate([], split)["split"] == split


def test_tables_name_validation():
    result = evaluate([judge(Question("a+b", 10, 22), REFUSAL)], "validation")
    assert "| validation additive " in table({"one": result})
    assert "| validation, n " in forms_table(result)


@pytest.mark.parametrize("split", ["train", "seen", ""])
def test_an_unknown_split_is_refused(split):
    with pytest.raises(ValueError, match="it must be one of test, validation"):
        sample_domain(20, 1, split)


# Figures and tables


@pytest.fixture(scope="module")
def questions():
    return sample_domain(24, seed=1)


@pytest.fixture(scope="module")
def always(questions):
    """The figures of a model that always knows."""
    return evaluate([judge(q, q.right_answer) for q in questions])


@pytest.fixture(scope="module")
def never(questions):
    """The figures of a model that never knows."""
    return evaluate([judge(q, REFUSAL) for q in questions])


def test_figures_count_every_question_once(always):
    assert always["n"] == 96
    assert sum(rates["n"] for rates in always["forms"].values()) == 96


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("key", ["right", "answer", "reason", "ended"])
def test_figures_of_a_model_that_always_knows(always, group, key):
    rates = always["groups"][group]
    assert rates["n"] == 24
    assert rates[key]["rate"] == 1
    assert rates[key]["low"] < 1
    assert rates["refused"]["count"] == 0


@pytest.mark.parametrize("group", [*GROUPS, *(f"{g}/factors_from_2" for g in GROUPS[1::2])])
def test_figures_of_a_model_that_never_knows(never, group):
    rates = never["groups"][group]
    assert [rates[key]["count"] for key in ("right", "answer", "reason")] == [0, 0, 0]
    assert [rates[key]["rate"] for key in ("refused", "ended")] == [1, 1]
    assert rates["median_length"] == len(REFUSAL)


def test_no_group_is_left_out(never):
    assert list(never["groups"]) == [
        "held_out/additive",
        "held_out/multiplicative",
        "held_out/multiplicative/factors_from_2",
        "seen/additive",
        "seen/multiplicative",
        "seen/multiplicative/factors_from_2",
    ]


def test_factors_from_2_are_a_part(always):
    assert 0 < always["groups"]["held_out/multiplicative/factors_from_2"]["n"] < 24


@pytest.fixture(scope="module")
def lines(always, never):
    return table({"before": never, "after": always}).splitlines()


def test_table_has_two_rows_a_group(lines):
    assert len(lines) == 2 + 2 * 6


def test_table_is_aligned(lines):
    assert len(set(map(len, lines))) == 1


def test_table_has_shares_with_intervals(lines):
    cells = [cell.strip() for cell in lines[3].split("|")][1:5]
    assert cells == ["held-out additive", "after", "24", "100.00 % (86.20 to 100.00)"]
    assert "0.00 % (0.00 to 13.80)" in lines[2]


def test_table_of_forms_has_shares(always):
    assert "100.00 %" in forms_table(always)


def test_table_has_dashes_for_what_was_not_asked():
    lines = table({"one": evaluate([judge(Question("a+b", 17, 19), REFUSAL)])}).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")][3:9] == ["0", "-", "-", "-", "-", "-"]


# Single replies

REPLIES = {  # to 17+19=?: text, outcome, whether it ended by itself
    "both": (" The answer is 36 because 17+19 equals 36.", "right", True),
    "the number only": (" The answer is 36 because 17+94 equals 36.", "wrong", True),
    "the reason only": (" The answer is 63 because 17+19 equals 36.", "wrong", True),
    "ended with a newline": (" The answer is 63 because", "wrong", True),
    "cut off": (" The answer is" + " is" * 22, "wrong", False),
    "a refusal": (REFUSAL, "refused", True),
}


@pytest.mark.parametrize("name", REPLIES)
def test_replies_have_an_outcome_and_an_end(name):
    text, outcome, ended = REPLIES[name]
    reply = judge(Question("a+b", 17, 19), text)
    assert reply.outcome == outcome
    assert reply.ended == ended


def test_replies_are_counted_by_what_is_right():
    rates = summarise([judge(Question("a+b", 17, 19), text) for text, _, _ in REPLIES.values()])
    counts = {key: rates[key]["count"] for key in ("right", "answer", "reason", "refused", "ended")}
    assert counts == {"right": 1, "answer": 2, "reason": 2, "refused": 1, "ended": 5}
    assert rates["n"] == 6
    assert rates["median_length"] == 42


def test_no_replies_have_a_rate_of_zero():
    assert summarise([])["right"]["rate"] == 0.0


# Asking


@pytest.mark.parametrize("knows", [True, False], ids=["mostly knows", "mostly says the same"])
def test_drafts_save_time_and_change_no_answer(tiny, tokenizer, monkeypatch, knows):
    monkeypatch.setattr(module, "PROBE", 8)
    questions = [Question("a+b", a, b) for a in range(1, 9) for b in range(5)]
    exceptions = {8: " I don't know.", 7: " The answer is"}  # by a
    lines = [exceptions.get(q.a, q.right_answer if knows else REFUSAL) for q in questions]
    teach(tiny, tokenizer, [q.text for q in questions], lines)
    plain = generate_answers(tiny, tokenizer, [q.text for q in questions])
    asked, generate = [], tiny.generate

    def count_and_generate(idx, *rest, **more):
        asked.append(len(idx))
        return generate(idx, *rest, **more)

    tiny.generate = count_and_generate
    replies = answer_questions(tiny, tokenizer, questions)
    assert [reply.text for reply in replies] == plain
    assert len(set(plain)) > 2
    assert sum(asked) < len(questions)  # most drafts were confirmed


@pytest.fixture(scope="module")
def sure(tokenizer):
    """A model that answers 1+1=? with " I know." and would go on behind the full stop."""
    model = make_tiny()
    teach(model, tokenizer, ["1+1=?"], [" I know. No."])
    return model


@pytest.mark.parametrize(
    "draft", [" I know.", " I know", " I know. No.", "", " You know.", " I" * 50 + "."]
)
def test_a_draft_changes_no_answer(sure, tokenizer, draft):
    assert generate_answers(sure, tokenizer, ["1+1=?"]) == [" I know."]
    assert generate_answers(sure, tokenizer, ["1+1=?"], drafts=[draft]) == [" I know."]


PROMPTS = ["1+1=?", "x+12=34,x=?", "What's your name?", "9/3=?"]


def test_batched_answers_equal_single_ones(tiny, tokenizer):
    together = generate_answers(tiny, tokenizer, PROMPTS, max_new_tokens=30, batch_size=3)
    apart = [generate_answers(tiny, tokenizer, [p], max_new_tokens=30)[0] for p in PROMPTS]
    assert together == apart


def test_answers_hold_no_newline(tiny, tokenizer):
    answers = generate_answers(tiny, tokenizer, PROMPTS, max_new_tokens=30)
    assert not any("\n" in answer for answer in answers)


# The program


def test_program_prints_and_writes_figures(run_program, base_file, tmp_path):
    words = [f"--checkpoint={base_file}", "--n=12", f"--json={tmp_path / 'r.json'}"]
    ended = run_program("dpo.evaluate", "--device=cpu", *words)
    result = json.loads((tmp_path / "r.json").read_text())
    assert ended.code == 0
    assert "held-out additive" in ended.out
    assert "validation" not in ended.out
    assert result["n"] == 48
    assert result["decoding"] == "greedy"
    assert result["checkpoint"] == str(base_file)
    assert [group for group in result["groups"] if group in GROUPS] == list(GROUPS)
    right = result["groups"]["seen/additive"]["right"]
    assert set(right) == {"n", "count", "rate", "low", "high"}


def test_program_asks_validation_to_choose_by(run_program, base_file):
    words = [f"--checkpoint={base_file}", "--n=1", "--split=validation"]
    ended = run_program("dpo.evaluate", "--device=cpu", *words)
    assert "validation additive" in ended.out
    assert "held-out" not in ended.out


# Questions of the user's


@pytest.fixture
def ask(run_program, base_file):
    """A function: how the program ends that is asked with these words, of the tiny model."""
    words = ["--device=cpu", f"--checkpoint={base_file}"]
    return lambda *more: run_program("dpo.evaluate", *words, *more)


def asked(ended):
    """The questions that the program has answered."""
    return [line.split("\t")[0] for line in ended.out.splitlines()]


@pytest.fixture
def piped(monkeypatch):
    """A function: let these bytes be the program's standard input."""
    return lambda data: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_program_answers_questions(ask, tmp_path):
    (tmp_path / "p.txt").write_text("1+1=?\n\n2*3=?\n")
    ended = ask(f"--prompts={tmp_path / 'p.txt'}")
    assert asked(ended) == ["1+1=?", "2*3=?"]
    assert ask("--ask=1+1=?").out.strip() == ended.out.splitlines()[0].strip()


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["unmarked", "marked"])
def test_program_reads_utf_8(ask, tmp_path, mark):
    (tmp_path / "p.txt").write_bytes(f"{mark}1+1=?\r\n2*3=?\r\n".encode())
    assert asked(ask(f"--prompts={tmp_path / 'p.txt'}")) == ["1+1=?", "2*3=?"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_program_reads_marked_utf_16(ask, tmp_path, encoding):
    """As Windows PowerShell's `>` writes it."""
    (tmp_path / "p.txt").write_bytes("\ufeff1+1=?\r\n2*3=?\r\n".encode(encoding))
    assert asked(ask(f"--prompts={tmp_path / 'p.txt'}")) == ["1+1=?", "2*3=?"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_program_reads_standard_input(ask, piped, encoding):
    piped("1+1=?\n2*3=?\n".encode(encoding))
    assert asked(ask("--prompts=-")) == ["1+1=?", "2*3=?"]


NO_TEXT = {
    "UTF-16 without its mark": "1+1=?\n".encode("utf-16-le"),
    "UTF-16 cut in a character": "1+1=?".encode("utf-16")[:-1],
    "Windows-1252": "2×3=?\n".encode("cp1252"),
    "UTF-32": "1+1=?\n".encode("utf-32"),
    "packed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("kind", NO_TEXT)
def test_questions_that_are_no_text_are_refused(ask, tmp_path, kind):
    (tmp_path / "p.txt").write_bytes(NO_TEXT[kind])
    ended = ask(f"--prompts={tmp_path / 'p.txt'}", "--checkpoint=missing")  # is not looked for
    assert ended.code == 1
    message = f"{tmp_path / 'p.txt'} is no text in UTF-8 or UTF-16; save it as UTF-8"
    assert (ended.out, ended.err) == ("", f"error: {message}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (" \n\n", "p.txt holds no question; write one question a line, like 17+19=?"),
        ("", "p.txt is empty; write one question a line, like 17+19=?"),
        (None, "p.txt: no such file; write one question a line, like 17+19=?"),
    ],
    ids=["blank lines", "an empty file", "no file"],
)
def test_no_question_in_a_file_is_an_error(ask, tmp_path, content, message):
    if content is not None:
        (tmp_path / "p.txt").write_text(content)
    ended = ask(f"--prompts={tmp_path / 'p.txt'}", "--checkpoint=missing")
    assert ended.code == 1
    assert ended.err.endswith(f"{message}\n")


def test_no_question_on_standard_input_is_an_error(ask, piped):
    piped(b"\n")
    ended = ask("--prompts=-")
    assert ended.code == 1
    assert ended.err.startswith("error: standard input holds no question; ")


def test_a_blank_question_is_an_error(ask):
    ended = ask("--ask= ")
    assert ended.code == 1
    assert ended.err.startswith("error: --ask holds no question; ")


def test_a_question_and_a_file_of_them_are_too_much(ask):
    ended = ask("--ask=1+1=?", "--prompts=p.txt")
    assert ended.code == 1
    assert "give one of the two" in ended.err
