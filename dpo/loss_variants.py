"""The relatives of DPO: a function each, whose signature says all that is needed to call it.

A loss asks by name for any of these, all but `beta` of shape (B,), and returns losses (B,):

policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
                                      log-probabilities of the answers, in nats (`sequence_logps`)
chosen_logratios, rejected_logratios  the policy's less the reference's
chosen_lengths, rejected_lengths      how many characters of an answer are scored
beta                                  a number that multiplies (in `assignment` it divides)

Its keyword-only parameters and their defaults are its settings; each is a line of `Config` in
dpo/train.py, too. So one more loss is one function here, listed in `VARIANTS`, with a test in
tests/dpo/test_loss.py and a row in the table of losses (dpo/README.md).
"""

import inspect
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dpo.loss import dpo_loss

LENGTHS = {"chosen_lengths", "rejected_lengths"}
OF_REFERENCE = {
    "reference_chosen_logps",
    "reference_rejected_logps",
    "chosen_logratios",
    "rejected_logratios",
}


def sigmoid(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """DPO itself: Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7."""
    policy_logps = policy_chosen_logps, policy_rejected_logps
    return dpo_loss(*policy_logps, reference_chosen_logps, reference_rejected_logps, beta)[0]


def ipo(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float) -> Tensor:
    """A target for the margin, and no push beyond it: Azar et al. 2023 (arXiv 2310.12036), Eq. 17.

    `beta` is the paper's tau.
    """
    return (chosen_logratios - rejected_logratios - 1 / (2 * beta)) ** 2


def hinge(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float) -> Tensor:
    """Nothing to gain beyond a margin of 1: SLiC, Zhao et al. 2023 (arXiv 2305.10425).

    With log-ratios, as here: RSO, Liu et al. 2023 (arXiv 2309.06657).
    """
    return torch.relu(1 - beta * (chosen_logratios - rejected_logratios))


def cdpo(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    beta: float,
    *,
    label_smoothing: float = 0.1,
) -> Tensor:
    """Conservative DPO: a share `label_smoothing` of the pairs may be swapped; Mitchell 2023."""
    right, wrong = _both_ways(chosen_logratios - rejected_logratios, beta)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def robust(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    beta: float,
    *,
    label_smoothing: float = 0.1,
) -> Tensor:
    """If just that share is swapped, the mean is DPO's of the pairs unswapped: no bias.

    Chowdhury et al. 2024 (arXiv 2403.00409). It has no lower bound.
    """
    right, wrong = _both_ways(chosen_logratios - rejected_logratios, beta)
    return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)


def _both_ways(logits: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """DPO's losses (B,) of the pairs as they are, and of the same pairs swapped."""
    return -F.logsigmoid(beta * logits), -F.logsigmoid(-beta * logits)


def dpop(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    beta: float,
    *,
    dpop_lambda: float = 50.0,
) -> Tensor:
    """DPO-Positive: the chosen answer must not fall; Pal et al. 2024 (arXiv 2402.13228)."""
    fallen = torch.relu(-chosen_logratios)  # (B,), in nats: DPO is content if rejected falls more
    return -F.logsigmoid(beta * (chosen_logratios - rejected_logratios - dpop_lambda * fallen))


def length_norm(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
) -> Tensor:
    """DPO of log-ratios per character: Lambert et al. 2024 (arXiv 2411.15124)."""
    chosen = chosen_logratios / chosen_lengths
    rejected = rejected_logratios / rejected_lengths
    return -F.logsigmoid(beta * (chosen - rejected))


def simpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
    *,
    simpo_gamma: float = 1.0,
) -> Tensor:
    """No reference, but a margin to reach: Meng et al. 2024 (arXiv 2405.14734), Eq. 6."""
    chosen = policy_chosen_logps / chosen_lengths
    rejected = policy_rejected_logps / rejected_lengths
    return -F.logsigmoid(beta * (chosen - rejected) - simpo_gamma)


def orpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
) -> Tensor:
    """ORPO's odds-ratio term, without a reference: Hong et al. 2024 (arXiv 2403.07691), Eq. 7.

    `beta` is the paper's lambda, the weight of this term. ORPO adds it to the chosen answer's
    negative log-likelihood (its Eq. 6), which in dpo.train is `--nll_coef=1`.
    """
    chosen = _log_odds(policy_chosen_logps / chosen_lengths)
    rejected = _log_odds(policy_rejected_logps / rejected_lengths)
    return -beta * F.logsigmoid(chosen - rejected)


def _log_odds(mean_logps: Tensor) -> Tensor:
    """log(p / (1 - p)), where log p (B,) is an answer's mean per character."""
    # At p = 1 the odds are infinite and the gradient is 0 * inf: stop one rounding step before it.
    mean_logps = mean_logps.clamp(max=-torch.finfo(mean_logps.dtype).eps)
    return mean_logps - torch.log(-torch.expm1(mean_logps))  # 1 - exp(x) is rough where x is near 0


