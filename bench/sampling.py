"""Questions answered a second, ours against the course's `generate`: `python -m bench.sampling`.

Greedy answers of the tuned model (of the base, if there is none) to the same questions of the domain. The two systems
take turns; both must give the same answers. Prints a table and writes runs/sampling.json.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench import assignment
from bench.report import hardware, median_and_spread, ratio
from dpo.arithmetic import FORMS, domain
from dpo.evaluate import markdown, write_json
from sft.answers import MAX_NEW_TOKENS, answer_prompts
from sft.checkpoint import load_model
from sft.tokenizer import load_tokenizer

ROUNDS = 5
QUESTIONS = {"the course's generate": 16, "ours": 512, "ours, right answers as guesses": 512}  # in a round


def main() -> None:
    tokenizer = load_tokenizer()
    path = next(path for path in ("dpo/dpo.pt", "sft/gpt.pt") if Path(path).exists())
    model = load_model(path)
    questions = [question for form in FORMS for question in domain(form)]

    def theirs(texts: list[str], guesses: list[str]) -> list[str]:
        prompts = [torch.tensor([tokenizer.encode(text)]) for text in texts]
        rows = [assignment.generate(model, prompt, MAX_NEW_TOKENS)[0].tolist() for prompt in prompts]
        return [tokenizer.decode(row)[len(text) :] for row, text in zip(rows, texts, strict=True)]

    systems: dict[str, Callable[[list[str], list[str]], list[str]]] = {
        "the course's generate": theirs,
        "ours": lambda texts, guesses: answer_prompts(model, tokenizer, texts),
        "ours, right answers as guesses": lambda texts, guesses: answer_prompts(
            model, tokenizer, texts, guesses=guesses
        ),
    }
    rates = {name: [] for name in systems}
    for number in range(ROUNDS):
        asked = random.Random(number).sample(questions, max(QUESTIONS.values()))
        texts, guesses = [q.text for q in asked], [q.right_answer for q in asked]
        answers = {}
        for name, system in systems.items():
            n = QUESTIONS[name]
            started = time.perf_counter()
            answers[name] = system(texts[:n], guesses[:n])
            rates[name].append(n / (time.perf_counter() - started))
        few = QUESTIONS["the course's generate"]
        assert len({tuple(given[:few]) for given in answers.values()}) == 1, "the systems answer differently"
    slowest = rates["the course's generate"]
    rows = [["system", "questions/s, median (lowest to highest)", "ratio"]]
    rows += [[name, median_and_spread(values), ratio(values, slowest)] for name, values in rates.items()]
    print(f"{path}, greedy, {ROUNDS} rounds, {hardware()}\n\n{markdown(rows)}")
    write_json("runs/sampling.json", {"model": path, "hardware": hardware(), "questions_per_second": rates})


if __name__ == "__main__":
    main()
