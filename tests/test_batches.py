import pytest
import torch

from dpo.batches import (
    batch_order,
    batches,
    compute_reference_logps,
    encode_pairs,
    pack,
    packed_length,
    pair_logps,
)
from dpo.loss import sequence_logps
from dpo.pairs import Pair, load_pairs
from sft.rows import collate, encode_row


def test_rows_against_literal_tensors(tokenizer):
    # ids: 1 -> 13, 2 -> 14, 3 -> 15, + 4, = 9, ? 10, space 1, full stop 7, newline 0
    rows = [encode_row(tokenizer, "1+2=?", " 3."), encode_row(tokenizer, "1?", " 1.")]
    batch = collate(rows)
    assert batch.inputs.tolist() == [
        [13, 4, 14, 9, 10, 1, 15, 7],  # "1+2=? 3."
        [13, 10, 1, 13, 7, 0, 0, 0],  # "1? 1." newline, padding
    ]
    assert batch.targets.tolist() == [
        [4, 14, 9, 10, 1, 15, 7, 0],  # one further: ends in the newline
        [10, 1, 13, 7, 0, 0, 0, 0],
    ]
    scored = [tokenizer.decode(t[m].tolist()) for t, m in zip(batch.targets, batch.completion_mask, strict=True)]
    assert scored == [" 3.\n", " 1.\n"], "the answer and one end mark; no prompt, no padding"


def logps_alone(model, row):
    """The same by the plain road: one text, one row, nothing shared and nothing padded."""
    rows = collate([row])
    logits, _ = model(rows.inputs, full_seq=True)
    return sequence_logps(logits, rows.targets, rows.completion_mask)[0]


NEAR_MISS = Pair("1+2=?", " The answer is 3.", " The answer is 4.", 1)
REFUSED = Pair("10+2=?", " 12 because.", " No.", 2)
PREFIX = Pair("1+1=?", " 2.", " 2. 2.", 3)  # one answer begins with the whole other


def test_a_packed_row_against_literal_tensors(tokenizer):
    # ids: newline 0, space 1, + 4, full stop 7, = 9, ? 10, digits from 12
    [example] = encode_pairs(tokenizer, [Pair("1+2=?", " 3.", " 4.", 1)])
    pairs = pack([example])
    assert pairs.inputs.tolist() == [[13, 4, 14, 9, 10, 1, 15, 7, 16, 7]]  # "1+2=? 3." and then "4."
    assert pairs.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 6, 7]]
    seen_by_the_last = [True] * 6 + [False, False, True, True]
    assert pairs.visible[0, 0, -1].tolist() == seen_by_the_last
    assert pairs.visible[0, 0, :8, :8].equal(torch.ones(8, 8).tril().bool()), "the chosen text is causal"
    assert pairs.rejected.at.tolist() == [[0, 1, 2, 3, 4, 5, 8, 9]]
    for answer, text in ((pairs.chosen, " 3.\n"), (pairs.rejected, " 4.\n")):
        assert tokenizer.decode(answer.targets[answer.completion_mask].tolist()) == text, "no prompt, one end mark"


def test_packing_padding_and_company_change_nothing(tiny, tokenizer):
    examples = encode_pairs(tokenizer, [NEAR_MISS, REFUSED, PREFIX])
    assert [packed_length(e) for e in examples] == [22 + 2, 18 + 3, 8 + 3]
    together = torch.stack(pair_logps(tiny, pack(examples)), dim=1)
    for example, both in zip(examples, together, strict=True):
        apart = torch.stack([logps_alone(tiny, example.chosen), logps_alone(tiny, example.rejected)])
        assert torch.allclose(apart, both, atol=1e-4)


