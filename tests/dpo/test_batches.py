"""From pairs to tensors: packed rows against literal tensors; batches that leave nothing out."""

import pytest
import torch

from dpo.data.batches import (
    batch_order,
    batches,
    collate_pairs,
    describe_batch,
    pack_pairs,
    packed_length,
    tokenize_pairs,
)
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs
from dpo.loss import sequence_logps
from dpo.training.logps import compute_reference_logps, pair_logps
from sft.sequences import collate_sequences

NEAR_MISS = Pair("1+2=?", " The answer is 3.", " The answer is 4.", 1)
REFUSED = Pair("10+2=?", " 12 because.", " No.", 2)
PREFIX = Pair("1+1=?", " 2.", " 2. 2.", 3)  # one answer begins with the whole other


def logps_alone(model, sequence):
    """log pi of a text by the plain road: one text, one row, nothing shared and nothing padded."""
    batch = collate_sequences([sequence])
    logits, _ = model(batch.inputs, full_seq=True)
    return sequence_logps(logits, batch.targets, batch.completion_mask)[0]


# Packed rows


@pytest.fixture
def packed(tokenizer):
    """The row of " 3." and " 4." after "1+2=?"."""
    return pack_pairs(tokenize_pairs(tokenizer, [Pair("1+2=?", " 3.", " 4.", 1)]))


# ids: newline 0, space 1, + 4, full stop 7, = 9, ? 10, digits from 12


def test_packed_inputs_are_both_texts(packed):
    # "1+2=? 3." and then "4."
    assert packed.inputs.tolist() == [[13, 4, 14, 9, 10, 1, 15, 7, 16, 7]]


def test_packed_positions_go_back_where_texts_part(packed):
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 6, 7]]


def test_packed_chosen_text_is_causal(packed):
    assert packed.attention_mask[0, 0, :8, :8].equal(torch.ones(8, 8).tril().bool())


def test_packed_rejected_text_skips_the_chosen(packed):
    # the last id sees the prompt and its space, not "3.", and then "4."
    seen = [True] * 6 + [False, False, True, True]
    assert packed.attention_mask[0, 0, -1].tolist() == seen


def test_packed_rejected_logits_are_behind_the_chosen(packed):
    assert packed.rejected.logit_positions.tolist() == [[0, 1, 2, 3, 4, 5, 8, 9]]


@pytest.mark.parametrize(("side", "text"), [("chosen", " 3.\n"), ("rejected", " 4.\n")])
def test_packed_masks_score_answer_and_end(packed, tokenizer, side, text):
    answer = getattr(packed, side)
    assert tokenizer.decode(answer.targets[answer.completion_mask].tolist()) == text


@pytest.mark.parametrize(
    ("pair", "length"),
    [(NEAR_MISS, 22 + 2), (REFUSED, 18 + 3), (PREFIX, 8 + 3)],
    ids=["near miss", "refusal", "prefix"],
)
def test_packed_length_counts_the_prefix_once(tokenizer, pair, length):
    [tokenized] = tokenize_pairs(tokenizer, [pair])
    assert packed_length(tokenized) == length


def test_packing_and_company_change_no_logps(tiny, tokenizer):
    tokenized = tokenize_pairs(tokenizer, [NEAR_MISS, REFUSED, PREFIX])
    together = torch.stack(pair_logps(tiny, pack_pairs(tokenized)), dim=1)
    apart = [
        [logps_alone(tiny, t).item() for t in (pair.chosen, pair.rejected)] for pair in tokenized
    ]
    assert torch.allclose(torch.tensor(apart), together, atol=1e-4)


def test_packed_gradients_are_those_of_two_passes(tiny, tokenizer):
    [pair] = tokenize_pairs(tokenizer, [NEAR_MISS])
    chosen, rejected = pair_logps(tiny, pack_pairs([pair]))
    packed = torch.autograd.grad((2 * chosen - rejected).sum(), list(tiny.parameters()))
    loss = 2 * logps_alone(tiny, pair.chosen) - logps_alone(tiny, pair.rejected)
    apart = torch.autograd.grad(loss, list(tiny.parameters()))
    assert all(torch.allclose(g, h, atol=1e-4) for g, h in zip(packed, apart, strict=True))


# Texts to ids


@pytest.fixture
def pairs(pairs_file, tokenizer):
    return load_pairs(pairs_file, tokenizer).pairs


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_prompts_are_encoded_by_themselves(tokenizer, pairs, side):
    for pair, tokenized in zip(pairs, tokenize_pairs(tokenizer, pairs), strict=True):
        assert getattr(tokenized, side).prompt == tokenizer.encode(pair.prompt)


def test_prompt_and_answer_are_the_whole_text(tokenizer, pairs):
    for pair, tokenized in zip(pairs, tokenize_pairs(tokenizer, pairs), strict=True):
        whole = tokenizer.encode(pair.prompt + pair.chosen + "\n")
        assert tokenized.chosen.prompt + tokenized.chosen.completion == whole


# The order of the pairs


def in_a_row(order):
    return [i for batch in order for i in batch]


def test_an_epoch_has_every_pair_once():
    assert sorted(in_a_row(batch_order(1000, 64, seed=1))) == list(range(1000))


def test_an_epoch_keeps_the_last_small_batch():
    order = batch_order(1000, 64, seed=1)
    assert [len(batch) for batch in order] == [64] * 15 + [1000 % 64]


def test_order_depends_on_the_seed_only():
    order = batch_order(1000, 64, seed=1)
    assert order == batch_order(1000, 64, seed=1)
    assert order != batch_order(1000, 64, seed=2)


