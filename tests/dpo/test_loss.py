"""The loss and its variants: every value and every gradient derived by hand, then TRL's numbers.

m is the margin, beta x (log-ratio of chosen - log-ratio of rejected); DPO is L = -log sigmoid(m).
"""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dpo.loss import LN_2, dpo_loss, sequence_logps
from dpo.loss_variants import (
    LOSS_TYPES,
    VARIANTS,
    losses_with,
    needs_lengths,
    preference_loss,
    settings_of,
    uses_reference,
)

BETA, SMOOTHING, LAMBDA, GAMMA = 0.3, 0.2, 3.0, 0.4
SETTINGS = {"label_smoothing": SMOOTHING, "dpop_lambda": LAMBDA, "simpo_gamma": GAMMA}
MARGINS = (0.0, 1.0, -2.0)
LOG_3 = math.log(3)  # sigmoid(log 3) = 3/4, sigmoid(2 log 3) = 9/10
every_loss = pytest.mark.parametrize("loss_type", LOSS_TYPES)
betas = pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])


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


def with_rewards(chosen, rejected, beta):
    """Four vectors of one pair with these rewards: beta x its log-ratios."""
    numbers = chosen / beta - 9.0, rejected / beta - 9.0, -9.0, -9.0
    return [torch.tensor([number], dtype=torch.float64) for number in numbers]


def evaluate(loss_type, vectors, beta=BETA, **settings):
    """Losses and rewards where chosen answers have 4 characters and rejected ones 2."""
    lengths = torch.full_like(vectors[0], 4.0), torch.full_like(vectors[1], 2.0)
    return preference_loss(loss_type, *vectors, beta, *lengths, **settings)


def losses_of(loss_type, vectors, beta=BETA, **settings):
    return evaluate(loss_type, vectors, beta, **settings)[0]


# Eq. 7


@betas
def test_dpo_values_by_hand(beta):
    # -log sigmoid(m) = log(1 + e^-m): at 0 ln 2, at 1 log(1 + 1/e), at -2 log(1 + e^2)
    losses, _, _ = dpo_loss(*with_margins(*MARGINS, beta=beta), beta)
    by_hand = [math.log(2), math.log(1 + 1 / math.e), math.log(1 + math.e**2)]
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-9)


@betas
def test_rewards_differ_by_the_margin(beta):
    _, chosen_rewards, rejected_rewards = dpo_loss(*with_margins(*MARGINS, beta=beta), beta)
    assert (chosen_rewards - rejected_rewards).tolist() == pytest.approx(MARGINS)


@pytest.fixture
def dpo_gradients():
    """Of the losses with margins 0, 1, -2, by the log-probabilities of chosen and rejected."""
    vectors = with_margins(*MARGINS, beta=0.5)
    policy = [v.requires_grad_() for v in vectors[:2]]
    return torch.autograd.grad(dpo_loss(*vectors, 0.5)[0].sum(), policy)


def test_dpo_gradient_raises_the_chosen(dpo_gradients):
    # dL/d(log pi(y_w)) = -beta sigmoid(-m): Section 4 of the DPO paper
    by_hand = [-0.5 / (1 + math.exp(m)) for m in MARGINS]
    assert dpo_gradients[0].tolist() == pytest.approx(by_hand)


def test_dpo_gradient_lowers_the_rejected(dpo_gradients):
    # dL/d(log pi(y_l)) = +beta sigmoid(-m)
    by_hand = [0.5 / (1 + math.exp(m)) for m in MARGINS]
    assert dpo_gradients[1].tolist() == pytest.approx(by_hand)


def test_dpo_is_finite_at_extremes():
    losses, _, _ = dpo_loss(*with_margins(1e4, -1e4, beta=1.0, dtype=torch.float32), 1.0)
    assert losses.tolist() == pytest.approx([0.0, 1e4])