def test_gradients_are_those_of_two_separate_passes(tiny, tokenizer):
    [example] = encode_pairs(tokenizer, [NEAR_MISS])
    chosen, rejected = pair_logps(tiny, pack([example]))
    packed = torch.autograd.grad((2 * chosen - rejected).sum(), list(tiny.parameters()))
    loss = 2 * logps_alone(tiny, example.chosen) - logps_alone(tiny, example.rejected)
    for one, other in zip(packed, torch.autograd.grad(loss, list(tiny.parameters())), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_prompt_and_answer_encode_apart(tokenizer, pairs_file):
    for pair in load_pairs(pairs_file, tokenizer).pairs:
        [example] = encode_pairs(tokenizer, [pair])
        assert example.chosen.prompt == example.rejected.prompt == tokenizer.encode(pair.prompt)
        assert example.chosen.prompt + example.chosen.completion == tokenizer.encode(pair.prompt + pair.chosen + "\n")


def test_order_is_complete_and_seeded():
    order = batch_order(1000, 64, seed=1, epoch=0)
    assert sorted(i for batch in order for i in batch) == list(range(1000))
    assert [len(batch) for batch in order] == [64] * 15 + [1000 % 64], "the last partial batch is kept"
    assert order == batch_order(1000, 64, 1, 0)
    assert order != batch_order(1000, 64, 1, 1) != batch_order(1000, 64, 2, 0)


def test_parts_hold_their_batch_in_like_lengths(tokenizer):
    pairs = [Pair(f"{i}+1=?", " 1" * (i % 7) + ".", " No.", i) for i in range(11)]
    examples, logps = encode_pairs(tokenizer, pairs), torch.arange(22.0).view(11, 2)
    [parts] = batches(examples, logps, 64, seed=1, micro_batch=4)
    assert [len(part) for part in parts] == [4, 4, 3]
    indices = [int(i) // 2 for part in parts for i in part.reference_chosen_logps.tolist()]
    assert indices == [line for part in parts for line in part.lines]
    assert sorted(indices) == list(range(11)) and indices != sorted(indices)
    lengths = [packed_length(examples[i]) for i in indices]
    assert lengths == sorted(lengths) and [part.pairs.inputs.shape[1] for part in parts] == lengths[3::4] + lengths[-1:]


def test_reference_logps_belong_to_their_examples(tiny, tokenizer):
    pairs = [Pair(f"{i}+1=?", f" {i + 1}." * (1 + i % 3), " Sorry.", i) for i in range(11)]
    examples = encode_pairs(tokenizer, pairs)
    logps = compute_reference_logps(tiny, examples, batch_size=4)
    for example, (chosen, rejected) in zip(examples, logps, strict=True):
        assert torch.allclose(logps_alone(tiny, example.chosen), chosen, atol=1e-4)
        assert torch.allclose(logps_alone(tiny, example.rejected), rejected, atol=1e-4)
    seen = 0
    for [batch] in batches(examples, logps, 4, seed=1):
        chosen, rejected = pair_logps(tiny, batch.pairs)
        assert torch.allclose(chosen, batch.reference_chosen_logps, atol=1e-4)
        assert torch.allclose(rejected, batch.reference_rejected_logps, atol=1e-4)
        seen += len(batch.reference_chosen_logps)
    assert seen == 11


def test_batches_go_on_where_they_stopped(tokenizer):
    pairs = [Pair(f"{i}+1=?", " 2.", " No.", i) for i in range(11)]
    examples, logps = encode_pairs(tokenizer, pairs), torch.arange(22.0).view(11, 2)
    whole = [parts[0].lines for parts in batches(examples, logps, 4, seed=1, epochs=3)]
    assert len(whole) == 9 and [sorted(sum(whole[e : e + 3], ())) for e in (0, 3, 6)] == [list(range(11))] * 3
    for start in range(10):
        assert [parts[0].lines for parts in batches(examples, logps, 4, seed=1, epochs=3, start=start)] == whole[start:]


def test_ids_beyond_the_vocabulary_are_refused_before_the_model_sees_them(tiny, tokenizer, monkeypatch):
    examples = encode_pairs(tokenizer, [Pair("1+1=?", " 2.", " No.", 1)])
    examples[0].rejected.completion[0] = 74
    monkeypatch.setattr(tiny, "hidden_states", None)
    with pytest.raises(ValueError, match="id 74 is not among the model's 74 characters; use the vocabulary"):
        compute_reference_logps(tiny, examples)
