"""Direct Preference Optimization: the loss, and the log-probabilities that it is made of.

Rafailov et al. 2023, https://arxiv.org/abs/2305.18290. All that DPO adds to a language model is the
five lines of `dpo_loss`. Its relatives are in `dpo/loss_variants.py`.
"""

import math

from torch import Tensor
from torch.nn import functional as F

LN_2 = math.log(2)  # nats: the loss where policy and reference score alike, as at the start


def sequence_logps(
    logits: Tensor,
    targets: Tensor,
    completion_mask: Tensor,
) -> Tensor:
    """log pi(y|x) of each row: the **sum** of its answer's log-probabilities.

    In nats, in float32. By the chain rule: log pi(y|x) = sum over t of
    log pi(y_t | x, y_<t). Eq. 7 needs this sum, not a mean per character.

    logits           (B, T, V)  scores of the V characters that may come next
    targets          (B, T)     the id of the character that does come next
    completion_mask  (B, T)     True where it is scored, or a weight instead
    returns          (B,)
    """
    # In float32: bfloat16 would round the sum.
    logps = logits.float().log_softmax(dim=-1)  # (B, T, V)
    logps = logps.gather(dim=2, index=targets[..., None]).squeeze(2)  # (B, T)
    return (logps * completion_mask).sum(dim=1)  # (B,): prompt, padding add 0


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair's loss and its two implicit rewards: Eq. 7 (arXiv 2305.18290).

        loss = -log sigmoid(beta * h)
        h = log(pi(y_w|x) / pi_ref(y_w|x)) - log(pi(y_l|x) / pi_ref(y_l|x))

    y_w is the chosen answer and y_l the rejected one; pi is the policy, which
    learns, and pi_ref the reference, a frozen copy of the model that the
    policy started from.

    The four vectors are (B,), in nats, from `sequence_logps`. `beta`
    **multiplies**: the larger it is, the closer the policy stays to the
    reference. Returned are losses, chosen_rewards and rejected_rewards, (B,)
    each. The caller takes the mean of the losses; the rewards are there to be
    looked at and carry no gradient.
    """
    # Log-ratios (B,): above 0 where the policy finds an answer likelier.
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    h = chosen_logratios - rejected_logratios  # (B,)
    # log(sigmoid(x)) would be -inf below x = -88; logsigmoid is not.
    losses = -F.logsigmoid(beta * h)
    chosen_rewards = beta * chosen_logratios.detach()
    rejected_rewards = beta * rejected_logratios.detach()
    return losses, chosen_rewards, rejected_rewards
