"""Training curves in plain language: rules that read a run's history and say what to do.

A rule is a function of the history that gives a `Diagnosis`, or None if all is well. RULES lists
them.
"""

from dataclasses import dataclass

from dpo.loss import LN_2
from dpo.training.history import History

GOOD = 0.9  # exact match above which there is little left to gain
GAIN = 0.05  # of exact match: a rise by less may be chance among the 100 questions of an eval
MOVED = 0.02  # a loss or reward that differs by more has really moved: it is 3 % of ln 2
STUCK = 0.01  # a margin below this has not
FAR = 0.05  # nats of KL: such a policy has moved, although a tiny beta makes its margins tiny, too
NEVER = -15.0  # nats: an answer that the base gives once in three million times

FINE = ("healthy", "no problem seen")  # the diagnoses that are no warning


@dataclass(frozen=True)
class Diagnosis:
    """One thing that the curves show: its name, and its figures and remedy in a sentence or two."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def diagnose(history: History) -> list[Diagnosis]:
    """What is wrong with the run, each with its remedy; if nothing is, what went well."""
    if len(history) < 2:
        return [
            Diagnosis(
                "too short to read",
                "one step shows the state before it, and no curve. Make more steps.",
            )
        ]
    problems = [diagnosis for rule in RULES if (diagnosis := rule(history))]
    return problems or [_healthy(history)]


def _smooth(history: History, name: str) -> list[float]:
    """Means of a few values in a row, a tenth of the run but at least five: one batch is noise.

    Without the first step, which shows the policy before it was trained.
    """
    values = history[name][1:]
    width = min(len(values), max(5, len(values) // 10))
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def _end(history: History, name: str) -> float:
    return _smooth(history, name)[-1]


def _gains(history: History, name: str) -> tuple[float, float]:
    """Rise of an exact match from the first eval to the last, and to the best; 0 without evals."""
    evals = history.evals.get(name) or [0.0]
    return evals[-1] - evals[0], max(evals) - evals[0]


def _started_apart(history: History) -> Diagnosis | None:
    """Before the first step the policy is the reference: its rewards are 0, whatever the loss."""
    chosen, rejected = history["rewards/chosen"][0], history["rewards/rejected"][0]
    if max(abs(chosen), abs(rejected)) < MOVED:
        return None
    return Diagnosis(
        "started apart",
        f"before the first step the rewards are {chosen:+.2f} and {rejected:+.2f}, and not 0: "
        "policy and reference do not score alike. Look for dropout, for a reference that is "
        "missing or another model, or for texts that only one of them was given.",
    )


def _never_given(history: History) -> Diagnosis | None:
    """The first batch has answers that the base never gives, and no eval shows that it learnt."""
    firsts = {name: history[f"logps/{name}"][0] for name in ("rejected", "chosen")}
    strange = [name for name, logp in firsts.items() if logp < NEVER]
    if not strange or _gains(history, "exact/held_out")[1] >= GAIN:
        return None
    remedies = {
        "rejected": "To push down what is never said changes nothing: take rejected answers from "
        "the base itself.",
        "chosen": "DPO brings out what a base nearly says: check what is scored, or teach the base "
        "first.",
    }
    figures = " and ".join(f"the {name} answers {firsts[name]:.0f} nats" for name in strange)
    advice = " ".join(remedies[name] for name in strange)
    return Diagnosis("never given", f"under the base {figures}: it never says them. {advice}")


def _learning_rate_zero(history: History) -> Diagnosis | None:
    if max(history["lr"]) > 0:
        return None
    return Diagnosis("learning rate zero", "no step moved anything; set base_lr above 0.")


def _stuck(history: History) -> Diagnosis | None:
    margin = abs(_end(history, "rewards/margins"))
    distance = history.evals.get("kl", [0.0])[-1]
    # The two other rules say more about a run that has not moved, or has moved back.
    if margin > STUCK or distance > FAR or max(history["lr"]) == 0 or _diverging(history):
        return None
    return Diagnosis(
        "stuck",
        f"the preference loss is {_end(history, 'loss/preference'):.4f} after {len(history)} "
        "steps, where it began: policy and reference still prefer the same answers. Raise base_lr, "
        "train longer, or check that the two answers of a pair really differ.",
    )


def _diverging(history: History) -> Diagnosis | None:
    """The loss ends above its start, or has lost a quarter of what it had gained."""
    start, curve = history["loss/preference"][0], _smooth(history, "loss/preference")
    lowest, end = min(curve), curve[-1]
    slack = MOVED * start / LN_2  # as a part of the start: losses like ipo begin far above ln 2
    if end <= start + slack and end - lowest <= 0.25 * (start - lowest) + slack:
        return None
    return Diagnosis(
        "diverging",
        f"the preference loss fell to {lowest:.3f} and is {end:.3f} at the end (it began at "
        f"{start:.3f}): the steps are too large. Lower base_lr, to a third for a start.",
    )


def _chosen_falling(history: History) -> Diagnosis | None:
    chosen, rejected = _end(history, "rewards/chosen"), _end(history, "rewards/rejected")
    if chosen >= -MOVED:
        return None
    both = "both are being pushed down" if rejected < -MOVED else "the rejected ones gained instead"
    return Diagnosis(
        "chosen falling",
        "the chosen answers became less likely than under the base "
        f"(reward {chosen:+.2f}, rejected {rejected:+.2f}): "
        f"{both}. Raise nll_coef, or lower base_lr.",
    )


def _saturated(history: History) -> Diagnosis | None:
    """Nearly all pairs are ranked right, but no eval had clearly more right answers."""
    ranked, held_out = _end(history, "rewards/accuracies"), history.evals.get("exact/held_out")
    best = max(_gains(history, name)[1] for name in ("exact/held_out", "exact/trained"))
    if not held_out or ranked < 0.95 or best >= GAIN or held_out[-1] >= GOOD:
        return None
    return Diagnosis(
        "saturated without learning",
        f"{ranked:.0%} of the pairs are ranked right, yet no more questions are answered right "
        "than before. The policy tells the answers of a pair apart without writing the chosen "
        "one: raise nll_coef, take rejected answers that are closer to the chosen ones, or teach "
        "the base first.",
    )


def _memorising(history: History) -> Diagnosis | None:
    """The pairs' own questions have gained much, and those of validation less than a third."""
    held_out, _ = _gains(history, "exact/held_out")
    trained, _ = _gains(history, "exact/trained")
    if trained < 4 * GAIN or held_out > trained / 3 or history.evals["exact/held_out"][-1] >= GOOD:
        return None
    return Diagnosis(
        "memorising",
        f"the pairs' own questions rose by {100 * trained:.0f} points, those of validation by "
        f"{100 * held_out:.0f}: the pairs are learnt by heart. Add pairs of more fact families, or "
        "make fewer passes.",
    )


