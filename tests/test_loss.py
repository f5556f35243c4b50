"""Values derived by hand: with m = beta x (log-ratio of chosen - log-ratio of rejected), L = -log sigmoid(m)."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dpo.loss import LOSS_TYPES, PER_CHARACTER, dpo_loss, sequence_logps

LENGTHS = (torch.tensor([4.0, 4.0]), torch.tensor([2.0, 2.0]))  # characters of chosen and rejected answers


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


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(loss_type, pc, pr, rc, rr, beta=0.3, eps=0.2, lam=3.0, gamma=0.4):
    """Loss and its derivatives by pc and pr, for log-probabilities of policy and reference, chosen and rejected.

    With h = (pc - rc) - (pr - rr) and s(x) = 1 / (1 + e^-x): d/dx -log s(x) = -s(-x) and dh/dpc = 1 = -dh/dpr.
    """
    h = (pc - rc) - (pr - rr)
    if loss_type == "sigmoid":  # -log s(bh)
        return -math.log(sigmoid(beta * h)), -beta * sigmoid(-beta * h), beta * sigmoid(-beta * h)
    if loss_type == "ipo":  # (h - 1/2b)^2
        return (h - 1 / (2 * beta)) ** 2, 2 * (h - 1 / (2 * beta)), -2 * (h - 1 / (2 * beta))
    if loss_type == "hinge":  # 1 - bh where that is above 0
        inside = beta * h < 1
        return max(0.0, 1 - beta * h), -beta * inside, beta * inside
    if loss_type == "cdpo":  # -(1-e) log s(bh) - e log s(-bh); its derivative by bh is s(bh) - (1-e)
        slope = beta * (sigmoid(beta * h) - (1 - eps))
        return -(1 - eps) * math.log(sigmoid(beta * h)) - eps * math.log(sigmoid(-beta * h)), slope, -slope
    if loss_type == "robust":  # [-(1-e) log s(bh) + e log s(-bh)] / (1-2e): [(1-e)(s(bh) - 1) - e s(bh)] / (1-2e)
        loss = (-(1 - eps) * math.log(sigmoid(beta * h)) + eps * math.log(sigmoid(-beta * h))) / (1 - 2 * eps)
        slope = beta * (sigmoid(beta * h) * (1 - 2 * eps) - (1 - eps)) / (1 - 2 * eps)
        return loss, slope, -slope
    if loss_type == "dpop":  # -log s(b(h - l max(0, rc - pc))): the penalty adds l to dh/dpc while pc < rc
        fallen = max(0.0, rc - pc)
        slope = beta * sigmoid(-beta * (h - lam * fallen))
        return -math.log(sigmoid(beta * (h - lam * fallen))), -slope * (1 + lam * (fallen > 0)), slope
    if loss_type == "length_norm":  # -log s(b[(pc-rc)/4 - (pr-rr)/2])
        x = beta * ((pc - rc) / 4 - (pr - rr) / 2)
        return -math.log(sigmoid(x)), -beta * sigmoid(-x) / 4, beta * sigmoid(-x) / 2
    if loss_type == "simpo":  # -log s(b[pc/4 - pr/2] - g)
        x = beta * (pc / 4 - pr / 2) - gamma
        return -math.log(sigmoid(x)), -beta * sigmoid(-x) / 4, beta * sigmoid(-x) / 2
    x = (pc / 4 - pr / 2) / beta  # assignment: -log s([pc/4 - pr/2] / b) - pc/40
    return -math.log(sigmoid(x)) - pc / 40, -sigmoid(-x) / 4 / beta - 1 / 40, sigmoid(-x) / 2 / beta


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_loss_and_gradient_by_hand(loss_type):
    # two pairs: h = 5, the chosen answer gained; h = -3, it fell
    points = [(-2.0, -9.0, -4.0, -6.0), (-6.0, -5.0, -4.0, -6.0)]
    vectors = [torch.tensor(v, dtype=torch.float64) for v in zip(*points, strict=True)]
    vectors[0].requires_grad_()
    vectors[1].requires_grad_()
    losses, *_ = dpo_loss(*vectors, 0.3, loss_type, *LENGTHS, label_smoothing=0.2, dpop_lambda=3.0, simpo_gamma=0.4)
    losses.sum().backward()
    expected = [by_hand(loss_type, *point) for point in points]
    assert losses.tolist() == pytest.approx([loss for loss, _, _ in expected], rel=1e-12)
    assert vectors[0].grad.tolist() == pytest.approx([slope for _, slope, _ in expected], rel=1e-12)
    assert vectors[1].grad.tolist() == pytest.approx([slope for _, _, slope in expected], rel=1e-12)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_gradcheck(loss_type):
    vectors = [v.requires_grad_() for v in with_margins(0.3, -2.0, beta=0.5)]
    assert torch.autograd.gradcheck(lambda *v: dpo_loss(*v, 0.5, loss_type, *LENGTHS)[0], vectors)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_identities(loss_type):
    lengths = tuple(length[:1].expand(6) for length in LENGTHS)
    same = torch.randn(6)
    other = torch.randn(6)
    losses, chosen_rewards, rejected_rewards = dpo_loss(same, other, same, other, 0.3, loss_type, *lengths)
    assert not chosen_rewards.any() and not rejected_rewards.any()
    has_reference = loss_type not in ("simpo", "assignment")
    at_start = {"ipo": (1 / 0.6) ** 2, "hinge": 1.0}.get(loss_type, math.log(2))
    assert not has_reference or losses.tolist() == pytest.approx([at_start] * 6)
    moved = with_margins(0.4, -1.0, beta=0.3)
    _, c, r = dpo_loss(*moved, 0.3, loss_type, *LENGTHS)
    _, c2, r2 = dpo_loss(*moved, 0.6, loss_type, *LENGTHS)
    assert torch.allclose(c2, 2 * c) and torch.allclose(r2, 2 * r), "twice the beta, twice the rewards"
    swapped = (moved[1], moved[0], moved[3], moved[2])
    _, swapped_c, swapped_r = dpo_loss(*swapped, 0.3, loss_type, *LENGTHS)
    assert torch.equal(swapped_c, r) and torch.equal(swapped_r, c)
    shifted, unshifted = (dpo_loss(*v, 0.3, loss_type, *LENGTHS)[0] for v in ([v + 7 for v in moved], moved))
    assert torch.allclose(shifted, unshifted) == has_reference, "with a reference only the differences to it count"


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_limits(loss_type):
    huge = with_margins(1e6, -1e6, beta=1.0)
    good, bad = dpo_loss(*huge, 1.0, loss_type, *LENGTHS)[0].tolist()
    assert math.isfinite(good) and math.isfinite(bad) and (bad > 1e4 or loss_type == "ipo")
    if loss_type in ("sigmoid", "hinge", "dpop", "length_norm", "simpo"):
        assert good == 0, "nothing left to gain"
    if loss_type in ("cdpo", "ipo"):
        assert good > 1e4, "a margin can be too large: pairs may be the wrong way round, the target is 1 / (2 beta)"
    if loss_type == "robust":
        assert good < -1e4, "unbiased, and so without a lower bound"
    if loss_type in ("sigmoid", "cdpo", "robust", "length_norm"):  # beta to 0: the pair does not matter any more
        flat = dpo_loss(*with_margins(1.0, -1.0, beta=1.0), 1e-12, loss_type, *LENGTHS)[0]
        assert flat.tolist() == pytest.approx([math.log(2)] * 2)


def test_the_variants_are_dpo_where_they_should_be():
    vectors = with_margins(0.7, -2.0, beta=0.5)
    losses = dpo_loss(*vectors, 0.5)[0]
    for name, settings in (
        ("cdpo", {"label_smoothing": 0.0}),
        ("robust", {"label_smoothing": 0.0}),
        ("dpop", {"dpop_lambda": 0.0}),
    ):
        assert torch.equal(dpo_loss(*vectors, 0.5, name, **settings)[0], losses), name
    one = torch.ones(2)
    assert torch.equal(dpo_loss(*vectors, 0.5, "length_norm", one, one)[0], losses)
    nothing = torch.zeros(2, dtype=torch.float64)
    reference_free = dpo_loss(*vectors[:2], nothing, nothing, 0.5)[0]
    assert torch.equal(dpo_loss(*vectors, 0.5, "simpo", one, one, simpo_gamma=0.0)[0], reference_free)
    gained = with_margins(0.7, beta=0.5)
    gained[0][0], gained[2][0] = -2.0, -3.0  # the chosen answer is likelier than under the reference
    assert torch.equal(dpo_loss(*gained, 0.5, "dpop")[0], dpo_loss(*gained, 0.5)[0])


@pytest.mark.parametrize("loss_type", [name for name in LOSS_TYPES if name not in ("dpop", "assignment")])
def test_equal_to_trl(loss_type):
    # recorded by bench/trl_losses.py from TRL 1.16.0; it has neither of the two that are left out
    trl = json.loads((Path(__file__).parent / "trl_losses.json").read_text())
    vectors, lengths = (list(map(torch.tensor, trl[name])) for name in ("logps", "lengths"))
    if loss_type == "ipo":  # TRL puts means per character into Eq. 17, where we put sums
        vectors = [v / lengths[i % 2] for i, v in enumerate(vectors)]
    settings = {"label_smoothing": trl["label_smoothing"], "simpo_gamma": trl["simpo_gamma"]}
    losses, *_ = dpo_loss(*vectors, trl["beta"], loss_type, *lengths, **settings)
    assert losses.mean().item() == pytest.approx(trl["losses"][loss_type], rel=1e-6)


@pytest.mark.parametrize("loss_type", PER_CHARACTER)
def test_losses_per_character_need_lengths(loss_type):
    with pytest.raises(ValueError, match=f"{loss_type} is per character: give chosen_lengths"):
        dpo_loss(*with_margins(1.0, beta=0.5), 0.5, loss_type)


def test_extremes_are_finite():
    losses, _, _ = dpo_loss(*with_margins(1e4, -1e4, beta=1.0, dtype=torch.float32), 1.0)
    assert losses.tolist() == pytest.approx([0.0, 1e4])


def test_rewards_carry_no_gradient_and_names_are_checked():
    vectors = [v.requires_grad_() for v in with_margins(1.0, beta=0.5)]
    losses, chosen_rewards, rejected_rewards = dpo_loss(*vectors, 0.5)
    assert losses.requires_grad and not chosen_rewards.requires_grad and not rejected_rewards.requires_grad
    with pytest.raises(ValueError, match="loss_type is 'sigmod'; it must be one of sigmoid, ipo, hinge, cdpo, robust"):
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
