"""The pairs as the base sees them: what a run can do with them, said before it.

DPO pushes the characters of the chosen answer up and those of the rejected one down, but not all
alike: the gradient of log p(character) with respect to the logits of its place grows with 1 - p. A
character that the base is sure of is hardly pushed. One that it never writes is pushed without end:
its log-probability falls by tens of nats, the loss with it, and hardly an answer comes out.
So a pair should be decided where the base really has a choice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dpo.data.pair import Pair
from dpo.evaluation.tokens import first_difference
from model import GPT
from sft.generation import PASS_ROWS, generate_answers
from sft.progress import Bar
from sft.sequences import collate_sequences, encode_sequence
from sft.tokenizer import Tokenizer

NEVER = math.log(1e-3)  # a character with a smaller log p is one that the base never writes
LIKELIEST = math.log(0.5)  # one with a larger log p is what it writes greedily
WASTED = 0.01  # of the push: a larger share on such characters is said
SHOWN_LINES = 5  # of the pairs that have the same obstacle
CONTEXT = 16  # characters shown before the one that shows it


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair, and log pi_ref in nats of each character of its answers and of their newlines."""

    pair: Pair
    chosen: list[float]  # one more than the answer has characters
    rejected: list[float]

    @property
    def chosen_logp(self) -> float:
        """log pi_ref(y_w|x) in nats."""
        return sum(self.chosen)

    @property
    def rejected_logp(self) -> float:
        """log pi_ref(y_l|x) in nats."""
        return sum(self.rejected)

    @property
    def parting(self) -> int:
        """Place of the first character that differs."""
        return first_difference(self.pair.chosen, self.pair.rejected)


def score_pairs(
    model: GPT, tokenizer: Tokenizer, pairs: list[Pair], progress: str = ""
) -> list[ScoredPair]:
    """Both answers of every pair under the model, in order; `progress` labels a bar."""
    texts = [(pair.prompt, pair.chosen) for pair in pairs]
    texts += [(pair.prompt, pair.rejected) for pair in pairs]
    logps = _character_logps(model, tokenizer, texts, progress)
    both = zip(pairs, logps[: len(pairs)], logps[len(pairs) :], strict=True)
    return [ScoredPair(*scored) for scored in both]


@torch.no_grad()
def _character_logps(
    model: GPT, tokenizer: Tokenizer, texts: list[tuple[str, str]], progress: str
) -> list[list[float]]:
    """`answer_logps` of many prompts and answers, PASS_ROWS at a time."""
    encoded = [encode_sequence(tokenizer.encode, *text) for text in texts]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))  # little padding in a pass
    found: list[list[float]] = [[] for _ in encoded]
    with Bar(len(order), progress, "answer") as bar:
        for start in range(0, len(order), PASS_ROWS):
            indices = order[start : start + PASS_ROWS]
            batch = collate_sequences([encoded[i] for i in indices], model.lm_head.weight.device)
            logits, _ = model(batch.inputs, full_seq=True)  # (B, T, vocab_size)
            logps = logits.float().log_softmax(dim=-1)
            logps = logps.gather(2, batch.targets[..., None])[..., 0]  # (B, T)
            for i, row, mask in zip(indices, logps, batch.completion_mask, strict=True):
                found[i] = row[mask].tolist()
            bar.update(len(indices))
    return found


def first_pushes(scored: list[ScoredPair]) -> dict[str, float]:
    """Where the first gradient pushes: shares of `parting`, `chosen` and `rejected`, sum 1.

    The push at a place is half the absolute gradient of the margin / beta with respect to the
    logits there: 1 - p at one character; 1 where the answers part, as the margin there is the
    difference of two logits. `chosen` and `rejected` are what stands behind that. `never` is the
    share, of all, at characters of the rejected answer that the base never writes.
    """
    pushes = dict.fromkeys(("parting", "chosen", "rejected", "never"), 0.0)
    for it in scored:
        behind = it.parting + 1
        chosen, rejected = (
            [-math.expm1(logp) for logp in logps[behind:]]  # 1 - p
            for logps in (it.chosen, it.rejected)
        )
        pushes["parting"] += 1
        pushes["chosen"] += sum(chosen)
        pushes["rejected"] += sum(rejected)
        from_parting = zip([1, *rejected], it.rejected[it.parting :], strict=True)
        pushes["never"] += sum(push for push, logp in from_parting if logp < NEVER)
    total = pushes["parting"] + pushes["chosen"] + pushes["rejected"]
    return {name: push / total for name, push in pushes.items()}


# Pairs that leave the base no choice

Place = tuple[str, list[float], int]  # an answer, its log-probabilities, a character of it


def _without_space(it: ScoredPair) -> Place | None:
    for answer, logps in ((it.pair.chosen, it.chosen), (it.pair.rejected, it.rejected)):
        if not answer.startswith(" ") and logps[0] < NEVER:
            return answer, logps, 0
    return None


