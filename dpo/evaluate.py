"""How often is a model right? `python -m dpo.evaluate --checkpoint=dpo/dpo.pt` prints a table with intervals.

Greedy answers, graded exactly: an answer counts as correct if its number **and** its reason are right.
"""

import json
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from configurator import configure
from dpo.arithmetic import FORMS, Grade, Question, domain, grade
from model import GPT
from sft.answers import answer_prompts
from sft.checkpoint import load_model
from sft.corpus import REFUSALS
from sft.device import best_device
from sft.tokenizer import Tokenizer, load_tokenizer

GROUPS = ("held_out/additive", "held_out/multiplicative", "seen/additive", "seen/multiplicative")


@dataclass
class Config:
    """python -m dpo.evaluate: ask a model and grade its answers."""

    checkpoint: str = "dpo/dpo.pt"  # the model to ask
    n: int = 1200  # questions per group at most, the forms alike; held-out products are fewer
    seed: int = 1  # of the sample of questions
    json: str = ""  # also write the table to this file
    ask: str = ""  # answer this one question instead
    prompts: str = ""  # answer a file of questions instead, one a line
    device: str = "auto"  # auto, cpu, cuda or mps


def sample_questions(group: str, n: int, seed: int) -> list[Question]:
    """At most n different questions of one group of GROUPS, every form as often as the others as long as it lasts."""
    rng = random.Random(f"{seed} {group}")
    pools = [[q for q in domain(form) if q.group == group] for form in FORMS]
    pools = [rng.sample(pool, len(pool)) for pool in pools if pool]
    turns = [question for turn in range(max(map(len, pools))) for pool in pools for question in pool[turn : turn + 1]]
    return turns[:n]


def answer_questions(model: GPT, tokenizer: Tokenizer, questions: list[Question], progress: str = "") -> list[str]:
    return answer_prompts(model, tokenizer, [question.text for question in questions], progress=progress)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927): honest at 0 % and 100 %, too."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    centre = (correct + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(correct * (n - correct) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def rate_of(grades: list[Grade]) -> dict[str, float]:
    n, correct = len(grades), sum(g.correct for g in grades)
    low, high = wilson(correct, n)
    return {"n": n, "correct": correct, "rate": correct / n if n else 0.0, "low": low, "high": high}


def evaluate(model: GPT, tokenizer: Tokenizer, n: int = 1200, seed: int = 1, progress: str = "") -> dict:
    """Rates of every group and form on n questions a group, and the share of refusals.

    `factors_from_2` counts the products and quotients without a factor 0 or 1 again: those are rules, not facts.
    """
    if n < 1:
        raise ValueError(f"n is {n}; at least one question a group is needed")
    questions = [question for group in GROUPS for question in sample_questions(group, n, seed)]
    answers = answer_questions(model, tokenizer, questions, progress)
    graded = [(question, grade(question, answer)) for question, answer in zip(questions, answers, strict=True)]
    return {
        "n": len(graded),
        "decoding": "greedy",
        "groups": {group: rate_of([g for q, g in graded if q.group == group]) for group in GROUPS},
        "forms": {
            f"{side}/{form}": rate_of([g for q, g in graded if q.form == form and q.group.startswith(side)])
            for side in ("held_out", "seen")
            for form in FORMS
        },
        "factors_from_2": {
            group: rate_of([g for q, g in graded if q.group == group and not q.trivial])
            for group in GROUPS
            if group.endswith("multiplicative")
        },
        "refused": sum(answer in REFUSALS for answer in answers) / len(answers),
    }


def headline(result: dict) -> dict[str, dict]:
    """The rows that matter, named in words: each group, and the multiplicative ones without factors 0 and 1."""
    rows = {}
    for group, r in result["groups"].items():
        name = group.replace("_", "-").replace("/", " ")
        rows[name] = r
        if group in result["factors_from_2"]:
            rows[f"{name}, factors from 2"] = result["factors_from_2"][group]
    return rows


def table(result: dict) -> str:
    """The result as lines of text: a row per group, then a row per form."""

    def cell(r: dict) -> str:
        return f"{r['rate']:7.1%} ({r['low']:.1%} to {r['high']:.1%}) of {r['n']}"

    lines = [f"{name:42}{cell(r)}" for name, r in headline(result).items()]
    lines += ["", f"{'form':8}{'held-out':>14}{'seen':>33}"]
    lines += [f"{f:8}{cell(result['forms'][f'held_out/{f}']):33}{cell(result['forms'][f'seen/{f}'])}" for f in FORMS]
    return "\n".join([*lines, "", f"refusals: {result['refused']:.1%} of {result['n']} greedy answers"])


def main(config: Config) -> None:
    tokenizer = load_tokenizer()
    model = load_model(config.checkpoint, best_device(config.device), len(tokenizer))
    if config.ask or config.prompts:
        lines = [config.ask] if config.ask else Path(config.prompts).read_text(encoding="utf-8-sig").splitlines()
        prompts = [line.strip() for line in lines if line.strip()]
        for prompt, answer in zip(prompts, answer_prompts(model, tokenizer, prompts), strict=True):
            print(f"{prompt}\t{answer}")
        return
    result = {"checkpoint": config.checkpoint} | evaluate(model, tokenizer, config.n, config.seed, progress="asking")
    print(table(result))
    if config.json:
        Path(config.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(configure(Config(), sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
