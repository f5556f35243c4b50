"""The course's training loop and text generation, to be measured against.

Written again after its description. Every pair is two rows of 64 characters, whatever it needs;
dropout stays on; the two rows go through the model one after the other; the loss is the hinted one,
over prompt and answer, and has no reference.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model import GPT, NEWLINE_ID, PERIOD_ID
from sft.sequences import Sequence

MAX_LENGTH = 64
DROPOUT = 0.2  # of the course's checkpoint


def padded(rows: list[Sequence]) -> Tensor:
    """Ids (B, 64), filled up with newlines, which the mask of the loop takes for padding."""
    ids = torch.full((len(rows), MAX_LENGTH), NEWLINE_ID)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row.prompt + row.completion)
    return ids


def mean_logps(model: GPT, ids: Tensor) -> Tensor:
    """Mean log-probability of each text's characters, prompt included, (B,)."""
    logits, _ = model(ids[:, :-1], full_seq=True)  # (B, 63, vocab_size)
    targets, mask = ids[:, 1:], ids[:, 1:] != NEWLINE_ID
    logps = logits.log_softmax(dim=-1).gather(2, targets[..., None]).squeeze(2)
    return (logps * mask).sum(dim=1) / mask.sum(dim=1)


def train_step(
    model: GPT, optimizer: torch.optim.Optimizer, chosen: Tensor, rejected: Tensor, beta: float
) -> float:
    """One update by the hinted loss, in which beta divides; the loss before it."""
    mean_chosen, mean_rejected = mean_logps(model, chosen), mean_logps(model, rejected)
    loss = -F.logsigmoid((mean_chosen - mean_rejected) / beta).mean() - 0.1 * mean_chosen.mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def generate(model: GPT, idx: Tensor, max_new_tokens: int) -> Tensor:
    """One greedy answer to one prompt (1, T).

    For every character the whole text goes through the model again.
    """
    for _ in range(max_new_tokens):
        logits, _ = model(idx[:, -model.config.block_size :])
        chosen = logits[:, -1].argmax(dim=-1, keepdim=True)
        if chosen.item() == NEWLINE_ID:
            break
        idx = torch.cat([idx, chosen], dim=1)
        if chosen.item() == PERIOD_ID:
            break
    return idx
