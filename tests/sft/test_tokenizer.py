import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.tokenizer import ALPHABET, LOOK_ALIKES, VocabularyError, load_tokenizer


def test_the_assignments_ids(tokenizer):
    assert len(tokenizer) == 74
    assert tokenizer.encode("\n '*+,-./=?’09AZaz") == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        21,
        22,
        47,
        48,
        73,
    ]


@given(text=st.text(ALPHABET, max_size=50))
def test_round_trip(text):
    tokenizer = load_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_character_is_a_sentence(tokenizer):
    with pytest.raises(VocabularyError) as error:
        tokenizer.encode("3×17=?")
    assert str(error.value) == (
        "character '×' (U+00D7 MULTIPLICATION SIGN) is not in the model's alphabet at position 1 of '3×17=?': write '*'"
    )
    with pytest.raises(VocabularyError, match="remove it or spell it"):
        tokenizer.encode("(3)")


def test_look_alikes_lead_into_the_alphabet():
    assert set(LOOK_ALIKES.values()) <= set(ALPHABET)
    assert not set(LOOK_ALIKES) & set(ALPHABET)
