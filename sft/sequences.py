"""Prompt + completion -> inputs, targets, mask. Only the completion and its newline are scored."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model import NEWLINE_ID


@dataclass(frozen=True, slots=True)
class Sequence:
    """One text as ids, in its two parts."""

    prompt: list[int]
    completion: list[int]  # with the newline that ends it

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """Right-padded tensors of shape (B, T), T being the longest sequence less one."""

    inputs: Tensor  # ids
    targets: Tensor  # the id that follows each input
    completion_mask: Tensor  # bool: whether that id is scored

    def to(self, device: torch.device) -> "SequenceBatch":
        return SequenceBatch(
            self.inputs.to(device), self.targets.to(device), self.completion_mask.to(device)
        )


def encode_sequence(encode: Callable[[str], list[int]], prompt: str, completion: str) -> Sequence:
    """The ids of both texts, `encode` being a tokenizer's; one newline is added, which ends it."""
    return Sequence(encode(prompt), [*encode(completion), NEWLINE_ID])


def collate_sequences(
    sequences: list[Sequence], device: str | torch.device = "cpu"
) -> SequenceBatch:
    """Sequences of any lengths as one batch.

    The mask is made from lengths, never from ids: the padding is newlines, and the newline that
    ends a completion is a character like any other, and scored.
    """
    ids = torch.full((len(sequences), max(map(len, sequences))), NEWLINE_ID)  # (B, T + 1)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence.prompt + sequence.completion)
    target_position = torch.arange(1, ids.shape[1])  # (T,): target t stands at t + 1 of its text
    starts = torch.tensor([len(s.prompt) for s in sequences])[:, None]  # (B, 1)
    ends = torch.tensor([len(s) for s in sequences])[:, None]
    mask = (target_position >= starts) & (target_position < ends)  # (B, T)
    return SequenceBatch(ids[:, :-1].to(device), ids[:, 1:].to(device), mask.to(device))