def test_ln_2_is_the_loss_at_the_start():
    assert dpo_loss(*with_margins(0.0, beta=0.1), 0.1)[0].item() == pytest.approx(LN_2)


@pytest.fixture
def with_gradients():
    """Losses and the two rewards for a policy that is being trained."""
    return dpo_loss(*(v.requires_grad_() for v in with_margins(1.0, beta=0.5)), 0.5)


def test_losses_carry_a_gradient(with_gradients):
    assert with_gradients[0].requires_grad


def test_chosen_rewards_carry_no_gradient(with_gradients):
    assert not with_gradients[1].requires_grad


def test_rejected_rewards_carry_no_gradient(with_gradients):
    assert not with_gradients[2].requires_grad


# Its variants: simple values


@betas
def test_hinge_by_hand(beta):
    # max(0, 1 - m)
    losses = losses_of("hinge", with_margins(*MARGINS, beta=beta), beta)
    assert losses.tolist() == pytest.approx([1.0, 0.0, 3.0])


@betas
def test_ipo_by_hand(beta):
    # (m / beta - 1 / (2 beta))^2
    losses = losses_of("ipo", with_margins(*MARGINS, beta=beta), beta)
    assert losses.tolist() == pytest.approx([(m / beta - 1 / (2 * beta)) ** 2 for m in MARGINS])


@betas
def test_orpo_by_hand(beta):
    # 1/2 and 1/3 per character have odds 1 and 1/2: -beta log sigmoid(log 2) = beta log(3/2)
    chosen, rejected = 4 * math.log(1 / 2), 2 * math.log(1 / 3)
    vectors = torch.tensor([[chosen], [rejected], [0.0], [0.0]], dtype=torch.float64)
    assert losses_of("orpo", vectors, beta).item() == pytest.approx(beta * math.log(3 / 2))


@betas
def test_apo_zero_by_hand(beta):
    # sigmoid(-log 3) for the chosen answer, sigmoid(-log 3) for the rejected one
    losses = losses_of("apo_zero", with_rewards(LOG_3, -LOG_3, beta), beta)
    assert losses.item() == pytest.approx(1 / 4 + 1 / 4)


@betas
def test_apo_down_by_hand(beta):
    # sigmoid(log 3) for the chosen answer, sigmoid(-2 log 3) for the margin
    losses = losses_of("apo_down", with_rewards(LOG_3, -LOG_3, beta), beta)
    assert losses.item() == pytest.approx(3 / 4 + 1 / 10)


@betas
def test_kto_by_hand(beta):
    # the chosen answer is held against max(0, -log 3) = 0: sigmoid(-log 3);
    # the rejected one against max(0, log 3): sigmoid(-log 3 - log 3)
    losses = losses_of("kto", with_rewards(LOG_3, -LOG_3, beta), beta)
    assert losses.item() == pytest.approx((1 / 4 + 1 / 10) / 2)


# Its variants: loss and derivatives by pc and pr, for log-probabilities pc, pr of the policy and
# rc, rr of the reference, of chosen and rejected. With s(x) = 1 / (1 + e^-x):
# d/dx -log s(x) = -s(-x) and d/dx s(x) = s(x) s(-x). With h = (pc - rc) - (pr - rr), on which most
# depend: dh/dpc = 1 = -dh/dpr.


def s(x):
    return 1 / (1 + math.exp(-x))


def sigmoid_by_hand(pc, pr, rc, rr):  # -log s(bh)
    m = BETA * ((pc - rc) - (pr - rr))
    return -math.log(s(m)), -BETA * s(-m), BETA * s(-m)


def ipo_by_hand(pc, pr, rc, rr):  # (h - 1/2b)^2
    beyond = (pc - rc) - (pr - rr) - 1 / (2 * BETA)
    return beyond**2, 2 * beyond, -2 * beyond


def hinge_by_hand(pc, pr, rc, rr):  # 1 - bh where that is above 0
    m = BETA * ((pc - rc) - (pr - rr))
    return max(0.0, 1 - m), -BETA * (m < 1), BETA * (m < 1)


