"""The DPO loop of a usual public notebook, to be measured against.

Written for this measurement. Chosen and rejected texts stand below each other in one padded batch;
policy and reference both score it in every step, at all positions, in float32; torch's AdamW.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model import GPT
from sft.sequences import Sequence, SequenceBatch, collate_sequences


def answer_logps(model: GPT, batch: SequenceBatch) -> Tensor:
    """Log-probability of each text's answer, (2B,)."""
    logits, _ = model(batch.inputs, full_seq=True)  # (2B, T, vocab_size)
    logps = logits.log_softmax(dim=-1).gather(2, batch.targets[..., None]).squeeze(2)  # (2B, T)
    return (logps * batch.completion_mask).sum(dim=1)


def train_step(
    policy: GPT,
    reference: GPT,
    optimizer: torch.optim.Optimizer,
    chosen: list[Sequence],
    rejected: list[Sequence],
    beta: float,
) -> float:
    """One update by DPO's loss (Eq. 7); the loss before it."""
    batch = collate_sequences([*chosen, *rejected])
    with torch.no_grad():
        reference_logps = answer_logps(reference, batch)
    rewards = beta * (answer_logps(policy, batch) - reference_logps)
    chosen_rewards, rejected_rewards = rewards.chunk(2)
    loss = -F.logsigmoid(chosen_rewards - rejected_rewards).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
