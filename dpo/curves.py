"""Training curves in plain language: rules that read a run's history and say what it means and what to do."""

import math
from dataclasses import dataclass

from dpo.history import History

GOOD = 0.9  # of exact match: above this there is little left to gain
MOVED = 0.02  # a loss or reward that differs by more than this has really moved
STUCK = 0.01  # a margin below this has not
FAR = 0.05  # nats of KL: a policy beyond this has moved, even if beta is so small that no margin shows it
LN_2 = math.log(2)  # the DPO loss of a policy that equals its reference
GAIN = 0.05  # of exact match: a gain above this is one


@dataclass(frozen=True)
class Reading:
    """One thing that the curves show: its name, and a sentence or two with the figures and the remedy."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def read_curves(history: History) -> list[Reading]:
    """What is wrong with the run, each with its remedy; if nothing is, what went well."""
    if len(history) < 2:
        return [Reading("too short to read", "one step shows the state before it, and no curve. Add pairs or epochs.")]
    problems = [reading for rule in RULES if (reading := rule(history))]
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
    """How much an exact match rose from the first look to the last, and to the best; 0 if nobody looked."""
    looks = history.looks.get(name) or [0.0]
    return looks[-1] - looks[0], max(looks) - looks[0]


def _learning_rate_zero(history: History) -> Reading | None:
    if max(history["lr"]) > 0:
        return None
    return Reading("learning rate zero", "no step moved anything; set base_lr above 0.")


def _stuck(history: History) -> Reading | None:
    moved = abs(_end(history, "rewards/margins")) > STUCK or history.looks.get("kl", [0.0])[-1] > FAR
    if moved or max(history["lr"]) == 0 or _diverging(history):
        return None
    return Reading(
        "stuck",
        f"the preference loss is {_end(history, 'loss/preference'):.4f} after {len(history)} steps, where it began: "
        "policy and reference still prefer the same answers. Raise base_lr, train longer, or check that the two "
        "answers of a pair really differ.",
    )


def _diverging(history: History) -> Reading | None:
    start, curve = history["loss/preference"][0], _smooth(history, "loss/preference")
    lowest, end, slack = min(curve), curve[-1], MOVED * start / LN_2
    if end <= start + slack and end - lowest <= 0.25 * (start - lowest) + slack:
        return None
    return Reading(
        "diverging",
        f"the preference loss fell to {lowest:.3f} and is {end:.3f} at the end (it began at {start:.3f}): the steps "
        "are too large. Lower base_lr, to a third for a start.",
    )


def _chosen_falling(history: History) -> Reading | None:
    chosen, rejected = _end(history, "rewards/chosen"), _end(history, "rewards/rejected")
    if chosen >= -MOVED:
        return None
    both = "both are being pushed down" if rejected < -MOVED else "the rejected ones gained instead"
    return Reading(
        "chosen falling",
        f"the chosen answers became less likely than under the base (reward {chosen:+.2f}, rejected {rejected:+.2f}): "
        f"{both}. Raise nll_coef, or lower base_lr.",
    )


def _saturated(history: History) -> Reading | None:
    ranked, held_out = _end(history, "rewards/accuracies"), history.looks.get("exact/held_out")
    best = max(_gains(history, name)[1] for name in ("exact/held_out", "exact/trained"))
    if not held_out or ranked < 0.95 or best >= GAIN or held_out[-1] >= GOOD:
        return None
    return Reading(
        "saturated without learning",
        f"{ranked:.0%} of the pairs are ranked right, yet no more questions are answered right than before. The policy "
        "tells the answers of a pair apart without writing the chosen one: raise nll_coef, take rejected answers that "
        "are closer to the chosen ones, or teach the base first.",
    )


def _memorising(history: History) -> Reading | None:
    (held_out, _), (trained, _) = (_gains(history, name) for name in ("exact/held_out", "exact/trained"))
    if trained < 4 * GAIN or held_out > trained / 3 or history.looks["exact/held_out"][-1] >= GOOD:
        return None
    return Reading(
        "memorising",
        f"the pairs' own questions rose by {100 * trained:.0f} points, held-out ones by {100 * held_out:.0f}: the "
        "pairs are learnt by heart. Add pairs of more fact families, or make fewer passes.",
    )


def _overshooting(history: History) -> Reading | None:
    looks = history.looks.get("exact/held_out", [])
    if not looks or max(looks) - looks[-1] < 3 * GAIN:
        return None
    step = history.looks["step"][looks.index(max(looks))]
    return Reading(
        "overshooting",
        f"{max(looks):.0%} of the held-out questions were right after step {step}, {looks[-1]:.0%} at the end. Lower "
        "base_lr, raise nll_coef, or stop earlier.",
    )


RULES = (_learning_rate_zero, _diverging, _stuck, _chosen_falling, _saturated, _memorising, _overshooting)


def _healthy(history: History) -> Reading:
    text = (
        f"{_end(history, 'rewards/accuracies'):.0%} of the pairs are ranked right in the last steps, and the chosen "
        f"answers are likelier than under the base (reward {_end(history, 'rewards/chosen'):+.2f})"
    )
    looks = history.looks.get("exact/held_out")
    if not looks:
        return Reading("no problem seen", f"{text}. Nobody looked at held-out questions: set eval_every.")
    if looks[-1] - looks[0] < GAIN and looks[-1] < GOOD:
        return Reading("no problem seen", f"{text}, but held-out answers have not improved yet: train longer.")
    return Reading("healthy", f"{text}. Held-out questions right: {looks[0]:.0%} before, {looks[-1]:.0%} now.")


def describe(history: History) -> str:
    """The training figure in words: the figures first, then what they mean."""
    if not len(history):
        return "No step has been made yet."
    first, last = ({name: values[i] for name, values in history.steps.items()} for i in (0, -1))
    lines = [
        f"{len(history)} steps; preference loss {first['loss/preference']:.4f} -> {last['loss/preference']:.4f}.",
        f"Rewards: chosen {last['rewards/chosen']:+.2f}, rejected {last['rewards/rejected']:+.2f}, "
        f"margin {last['rewards/margins']:.2f}; {last['rewards/accuracies']:.0%} of the last pairs ranked right.",
        f"Log-probability of the chosen answers {first['logps/chosen']:.2f} -> {last['logps/chosen']:.2f} nats, "
        f"of the rejected ones {first['logps/rejected']:.2f} -> {last['logps/rejected']:.2f}.",
    ]
    if history.looks:
        held_out, trained, kl = (history.looks[name] for name in ("exact/held_out", "exact/trained", "kl"))
        lines.append(
            f"Questions right: held-out {held_out[0]:.0%} -> {held_out[-1]:.0%}, of the pairs {trained[0]:.0%} -> "
            f"{trained[-1]:.0%}. Distance from the base: {kl[-1]:.2f} nats an answer (KL)."
        )
    return "\n".join(lines + [f"What that means - {reading}" for reading in read_curves(history)])
