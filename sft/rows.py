"""Rows for training: prompt, completion and one newline that ends it; only completion and newline are scored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model import NEWLINE_ID
from sft.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Row:
    prompt: list[int]
    completion: list[int]  # with its closing newline

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Rows:
    """Right-padded tensors of shape (B, T), T being the longest row less one."""

    inputs: Tensor  # ids
    targets: Tensor  # the id that follows each input
    completion_mask: Tensor  # bool: whether that id is scored; made from lengths, since id 0 is a real character


def encode_row(tokenizer: Tokenizer, prompt: str, completion: str) -> Row:
    return Row(tokenizer.encode(prompt), [*tokenizer.encode(completion), NEWLINE_ID])


def collate(rows: list[Row], device: str | torch.device = "cpu") -> Rows:
    ids = torch.full((len(rows), max(map(len, rows))), NEWLINE_ID)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row.prompt + row.completion)
    position = torch.arange(1, ids.shape[1])  # of the target
    starts = torch.tensor([len(row.prompt) for row in rows])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    mask = (position >= starts) & (position < ends)
    return Rows(ids[:, :-1].to(device), ids[:, 1:].to(device), mask.to(device))
