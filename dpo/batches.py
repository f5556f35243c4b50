"""From pairs of texts to batches of tensors, with the reference's log-probabilities beside them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from dpo.loss import sequence_logps
from dpo.pairs import Pair
from model import GPT
from sft.bar import Bar
from sft.device import out_of_memory_in_words
from sft.rows import Row, encode_row
from sft.tokenizer import Tokenizer

SHARED = 0  # branch of the ids that both texts share
MICRO_BATCH = 32  # pairs in one pass: more take memory and hardly save time on a CPU


@dataclass(frozen=True, slots=True)
class Example:
    chosen: Row
    rejected: Row  # same prompt
    line: int  # of the pair in its file


@dataclass(frozen=True, slots=True)
class Scored:
    """Where one answer of each of B pairs is scored, (B, C): its text is a path through the row of its pair."""

    at: Tensor  # which place of the row predicts the target
    targets: Tensor  # ids of the text but its first
    completion_mask: Tensor  # bool: whether the target belongs to the answer


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """B pairs, a row each: what both texts share, once; then the rest of the chosen, then of the rejected answer.

    A row saves the prompt (and, for near misses, the start of the answer) from being computed twice. `visible` keeps
    the two rests from seeing each other, so that every id sees just the text before it.
    """

    inputs: Tensor  # (B, T) ids
    positions: Tensor  # (B, T) place of each id in its own text
    visible: Tensor  # (B, 1, T, T) bool: which ids each id looks at
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


def encode_pairs(tokenizer: Tokenizer, pairs: list[Pair], loss_type: str = "sigmoid") -> list[Example]:
    """Texts to ids; ValueError for a character that the tokenizer does not know.

    The loss `assignment` scores all of a text but its first character and the newline: there, that is the answer.
    """
    examples = [
        Example(encode_row(tokenizer, p.prompt, p.chosen), encode_row(tokenizer, p.prompt, p.rejected), p.line)
        for p in pairs
    ]
    if loss_type != "assignment":
        return examples
    return [Example(_scored_whole(e.chosen), _scored_whole(e.rejected), e.line) for e in examples]


def _scored_whole(row: Row) -> Row:
    return Row(row.prompt[:1], row.prompt[1:] + row.completion[:-1])


def shared_length(example: Example) -> int:
    """How many ids both texts begin with; the last id of each text, which predicts nothing, is left out."""
    texts = [row.prompt + row.completion[:-1] for row in (example.chosen, example.rejected)]
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(*texts, strict=False)))


def packed_length(example: Example) -> int:
    """How many ids the row of this pair has."""
    return len(example.chosen) + len(example.rejected) - 2 - shared_length(example)


def pack(examples: list[Example], device: str | torch.device = "cpu") -> PackedPairs:
    """One row a pair, padded on the right with newlines, which no id before them sees."""
    columns = [_pack_one(example) for example in examples]
    inputs, positions, branch, *scored = (_padded(column, device) for column in zip(*columns, strict=True))
    same = branch[:, :, None] == branch[:, None, :]
    visible = (same | (branch[:, None, :] == SHARED)).tril()[:, None]
    chosen, rejected = (Scored(at, targets, mask.bool()) for at, targets, mask in (scored[:3], scored[3:]))
    return PackedPairs(inputs, positions, visible, chosen, rejected)


def _pack_one(example: Example) -> list[list[int]]:
    """The columns of one row: inputs, positions, branch; at, targets and mask of chosen, then of rejected."""
    chosen, rejected = (row.prompt + row.completion for row in (example.chosen, example.rejected))
    shared, c, r = shared_length(example), len(chosen) - 1, len(rejected) - 1
    unscored = len(example.chosen.prompt) - 1
    return [
        chosen[:-1] + rejected[shared:-1],
        [*range(c), *range(shared, r)],
        [SHARED] * shared + [1] * (c - shared) + [2] * (r - shared),
        [*range(c)], chosen[1:], [0] * unscored + [1] * (c - unscored),
        [*range(shared), *range(c, c + r - shared)], rejected[1:], [0] * unscored + [1] * (r - unscored),
    ]  # fmt: skip


def _padded(rows: tuple[list[int], ...], device: str | torch.device) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)


def batch_order(n: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch over n pairs as lists of indices: a function of these four and nothing else.

    Every index comes once, the last batch may be smaller. Batches are not sorted by length: that would save 4 % of the
    characters, but pairs of one length are of one kind, and a blank base learns more slowly from batches of one kind.
    """
    order = list(range(n))
    random.Random(f"{seed} {epoch}").shuffle(order)
    return [order[start : start + batch_size] for start in range(0, n, batch_size)]


