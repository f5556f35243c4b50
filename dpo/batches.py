"""From pairs of texts to batches of tensors, with the reference's log-probabilities beside them."""

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from dpo.loss import sequence_logps
from dpo.pairs import Pair
from model import GPT
from sft.rows import Row, Rows, collate, encode_row
from sft.tokenizer import Tokenizer

BUCKET_BATCHES = 8  # so many batches are shuffled together and then sorted by length


@dataclass(frozen=True, slots=True)
class Example:
    chosen: Row
    rejected: Row  # same prompt


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B pairs: two sets of rows, each padded to its own longest, and what the reference says of them (B,)."""

    chosen: Rows
    rejected: Rows
    reference_chosen_logps: Tensor
    reference_rejected_logps: Tensor


def encode_pairs(tokenizer: Tokenizer, pairs: list[Pair]) -> list[Example]:
    return [
        Example(encode_row(tokenizer, p.prompt, p.chosen), encode_row(tokenizer, p.prompt, p.rejected)) for p in pairs
    ]


def batch_order(lengths: list[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as lists of indices: a function of (seed, epoch) and nothing else.

    Every index comes once, the last batch may be smaller. Pairs of like length share a batch, which saves padding.
    """
    rng = random.Random(f"{seed} {epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    window = batch_size * BUCKET_BATCHES
    batches = []
    for start in range(0, len(order), window):
        alike = sorted(order[start : start + window], key=lambda i: lengths[i])
        batches += [alike[i : i + batch_size] for i in range(0, len(alike), batch_size)]
    rng.shuffle(batches)
    return batches


def batches(
    examples: list[Example],
    reference_logps: Tensor,
    batch_size: int,
    seed: int,
    epoch: int,
    device: str | torch.device = "cpu",
) -> Iterator[PairBatch]:
    """The batches of one epoch; `reference_logps` (N, 2) holds chosen and rejected of each example."""
    for indices in batch_order([len(e.chosen) for e in examples], batch_size, seed, epoch):
        yield PairBatch(
            collate([examples[i].chosen for i in indices], device),
            collate([examples[i].rejected for i in indices], device),
            *reference_logps[indices].to(device).unbind(dim=1),
        )


def rows_logps(model: GPT, rows: Rows) -> Tensor:
    """log pi(y|x) of each row under the model, (B,)."""
    logits, _ = model(rows.inputs, full_seq=True)
    return sequence_logps(logits, rows.targets, rows.completion_mask)


@torch.no_grad()
def compute_reference_logps(
    reference: GPT, examples: list[Example], batch_size: int = 64, progress: str = ""
) -> Tensor:
    """log pi_ref of every chosen and rejected answer, (N, 2): once, since the reference never changes."""
    device = reference.lm_head.weight.device
    rows = [row for example in examples for row in (example.chosen, example.rejected)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    logps = torch.empty(len(rows))
    with tqdm(
        total=len(rows), desc=progress, unit="row", disable=not progress, mininterval=1.0, file=sys.stdout
    ) as bar:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            logps[part] = rows_logps(reference, collate([rows[i] for i in part], device)).cpu()
            bar.update(len(part))
    return logps.view(-1, 2)
