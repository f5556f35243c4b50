"""From pairs of texts to batches of tensors, with the reference's log-probabilities beside them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice, takewhile

import torch
from torch import Tensor

from dpo.data.pair import Pair
from sft.sequences import Sequence, encode_sequence
from sft.tokenizer import Tokenizer

SHARED_PREFIX, CHOSEN, REJECTED = 0, 1, 2  # the segments of a packed row
MICRO_BATCH = 32  # pairs in one pass: more take memory and hardly save time on a CPU


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A pair as ids; both sequences have the same prompt."""

    chosen: Sequence
    rejected: Sequence
    line: int  # of the pair in its file


@dataclass(frozen=True, slots=True)
class Scored:
    """Where one answer of each of B pairs is scored; C is the longest text less one."""

    logit_positions: Tensor  # (B, C) which place of the packed row predicts the target
    targets: Tensor  # (B, C) ids of the text but its first
    completion_mask: Tensor  # (B, C) bool: whether the target belongs to the answer


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """B pairs, a row of T ids each, so that what both texts share is computed once.

    A row is the prefix that both texts share, then the rest of the chosen text, then the rest of
    the rejected one. The attention mask lets each id see only what stands before it in its own
    text.
    """

    inputs: Tensor  # (B, T) ids
    position_ids: Tensor  # (B, T) place of each id in its own text
    attention_mask: Tensor  # (B, 1, T, T) bool: which ids (last axis) each id looks at
    chosen: Scored
    rejected: Scored


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B pairs and what the reference says of their answers (B,)."""

    pairs: PackedPairs
    reference_chosen_logps: Tensor
    reference_rejected_logps: Tensor
    lines: tuple[int, ...]  # of the pairs in their file

    def __len__(self) -> int:
        return len(self.reference_chosen_logps)


def tokenize_pairs(
    tokenizer: Tokenizer, pairs: list[Pair], loss_type: str = "sigmoid"
) -> list[TokenizedPair]:
    """Texts to ids; ValueError for a character that the tokenizer does not know.

    The loss `assignment` scores all of a text but its first character and the newline: for it, that
    is the answer.
    """
    tokenized = []
    for pair in pairs:
        answers = (pair.chosen, pair.rejected)
        texts = [encode_sequence(tokenizer.encode, pair.prompt, answer) for answer in answers]
        if loss_type == "assignment":
            texts = [Sequence(t.prompt[:1], t.prompt[1:] + t.completion[:-1]) for t in texts]
        tokenized.append(TokenizedPair(*texts, pair.line))
    return tokenized


def shared_length(pair: TokenizedPair) -> int:
    """How many ids both texts begin with, without the last id of each, which predicts nothing."""
    texts = [text.prompt + text.completion[:-1] for text in (pair.chosen, pair.rejected)]
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(*texts, strict=False)))


def packed_length(pair: TokenizedPair) -> int:
    """How many ids the packed row of this pair has."""
    return len(pair.chosen) + len(pair.rejected) - 2 - shared_length(pair)


def pack_pairs(pairs: list[TokenizedPair], device: str | torch.device = "cpu") -> PackedPairs:
    """One row a pair, padded on the right with newlines, which no id before them sees."""
    columns = zip(*(_pack_pair(pair) for pair in pairs), strict=True)
    inputs, position_ids, segments, *scored = (_padded(column, device) for column in columns)
    # An id looks at its own segment and at the shared prefix; `tril` leaves what stands before it.
    same_segment = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
    in_prefix = segments[:, None, :] == SHARED_PREFIX  # (B, 1, T)
    attention_mask = (same_segment | in_prefix).tril()[:, None]  # (B, 1, T, T)
    chosen, rejected = (
        Scored(logit_positions, targets, mask.bool())
        for logit_positions, targets, mask in (scored[:3], scored[3:])
    )
    return PackedPairs(inputs, position_ids, attention_mask, chosen, rejected)


def _pack_pair(pair: TokenizedPair) -> list[list[int]]:
    """The columns of one row, in the order in which `pack_pairs` names them.

    With the prompt `1+1=?`, chosen ` 2.`, rejected ` no.` and ⏎ for the newline:

        text chosen      1 + 1 = ? _ 2 . ⏎
        text rejected    1 + 1 = ? _ n o . ⏎
        inputs           1 + 1 = ? _ 2 . n o .     the last id of a text predicts nothing
        segments         0 0 0 0 0 0 1 1 2 2 2     shared prefix, chosen, rejected
        position_ids     0 1 2 3 4 5 6 7 6 7 8     of each id in its own text
        logit_positions of the chosen    0 1 2 3 4 5 6 7     targets + 1 = ? _ 2 . ⏎
        logit_positions of the rejected  0 1 2 3 4 5 8 9 10  targets + 1 = ? _ n o . ⏎
        completion_mask of the chosen    0 0 0 0 1 1 1 1     from the first id of the answer on
    """
    chosen, rejected = (text.prompt + text.completion for text in (pair.chosen, pair.rejected))
    shared = shared_length(pair)
    n_chosen, n_rejected = len(chosen) - 1, len(rejected) - 1  # targets of each text
    chosen_rest, rejected_rest = n_chosen - shared, n_rejected - shared
    in_prompt = len(pair.chosen.prompt) - 1  # targets that belong to the prompt
    inputs = chosen[:-1] + rejected[shared:-1]
    position_ids = [*range(n_chosen), *range(shared, n_rejected)]
    segments = [SHARED_PREFIX] * shared + [CHOSEN] * chosen_rest + [REJECTED] * rejected_rest
    columns = [inputs, position_ids, segments]
    columns += [[*range(n_chosen)], chosen[1:], _answer_mask(in_prompt, n_chosen)]
    # The rejected text reads its logits from the prefix, then from behind the chosen rest.
    rejected_positions = [*range(shared), *range(n_chosen, n_chosen + rejected_rest)]
    return [*columns, rejected_positions, rejected[1:], _answer_mask(in_prompt, n_rejected)]


def _answer_mask(in_prompt: int, n_targets: int) -> list[int]:
    return [0] * in_prompt + [1] * (n_targets - in_prompt)


def _padded(rows: tuple[list[int], ...], device: str | torch.device) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)


def batch_order(
    n: int, batch_size: int, seed: int, steps: int = 0, epochs: int = 1
) -> list[list[int]]:
    """The batches of a run over n pairs, as lists of indices: a function of these five only.

    `epochs` passes, in each of which every index comes once and the last batch may be smaller. Or,
    if `steps` is above 0, so many full batches: they are cut from one pass after the other, also
    across the end of a pass, so that runs on different files make the same steps.

    Batches are not sorted by length: that would save 4 % of the characters, but pairs of one length
    are of one kind, and a blank base learns more slowly from batches of one kind.
    """

    def shuffled(epoch: int) -> list[int]:
        order = list(range(n))
        random.Random(f"{seed} {epoch}").shuffle(order)
        return order

    if steps:
        stream = chain.from_iterable(map(shuffled, count()))
        return [list(islice(stream, batch_size)) for _ in range(steps)]
    order = []
    for epoch in range(epochs):
        indices = shuffled(epoch)
        order += [indices[start : start + batch_size] for start in range(0, n, batch_size)]
    return order


def batches(
    pairs: list[TokenizedPair],
    reference_logps: Tensor,
    batch_size: int,
    seed: int,
    steps: int = 0,
    epochs: int = 1,
    start: int = 0,
    device: str | torch.device = "cpu",
    micro_batch: int = MICRO_BATCH,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[list[PairBatch]]:
    """The batches of `batch_order` from step `start` on, each as micro-batches for one pass each.

    `reference_logps` (N, 2) holds chosen and rejected of each pair. A micro-batch has at most
    `micro_batch` pairs, of like length. With `shard` (r, n), those that fall to process r of n:
    together they are the batch, and alike in their lengths.
    """
    for indices in batch_order(len(pairs), batch_size, seed, steps, epochs)[start:]:
        indices = sorted(indices, key=lambda i: packed_length(pairs[i]))[shard[0] :: shard[1]]
        cut = [indices[i : i + micro_batch] for i in range(0, len(indices), micro_batch)]
        yield [
            collate_pairs([pairs[i] for i in part], reference_logps[part], device) for part in cut
        ]


def collate_pairs(
    pairs: list[TokenizedPair], reference_logps: Tensor, device: str | torch.device = "cpu"
) -> PairBatch:
    """These pairs as one batch; `reference_logps` (B, 2) holds chosen and rejected of each."""
    lines = tuple(pair.line for pair in pairs)
    return PairBatch(pack_pairs(pairs, device), *reference_logps.to(device).unbind(dim=1), lines)


def describe_batch(tokenizer: Tokenizer, batch: PairBatch) -> str:
    """Its texts, and below each a `^` for every character that is scored."""
    lines = []
    for name, answers in (("chosen", batch.pairs.chosen), ("rejected", batch.pairs.rejected)):
        texts = torch.cat([batch.pairs.inputs[:, :1], answers.targets], dim=1)  # (B, C + 1)
        for ids, mask in zip(texts.tolist(), answers.completion_mask.tolist(), strict=True):
            lines.append(f"{name:10}" + tokenizer.decode(ids).rstrip("\n") + "⏎")
            lines.append(" " * 11 + "".join(" ^"[scored] for scored in mask).rstrip())
    return "\n".join(lines)
