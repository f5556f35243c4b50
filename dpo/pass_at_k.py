"""What a model could say: `python -m dpo.pass_at_k --checkpoint=sft/gpt.pt`, sampled many times per question.

pass@k is the chance that at least one of k answers drawn at temperature 1 is right. Beside the greedy accuracy after
tuning it shows that DPO brings out what the base can do, and that it cannot bring out what is not there.
"""

import math
from dataclasses import dataclass

import torch

from configurator import run_program
from dpo.arithmetic import Question
from dpo.evaluate import GROUPS, in_words, judge, markdown, percent, rate, sample_questions, write_json
from model import GPT
from sft.answers import answer_prompts
from sft.checkpoint import load_model
from sft.device import best_device
from sft.tokenizer import Tokenizer, load_tokenizer

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

    1 - C(samples - right, k) / C(samples, k): the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), Eq. 1.
    """
    if not 0 < k <= samples:
        raise ValueError(f"k is {k}; it must be from 1 to the {samples} answers drawn per question")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def count_right(
    model: GPT, tokenizer: Tokenizer, questions: list[Question], samples: int, seed: int, progress: str = ""
) -> list[int]:
    """How many of `samples` answers drawn at temperature 1 are right, per question."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [question for question in questions for _ in range(samples)]
    texts = answer_prompts(
        model, tokenizer, [q.text for q in drawn], temperature=1.0, generator=generator, progress=progress
    )
    right = [judge(q, text).outcome == "right" for q, text in zip(drawn, texts, strict=True)]
    return [sum(right[start : start + samples]) for start in range(0, len(right), samples)]


def sample_and_count(
    model: GPT, tokenizer: Tokenizer, n: int, samples: int, seed: int, groups: tuple = GROUPS, progress: str = ""
) -> dict:
    """Mean pass@k of n questions of every group, with 95 % intervals over the questions.

    A question counts as a fraction, so the Wilson interval of a rate is somewhat too wide rather than too narrow.
    """
    questions = {group: sample_questions(group, n, seed) for group in groups}
    asked = [question for members in questions.values() for question in members]
    right = dict(zip(asked, count_right(model, tokenizer, asked, samples, seed, progress), strict=True))
    return {
        group: {"n": len(members), "samples": samples, "temperature": 1.0}
        | {f"pass@{k}": rate(sum(pass_at_k(samples, right[q], k) for q in members), len(members)) for k in KS}
        for group, members in questions.items()
    }


def passes_table(results: dict[str, dict]) -> str:
    """pass@k of one or more models, each under its name, by group."""
    rows = [["questions", "model", "n", *(f"pass@{k}" for k in KS)]]
    for group in next(iter(results.values())):
        for name, result in results.items():
            passes = result[group]
            rows.append([in_words(group), name, str(passes["n"]), *(percent(passes[f"pass@{k}"]) for k in KS)])
    return markdown(rows)


def main(config: Config) -> None:
    if config.samples < max(KS):
        raise ValueError(f"samples is {config.samples}; pass@{max(KS)} needs at least {max(KS)} answers a question")
    tokenizer = load_tokenizer()
    model = load_model(config.checkpoint, best_device(config.device), len(tokenizer))
    result = sample_and_count(model, tokenizer, config.n, config.samples, config.seed, progress="sampling")
    print(passes_table({config.checkpoint: result}))
    if config.json:
        write_json(config.json, {"checkpoint": config.checkpoint, "seed": config.seed, "groups": result})


if __name__ == "__main__":
    run_program(main, Config())