def cdpo_by_hand(pc, pr, rc, rr):  # -(1-e) log s(m) - e log s(-m): by m that is s(m) - (1-e)
    m = BETA * ((pc - rc) - (pr - rr))
    slope = BETA * (s(m) - (1 - SMOOTHING))
    loss = -(1 - SMOOTHING) * math.log(s(m)) - SMOOTHING * math.log(s(-m))
    return loss, slope, -slope


def robust_by_hand(pc, pr, rc, rr):
    # [-(1-e) log s(m) + e log s(-m)] / (1-2e): by m that is [(1-e)(s(m) - 1) - e s(m)] / (1-2e)
    m, e = BETA * ((pc - rc) - (pr - rr)), SMOOTHING
    slope = BETA * (s(m) * (1 - 2 * e) - (1 - e)) / (1 - 2 * e)
    loss = (-(1 - e) * math.log(s(m)) + e * math.log(s(-m))) / (1 - 2 * e)
    return loss, slope, -slope


def dpop_by_hand(pc, pr, rc, rr):  # -log s(b(h - l max(0, rc - pc))): + l in d/dpc while pc < rc
    fallen = max(0.0, rc - pc)
    x = BETA * ((pc - rc) - (pr - rr) - LAMBDA * fallen)
    return -math.log(s(x)), -BETA * s(-x) * (1 + LAMBDA * (fallen > 0)), BETA * s(-x)


def length_norm_by_hand(pc, pr, rc, rr):  # -log s(b[(pc-rc)/4 - (pr-rr)/2])
    x = BETA * ((pc - rc) / 4 - (pr - rr) / 2)
    return -math.log(s(x)), -BETA * s(-x) / 4, BETA * s(-x) / 2


def simpo_by_hand(pc, pr, rc, rr):  # -log s(b[pc/4 - pr/2] - g)
    x = BETA * (pc / 4 - pr / 2) - GAMMA
    return -math.log(s(x)), -BETA * s(-x) / 4, BETA * s(-x) / 2


def orpo_by_hand(pc, pr, rc, rr):
    # -b log s(x), x = o(pc/4) - o(pr/2), o(a) = a - log(1 - e^a), o'(a) = 1 / (1 - e^a)
    chosen, rejected = math.exp(pc / 4), math.exp(pr / 2)
    x = math.log(chosen / (1 - chosen)) - math.log(rejected / (1 - rejected))
    slope = BETA * s(-x)
    return -BETA * math.log(s(x)), -slope / (1 - chosen) / 4, slope / (1 - rejected) / 2


def apo_zero_by_hand(pc, pr, rc, rr):  # s(-bc) + s(br), with the log-ratios c and r
    chosen, rejected = BETA * (pc - rc), BETA * (pr - rr)
    slopes = -BETA * s(chosen) * s(-chosen), BETA * s(rejected) * s(-rejected)
    return s(-chosen) + s(rejected), *slopes


def apo_down_by_hand(pc, pr, rc, rr):  # s(bc) + s(-bh)
    chosen, m = BETA * (pc - rc), BETA * ((pc - rc) - (pr - rr))
    of_margin = BETA * s(m) * s(-m)
    return s(chosen) + s(-m), BETA * s(chosen) * s(-chosen) - of_margin, of_margin


def kto_by_hand(pc, pr, rc, rr):
    # [s(-b(c - 1/3)) + s(b(r - 1))] / 2: the means in POINTS, r's 1/3 and c's 1, are constants
    chosen, rejected = BETA * (pc - rc - 1 / 3), BETA * (pr - rr - 1)
    slopes = -BETA / 2 * s(chosen) * s(-chosen), BETA / 2 * s(rejected) * s(-rejected)
    return (s(-chosen) + s(rejected)) / 2, *slopes


