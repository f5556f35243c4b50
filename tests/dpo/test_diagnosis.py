"""Every rule of the curve reader on a made-up run, and a healthy run on which none fires."""

import math

import pytest
from histories import STEPS, made_up_run, ramp

from dpo.training.diagnosis import describe_run, diagnose
from dpo.training.history import History


def evals(held_out, trained, **others):
    return {"exact/held_out": held_out, "exact/trained": trained} | others


def names(history):
    return [diagnosis.name for diagnosis in diagnose(history)]


FLAT = evals([0.0, 0.0, 0.01, 0.0, 0.0], [0.0, 0.0, 0.0, 0.01, 0.01])
UNTRAINED = FLAT | {"kl": [0.0] * 5}
UNMOVED = {
    "rewards__chosen": [0.0] * STEPS,
    "rewards__rejected": [0.0] * STEPS,
    "rewards__margins": [0.0] * STEPS,
}
AT_LN_2 = {"loss__preference": [math.log(2)] * STEPS, "rewards__accuracies": [0.0] * STEPS}
HALF = STEPS // 2
HALVES = [0.5] * STEPS
CASES = {
    "healthy": made_up_run(),
    "stuck": made_up_run(UNTRAINED, **UNMOVED, **AT_LN_2),
    "learning rate zero": made_up_run(UNTRAINED, **UNMOVED, **AT_LN_2, lr=[0.0] * STEPS),
    "saturated without learning": made_up_run(FLAT, loss__preference=ramp(math.log(2), 0.01)),
    "chosen falling": made_up_run(rewards__chosen=ramp(0, -0.4), rewards__rejected=ramp(0, -1.0)),
    "diverging": made_up_run(
        loss__preference=ramp(math.log(2), 0.4)[:HALF] + ramp(0.55, 2.0)[:HALF]
    ),
    "memorising": made_up_run(evals([0.0, 0.0, 0.02, 0.02, 0.02], [0.0, 0.2, 0.5, 0.7, 0.8])),
    "overshooting": made_up_run(evals([0.0, 0.5, 0.92, 0.6, 0.4], [0.0, 0.5, 0.9, 0.6, 0.4])),
    "started apart": made_up_run(rewards__chosen=ramp(-0.2, 0.3)),
    "never given": made_up_run(FLAT, logps__rejected=ramp(-47, -150), rewards__accuracies=HALVES),
    "no problem seen": History(made_up_run().steps, {}),
}
WORDS = {
    "healthy": [
        "100% of the pairs are ranked right in the last steps",
        "likelier than under the base, and the validation questions come right",
    ],
    "stuck": ["0.6931 after 60 steps", "Raise base_lr"],
    "learning rate zero": ["set base_lr above 0"],
    "saturated without learning": [
        "100% of the pairs are ranked",
        "yet no more questions",
        "raise nll_coef",
    ],
    "chosen falling": [
        "reward -0.39, rejected -0.97",
        "both are being pushed down. Raise nll_coef",
    ],
    "diverging": ["began at 0.693", "Lower base_lr"],
    "memorising": ["rose by 80 points, those of validation by 2: ", "more fact families"],
    "overshooting": [
        "92% of the validation questions were right after step 30, 40% at the end",
        "stop earlier",
    ],
    "started apart": ["the rewards are -0.20 and +0.00, and not 0", "Look for dropout"],
    "never given": ["the rejected answers -47 nats", "take rejected answers from the base"],
    "no problem seen": ["There was no eval on validation questions"],
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_fires_alone_on_its_run(name):
    assert names(CASES[name]) == [name]


@pytest.mark.parametrize(("name", "words"), [(n, w) for n, words in WORDS.items() for w in words])
def test_sentence_has_figures_and_remedy(name, words):
    [diagnosis] = diagnose(CASES[name])
    assert words in diagnosis.text


@pytest.mark.parametrize("name", CASES)
def test_description_names_the_diagnosis(name):
    assert f"What that means - {name}: " in describe_run(CASES[name])


def test_several_problems_are_all_told():
    both = made_up_run(FLAT, rewards__chosen=ramp(0, -0.4))
    assert names(both) == ["chosen falling", "saturated without learning"]


def test_rejected_answers_that_gain_are_told():
    gained = made_up_run(rewards__chosen=ramp(0, -0.4), rewards__rejected=ramp(0, 0.2))
    assert "the rejected ones gained instead" in diagnose(gained)[0].text


def test_what_was_reached_and_lost_is_overshooting():
    # and not "saturated without learning"
    lost = [0.0, 0.5, 0.9, 0.2, 0.0]
    assert names(made_up_run(evals(lost, lost))) == ["overshooting"]


def test_a_base_that_was_good_already_is_healthy():
    assert names(made_up_run(evals([0.92] * 5, [0.98] * 5))) == ["healthy"]


def test_middling_answers_want_more_training():
    middling = made_up_run(evals([0.3] * 5, [0.3, 0.4, 0.4, 0.4, 0.4]))
    assert "train longer" in diagnose(middling)[0].text


# the first losses of sigmoid, of hinge, of ipo at beta 0.1 and 0.01
first_losses = pytest.mark.parametrize("start", [math.log(2), 1.0, 25.0, 2500.0])


@first_losses
def test_a_loss_that_wobbles_is_not_diverging(start):
    falling = ramp(start, 0.7 * start)
    wobble = [value * (1.05 if i % 2 else 0.95) for i, value in enumerate(falling)]
    assert names(made_up_run(loss__preference=wobble)) == ["healthy"]


@first_losses
def test_a_loss_that_rises_is_diverging(start):
    assert names(made_up_run(loss__preference=ramp(start, 1.2 * start))) == ["diverging"]


def test_a_small_beta_does_not_hide_the_distance():
    # no margin, but held-out answers and the KL have risen
    assert "stuck" not in names(made_up_run(**UNMOVED, **AT_LN_2))


def test_no_margin_and_no_distance_is_stuck():
    assert "stuck" in names(made_up_run({"kl": [0.0] * 5}, **UNMOVED, **AT_LN_2))


def test_chosen_answers_never_given_are_told():
    strange = made_up_run(FLAT, logps__chosen=ramp(-60, -20), rewards__accuracies=HALVES)
    assert "the chosen answers -60 nats" in diagnose(strange)[0].text


def test_strange_answers_that_taught_something_are_fine():
    assert names(made_up_run(logps__rejected=ramp(-47, -150))) == ["healthy"]


@pytest.mark.parametrize(("reward", "found"), [(0.019, False), (0.021, True), (-0.021, True)])
def test_a_first_reward_within_rounding_is_fine(reward, found):
    started = names(made_up_run(rewards__rejected=ramp(reward, -0.3)))
    assert ("started apart" in started) == found


def test_one_step_is_too_short_to_read():
    one = {name: values[:1] for name, values in made_up_run().steps.items()}
    assert names(History(one, {})) == ["too short to read"]


def test_end_of_five_steps_leaves_out_the_first():
    # that one shows the untrained policy
    five = {name: [values[0], *values[-4:]] for name, values in made_up_run().steps.items()}
    assert "100% of the pairs are ranked right" in diagnose(History(five, {}))[0].text
