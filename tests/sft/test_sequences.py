"""Prompt and completion as tensors, character by character."""

import pytest

from sft.sequences import collate_sequences, encode_sequence


@pytest.fixture
def batch(tokenizer):
    texts = [("1+2=?", " 3."), ("1?", " 1.")]
    return collate_sequences([encode_sequence(tokenizer.encode, *text) for text in texts])


# ids: 1 -> 13, 2 -> 14, 3 -> 15, + 4, = 9, ? 10, space 1, full stop 7, newline 0


def test_inputs_are_padded_with_newlines(batch):
    assert batch.inputs.tolist() == [
        [13, 4, 14, 9, 10, 1, 15, 7],  # "1+2=? 3."
        [13, 10, 1, 13, 7, 0, 0, 0],  # "1? 1." newline, padding
    ]


def test_targets_are_one_further(batch):
    assert batch.targets.tolist() == [
        [4, 14, 9, 10, 1, 15, 7, 0],  # ends in the newline
        [10, 1, 13, 7, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize(("row", "text"), [(0, " 3.\n"), (1, " 1.\n")])
def test_mask_scores_the_answer_and_one_newline(batch, tokenizer, row, text):
    scored = batch.targets[row][batch.completion_mask[row]]
    assert tokenizer.decode(scored.tolist()) == text