def assignment_by_hand(pc, pr, rc, rr):  # -log s([pc/4 - pr/2] / b) - pc/40
    x = (pc / 4 - pr / 2) / BETA
    return -math.log(s(x)) - pc / 40, -s(-x) / 4 / BETA - 1 / 40, s(-x) / 2 / BETA


BY_HAND = {
    "sigmoid": sigmoid_by_hand,
    "ipo": ipo_by_hand,
    "hinge": hinge_by_hand,
    "cdpo": cdpo_by_hand,
    "robust": robust_by_hand,
    "dpop": dpop_by_hand,
    "length_norm": length_norm_by_hand,
    "simpo": simpo_by_hand,
    "orpo": orpo_by_hand,
    "apo_zero": apo_zero_by_hand,
    "apo_down": apo_down_by_hand,
    "kto": kto_by_hand,
    "assignment": assignment_by_hand,
}
POINTS = [  # pc, pr, rc, rr
    (-2.0, -9.0, -4.0, -6.0),  # c = 2, r = -3, h = 5: the chosen answer gained
    (-6.0, -5.0, -4.0, -6.0),  # c = -2, r = 1, h = -3: it fell
    (-1.0, -6.0, -4.0, -9.0),  # c = 3, r = 3, h = 0: both gained
]


def points():
    vectors = [torch.tensor(v, dtype=torch.float64) for v in zip(*POINTS, strict=True)]
    return [v.requires_grad_() for v in vectors[:2]] + vectors[2:]


@every_loss
def test_value_by_hand(loss_type):
    expected = [BY_HAND[loss_type](*point)[0] for point in POINTS]
    assert losses_of(loss_type, points(), **SETTINGS).tolist() == pytest.approx(expected, rel=1e-12)


@every_loss
def test_gradient_of_chosen_by_hand(loss_type):
    vectors = points()
    losses_of(loss_type, vectors, **SETTINGS).sum().backward()
    expected = [BY_HAND[loss_type](*point)[1] for point in POINTS]
    assert vectors[0].grad.tolist() == pytest.approx(expected, rel=1e-12)


@every_loss
def test_gradient_of_rejected_by_hand(loss_type):
    vectors = points()
    losses_of(loss_type, vectors, **SETTINGS).sum().backward()
    expected = [BY_HAND[loss_type](*point)[2] for point in POINTS]
    assert vectors[1].grad.tolist() == pytest.approx(expected, rel=1e-12)


@every_loss
def test_gradcheck(loss_type):
    vectors = list(with_margins(0.3, -2.0, beta=0.5))
    vectors[1] = vectors[1] - 0.1  # kto has a kink where the rejected log-ratios are 0 in the mean
    vectors = [v.requires_grad_() for v in vectors]
    assert torch.autograd.gradcheck(lambda *v: losses_of(loss_type, v, 0.5), vectors)


# Its variants: what must hold for all


@pytest.fixture
def at_start():
    """Six pairs that policy and reference score alike."""
    chosen, rejected = -torch.rand(2, 6) * 9
    return chosen, rejected, chosen, rejected


@every_loss
def test_chosen_rewards_start_at_zero(loss_type, at_start):
    assert not evaluate(loss_type, at_start)[1].any()


@every_loss
def test_rejected_rewards_start_at_zero(loss_type, at_start):
    assert not evaluate(loss_type, at_start)[2].any()


@pytest.mark.parametrize("loss_type", [*filter(uses_reference, LOSS_TYPES)])
def test_losses_start_alike_for_all_pairs(loss_type, at_start):
    others = {"ipo": (1 / 0.6) ** 2, "hinge": 1.0, "apo_zero": 1.0, "apo_down": 1.0, "kto": 0.5}
    expected = others.get(loss_type, math.log(2))
    assert losses_of(loss_type, at_start, 0.3).tolist() == pytest.approx([expected] * 6)


