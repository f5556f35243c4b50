"""Questions, graded replies, tables with intervals, and the program that prints them."""

import io
import json

import numpy as np
import pytest
from conftest import make_tiny, teach

from dpo.evaluation import replies as module
from dpo.evaluation.replies import (
    GROUPS,
    SPLITS,
    answer_questions,
    families_of,
    groups_of,
    judge,
    sample_domain,
    sample_questions,
)
from dpo.evaluation.tables import (
    bare_percent,
    clustered_rate,
    counted,
    effective_size,
    evaluate,
    forms_table,
    percent,
    rate,
    sign_test,
    summarise,
    table,
    wilson,
)
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


# Fact families


def test_what_is_about_the_same_fact_is_of_one_family():
    one, other = Question("a+b", 17, 19), Question("a-b", 36, 17)
    assert families_of([one, other]) == ["17+19", "17+19"]


def test_what_has_no_answer_is_a_family_by_itself():
    assert len(set(families_of([None, Question("a+b", 1, 2), None]))) == 3


THREES = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]  # four families of three questions


@pytest.mark.parametrize(
    ("hits", "size"),
    [
        # Nothing differs: as many as there are families.
        ([0] * 12, 4),
        ([1] * 12, 4),
        # All of a family alike, p = 1/2: deff = 4 * (3/2)² / (12/4) = 3, the same as all alike.
        ([1] * 6 + [0] * 6, 4),
        # One hit in one family: deff is 1 there, with one family more (1 + 3) / 2.
        ([1] + [0] * 11, 6),
        # One hit in each of four: no more variance than chance has, (4 * 1 + 3) / 5.
        ([1, 0, 0] * 4, 60 / 7),
    ],
)
def test_size_counts_families_where_questions_go_alike(hits, size):
    assert effective_size(hits, THREES) == pytest.approx(size)


def test_size_of_families_of_one_is_their_number():
    assert effective_size([1, 0, 0, 1, 1], range(5)) == pytest.approx(5)


def test_a_large_family_says_less_than_many_small_ones():
    # all alike: 9² + 3 * 1² = 84, of 12 questions
    assert effective_size([1] * 12, [0] * 9 + [1, 2, 3]) == pytest.approx(12 / 7)


def test_size_does_not_depend_on_right_or_wrong():
    hits = [1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1]
    assert effective_size([1 - hit for hit in hits], THREES) == pytest.approx(
        effective_size(hits, THREES)
    )


def test_size_does_not_depend_on_the_order():
    hits = [1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1]
    backwards = effective_size(hits[::-1], THREES[::-1])
    assert backwards == pytest.approx(effective_size(hits, THREES))


def test_parts_of_a_hit_are_never_worth_more_than_questions():
    assert effective_size([0.5, 0.5, 0.5, 0.5], range(4)) == pytest.approx(4)


def test_rate_of_families_of_one_has_wilsons_interval():
    assert clustered_rate([True] * 3 + [False] * 7, range(10)) == pytest.approx(rate(3, 10))


def test_rate_of_families_is_that_of_questions():
    share = clustered_rate([1] * 6 + [0] * 6, THREES)
    assert (share["n"], share["count"], share["rate"]) == (12, 6, 0.5)


def test_interval_of_families_is_that_of_fewer_questions():
    share = clustered_rate([1] * 6 + [0] * 6, THREES)
    assert (share["low"], share["high"]) == pytest.approx(wilson(2, 4))


def test_rate_without_questions_says_nothing():
    assert clustered_rate([], []) == rate(0, 0)


UNEVEN = [4, 8, 4, 8, 12, 12, 12, 12, 12, 12, 16, 16, 20, 24, 8]
DESIGNS = {  # questions in each family
    "15 families": [12] * 15,
    "15 uneven families": UNEVEN,
    "100 families": [3] * 100,
    "100 uneven families": [1, 2, 3, 6] * 25,
}


@pytest.fixture(scope="module", params=DESIGNS)
def coverage(request):
    """A function: how often the interval holds the true rate, and how often Wilson's of n does."""
    sizes = np.array(DESIGNS[request.param])
    families = np.repeat(np.arange(len(sizes)), sizes).tolist()

    def cover(true, correlation, times=200):
        held, rng = np.zeros(2), np.random.default_rng(1)
        for _ in range(times):
            # Beta: mean `true`, and this correlation of two questions of one family.
            strength = 1 / correlation - 1
            chances = rng.beta(true * strength, (1 - true) * strength, len(sizes))
            hits = (rng.random(len(families)) < np.repeat(chances, sizes)).tolist()
            for i, share in enumerate((clustered_rate(hits, families), rate(sum(hits), len(hits)))):
                held[i] += share["low"] <= true <= share["high"]
        return held / times

    return cover


