"""The single characters of an answer: their probabilities, and what stands beside them."""

import pytest
import torch
from conftest import make_tiny, teach

from dpo.data.batches import pack_pairs, tokenize_pairs
from dpo.data.pair import Pair
from dpo.evaluation.tokens import (
    Character,
    answer_characters,
    answer_logps,
    describe_familiarity,
    first_difference,
    least_confident,
)
from dpo.plots.answers import answer_figure
from dpo.training.logps import pair_logps
from sft.generation import generate_answers

SUM = Pair("17+19=?", " The answer is 36.", " Sorry.", 1)


# The characters of a pair's answers


@pytest.mark.parametrize("answer", [SUM.chosen, SUM.rejected])
def test_characters_include_the_newline(tiny, tokenizer, answer):
    assert len(answer_logps(tiny, tokenizer, SUM.prompt, answer)) == len(answer) + 1


@pytest.mark.parametrize("side", [0, 1], ids=["chosen", "rejected"])
def test_characters_sum_to_the_answers_logp(tiny, tokenizer, side):
    [whole] = pair_logps(tiny, pack_pairs(tokenize_pairs(tokenizer, [SUM])))[side]
    logps = answer_logps(tiny, tokenizer, SUM.prompt, (SUM.chosen, SUM.rejected)[side])
    assert sum(logps) == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("chosen", "rejected", "place"),
    [
        (" The answer is 36.", " Sorry.", 1),
        (" The answer is 36.", " The answer is 37.", 16),
        (" Yes", " Yes.", 4),  # a newline against a full stop
        ("a", "a", 1),
    ],
)
def test_where_two_answers_part(chosen, rejected, place):
    assert first_difference(chosen, rejected) == place
    assert first_difference(rejected, chosen) == place


# The characters of the greedy answer


@pytest.fixture
def characters(tiny, tokenizer):
    return answer_characters(tiny, tokenizer, "17+19=?")


@pytest.fixture
def first_probabilities(tiny, tokenizer):
    """Of every character as the first of the answer, (74,)."""
    ids = torch.tensor([tokenizer.encode("17+19=?")])
    return tiny(ids)[0][0, 0].softmax(dim=-1)


def test_characters_are_the_greedy_answer(characters, tiny, tokenizer):
    [answer] = generate_answers(tiny, tokenizer, ["17+19=?"])
    assert "".join(character.text for character in characters) == answer


def test_a_greedy_character_is_the_likeliest(characters, first_probabilities):
    likeliest = first_probabilities.max().item()
    assert characters[0].probability == pytest.approx(likeliest, rel=1e-5)


def test_alternatives_are_the_next_likeliest(characters, first_probabilities, tokenizer):
    next_ones = first_probabilities.argsort(descending=True)[1:4].tolist()
    assert [text for text, _ in characters[0].alternatives] == [
        tokenizer.itos[i] for i in next_ones
    ]


def test_alternatives_are_three_and_fall(characters):
    for character in characters:
        chances = [chance for _, chance in character.alternatives]
        assert len(chances) == 3
        assert chances == sorted(chances, reverse=True)
        assert character.probability >= chances[0]


def test_a_character_is_no_alternative_to_itself(characters):
    assert not any(c.text in dict(c.alternatives) for c in characters)


# An answer that a newline ends


@pytest.fixture(scope="module")
def short_of_words(tokenizer):
    """A model that answers 1+1=? with a newline at once, and 2+2=? with " Four" and a newline."""
    model = make_tiny()
    teach(model, tokenizer, ["1+1=?", "2+2=?"], ["", " Four"])
    assert generate_answers(model, tokenizer, ["1+1=?", "2+2=?"]) == ["", " Four"]
    return model


def test_a_newline_can_be_the_only_character(short_of_words, tokenizer):
    [only] = answer_characters(short_of_words, tokenizer, "1+1=?")
    assert only.text == "\n"
    assert only.probability > 0.5


def test_a_newline_is_the_last_character(short_of_words, tokenizer):
    characters = answer_characters(short_of_words, tokenizer, "2+2=?")
    assert "".join(character.text for character in characters) == " Four\n"


def test_a_newline_alone_can_be_drawn(short_of_words, tokenizer):
    assert (
        len(answer_figure("1+1=?", answer_characters(short_of_words, tokenizer, "1+1=?")).axes) == 1
    )


# In words


def test_least_confident_characters_come_first():
    characters = [
        Character("a", 0.9, [("b", 0.05)]),
        Character("c", 0.4, [("d", 0.3)]),
        Character("e", 0.6, [("f", 0.2)]),
    ]
    assert least_confident(characters, count=2) == (
        "least sure: 'c' 40.0% (else 'd' 30.0%); 'e' 60.0% (else 'f' 20.0%)"
    )


PAIRS = [
    Pair("36-17=?", " The answer is 19.", " No.", 1),
    Pair("How are you?", " Fine.", " No.", 2),
]
FAMILIAR = {
    "17+19=?": "fact family 17+19, not held out, in the training pairs as 36-17=?; right is 36",
    "28+57=?": "fact family 28+57, held out from the base, in no training pair; right is 85",
}


@pytest.mark.parametrize("prompt", FAMILIAR)
def test_familiarity_of_a_question(prompt):
    assert describe_familiarity(prompt, PAIRS) == FAMILIAR[prompt]


def test_familiarity_of_a_larger_sum():
    expected = "fact family 219+4817, out of the base's range, in no training pair"
    assert expected in describe_familiarity("4817+219=?", PAIRS)


def test_familiarity_of_small_talk():
    assert "not a question" in describe_familiarity("How are you?", PAIRS)