def apo_zero(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float) -> Tensor:
    """Chosen up and rejected down, each by itself, for answers better than the model's own.

    D'Oosterlinck et al. 2024 (arXiv 2408.06266), Eq. 7, plus 1: from 0 to 2.
    """
    return torch.sigmoid(-beta * chosen_logratios) + torch.sigmoid(beta * rejected_logratios)


def apo_down(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float) -> Tensor:
    """Both down and rejected further, for chosen answers that are worse than the model's own.

    D'Oosterlinck et al. 2024 (arXiv 2408.06266), Eq. 8, plus 1: from 0 to 2.
    """
    swapped_margins = beta * (rejected_logratios - chosen_logratios)  # (B,)
    return torch.sigmoid(beta * chosen_logratios) + torch.sigmoid(swapped_margins)


def kto(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float) -> Tensor:
    """KTO for pairs: Ethayarajh et al. 2024 (arXiv 2402.01306), both of its weights being 1.

    Every answer is held against a reference point, an estimate of KL(policy || reference): the mean
    log-ratio, at least 0, of the other kind of answer in this pass, as in TRL's former kto_pair.
    (The paper takes answers to other prompts for it, which would be a forward pass more.) So this
    is the only loss where a pair's value depends on the pairs beside it: `micro_batch` and the
    number of processes change the result a little, and a pass should hold several pairs.
    """
    chosen_point = rejected_logratios.detach().mean().clamp(min=0)  # (): the paper lets no gradient
    rejected_point = chosen_logratios.detach().mean().clamp(min=0)  # ... through, and a KL is >= 0
    chosen_losses = torch.sigmoid(-beta * (chosen_logratios - chosen_point))  # (B,)
    rejected_losses = torch.sigmoid(-beta * (rejected_point - rejected_logratios))  # (B,)
    return (chosen_losses + rejected_losses) / 2  # the paper's mean is over answers, not pairs


def assignment(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
) -> Tensor:
    """The course's hint, not DPO: no reference, and a beta that divides.

    It also scores prompts: there `dpo.train` counts the whole text as the answer.
    """
    chosen = policy_chosen_logps / chosen_lengths
    rejected = policy_rejected_logps / rejected_lengths
    return -F.logsigmoid((chosen - rejected) / beta) - 0.1 * chosen


VARIANTS: dict[str, Callable[..., Tensor]] = {
    "sigmoid": sigmoid,
    "ipo": ipo,
    "hinge": hinge,
    "cdpo": cdpo,
    "robust": robust,
    "dpop": dpop,
    "length_norm": length_norm,
    "simpo": simpo,
    "orpo": orpo,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "kto": kto,
    "assignment": assignment,
}
LOSS_TYPES = tuple(VARIANTS)  # what `--loss_type` may be


@cache  # every step asks, and a signature stays what it is
def _parameters(loss: Callable[..., Tensor]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(loss).parameters)


def settings_of(loss_type: str) -> dict[str, float]:
    """This loss's settings and their defaults."""
    parameters = _parameters(VARIANTS[loss_type]).values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def losses_with(setting: str) -> tuple[str, ...]:
    """The names of the losses that have this setting."""
    return tuple(loss_type for loss_type in VARIANTS if setting in settings_of(loss_type))


def needs_lengths(loss_type: str) -> bool:
    """Whether this loss is one of means per character."""
    return not LENGTHS.isdisjoint(_parameters(VARIANTS[loss_type]))


def uses_reference(loss_type: str) -> bool:
    """Whether the reference has a say in this loss; the rewards compare with it anyway."""
    return not OF_REFERENCE.isdisjoint(_parameters(VARIANTS[loss_type]))


def preference_loss(
    loss_type: str,
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    **settings: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of this type, chosen_rewards and rejected_rewards, (B,) each, as `dpo_loss` has them.

    The rewards are DPO's whatever the loss. `settings` may be those of all losses: a loss gets its
    own, and where one is missing its default holds.
    """
    if loss_type not in VARIANTS:
        raise ValueError(f"loss_type is {loss_type!r}; it must be one of {', '.join(VARIANTS)}")
    if needs_lengths(loss_type) and (chosen_lengths is None or rejected_lengths is None):
        raise ValueError(f"{loss_type} is per character: give chosen_lengths and rejected_lengths")
    for setting in settings:
        if not losses_with(setting):
            raise TypeError(f"no loss has a setting {setting!r}")
    chosen_logratios = policy_chosen_logps - reference_chosen_logps  # (B,)
    rejected_logratios = policy_rejected_logps - reference_rejected_logps  # (B,)
    offered = {
        "policy_chosen_logps": policy_chosen_logps,
        "policy_rejected_logps": policy_rejected_logps,
        "reference_chosen_logps": reference_chosen_logps,
        "reference_rejected_logps": reference_rejected_logps,
        "chosen_logratios": chosen_logratios,
        "rejected_logratios": rejected_logratios,
        "chosen_lengths": chosen_lengths,
        "rejected_lengths": rejected_lengths,
        "beta": beta,
        **settings,
    }
    loss = VARIANTS[loss_type]
    losses = loss(**{name: offered[name] for name in _parameters(loss) if name in offered})
    return losses, beta * chosen_logratios.detach(), beta * rejected_logratios.detach()
