"""The questions of the lesson, answers drawn to them, and how many are right, group by group."""

import pytest

from dpo.evaluation.replies import judge
from dpo.evaluation.sampling import (
    GROUP_NAMES,
    count_right,
    draw_replies,
    group_replies,
    right_table,
    sample_groups,
)
from sft.arithmetic import REFUSAL, parse_question


@pytest.fixture(scope="module")
def questions():
    return sample_groups(12, seed=1)


def test_groups_have_n_questions_each(questions):
    groups = [question.group for question in questions]
    assert [groups.count(group) for group in GROUP_NAMES] == [12] * 4


def test_groups_have_no_question_twice(questions):
    assert len(set(questions)) == len(questions)


def test_groups_ask_all_forms_alike(questions):
    forms = [question.form for question in questions]
    assert {forms.count(form) for form in forms} == {4}  # two set aside, two known


def test_groups_have_no_factor_0_or_1(questions):
    assert not any(question.trivial for question in questions)


def test_groups_are_the_same_for_a_seed(questions):
    assert sample_groups(12, seed=1) == questions
    assert sample_groups(12, seed=2) != questions


def test_fewer_questions_are_the_first_of_more(questions):
    more = [question for question in sample_groups(13, seed=1) if question in questions]
    assert more == questions


def test_a_group_gives_what_it_has():
    counts = [len(members) for members in _by_group(sample_groups(10_000, seed=1)).values()]
    assert counts[1] == 174  # products and quotients that are set aside, factors from 2
    assert counts[0] < counts[2]  # one tenth is set aside, eight are known


def _by_group(questions):
    return group_replies([judge(question, REFUSAL) for question in questions])


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="n is 0; at least one question a group is needed"):
        sample_groups(0, seed=1)


def test_drawn_replies_are_to_the_questions(tiny, tokenizer, questions):
    replies = draw_replies(tiny, tokenizer, questions, 1.0, seed=1)
    assert [reply.question for reply in replies] == questions


def test_drawn_replies_differ_by_seed_alone(tiny, tokenizer):
    many = [parse_question("28+57=?")] * 5
    one, same, other = (
        [reply.text for reply in draw_replies(tiny, tokenizer, many, 1.0, seed)]
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
    assert len(set(one)) > 1


SUM, PRODUCT, KNOWN = map(parse_question, ("28+57=?", "2*34=?", "17+19=?"))


def test_replies_stand_under_their_group():
    replies = [judge(question, REFUSAL) for question in (KNOWN, SUM, SUM)]
    grouped = group_replies(replies)
    assert {name: len(members) for name, members in grouped.items()} == {
        "sums and differences, set aside": 2,
        "sums and differences, known to the base": 1,
    }


def test_right_needs_number_and_calculation():
    texts = [SUM.right_answer, " 85.", " The answer is 85 because 2+83 equals 85.", REFUSAL]
    assert count_right([judge(SUM, text) for text in texts]) == 1


def test_table_counts_questions_facts_and_right_answers():
    same_fact = parse_question("85-28=?")
    asked = (SUM, same_fact, PRODUCT)
    runs = {
        "before": [judge(question, REFUSAL) for question in asked],
        "after": [judge(question, question.right_answer) for question in asked],
    }
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in right_table(runs).splitlines()
    ]
    assert rows[0] == ["questions", "n", "facts", "before", "after"]
    assert rows[2:] == [
        ["sums and differences, set aside", "2", "1", "0", "2"],
        ["products and quotients, set aside", "1", "1", "0", "1"],
    ]