@every_loss
@pytest.mark.parametrize("side", [1, 2], ids=["chosen", "rejected"])
def test_twice_the_beta_is_twice_the_rewards(loss_type, side):
    moved = with_margins(0.4, -1.0, beta=0.3)
    once, twice = (evaluate(loss_type, moved, beta)[side] for beta in (0.3, 0.6))
    assert torch.allclose(twice, 2 * once)


@every_loss
@pytest.mark.parametrize("side, other", [(1, 2), (2, 1)], ids=["chosen", "rejected"])
def test_swapped_pairs_swap_the_rewards(loss_type, side, other):
    moved = with_margins(0.4, -1.0, beta=0.3)
    swapped = moved[1], moved[0], moved[3], moved[2]
    assert torch.equal(evaluate(loss_type, swapped)[side], evaluate(loss_type, moved)[other])


@every_loss
def test_only_differences_to_a_reference_count(loss_type):
    moved = with_margins(0.4, -1.0, beta=0.3)
    shifted = losses_of(loss_type, [v - 7 for v in moved])
    assert torch.allclose(shifted, losses_of(loss_type, moved)) == uses_reference(loss_type)


@every_loss
def test_only_kto_looks_at_the_other_pairs(loss_type):
    pairs = points()
    alone = torch.cat([losses_of(loss_type, [v[i : i + 1] for v in pairs]) for i in range(3)])
    assert torch.allclose(alone, losses_of(loss_type, pairs)) == (loss_type != "kto")


# Its variants: limits


@pytest.fixture
def limits(loss_type):
    """The losses at margins of a million and minus a million."""
    return losses_of(loss_type, with_margins(1e6, -1e6, beta=1.0), 1.0).tolist()


@every_loss
def test_a_huge_margin_is_finite(limits):
    assert math.isfinite(limits[0])


@every_loss
def test_a_hugely_negative_margin_is_finite(limits):
    assert math.isfinite(limits[1])


BOUNDED = {"apo_zero": [0.5, 1.5], "apo_down": [1.0, 1.0], "kto": [0.25, 0.75]}


@pytest.mark.parametrize("loss_type", [name for name in LOSS_TYPES if name not in BOUNDED])
def test_a_hugely_negative_margin_costs(limits):
    assert limits[1] > 1e4


@pytest.mark.parametrize("loss_type", BOUNDED)
def test_sums_of_sigmoids_are_bounded(loss_type, limits):
    assert limits == pytest.approx(BOUNDED[loss_type])


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "dpop", "length_norm", "simpo"])
def test_a_huge_margin_leaves_nothing_to_gain(limits):
    assert limits[0] == 0


@pytest.mark.parametrize("loss_type", ["cdpo", "ipo"])
def test_a_margin_can_be_too_large(limits):
    # pairs may be the wrong way round; the target is 1 / (2 beta)
    assert limits[0] > 1e4


@pytest.mark.parametrize("loss_type", ["robust"])
def test_robust_has_no_lower_bound(limits):
    assert limits[0] < -1e4


WITHOUT_BETA = {  # no pair matters any more
    **dict.fromkeys(("sigmoid", "cdpo", "robust", "length_norm"), math.log(2)),
    **{"orpo": 0.0, "apo_zero": 1.0, "apo_down": 1.0, "kto": 0.5},
}


@pytest.mark.parametrize("loss_type", WITHOUT_BETA)
def test_beta_near_zero_flattens(loss_type):
    losses = losses_of(loss_type, with_margins(1.0, -1.0, beta=1.0), 1e-12)
    assert losses.tolist() == pytest.approx([WITHOUT_BETA[loss_type]] * 2)


@pytest.mark.parametrize("side", [0, 1], ids=["chosen", "rejected"])
def test_orpo_gradient_of_certain_answers(side):
    vectors = [torch.tensor([v], requires_grad=True) for v in (-1.0, -1.0, -2.0, -2.0)]
    vectors[side].data.zero_()  # probability 1, of which a gradient would be 0 x inf
    losses_of("orpo", vectors).sum().backward()
    assert vectors[side].grad.item() == 0


