"""Values derived by hand: with m = beta x (log-ratio of chosen - log-ratio of rejected), L = -log sigmoid(m)."""

import math

import pytest
import torch
from torch.nn import functional as F

from dpo.loss import LOSS_TYPES, dpo_loss, sequence_logps


def with_margins(*margins, beta, dtype=torch.float64):
    """Four vectors whose log-ratio differences are margin / beta."""
    n = len(margins)
    policy_chosen = torch.tensor([m / beta for m in margins], dtype=dtype) - 3.0
    return (
        policy_chosen,
        torch.full((n,), -5.0, dtype=dtype),
        torch.full((n,), -3.0, dtype=dtype),
        torch.full((n,), -5.0, dtype=dtype),
    )


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_values_by_hand(beta):
    # -log sigmoid(m) = log(1 + e^-m): at 0 ln 2, at 1 log(1 + 1/e), at -2 log(1 + e^2)
    vectors = with_margins(0.0, 1.0, -2.0, beta=beta)
    losses, chosen_rewards, rejected_rewards = dpo_loss(*vectors, beta)
    by_hand = [math.log(2), math.log(1 + 1 / math.e), math.log(1 + math.e**2)]
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-9)
    assert (chosen_rewards - rejected_rewards).tolist() == pytest.approx([0.0, 1.0, -2.0])
    # hinge: max(0, 1 - m); IPO: (m / beta - 1 / (2 beta))^2
    assert dpo_loss(*vectors, beta, "hinge")[0].tolist() == pytest.approx([1.0, 0.0, 3.0])
    squares = [(m / beta - 1 / (2 * beta)) ** 2 for m in (0.0, 1.0, -2.0)]
    assert dpo_loss(*vectors, beta, "ipo")[0].tolist() == pytest.approx(squares)


def test_gradient_by_hand():
    # dL/d(log pi(y_w)) = -beta sigmoid(-m), dL/d(log pi(y_l)) = +beta sigmoid(-m): Section 4 of the DPO paper
    chosen, rejected, *reference = with_margins(0.0, 1.0, -2.0, beta=0.5)
    chosen.requires_grad_()
    rejected.requires_grad_()
    dpo_loss(chosen, rejected, *reference, 0.5)[0].sum().backward()
    by_hand = [-0.5 / (1 + math.exp(m)) for m in (0.0, 1.0, -2.0)]
    assert chosen.grad.tolist() == pytest.approx(by_hand)
    assert rejected.grad.tolist() == pytest.approx([-g for g in by_hand])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_gradcheck(loss_type):
    vectors = [v.requires_grad_() for v in with_margins(0.3, 0.7, -2.0, beta=0.5)]
    assert torch.autograd.gradcheck(lambda *v: dpo_loss(*v, 0.5, loss_type)[0], vectors)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_identities(loss_type):
    same = torch.randn(6)
    other = torch.randn(6)
    losses, chosen_rewards, rejected_rewards = dpo_loss(same, other, same, other, 0.3, loss_type)
    assert losses == pytest.approx(losses[0].expand(6)) and not chosen_rewards.any() and not rejected_rewards.any()
    if loss_type == "sigmoid":
        assert losses[0].item() == pytest.approx(math.log(2))
    moved = with_margins(0.4, -1.0, beta=0.3)
    _, c, r = dpo_loss(*moved, 0.3, loss_type)
    _, c2, r2 = dpo_loss(*moved, 0.6, loss_type)
    assert torch.allclose(c2, 2 * c) and torch.allclose(r2, 2 * r), "twice the beta, twice the rewards"
    _, swapped_c, swapped_r = dpo_loss(moved[1], moved[0], moved[3], moved[2], 0.3, loss_type)
    assert torch.equal(swapped_c, r) and torch.equal(swapped_r, c)
    assert torch.allclose(dpo_loss(*(v + 7 for v in moved), 0.3, loss_type)[0], dpo_loss(*moved, 0.3, loss_type)[0])


def test_extremes_are_finite():
    losses, _, _ = dpo_loss(*with_margins(1e4, -1e4, beta=1.0, dtype=torch.float32), 1.0)
    assert losses.tolist() == pytest.approx([0.0, 1e4])


def test_rewards_carry_no_gradient_and_names_are_checked():
    vectors = [v.requires_grad_() for v in with_margins(1.0, beta=0.5)]
    losses, chosen_rewards, rejected_rewards = dpo_loss(*vectors, 0.5)
    assert losses.requires_grad and not chosen_rewards.requires_grad and not rejected_rewards.requires_grad
    with pytest.raises(ValueError, match="loss_type is 'sigmod'; it must be one of sigmoid, hinge, ipo"):
        dpo_loss(*vectors, 0.5, "sigmod")


def test_sequence_logps_by_hand():
    # two characters with probabilities 1/4, 3/4 everywhere: log pi = sum over the scored positions
    logits = torch.tensor([math.log(1.0), math.log(3.0)]).expand(2, 4, 2)
    targets = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    mask = torch.tensor([[False, True, True, True], [False, False, False, True]])
    by_hand = [2 * math.log(3 / 4) + math.log(1 / 4), math.log(3 / 4)]
    assert sequence_logps(logits, targets, mask).tolist() == pytest.approx(by_hand)


def test_sequence_logps_equals_cross_entropy_row_by_row():
    torch.manual_seed(1)
    logits, targets = torch.randn(5, 9, 7), torch.randint(0, 7, (5, 9))
    mask = torch.rand(5, 9) < 0.5
    for row in range(5):
        kept = mask[row]
        expected = -F.cross_entropy(logits[row][kept], targets[row][kept], reduction="sum")
        assert sequence_logps(logits, targets, mask)[row].item() == pytest.approx(expected.item(), rel=1e-5)
    halves = sequence_logps(logits.half(), targets, mask)
    assert halves.dtype == torch.float32
