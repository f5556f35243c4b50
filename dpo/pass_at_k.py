"""What a model could say: `python -m dpo.pass_at_k --checkpoint=sft/gpt.pt`.

pass@k is the chance that at least one of k answers drawn at temperature 1 is right, maj@64 whether
the most common one of 64 is. Beside the greedy answers of the tuned model to the same questions
they show that DPO brings out what the base can do, and that it cannot bring out what is not there.
"""

import math
from collections import Counter
from dataclasses import dataclass

from configurator import run_program
from dpo.evaluation.replies import (
    GROUPS,
    Reply,
    answer_questions,
    families_of,
    sample_domain,
    sample_questions,
)
from dpo.evaluation.sampling import draw_replies
from dpo.evaluation.tables import clustered_rate, describe_group, evaluate, markdown, percent
from model import GPT
from sft.arithmetic import Question
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import write_json
from sft.tokenizer import Tokenizer

KS = (1, 4, 16, 64)


@dataclass
class Config:
    """python -m dpo.pass_at_k: draw many answers per question and count the right ones."""

    checkpoint: str = "sft/gpt.pt"  # the model to sample from
    tuned: str = "dpo/dpo.pt"  # a model to ask the same questions greedily; empty: none
    n: int = 100  # questions per group
    samples: int = 64  # answers per question, at least 64
    seed: int = 1  # of the questions and of the draws
    json: str = ""  # also write the figures to this file
    device: str = "auto"  # auto, cpu, cuda or mps


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that k of the drawn answers, picked without putting back, hold a right one.

    1 - C(samples - right, k) / C(samples, k), of all ways to pick k the share that are not all
    wrong: the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), Eq. 1. Plain
    1 - (1 - right / samples)^k would be too low.
    """
    if not 0 < k <= samples:
        raise ValueError(f"k is {k}; it must be from 1 to the {samples} answers drawn per question")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def majority_outcome(replies: list[Reply]) -> str:
    """What the most common of some answers to a question is worth: right, wrong or refused.

    That is self-consistency (Wang et al. 2022, arXiv 2203.11171), but with whole answers for votes.
    Refusals have none, unless there is nothing else. Of two that are as common, the first one wins.
    """
    votes = Counter((r.text, r.outcome) for r in replies if r.outcome != "refused")
    if not votes:
        return "refused"
    [((_, outcome), _)] = votes.most_common(1)
    return outcome


def draw_answers(
    model: GPT,
    tokenizer: Tokenizer,
    questions: list[Question],
    samples: int,
    seed: int,
    progress: str = "",
) -> list[list[Reply]]:
    """`samples` answers to each question, drawn at temperature 1."""
    asked = [question for question in questions for _ in range(samples)]
    replies = draw_replies(model, tokenizer, asked, 1.0, seed, progress)
    return [replies[i : i + samples] for i in range(0, len(replies), samples)]


def count_right(
    model: GPT,
    tokenizer: Tokenizer,
    questions: list[Question],
    samples: int,
    seed: int,
    progress: str = "",
) -> list[int]:
    """How many of `samples` answers drawn at temperature 1 are right, per question."""
    drawn = draw_answers(model, tokenizer, questions, samples, seed, progress)
    return [_number_right(replies) for replies in drawn]


def _number_right(replies: list[Reply]) -> int:
    return sum(reply.outcome == "right" for reply in replies)


def sample_and_count(
    model: GPT,
    tokenizer: Tokenizer,
    n: int,
    samples: int,
    seed: int,
    groups: tuple[str, ...] = GROUPS,
    progress: str = "",
) -> dict[str, dict]:
    """Mean pass@k of n questions of every group, and the share whose majority answer is right.

    With 95 % intervals over the questions and their families. Each question counts by its pass@k, a
    fraction. Fractions vary less than right and wrong do, so these intervals are rather too wide.
    """
    questions = {group: sample_questions(group, n, seed) for group in groups}
    asked = [question for members in questions.values() for question in members]
    drawn = draw_answers(model, tokenizer, asked, samples, seed, progress)
    by_question = dict(zip(asked, drawn, strict=True))  # no question is in two groups
    results = {}
    for group, members in questions.items():
        about = {"n": len(members), "samples": samples, "temperature": 1.0}
        results[group] = about | summarise_draws(members, [by_question[q] for q in members])
    return results


def summarise_draws(questions: list[Question], drawn: list[list[Reply]]) -> dict[str, dict]:
    """pass@k for each of KS, and maj@k of all answers, with their intervals."""
    families, samples = families_of(questions), len(drawn[0])
    shares = {}
    for k in KS:
        passed = [pass_at_k(samples, _number_right(replies), k) for replies in drawn]
        shares[f"pass@{k}"] = clustered_rate(passed, families)
    majority = [majority_outcome(replies) == "right" for replies in drawn]
    return shares | {f"maj@{samples}": clustered_rate(majority, families)}


def passes_table(results: dict[str, dict], tuned: dict | None = None) -> str:
    """pass@k and maj@k of one or more models, each under its name, by group.

    Beside them the greedy answers of the tuned model to the same questions, a result of `evaluate`.
    """
    rows = [["questions", "n", "right", *results, *(["tuned"] if tuned else [])]]
    for group, first in next(iter(results.values())).items():
        start, none = [describe_group(group), str(first["n"])], [""] if tuned else []
        for name in (name for name in first if "@" in name):
            shares = (percent(result[group][name]) for result in results.values())
            rows.append([*start, name, *shares, *none])
        if tuned:
            greedy = percent(tuned["groups"][group]["right"])
            rows.append([*start, "greedy", *[""] * len(results), greedy])
    return markdown(rows)


def main(config: Config) -> None:
    if config.samples < max(KS):
        raise ValueError(
            f"samples is {config.samples}; "
            f"pass@{max(KS)} needs at least {max(KS)} answers a question"
        )
    device, tuned = best_device(config.device), None
    model, tokenizer = load_model(config.checkpoint, device)
    if config.tuned:
        questions = sample_domain(config.n, config.seed)
        tuned = evaluate(
            answer_questions(load_model(config.tuned, device)[0], tokenizer, questions)
        )
    result = sample_and_count(
        model, tokenizer, config.n, config.samples, config.seed, progress="sampling"
    )
    print(passes_table({config.checkpoint: result}, tuned))
    if config.json:
        about = {"checkpoint": config.checkpoint, "seed": config.seed}
        write_json(config.json, about | {"groups": result, "tuned": tuned})


if __name__ == "__main__":
    run_program(main, Config())
