import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.tokenizer import ALPHABET, LOOK_ALIKES, VocabularyError, load_tokenizer


def test_alphabet_has_74_characters(tokenizer):
    assert len(tokenizer) == 74


def test_ids_of_signs_are_the_assignments(tokenizer):
    assert tokenizer.encode("\n '*+,-./=?’") == list(range(12))


def test_ids_of_letters_are_the_assignments(tokenizer):
    assert tokenizer.encode("09AZaz") == [12, 21, 22, 47, 48, 73]


@given(text=st.text(ALPHABET, max_size=50))
def test_text_comes_back_from_its_ids(text):
    tokenizer = load_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_look_alike_has_a_remedy(tokenizer):
    with pytest.raises(VocabularyError) as error:
        tokenizer.encode("3×17=?")
    assert str(error.value) == (
        "character '×' (U+00D7 MULTIPLICATION SIGN) is not in the model's alphabet "
        "at position 1 of '3×17=?': write '*'"
    )


@pytest.mark.parametrize(
    ("text", "instead"), [("\u0663*17=?", "'3'"), ("3\u00b717=?", "'*'"), ("3*17=\uff1f", "'?'")]
)
def test_digits_and_signs_of_other_scripts_have_a_remedy(tokenizer, text, instead):
    with pytest.raises(VocabularyError, match=f"write {re.escape(instead)}"):
        tokenizer.encode(text)


def test_another_unknown_character_has_a_remedy(tokenizer):
    with pytest.raises(VocabularyError, match="remove it or spell it"):
        tokenizer.encode("(3)")


def test_look_alikes_lead_into_the_alphabet():
    assert set(LOOK_ALIKES.values()) <= set(ALPHABET)


def test_look_alikes_are_outside_the_alphabet():
    assert not set(LOOK_ALIKES) & set(ALPHABET)