def batches(
    examples: list[Example],
    reference_logps: Tensor,
    batch_size: int,
    seed: int,
    epochs: int = 1,
    start: int = 0,
    device: str | torch.device = "cpu",
    micro_batch: int = MICRO_BATCH,
    share: tuple[int, int] = (0, 1),
) -> Iterator[list[PairBatch]]:
    """The batches of all epochs from step `start` on, each as parts of like length for one pass each.

    `reference_logps` (N, 2) holds chosen and rejected of each example; a part has at most `micro_batch` pairs. With
    `share` (r, n), those that fall to process r of n: together they are the batch, and alike in their lengths.
    """
    order = [batch for epoch in range(epochs) for batch in batch_order(len(examples), batch_size, seed, epoch)]
    for indices in order[start:]:
        indices = sorted(indices, key=lambda i: packed_length(examples[i]))[share[0] :: share[1]]
        parts = (indices[first : first + micro_batch] for first in range(0, len(indices), micro_batch))
        yield [make_batch([examples[i] for i in part], reference_logps[part], device) for part in parts]


def make_batch(examples: list[Example], reference_logps: Tensor, device: str | torch.device = "cpu") -> PairBatch:
    """These pairs as one batch; `reference_logps` (B, 2) holds chosen and rejected of each."""
    lines = tuple(example.line for example in examples)
    return PairBatch(pack(examples, device), *reference_logps.to(device).unbind(dim=1), lines)


def pair_logits(model: GPT, pairs: PackedPairs) -> tuple[Tensor, Tensor]:
    """Logits (B, C, vocab_size) for the targets of the chosen and of the rejected answers, from one forward pass."""
    hidden = model.hidden_states(pairs.inputs, pairs.positions, visible=pairs.visible)
    with torch.autocast(hidden.device.type, enabled=False):  # logits in float32 at any precision
        logits = model.lm_head(hidden.float())
    chosen, rejected = (
        logits.gather(1, answer.at[..., None].expand(-1, -1, logits.shape[2]))
        for answer in (pairs.chosen, pairs.rejected)
    )
    return chosen, rejected


def pair_logps(model: GPT, pairs: PackedPairs) -> tuple[Tensor, Tensor]:
    """log pi(y_w|x) and log pi(y_l|x) of each pair under the model, (B,) each."""
    chosen, rejected = (
        sequence_logps(logits, answer.targets, answer.completion_mask)
        for logits, answer in zip(pair_logits(model, pairs), (pairs.chosen, pairs.rejected), strict=True)
    )
    return chosen, rejected


@torch.no_grad()
def compute_reference_logps(
    reference: GPT,
    examples: list[Example],
    batch_size: int = MICRO_BATCH,
    progress: str = "",
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """log pi_ref of every chosen and rejected answer, (N, 2): once, since the reference never changes.

    With `share` (r, n), of those that fall to process r of n, and 0 elsewhere: the sum over processes is complete.
    ValueError for ids that the model does not have, before any of them reaches a device: on CUDA they end the process.
    """
    device = reference.lm_head.weight.device
    largest = max((max(row.prompt + row.completion) for e in examples for row in (e.chosen, e.rejected)), default=0)
    if largest >= reference.config.vocab_size:
        raise ValueError(
            f"id {largest} is not among the model's {reference.config.vocab_size} characters; "
            "use the vocabulary that belongs to it"
        )
    order = sorted(range(len(examples)), key=lambda i: packed_length(examples[i]))[share[0] :: share[1]]
    logps = torch.zeros(len(examples), 2)
    with Bar(len(order), progress, "pair") as bar:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            with out_of_memory_in_words(len(part)):
                pairs = pack([examples[i] for i in part], device)
                logps[part] = torch.stack(pair_logps(reference, pairs), dim=1).cpu()
            bar.update(len(part))
    return logps