# Its variants: where they are DPO, or each other


@pytest.mark.parametrize(
    "loss_type, setting",
    [("cdpo", "label_smoothing"), ("robust", "label_smoothing"), ("dpop", "dpop_lambda")],
)
def test_setting_zero_is_dpo(loss_type, setting):
    vectors = with_margins(0.7, -2.0, beta=0.5)
    losses = losses_of(loss_type, vectors, 0.5, **{setting: 0.0})
    assert torch.equal(losses, dpo_loss(*vectors, 0.5)[0])


def test_sigmoid_is_dpo():
    vectors = with_margins(0.7, -2.0, beta=0.5)
    assert torch.equal(losses_of("sigmoid", vectors, 0.5), dpo_loss(*vectors, 0.5)[0])


def test_length_norm_of_one_character_is_dpo():
    vectors, one = with_margins(0.7, -2.0, beta=0.5), torch.ones(2)
    losses, _, _ = preference_loss("length_norm", *vectors, 0.5, one, one)
    assert torch.equal(losses, dpo_loss(*vectors, 0.5)[0])


def test_simpo_is_dpo_without_a_reference():
    vectors, one = with_margins(0.7, -2.0, beta=0.5), torch.ones(2)
    nothing = torch.zeros(2, dtype=torch.float64)
    losses, _, _ = preference_loss("simpo", *vectors, 0.5, one, one, simpo_gamma=0.0)
    assert torch.equal(losses, dpo_loss(*vectors[:2], nothing, nothing, 0.5)[0])


def test_dpop_is_dpo_where_chosen_gained():
    gained = with_margins(0.7, beta=0.5)
    gained[0][0], gained[2][0] = -2.0, -3.0  # likelier than under the reference
    assert torch.equal(losses_of("dpop", gained, 0.5), dpo_loss(*gained, 0.5)[0])


def test_kto_is_half_apo_zero_at_no_divergence():
    # log-ratios below 0 leave both reference points at 0
    fallen = with_rewards(-0.4, -1.0, 0.5)
    assert torch.allclose(2 * losses_of("kto", fallen, 0.5), losses_of("apo_zero", fallen, 0.5))


# TRL


# recorded by bench/trl_losses.py from TRL 1.16.0, which has neither dpop nor the assignment's hint
TRL = json.loads((Path(__file__).parents[1] / "trl_losses.json").read_text())


@pytest.mark.parametrize("loss_type", TRL["losses"])
def test_equal_to_trl(loss_type):
    vectors, lengths = (list(map(torch.tensor, TRL[name])) for name in ("logps", "lengths"))
    if loss_type == "ipo":  # TRL puts means per character into Eq. 17, where we put sums
        vectors = [v / lengths[i % 2] for i, v in enumerate(vectors)]
    settings = {name: TRL[name] for name in ("label_smoothing", "simpo_gamma")}
    losses, _, _ = preference_loss(loss_type, *vectors, TRL["beta"], *lengths, **settings)
    assert losses.mean().item() == pytest.approx(TRL["losses"][loss_type], rel=1e-6)


# What follows from a signature


def toy(policy_chosen_logps, chosen_lengths, beta, *, toy_scale=2.0):
    return toy_scale * beta * policy_chosen_logps / chosen_lengths


@pytest.fixture
def with_toy(monkeypatch):
    """One loss more, as somebody would add it."""
    monkeypatch.setitem(VARIANTS, "toy", toy)


@every_loss
def test_a_loss_is_called_as_its_function(loss_type):
    assert VARIANTS[loss_type].__name__ == loss_type


def test_loss_types_are_the_variants():
    assert tuple(VARIANTS) == LOSS_TYPES


def test_every_loss_is_derived_by_hand():
    assert BY_HAND.keys() == VARIANTS.keys()


