import pytest
import torch
from conftest import teach

from dpo.batches import encode_pairs, pack, pair_logps
from dpo.characters import (
    Character,
    acquaintance,
    answer_characters,
    answer_logps,
    first_difference,
    least_sure,
)
from dpo.pairs import Pair
from dpo.plots import answer_figure
from sft.answers import answer_prompts


def test_the_characters_sum_to_the_answers_log_probability(tiny, tokenizer):
    pair = Pair("17+19=?", " The answer is 36.", " Sorry.", 1)
    [example] = encode_pairs(tokenizer, [pair])
    for [whole], answer in zip(pair_logps(tiny, pack([example])), (pair.chosen, pair.rejected), strict=True):
        logps = answer_logps(tiny, tokenizer, pair.prompt, answer)
        assert len(logps) == len(answer) + 1, "and the newline that ends it"
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
    assert first_difference(chosen, rejected) == first_difference(rejected, chosen) == place


def test_the_greedy_answer_with_its_rivals(tiny, tokenizer):
    characters = answer_characters(tiny, tokenizer, "17+19=?")
    [answer] = answer_prompts(tiny, tokenizer, ["17+19=?"])
    assert "".join(c.text for c in characters) == answer
    ids = torch.tensor([tokenizer.encode("17+19=?")])
    probabilities = tiny(ids)[0][0, 0].softmax(dim=-1)
    first = characters[0]
    assert first.probability == pytest.approx(probabilities.max().item(), rel=1e-5)
    ranked = probabilities.sort(descending=True)
    assert [text for text, _ in first.rivals] == [tokenizer.itos[i] for i in ranked.indices[1:4].tolist()]
    for character in characters:
        chances = [p for _, p in character.rivals]
        assert len(chances) == 3 and chances == sorted(chances, reverse=True)
        assert character.probability >= chances[0] and character.text not in dict(character.rivals)


def test_the_newline_that_ends_an_answer_is_one_of_its_characters(tiny, tokenizer):
    teach(tiny, tokenizer, ["1+1=?", "2+2=?"], ["", " Four"])
    assert answer_prompts(tiny, tokenizer, ["1+1=?", "2+2=?"]) == ["", " Four"]
    [only] = answer_characters(tiny, tokenizer, "1+1=?")
    assert only.text == "\n" and only.probability > 0.5
    assert "".join(c.text for c in answer_characters(tiny, tokenizer, "2+2=?")) == " Four\n"
    assert len(answer_figure("1+1=?", [only]).axes) == 1


def test_the_least_sure_come_first():
    characters = [
        Character("a", 0.9, [("b", 0.05)]),
        Character("c", 0.4, [("d", 0.3)]),
        Character("e", 0.6, [("f", 0.2)]),
    ]
    assert least_sure(characters, count=2) == "least sure of 'c' 40.0% (rivals 'd' 30.0%); 'e' 60.0% (rivals 'f' 20.0%)"


def test_what_is_known_of_a_question():
    pairs = [Pair("36-17=?", " The answer is 19.", " No.", 1), Pair("How are you?", " Fine.", " No.", 2)]
    assert acquaintance("17+19=?", pairs) == (
        "fact family 17+19, not held out, in the training pairs as 36-17=?; right is 36"
    )
    assert (
        acquaintance("28+57=?", pairs) == "fact family 28+57, held out from the base, in no training pair; right is 85"
    )
    assert "fact family 219+317, out of the base's range, in no training pair" in acquaintance("317+219=?", pairs)
    assert "not a question" in acquaintance("How are you?", pairs)
