"""Direct Preference Optimization: log-probabilities of answers, the loss and its relatives. Imports torch only."""

import torch
from torch import Tensor
from torch.nn import functional as F

LOSS_TYPES = ("sigmoid", "ipo", "hinge", "cdpo", "robust", "dpop", "length_norm", "simpo", "assignment")
PER_CHARACTER = ("length_norm", "simpo", "assignment")  # of the losses: those that need the answers' lengths


def sequence_logps(logits: Tensor, targets: Tensor, completion_mask: Tensor) -> Tensor:
    """log pi(y|x) of each row: the **sum** of its scored characters' log-probabilities.

    logits (B, T, V), targets (B, T) the id that follows each position, completion_mask (B, T), or
    weights in its place -> (B,), in nats, in float32.
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
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    label_smoothing: float = 0.1,
    dpop_lambda: float = 50.0,
    simpo_gamma: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Per pair: loss and the two implicit rewards, each of shape (B,); the caller takes the mean.

    `beta` multiplies (but for `assignment`): the larger, the closer the policy stays to the
    reference. The lengths (B,) count scored characters. The rewards, beta times each log-ratio, are
    the same for every loss and carry no gradient.
    """
    if loss_type in PER_CHARACTER and (chosen_lengths is None or rejected_lengths is None):
        raise ValueError(f"{loss_type} is per character: give chosen_lengths and rejected_lengths")
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    logits = chosen_logratios - rejected_logratios
    match loss_type:
        case "sigmoid":  # DPO: Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7
            losses = -F.logsigmoid(beta * logits)
        case "ipo":  # a target for the margin; tau is beta: Azar et al. 2023 (2310.12036), Eq. 17
            losses = (logits - 1 / (2 * beta)) ** 2
        case "hinge":  # SLiC: Zhao et al. 2023 (2305.10425), RSO: Liu et al. 2023 (2309.06657)
            losses = torch.relu(1 - beta * logits)
        case "cdpo":  # conservative: some pairs are the wrong way round; Mitchell 2023
            right, wrong = -F.logsigmoid(beta * logits), -F.logsigmoid(-beta * logits)
            losses = (1 - label_smoothing) * right + label_smoothing * wrong
        case "robust":  # the same without bias: Chowdhury et al. 2024 (arXiv 2403.00409)
            right, wrong = -F.logsigmoid(beta * logits), -F.logsigmoid(-beta * logits)
            losses = ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
        case "dpop":  # the chosen answer must not fall: Pal et al. 2024 (2402.13228)
            losses = -F.logsigmoid(beta * (logits - dpop_lambda * torch.relu(-chosen_logratios)))
        case "length_norm":  # per character: Lambert et al. 2024 (arXiv 2411.15124)
            chosen = chosen_logratios / chosen_lengths
            rejected = rejected_logratios / rejected_lengths
            losses = -F.logsigmoid(beta * (chosen - rejected))
        case "simpo":  # no reference, a target for the margin: Meng et al. 2024 (2405.14734), Eq. 6
            chosen = policy_chosen_logps / chosen_lengths
            rejected = policy_rejected_logps / rejected_lengths
            losses = -F.logsigmoid(beta * (chosen - rejected) - simpo_gamma)
        case "assignment":  # the course's hint, not DPO: it also scores prompts (`encode_pairs`)
            chosen = policy_chosen_logps / chosen_lengths
            rejected = policy_rejected_logps / rejected_lengths
            losses = -F.logsigmoid((chosen - rejected) / beta) - 0.1 * chosen
        case _:
            known = ", ".join(LOSS_TYPES)
            raise ValueError(f"loss_type is {loss_type!r}; it must be one of {known}")
    return losses, beta * chosen_logratios.detach(), beta * rejected_logratios.detach()