def _overshooting(history: History) -> Diagnosis | None:
    """An eval on the way was clearly better than the last one."""
    evals = history.evals.get("exact/held_out", [])
    if not evals or max(evals) - evals[-1] < 3 * GAIN:
        return None
    step = history.evals["step"][evals.index(max(evals))]
    return Diagnosis(
        "overshooting",
        f"{max(evals):.0%} of the validation questions were right after step {step}, "
        f"{evals[-1]:.0%} at the end. Lower base_lr, raise nll_coef, or stop earlier.",
    )


RULES = (
    _started_apart,
    _never_given,
    _learning_rate_zero,
    _diverging,
    _stuck,
    _chosen_falling,
    _saturated,
    _memorising,
    _overshooting,
)


def _healthy(history: History) -> Diagnosis:
    """What went well, for a run in which no rule has found a problem."""
    text = (
        f"{_end(history, 'rewards/accuracies'):.0%} of the pairs are ranked right in the last "
        "steps, the chosen answers are likelier than under the base"
    )
    evals = history.evals.get("exact/held_out")
    if not evals:
        return Diagnosis(
            "no problem seen", f"{text}. There was no eval on validation questions: set eval_every."
        )
    if evals[-1] - evals[0] < GAIN and evals[-1] < GOOD:
        return Diagnosis(
            "no problem seen",
            f"{text}, but not more validation questions come right yet: train longer.",
        )
    return Diagnosis("healthy", f"{text}, and the validation questions come right.")


def describe_run(history: History) -> str:
    """The training figure in words: the figures first, then what they mean."""
    if not len(history):
        return "No step has been made yet."
    first, last = ({name: values[i] for name, values in history.steps.items()} for i in (0, -1))
    lines = [
        f"{len(history)} steps; loss {first['loss/preference']:.4f} -> "
        f"{last['loss/preference']:.4f}.",
        f"Rewards in the last step: chosen {last['rewards/chosen']:+.2f}, "
        f"rejected {last['rewards/rejected']:+.2f}, margin {last['rewards/margins']:.2f}; "
        f"{last['rewards/accuracies']:.0%} of its pairs ranked right.",
    ]
    if history.evals:
        held_out, trained, kl = (
            history.evals[name] for name in ("exact/held_out", "exact/trained", "kl")
        )
        lines.append(
            f"Questions right: validation {held_out[0]:.0%} -> {held_out[-1]:.0%}, of the pairs "
            f"{trained[0]:.0%} -> {trained[-1]:.0%}. "
            f"Distance from the base: {kl[-1]:.2f} nats an answer (KL)."
        )
    lines += [f"What that means - {diagnosis}" for diagnosis in diagnose(history)]
    return "\n".join(lines)
