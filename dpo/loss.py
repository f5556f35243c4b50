"""Direct Preference Optimization: sequence log-probabilities and the loss. Imports torch and nothing else."""

import torch
from torch import Tensor
from torch.nn import functional as F

LOSS_TYPES = ("sigmoid", "hinge", "ipo")


def sequence_logps(logits: Tensor, targets: Tensor, completion_mask: Tensor) -> Tensor:
    """log pi(y|x) of each row: the **sum** of its scored characters' log-probabilities, in nats, in float32.

    logits (B, T, V), targets (B, T) the id that follows each position, completion_mask (B, T), or weights in its
    place -> (B,).
    """
    logps = logits.float().log_softmax(dim=-1).gather(dim=2, index=targets[..., None]).squeeze(2)
    return (logps * completion_mask).sum(dim=1)


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    loss_type: str = "sigmoid",
) -> tuple[Tensor, Tensor, Tensor]:
    """Per pair: loss and the two implicit rewards, each of shape (B,); the caller takes the mean.

    `sigmoid` is Eq. 7 of Rafailov et al. 2023 (arXiv 2305.18290), `hinge` the loss of SLiC (Zhao et al. 2023,
    arXiv 2305.10425) on the same margin, `ipo` Eq. 17 of Azar et al. 2023 (arXiv 2310.12036). `beta` multiplies:
    the larger, the closer the policy stays to the reference. The rewards carry no gradient.
    """
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    logits = chosen_logratios - rejected_logratios
    if loss_type == "sigmoid":
        losses = -F.logsigmoid(beta * logits)
    elif loss_type == "hinge":
        losses = torch.relu(1 - beta * logits)
    elif loss_type == "ipo":
        losses = (logits - 1 / (2 * beta)) ** 2
    else:
        raise ValueError(f"loss_type is {loss_type!r}; it must be one of {', '.join(LOSS_TYPES)}")
    return losses, beta * chosen_logratios.detach(), beta * rejected_logratios.detach()