def test_epochs_have_orders_of_their_own():
    order = batch_order(1000, 64, seed=1, epochs=2)
    assert order[:16] == batch_order(1000, 64, seed=1)
    assert order[16:] != order[:16]


@pytest.mark.parametrize("n", [3, 4, 10, 64, 1000])
def test_steps_are_full_batches(n):
    order = batch_order(n, 4, seed=1, steps=32)
    assert [len(batch) for batch in order] == [4] * 32


def test_steps_go_through_all_pairs_again_and_again():
    indices = in_a_row(batch_order(10, 4, seed=1, steps=5))
    assert sorted(indices[:10]) == list(range(10))
    assert sorted(indices[10:]) == list(range(10))


def test_more_steps_begin_alike():
    assert batch_order(10, 4, seed=1, steps=9)[:5] == batch_order(10, 4, seed=1, steps=5)


# Batches


@pytest.fixture
def uneven(tokenizer):
    """Eleven pairs of seven lengths, and made-up logps: 2 i and 2 i + 1 for pair i."""
    pairs = [Pair(f"{i}+1=?", " 1" * (i % 7) + ".", " No.", i) for i in range(11)]
    return tokenize_pairs(tokenizer, pairs), torch.arange(22.0).view(11, 2)


@pytest.fixture
def parts(uneven):
    """The eleven pairs as one batch in parts of at most four."""
    [micro_batches] = batches(*uneven, 64, seed=1, micro_batch=4)
    return micro_batches


def lines_of(micro_batches):
    return [line for part in micro_batches for line in part.lines]


def test_parts_have_at_most_so_many_pairs(parts):
    assert [len(part) for part in parts] == [4, 4, 3]


def test_parts_hold_their_batch(parts):
    assert sorted(lines_of(parts)) == list(range(11))


def test_parts_are_not_in_the_files_order(parts):
    assert lines_of(parts) != sorted(lines_of(parts))


def test_parts_go_from_short_to_long(parts, uneven):
    lengths = [packed_length(uneven[0][line]) for line in lines_of(parts)]
    assert lengths == sorted(lengths)


def test_parts_are_as_wide_as_their_longest_pair(parts, uneven):
    longest = [max(packed_length(uneven[0][line]) for line in part.lines) for part in parts]
    assert [part.pairs.inputs.shape[1] for part in parts] == longest


def test_parts_carry_their_pairs_reference_logps(parts):
    carried = [int(logp) // 2 for part in parts for logp in part.reference_chosen_logps]
    assert carried == lines_of(parts)


@pytest.fixture
def scored(tiny, tokenizer):
    """Eleven pairs and what the model says of them, in passes of four."""
    pairs = [Pair(f"{i}+1=?", f" {i + 1}." * (1 + i % 3), " Sorry.", i) for i in range(11)]
    tokenized = tokenize_pairs(tokenizer, pairs)
    return tokenized, compute_reference_logps(tiny, tokenized, batch_size=4)


def test_reference_logps_belong_to_their_pairs(tiny, scored):
    tokenized, logps = scored
    apart = [
        [logps_alone(tiny, t).item() for t in (pair.chosen, pair.rejected)] for pair in tokenized
    ]
    assert torch.allclose(torch.tensor(apart), logps, atol=1e-4)


def test_reference_logps_belong_to_their_batch(tiny, scored):
    seen = 0
    for [batch] in batches(*scored, 4, seed=1):
        chosen, rejected = pair_logps(tiny, batch.pairs)
        assert torch.allclose(chosen, batch.reference_chosen_logps, atol=1e-4)
        assert torch.allclose(rejected, batch.reference_rejected_logps, atol=1e-4)
        seen += len(batch)
    assert seen == 11


def lines_of_epochs(uneven, start=0):
    return [lines_of(parts) for parts in batches(*uneven, 4, seed=1, epochs=3, start=start)]


def test_every_epoch_has_every_pair(uneven):
    steps = lines_of_epochs(uneven)
    assert len(steps) == 9
    for epoch in (steps[:3], steps[3:6], steps[6:]):
        assert sorted(line for lines in epoch for line in lines) == list(range(11))


@pytest.mark.parametrize("start", range(10))
def test_batches_go_on_where_they_stopped(uneven, start):
    assert lines_of_epochs(uneven, start) == lines_of_epochs(uneven)[start:]


def test_shards_are_the_batch(uneven):
    shards = [list(batches(*uneven, 4, seed=1, shard=(rank, 2))) for rank in range(2)]
    together = [sorted(lines_of(one) + lines_of(other)) for one, other in zip(*shards, strict=True)]
    assert together == [sorted(lines_of(parts)) for parts in batches(*uneven, 4, seed=1)]


def test_unknown_ids_are_refused_before_the_model(tiny, tokenizer, monkeypatch):
    [pair] = tokenize_pairs(tokenizer, [Pair("1+1=?", " 2.", " No.", 1)])
    pair.rejected.completion[0] = 74
    monkeypatch.setattr(tiny, "hidden_states", None)
    message = "id 74 is not among the model's 74 characters; use the vocabulary"
    with pytest.raises(ValueError, match=message):
        compute_reference_logps(tiny, [pair])


def test_batch_shows_what_is_scored(tokenizer):
    tokenized = tokenize_pairs(tokenizer, [Pair("1+1=?", " 2.", " no.", 1)])
    assert describe_batch(tokenizer, collate_pairs(tokenized, torch.zeros(1, 2))).split("\n") == [
        "chosen    1+1=? 2.⏎",
        "               ^^^^",
        "rejected  1+1=? no.⏎",
        "               ^^^^^",
    ]