def test_settings_are_keyword_parameters(with_toy):
    assert settings_of("toy") == {"toy_scale": 2.0}


def test_settings_of_a_loss_without_any():
    assert settings_of("sigmoid") == {}


def test_a_setting_knows_its_losses():
    assert losses_with("label_smoothing") == ("cdpo", "robust")


def test_a_new_setting_knows_its_loss(with_toy):
    assert losses_with("toy_scale") == ("toy",)


def test_needed_lengths_follow_from_parameters(with_toy):
    assert needs_lengths("toy")


def test_losses_per_character():
    by_length = ["length_norm", "simpo", "orpo", "assignment"]
    assert list(filter(needs_lengths, LOSS_TYPES)) == by_length


def test_no_reference_follows_from_parameters(with_toy):
    assert not uses_reference("toy")


def test_losses_without_a_reference():
    without = [name for name in LOSS_TYPES if not uses_reference(name)]
    assert without == ["simpo", "orpo", "assignment"]


def test_a_loss_has_its_defaults(with_toy):
    # 2 x beta x -8 / 4
    assert losses_of("toy", torch.tensor([[-8.0]] * 4), 0.5).item() == -2.0


def test_a_loss_gets_its_settings(with_toy):
    assert losses_of("toy", torch.tensor([[-8.0]] * 4), 0.5, toy_scale=3.0).item() == -3.0


def test_settings_of_other_losses_do_nothing(with_toy):
    assert losses_of("toy", torch.tensor([[-8.0]] * 4), 0.5, **SETTINGS).item() == -2.0


def test_a_setting_of_no_loss_is_refused():
    with pytest.raises(TypeError, match="no loss has a setting 'gamma'"):
        losses_of("simpo", points(), gamma=0.5)


def test_an_unknown_loss_is_refused():
    message = "loss_type is 'sigmod'; it must be one of sigmoid, ipo, hinge, cdpo, robust"
    with pytest.raises(ValueError, match=message):
        losses_of("sigmod", points())


def test_a_refusal_names_a_new_loss(with_toy):
    with pytest.raises(ValueError, match=r"assignment, toy$"):
        losses_of("sigmod", points())


@pytest.mark.parametrize("loss_type", [*filter(needs_lengths, LOSS_TYPES)])
def test_losses_per_character_need_lengths(loss_type):
    with pytest.raises(ValueError, match=f"{loss_type} is per character: give chosen_lengths"):
        preference_loss(loss_type, *with_margins(1.0, beta=0.5), 0.5)


# Log-probabilities


def test_sequence_logps_by_hand():
    # two characters with probabilities 1/4, 3/4 everywhere: log pi = sum over the scored positions
    logits = torch.tensor([math.log(1.0), math.log(3.0)]).expand(2, 4, 2)
    targets = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    mask = torch.tensor([[False, True, True, True], [False, False, False, True]])
    by_hand = [2 * math.log(3 / 4) + math.log(1 / 4), math.log(3 / 4)]
    assert sequence_logps(logits, targets, mask).tolist() == pytest.approx(by_hand)


@pytest.fixture
def random_rows():
    """Logits (5, 9, 7), targets (5, 9) and a mask (5, 9)."""
    torch.manual_seed(1)
    return torch.randn(5, 9, 7), torch.randint(0, 7, (5, 9)), torch.rand(5, 9) < 0.5


@pytest.mark.parametrize("row", range(5))
def test_sequence_logps_equals_cross_entropy(random_rows, row):
    logits, targets, mask = (values[row] for values in random_rows)
    expected = -F.cross_entropy(logits[mask], targets[mask], reduction="sum")
    logps = sequence_logps(*random_rows)
    assert logps[row].item() == pytest.approx(expected.item(), rel=1e-5)


def test_sequence_logps_is_float32(random_rows):
    logits, targets, mask = random_rows
    assert sequence_logps(logits.half(), targets, mask).dtype == torch.float32
