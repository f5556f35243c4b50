"""Every rule of the curve reader on a synthetic history, and a healthy one on which none of the rules fires."""

import math

import pytest

from dpo.curves import describe, read_curves
from dpo.history import History

STEPS = 60


def ramp(start, end):
    return [start + (end - start) * i / (STEPS - 1) for i in range(STEPS)]


def history(looks=None, **curves):
    """A run that goes well, with some of its curves replaced; `looks` holds exact matches at five looks."""
    steps = {
        "loss/preference": ramp(math.log(2), 0.5), "loss": ramp(0.7, 0.51), "nll": ramp(0.04, 0.01),
        "rewards/chosen": ramp(0, 0.3), "rewards/rejected": ramp(0, -0.3), "rewards/margins": ramp(0, 0.6),
        "rewards/accuracies": [min(1.0, 0.5 + i / 20) for i in range(STEPS)],
        "logps/chosen": ramp(-4, -1), "logps/rejected": ramp(-2, -5), "grad_norm": [1.0] * STEPS, "lr": [1e-5] * STEPS,
    }  # fmt: skip
    looks = {"exact/held_out": [0.0, 0.3, 0.6, 0.8, 0.9], "exact/trained": [0.0, 0.3, 0.7, 0.9, 0.95]} | (looks or {})
    looks = {"step": [0, 15, 30, 45, 60], "kl": [0.0, 0.2, 0.5, 0.9, 1.2]} | looks
    return History(steps | {name.replace("__", "/"): values for name, values in curves.items()}, looks)


FLAT = {"exact/held_out": [0.0, 0.0, 0.01, 0.0, 0.0], "exact/trained": [0.0, 0.0, 0.0, 0.01, 0.01]}
UNTRAINED = FLAT | {"kl": [0.0] * 5}
UNMOVED = {"rewards__chosen": [0.0] * STEPS, "rewards__rejected": [0.0] * STEPS, "rewards__margins": [0.0] * STEPS}
AT_LN_2 = {"loss__preference": [math.log(2)] * STEPS, "rewards__accuracies": [0.0] * STEPS}
CASES = {
    "healthy": history(),
    "stuck": history(UNTRAINED, **UNMOVED, **AT_LN_2),
    "learning rate zero": history(UNTRAINED, **UNMOVED, **AT_LN_2, lr=[0.0] * STEPS),
    "saturated without learning": history(FLAT, loss__preference=ramp(math.log(2), 0.01)),
    "chosen falling": history(rewards__chosen=ramp(0, -0.4), rewards__rejected=ramp(0, -1.0)),
    "diverging": history(loss__preference=ramp(math.log(2), 0.4)[: STEPS // 2] + ramp(0.55, 2.0)[: STEPS // 2]),
    "memorising": history({"exact/held_out": [0.0, 0.0, 0.02, 0.02, 0.02], "exact/trained": [0.0, 0.2, 0.5, 0.7, 0.8]}),
    "overshooting": history({"exact/held_out": [0.0, 0.5, 0.92, 0.6, 0.4], "exact/trained": [0.0, 0.5, 0.9, 0.6, 0.4]}),
    "no problem seen": History(history().steps, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_fires_alone_on_its_own_history(name):
    assert [reading.name for reading in read_curves(CASES[name])] == [name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("healthy", ["100% of the pairs are ranked right in the last steps", "reward +0.29", "0% before, 90% now"]),
        ("stuck", ["0.6931 after 60 steps", "Raise base_lr"]),
        ("learning rate zero", ["set base_lr above 0"]),
        (
            "saturated without learning",
            ["100% of the pairs are ranked", "yet no more questions", "raise nll_coef"],
        ),
        ("chosen falling", ["reward -0.39, rejected -0.97", "both are being pushed down. Raise nll_coef"]),
        ("diverging", ["began at 0.693", "Lower base_lr"]),
        ("memorising", ["rose by 80 points, held-out ones by 2: ", "more fact families"]),
        ("overshooting", ["92% of the held-out questions were right after step 30, 40% at the end", "stop earlier"]),
        ("no problem seen", ["Nobody looked at held-out questions"]),
    ],
)
def test_the_sentence_has_the_figures_and_the_remedy(name, words):
    [reading] = read_curves(CASES[name])
    for word in words:
        assert word in reading.text
    assert f"What that means - {name}: " in describe(CASES[name])


def test_several_problems_are_all_told():
    both = history(FLAT, rewards__chosen=ramp(0, -0.4))
    assert [r.name for r in read_curves(both)] == ["chosen falling", "saturated without learning"]
    gained = history(rewards__chosen=ramp(0, -0.4), rewards__rejected=ramp(0, 0.2))
    assert "the rejected ones gained instead" in read_curves(gained)[0].text


def test_what_was_reached_and_lost_is_overshooting_and_not_saturated():
    lost = [0.0, 0.5, 0.9, 0.2, 0.0]
    assert [r.name for r in read_curves(history({"exact/held_out": lost, "exact/trained": lost}))] == ["overshooting"]


def test_a_base_that_was_good_already_is_told_to_be():
    good = {"exact/held_out": [0.92] * 5, "exact/trained": [0.98] * 5}
    assert [r.name for r in read_curves(history(good))] == ["healthy"]
    middling = history({"exact/held_out": [0.3] * 5, "exact/trained": [0.3, 0.4, 0.4, 0.4, 0.4]})
    assert "train longer" in read_curves(middling)[0].text


@pytest.mark.parametrize("start", [math.log(2), 1.0, 25.0, 2500.0])  # sigmoid, hinge, ipo at beta 0.1 and 0.01
def test_a_falling_loss_that_wobbles_is_not_diverging(start):
    wobble = [value * (1.05 if i % 2 else 0.95) for i, value in enumerate(ramp(start, 0.7 * start))]
    assert [r.name for r in read_curves(history(loss__preference=wobble))] == ["healthy"]
    rising = ramp(start, 1.2 * start)
    assert [r.name for r in read_curves(history(loss__preference=rising))] == ["diverging"]


def test_a_small_beta_hides_the_margin_and_not_the_distance():
    moved = history(**UNMOVED, **AT_LN_2)
    assert "stuck" not in [r.name for r in read_curves(moved)], "held-out answers and the KL have risen"
    moved.looks["kl"] = [0.0] * 5
    assert "stuck" in [r.name for r in read_curves(moved)]


def test_short_runs():
    def first(n, looks=None):
        return History({name: values[:n] for name, values in history().steps.items()}, looks or {})

    assert [r.name for r in read_curves(first(1))] == ["too short to read"]
    five = {name: [values[0], *values[-4:]] for name, values in history().steps.items()}
    assert "100% of the pairs are ranked right" in read_curves(History(five, {}))[0].text, "without the untrained step"
