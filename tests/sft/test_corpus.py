from sft.arithmetic import families_in, is_held_out, parse_question
from sft.corpus import REFUSALS, Corpus, everyday_lines
from sft.train import STAGES

KINDS = {"short": 1, "statement": 1, "right": 1, "wrong": 1, "refusal": 1, "everyday": 1}


def test_no_line_contains_a_held_out_fact():
    corpus = Corpus(seed=1)
    assert not any(question.held_out for pool in corpus.questions.values() for question in pool), (
        "none can be drawn"
    )
    for prompt, completion in corpus.draw(60_000, KINDS):
        equation = prompt.removeprefix("The answer to ").removesuffix(" is") + ",x=?"
        assert not any(
            map(is_held_out, families_in(prompt + completion) | families_in(equation))
        ), prompt + completion
    # and the other way round: the check sees such a fact in every kind of line it is meant for
    assert is_held_out("0*2")
    for text in (
        "0*2=? 0.",
        "2*0 equals 0.",
        "x*2=0,x=? Sorry, I don't know.",
        "x/2=0,x=?",
        "0/2=? The answer is 0.",
        "x*2=0,x=?",
    ):
        assert "0*2" in families_in(text), text


def test_every_line_can_be_encoded_and_ends_once(tokenizer):
    for prompt, completion in Corpus(seed=2).draw(20_000, KINDS):
        assert tokenizer.encode(prompt + completion)
        assert completion.startswith(" ")
        assert completion.endswith(".")
        assert completion.count(".") == 1
        assert len(prompt + completion) < 96


def test_kinds_are_what_they_say():
    corpus = Corpus(seed=3)
    for prompt, completion in corpus.draw(300, {"short": 1}):
        assert completion == f" {parse_question(prompt).answer}."
    for prompt, completion in corpus.draw(300, {"right": 1}):
        assert completion == parse_question(prompt).right_answer
    for prompt, completion in corpus.draw(300, {"wrong": 1}):
        assert completion != parse_question(prompt).right_answer
    for prompt, completion in corpus.draw(300, {"refusal": 1}):
        assert parse_question(prompt)
        assert completion in REFUSALS
    for prompt, _ in corpus.draw(300, {"statement": 1}):
        assert "?" not in prompt, "nobody asks"


def test_everyday_questions_are_several_hundred_with_one_answer_each():
    lines = everyday_lines()
    assert len(lines) == len({question for question, _ in lines}) > 700
    assert all(
        question.endswith("?") and not any(map(str.isdigit, question + answer))
        for question, answer in lines
    )


def test_seed_decides_and_blank_base_sees_no_sum_answered():
    assert Corpus(4).draw(50, KINDS) == Corpus(4).draw(50, KINDS) != Corpus(5).draw(50, KINDS)
    assert {kind for stage in STAGES["none"] for kind in stage.mixture} == {"refusal", "everyday"}
