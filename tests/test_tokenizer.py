import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.tokenizer import ALPHABET, LOOK_ALIKES, VocabularyError, load_tokenizer


def test_the_assignments_ids(tokenizer):
    assert len(tokenizer) == 74
    assert tokenizer.encode("\n '*+,-./=?’09AZaz") == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 21, 22, 47, 48, 73]


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
    assert set(LOOK_ALIKES.values()) <= set(ALPHABET) and not set(LOOK_ALIKES) & set(ALPHABET)


class Evil:
    def __reduce__(self):
        return (open, ("stolen", "w"))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (Evil(), "STACK_GLOBAL is not allowed"),
        ({"stoi": {"a": 0}, "itos": {0: "b"}, "vocab_size": 1}, "not what itos says"),
        ({"stoi": {"a": 1}, "itos": {1: "a"}, "vocab_size": 1}, "are not 0 to 0"),
        ({"stoi": {"a": 0}, "itos": {0: "a"}, "vocab_size": 2}, "vocab_size differs"),
        ({"stoi": {"ab": 0}, "itos": {0: "ab"}, "vocab_size": 1}, "no single character"),
        ({"vocab_size": 1}, "no `stoi` and `itos`"),
    ],
)
def test_bad_vocabularies_are_refused(tmp_path, monkeypatch, contents, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(contents, protocol=4))
    with pytest.raises(VocabularyError, match=message):
        load_tokenizer("meta.pkl")
    assert [p.name for p in tmp_path.iterdir()] == ["meta.pkl"], "nothing in the file was executed"


def test_cut_or_missing_vocabulary(tmp_path):
    with pytest.raises(VocabularyError, match="no such file"):
        load_tokenizer(tmp_path / "meta.pkl")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": {}}, protocol=4)[:-1])
    with pytest.raises(VocabularyError, match="not a plain vocabulary"):
        load_tokenizer(tmp_path / "meta.pkl")