# Of 200 intervals that hold the truth 19 times in 20, fewer than 180 do so in one case of 500.
@pytest.mark.parametrize("true", [0.1, 0.65])
@pytest.mark.parametrize("correlation", [0.05, 0.6])
def test_intervals_hold_the_truth_19_times_in_20(coverage, true, correlation):
    with_families, _ = coverage(true, correlation)
    assert with_families >= 0.9


def test_intervals_that_know_no_families_do_not(coverage):
    _, without = coverage(0.65, 0.9)
    assert without < 0.85


# The sign test


@pytest.mark.parametrize(
    ("counts", "chance"),
    [((0, 5), 2 / 32), ((1, 4), 12 / 32), ((3, 3), 1), ((0, 1), 1), ((0, 0), 1)],
)
def test_sign_test_is_that_of_coins(counts, chance):
    assert sign_test(*counts) == pytest.approx(chance)
    assert sign_test(*counts[::-1]) == pytest.approx(chance)


# Percentages


@pytest.mark.parametrize(
    ("count", "n", "text"),
    [
        (62, 100, "62 %"),
        (1, 3, "33 %"),
        (227, 2560, "8.9 %"),  # from 1,000 on
        (0, 100, "0 %"),
        (100, 100, "100 %"),
        (719, 720, "99.9 %"),  # not all
        (1, 720, "0.1 %"),  # not none
        (38671, 38683, "99.97 %"),
        (2000, 2000, "100.0 %"),
        (0, 0, "-"),
    ],
)
def test_percentages_have_the_decimals_that_n_allows(count, n, text):
    assert bare_percent(rate(count, n)) == text


@pytest.mark.parametrize(
    ("count", "n", "text"),
    [
        (20, 20, "100 % (84 to 100)"),
        (0, 20, "0 % (0 to 16)"),
        (719, 720, "99.9 % (99.2 to 100.0)"),
        (0, 0, "-"),
    ],
)
def test_intervals_have_the_decimals_of_their_rate(count, n, text):
    assert percent(rate(count, n)) == text


def test_counts_are_told_of_all():
    assert counted(rate(38671, 38683)) == "38,671 of 38,683"


def test_counts_of_nothing_are_a_dash():
    assert counted(rate(0, 0)) == "-"


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
    cells = [cell.strip() for cell in lines[3].split("|")][1:6]
    assert cells == ["held-out additive", "after", "24", "24", "100 % (86 to 100)"]
    assert "| 0 % (0 to 14) " in lines[2]


def test_table_has_as_many_facts_as_families(always, questions):
    [line] = [
        line for line in table({"one": always}).splitlines() if "| held-out multiplicative " in line
    ]
    asked = [question for question in questions if question.group == "held_out/multiplicative"]
    assert line.split("|")[4].strip() == str(len({question.family for question in asked}))


def test_table_of_the_whole_domain_has_counts(always):
    assert "| 24 of 24 " in table({"one": always}, counted)


def test_table_is_narrow(lines):
    assert len(lines[0]) < 140  # characters: less than 900 pixels in a notebook


def test_table_of_forms_has_shares(always):
    assert "| 100 % (" in forms_table(always)


def test_table_has_dashes_for_what_was_not_asked():
    lines = table({"one": evaluate([judge(Question("a+b", 17, 19), REFUSAL)])}).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")][3:10] == ["0", "0", *"-----"]


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


def test_closed_standard_input_holds_no_question(ask, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert ask("--prompts=-").err.startswith("error: standard input holds no question; ")


def test_answers_alone_have_no_figures(ask, tmp_path):
    ended = ask("--ask=1+1=?", f"--json={tmp_path / 'figures.json'}")
    assert ended.code == 1
    assert (
        ended.err == "error: --json holds the figures of a table; --ask and --prompts make none\n"
    )


def test_a_blank_question_is_an_error(ask):
    ended = ask("--ask= ")
    assert ended.code == 1
    assert ended.err.startswith("error: --ask holds no question; ")


def test_a_question_and_a_file_of_them_are_too_much(ask):
    ended = ask("--ask=1+1=?", "--prompts=p.txt")
    assert ended.code == 1
    assert "give one of the two" in ended.err
