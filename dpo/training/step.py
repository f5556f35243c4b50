"""One step of DPO: loss, gradients, clip, update.

Notebook, `dpo.train` and museum call `train_step`.
"""

import math

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from dpo.data.batches import PairBatch
from dpo.loss import sequence_logps
from dpo.loss_variants import preference_loss
from dpo.training.distributed import ALONE, World
from dpo.training.logps import pair_logits
from model import DIGIT_IDS, GPT
from sft.device import autocast, explain_out_of_memory

METRICS = (
    "loss", "loss/preference", "nll", "rewards/chosen", "rewards/rejected", "rewards/margins",
    "rewards/accuracies", "logps/chosen", "logps/rejected",
)  # fmt: skip


def dpo_step(
    policy: GPT,
    batch: PairBatch,
    beta: float,
    nll_coef: float = 0.0,
    loss_type: str = "sigmoid",
    digit_weight: float = 1.0,
    **variant: float,
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss over the batch, ready for backward, and its metrics.

    DPO (Eq. 7), or another `loss_type` with its settings `variant` (`dpo.loss_variants`); plus
    `nll_coef` times the chosen answer's negative log-likelihood, mean per character of each answer:
    the RPO term of Pang et al. 2024 (arXiv 2404.19733). In that mean a digit counts `digit_weight`
    times. Where the loss is `assignment`, an answer is the whole text, also in the metrics.
    """
    chosen, rejected = batch.pairs.chosen, batch.pairs.rejected
    # One forward pass of the policy gives the logits of both answers, (B, C, vocab_size) each.
    chosen_logits, rejected_logits = pair_logits(policy, batch.pairs)
    chosen_logps = sequence_logps(chosen_logits, chosen.targets, chosen.completion_mask)  # (B,)
    rejected_logps = sequence_logps(rejected_logits, rejected.targets, rejected.completion_mask)

    # The reference never changes, so its two log-probabilities came with the batch.
    four_logps = (chosen_logps, rejected_logps)
    four_logps += (batch.reference_chosen_logps, batch.reference_rejected_logps)
    lengths = [answer.completion_mask.sum(dim=1) for answer in (chosen, rejected)]  # (B,) each
    losses, chosen_rewards, rejected_rewards = preference_loss(
        loss_type, *four_logps, beta, *lengths, **variant
    )

    # The NLL term: the mask becomes a weight, digit_weight for a digit of the answer, else 1.
    is_digit = (chosen.targets >= DIGIT_IDS[0]) & (chosen.targets <= DIGIT_IDS[-1])  # (B, C)
    weights = chosen.completion_mask * (1 + (digit_weight - 1) * is_digit)
    nll = (-sequence_logps(chosen_logits, chosen.targets, weights) / weights.sum(dim=1)).mean()

    loss = losses.mean() + nll_coef * nll
    margins = chosen_rewards - rejected_rewards
    values = (
        loss, losses.mean(), nll, chosen_rewards.mean(), rejected_rewards.mean(), margins.mean(),
        (margins > 0).float().mean(), chosen_logps.mean(), rejected_logps.mean(),
    )  # fmt: skip
    return loss, {name: value.item() for name, value in zip(METRICS, values, strict=True)}


def train_step(
    policy: GPT,
    micro_batches: list[PairBatch],
    optimizers: list[torch.optim.Optimizer],
    schedulers: list[LambdaLR],
    *,
    max_grad_norm: float = 1.0,
    precision: str = "auto",
    world: World = ALONE,
    **objective: float | str,
) -> dict[str, float]:
    """One update of the policy from one batch; the metrics of the policy before it.

    `objective` are the settings of `dpo_step`. FloatingPointError, before anything moves and with
    no gradients left, if the loss or a gradient is not finite.
    """
    metrics = accumulate_gradients(policy, micro_batches, precision, **objective)
    metrics = world.average_gradients(policy, metrics, sum(map(len, micro_batches)))
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm).item()
    if not math.isfinite(grad_norm):
        raise _not_finite(policy, f"the gradient is {grad_norm}", micro_batches)
    lr = max(optimizer.param_groups[0]["lr"] for optimizer in optimizers)
    for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    return metrics | {"grad_norm": grad_norm, "lr": lr}


def accumulate_gradients(
    policy: GPT, micro_batches: list[PairBatch], precision: str, **objective: float | str
) -> dict[str, float]:
    """Add up the gradients of a batch's mean loss, a micro-batch at a time; the batch's metrics."""
    metrics, device = dict.fromkeys(METRICS, 0.0), policy.lm_head.weight.device
    pairs = sum(map(len, micro_batches))
    for micro_batch in micro_batches:
        # A mean over few pairs counts as many pairs as it has: the sum is the mean over all.
        weight = len(micro_batch) / pairs
        with explain_out_of_memory(len(micro_batch)):
            with autocast(device, precision):
                loss, its_metrics = dpo_step(policy, micro_batch, **objective)
            if not math.isfinite(its_metrics["loss"]):
                raise _not_finite(policy, f"the loss is {its_metrics['loss']}", [micro_batch])
            (weight * loss).backward()
        metrics = {name: metrics[name] + weight * value for name, value in its_metrics.items()}
    return metrics


def _not_finite(policy: GPT, what: str, micro_batches: list[PairBatch]) -> FloatingPointError:
    """The error to raise, with no gradients left behind."""
    policy.zero_grad(set_to_none=True)
    lines = sorted(line for micro_batch in micro_batches for line in micro_batch.lines)
    where = ", ".join(map(str, lines)) or "of another process"
    return FloatingPointError(
        f"{what} for the pairs of lines {where}; nothing was changed by this step: lower base_lr"
    )
