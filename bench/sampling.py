"""Questions answered a second, ours against the course's `generate`: `python -m bench.sampling`.

Greedy answers of the tuned model (of the base, if there is none) to the same questions of the
domain. The systems take turns and must give the same answers.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench import assignment
from bench.report import median_and_spread, ratio
from bench.results import Measurement, print_result
from dpo.evaluation.tables import markdown
from sft.arithmetic import FORMS, domain
from sft.checkpoint.weights import load_model
from sft.generation import MAX_NEW_TOKENS, generate_answers

ROUNDS = 5
SLOWEST = "the course's generate"
QUESTIONS = {SLOWEST: 16, "ours": 512, "ours, right answers as drafts": 512}  # in a round


def measure() -> dict[str, list[float]]:
    """Questions a second of every system and round."""
    path = next(path for path in ("dpo/dpo.pt", "sft/gpt.pt") if Path(path).exists())
    model, tokenizer = load_model(path)
    questions = [question for form in FORMS for question in domain(form)]

    def theirs(texts: list[str], drafts: list[str]) -> list[str]:
        answers = []
        for text in texts:
            prompt = torch.tensor([tokenizer.encode(text)])  # (1, T)
            whole = assignment.generate(model, prompt, MAX_NEW_TOKENS)[0].tolist()
            answers.append(tokenizer.decode(whole)[len(text) :])
        return answers

    systems: dict[str, Callable[[list[str], list[str]], list[str]]] = {
        SLOWEST: theirs,
        "ours": lambda texts, drafts: generate_answers(model, tokenizer, texts),
        "ours, right answers as drafts": lambda texts, drafts: generate_answers(
            model, tokenizer, texts, drafts=drafts
        ),
    }
    rates = {name: [] for name in systems}
    for number in range(ROUNDS):
        asked = random.Random(number).sample(questions, max(QUESTIONS.values()))
        texts, drafts = [q.text for q in asked], [q.right_answer for q in asked]
        answers = {}
        for name, system in systems.items():
            n = QUESTIONS[name]
            started = time.perf_counter()
            answers[name] = system(texts[:n], drafts[:n])
            rates[name].append(n / (time.perf_counter() - started))
        common = {tuple(given[: QUESTIONS[SLOWEST]]) for given in answers.values()}
        assert len(common) == 1, "the systems answer differently"
    return rates


def render(values: dict[str, list[float]]) -> dict[str, str]:
    rows = [["system", "questions/s, median (lowest to highest)", "ratio"]]
    for name, rates in values.items():
        rows.append([name, median_and_spread(rates), ratio(rates, values[SLOWEST])])
    return {"table": markdown(rows)}


MEASUREMENT = Measurement("sampling", "python -m bench.sampling", measure, render, 2, of_base=False)

if __name__ == "__main__":
    print_result(MEASUREMENT)