def _not_in_the_base(it: ScoredPair) -> Place | None:
    """Behind the parting only: there, an unlikely character is what the pair is for."""
    return _first_never(it.pair.chosen, it.chosen, it.parting + 1)


def _settled(it: ScoredPair) -> Place | None:
    if it.chosen[it.parting] > LIKELIEST:
        return it.pair.chosen, it.chosen, it.parting
    return None


def _never_said(it: ScoredPair) -> Place | None:
    return _first_never(it.pair.rejected, it.rejected, it.parting)


def _first_never(answer: str, logps: list[float], start: int) -> Place | None:
    places = (i for i in range(start, len(logps)) if logps[i] < NEVER)
    place = next(places, None)
    return None if place is None else (answer, logps, place)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A reason why a pair leaves the base no choice, so that hardly an answer comes out."""

    name: str  # what such pairs do
    find: Callable[[ScoredPair], Place | None]  # the character that shows it
    advice: str


OBSTACLES = (  # a pair counts under the first that it has
    Obstacle(
        "lack the space before an answer",
        _without_space,
        "a run learns the space and little else; put one between question and answer",
    ),
    Obstacle(
        "prefer what the base cannot say",
        _not_in_the_base,
        "there is nothing to bring out; mend the answer, or teach it: many pairs and nll_coef",
    ),
    Obstacle(
        "prefer what the base says already",
        _settled,
        "no greedy answer changes there; reject what the base does say, or leave them out",
    ),
    Obstacle(
        "reject what the base never says",
        _never_said,
        "the loss falls there and hardly an answer comes out; reject what the base does say",
    ),
)


def find_obstacle(scored: ScoredPair) -> Obstacle | None:
    """The first of OBSTACLES that this pair has."""
    return next((obstacle for obstacle in OBSTACLES if obstacle.find(scored)), None)


# In words


def describe_forecast(model: GPT, tokenizer: Tokenizer, scored: list[ScoredPair]) -> str:
    """How likely the answers are, where a run pushes first, and the pairs that leave no choice."""
    lines = _figures(scored)
    by_obstacle: dict[Obstacle, list[ScoredPair]] = {obstacle: [] for obstacle in OBSTACLES}
    for it in scored:
        if obstacle := find_obstacle(it):
            by_obstacle[obstacle].append(it)
    found = [(obstacle, members) for obstacle, members in by_obstacle.items() if members]
    if not found:
        return "\n".join([*lines, "the base has a choice in every pair"])
    lines += [_warning(obstacle, members, len(scored)) for obstacle, members in found]
    prompt = found[0][1][0].pair.prompt
    [said] = generate_answers(model, tokenizer, [prompt])
    return "\n".join([*lines, f"what the base does say to {prompt!r}: {said!r}"])


def _figures(scored: list[ScoredPair]) -> list[str]:
    """How likely both answers are, in all and where they part; and a push that is wasted."""
    n = len(scored)
    # Geometric means over the pairs: the curves of a run show the mean log-probability, too.
    chosen = _probability(math.exp(sum(it.chosen_logp for it in scored) / n))
    rejected = _probability(math.exp(sum(it.rejected_logp for it in scored) / n))
    first = sum(math.exp(it.chosen[it.parting]) for it in scored) / n
    other = sum(math.exp(it.rejected[it.parting]) for it in scored) / n
    lines = [
        f"typical probability under the base: chosen answers {chosen}, rejected ones {rejected}",
        f"at the first character that differs, it writes the chosen one {_probability(first)}, "
        f"the rejected one {_probability(other)}, another one {max(0, 1 - first - other):.0%}",
    ]
    if (never := first_pushes(scored)["never"]) > WASTED:
        lines.append(
            f"{never:.0%} of the first gradient falls on characters that the base never writes"
        )
    return lines


def _warning(obstacle: Obstacle, members: list[ScoredPair], n: int) -> str:
    """One line: how many of n, the first of them, one character that shows it, what to do."""
    where = ", ".join(str(it.pair.line) for it in members[:SHOWN_LINES])
    more = ", ..." if len(members) > SHOWN_LINES else ""
    answer, logps, place = obstacle.find(members[0])
    character, before = f"{answer}\n"[place], answer[max(0, place - CONTEXT) : place]
    after = f"after {before!r}" if before else "at the start"
    return (
        f"warning: {len(members):,} of {n:,} pairs {obstacle.name}: line {where}{more} "
        f"({after} the base writes {character!r} with {_probability(math.exp(logps[place]))}); "
        f"{obstacle.advice}"
    )


def _probability(p: float) -> str:
    return f"{p:.0e}" if 0 < p < 0.01 else f"{p:.0%}"
