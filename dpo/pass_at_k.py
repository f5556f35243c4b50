"""What a model could say: `python -m dpo.pass_at_k --checkpoint=sft/gpt.pt`.

pass@k is the chance that at least one of k answers drawn at temperature 1 is right. Beside the
greedy accuracy after tuning it shows that DPO brings out what the base can do, and that it cannot
bring out what is not there.
"""

import math
from dataclasses import dataclass

import torch

from configurator import run_program
from dpo.evaluation.replies import GROUPS, judge, sample_questions
from dpo.evaluation.tables import describe_group, markdown, percent, rate
from model import GPT
from sft.arithmetic import Question
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import write_json
from sft.generation import generate_answers
from sft.tokenizer import Tokenizer

KS = (1, 4, 16, 64)


@dataclass
class Config:
    """python -m dpo.pass_at_k: draw many answers per question and count the right ones."""

    checkpoint: str = "sft/gpt.pt"  # the model to sample from
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


def count_right(
    model: GPT,
    tokenizer: Tokenizer,
    questions: list[Question],
    samples: int,
    seed: int,
    progress: str = "",
) -> list[int]:
    """How many of `samples` answers drawn at temperature 1 are right, per question."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [question.text for question in questions for _ in range(samples)]
    texts = generate_answers(
        model, tokenizer, prompts, temperature=1.0, generator=generator, progress=progress
    )
    counts = []
    for i, question in enumerate(questions):
        drawn = texts[i * samples : (i + 1) * samples]
        counts.append(sum(judge(question, text).outcome == "right" for text in drawn))
    return counts


def sample_and_count(
    model: GPT,
    tokenizer: Tokenizer,
    n: int,
    samples: int,
    seed: int,
    groups: tuple[str, ...] = GROUPS,
    progress: str = "",
) -> dict[str, dict]:
    """Mean pass@k of n questions of every group, with 95 % intervals over the questions.

    Each question counts by its pass@k, a fraction. Fractions vary less than right and wrong do, so
    the Wilson interval of a rate is somewhat too wide rather than too narrow.
    """
    questions = {group: sample_questions(group, n, seed) for group in groups}
    asked = [question for members in questions.values() for question in members]
    counts = count_right(model, tokenizer, asked, samples, seed, progress)
    right = dict(zip(asked, counts, strict=True))  # no question is in two groups
    results = {}
    for group, members in questions.items():
        results[group] = {"n": len(members), "samples": samples, "temperature": 1.0}
        for k in KS:
            passed = sum(pass_at_k(samples, right[question], k) for question in members)
            results[group][f"pass@{k}"] = rate(passed, len(members))
    return results


def passes_table(results: dict[str, dict]) -> str:
    """pass@k of one or more models, each under its name, by group."""
    rows = [["questions", "model", "n", *(f"pass@{k}" for k in KS)]]
    for group in next(iter(results.values())):
        for name, result in results.items():
            row = [describe_group(group), name, str(result[group]["n"])]
            rows.append([*row, *(percent(result[group][f"pass@{k}"]) for k in KS)])
    return markdown(rows)


def main(config: Config) -> None:
    if config.samples < max(KS):
        raise ValueError(
            f"samples is {config.samples}; "
            f"pass@{max(KS)} needs at least {max(KS)} answers a question"
        )
    model, tokenizer = load_model(config.checkpoint, best_device(config.device))
    result = sample_and_count(
        model, tokenizer, config.n, config.samples, config.seed, progress="sampling"
    )
    print(passes_table({config.checkpoint: result}))
    if config.json:
        about = {"checkpoint": config.checkpoint, "seed": config.seed}
        write_json(config.json, about | {"groups": result})


if __name__ == "__main__":
    run_program(main, Config())
