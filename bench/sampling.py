"""Questions answered a second, ours against the course's `generate`: `python -m bench.sampling`.

Greedy answers of the model of the default run, which is trained if it is not there, to the same
questions of the domain. The systems take turns and must give the same answers.
"""

import random
import time
from collections.abc import Callable
from statistics import mean

import torch

from bench import assignment
from bench.report import matrix_peak, matrix_weights, median_and_spread, ratio, share
from bench.results import Measurement, print_result
from dpo.evaluation.tables import markdown
from dpo.train import Config
from dpo.try_pairs import find_or_train
from model import GPT
from sft.arithmetic import FORMS, domain
from sft.checkpoint.weights import load_model
from sft.generation import MAX_NEW_TOKENS, generate_answers
from sft.tokenizer import Tokenizer

ROUNDS = 5
SLOWEST = "the course's generate"
FEW = 16  # questions that it gets in a round

System = Callable[[list[str], list[str]], list[str]]  # questions and drafts to answers


def systems_of(model: GPT, tokenizer: Tokenizer) -> dict[str, System]:
    """All that are compared, by the name of their row; they answer texts and may use drafts."""

    def theirs(texts: list[str], drafts: list[str]) -> list[str]:
        answers = []
        for text in texts:
            prompt = torch.tensor([tokenizer.encode(text)])  # (1, T)
            whole = assignment.generate(model, prompt, MAX_NEW_TOKENS)[0].tolist()
            answers.append(tokenizer.decode(whole)[len(text) :])
        return answers

    return {
        SLOWEST: theirs,
        "ours": lambda texts, drafts: generate_answers(model, tokenizer, texts),
        "ours, right answers as drafts": lambda texts, drafts: generate_answers(
            model, tokenizer, texts, drafts=drafts
        ),
    }


def measure(rounds: int = ROUNDS, most: int = 512) -> dict:
    """Questions a second of every system and round, and how many the products alone would allow.

    In a round at most so many questions are asked, of SLOWEST fewer.
    """
    model, tokenizer = load_model(find_or_train(Config(out="runs/default", eval_every=0)))
    questions = [question for form in FORMS for question in domain(form)]
    systems = systems_of(model, tokenizer)
    rates, characters = {name: [] for name in systems}, []
    for number in range(rounds):
        asked = random.Random(number).sample(questions, most)
        texts, drafts = [q.text for q in asked], [q.right_answer for q in asked]
        answers = {}
        for name, system in systems.items():
            n = min(FEW, most) if name == SLOWEST else most
            started = time.perf_counter()
            answers[name] = system(texts[:n], drafts[:n])
            rates[name].append(n / (time.perf_counter() - started))
        common = {tuple(given[:FEW]) for given in answers.values()}
        assert len(common) == 1, "the systems answer differently"
        characters += [len(t + a) for t, a in zip(texts, answers["ours"], strict=True)]
    return {"rates": rates, "limit": limit(model, mean(characters))}


def limit(model: GPT, characters: float) -> dict[str, float]:
    """Questions a second if nothing but the weights' products took time, each character once.

    Reading the weights from memory, which limits a single row, is done once for a batch of 256: the
    products take many times as long.
    """
    flop = 2 * matrix_weights(model) * characters  # characters of a question and its answer
    return {"characters": characters, "questions": matrix_peak("float32") / flop}


def render(values: dict) -> dict[str, str]:
    rates, limit = values["rates"], values["limit"]
    rows = [["system", "questions/s, median (lowest to highest)", "ratio", "of the limit"]]
    for name, own in rates.items():
        cells = [median_and_spread(own), ratio(own, rates[SLOWEST])]
        rows.append([name, *cells, f"{share(own, limit['questions'])} %"])
    return {
        "table": markdown(rows),
        "limit": f"{limit['questions']:.0f}",
        "ratio": ratio(rates["ours"], rates[SLOWEST]),
    }


MEASUREMENT = Measurement("sampling", "python -m bench.sampling", measure, render, 2, of_base=False)

if __name__ == "__main__":
    print_result(MEASUREMENT)
