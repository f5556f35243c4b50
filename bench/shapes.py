"""How a step's cost grows with the model and with the texts: `python -m bench.shapes`.

Measured are the passes of one batch, forward and backward, in float32, of models with random
weights and pairs of made-up texts; the shapes take turns. The reference and the optimizer's step
are left out.
"""

import time
from dataclasses import asdict, dataclass
from statistics import median

import torch

from bench.report import median_and_spread
from bench.results import Measurement, print_result
from bench.scaling import exponent
from dpo.data.batches import PairBatch, collate_pairs, tokenize_pairs
from dpo.data.pair import Pair
from dpo.evaluation.tables import markdown
from dpo.train import Config
from dpo.training.run import objective
from dpo.training.step import accumulate_gradients
from model import GPT, GPTConfig
from sft.tokenizer import load_tokenizer

WIDTHS = (174, 348, 696)  # the middle one is the base's
LETTERS = (15, 30, 60, 120)  # of each answer; the pairs' own have about 40
USUAL_WIDTH, USUAL_LETTERS = 348, 30
PAIRS, ROUNDS = 16, 5


@dataclass(frozen=True)
class Shape:
    """A model and a batch, in numbers that JSON can hold."""

    width: int
    letters: int

    def build(self) -> tuple[GPT, PairBatch]:
        torch.manual_seed(1)
        model = GPT(GPTConfig(n_embd=self.width))
        texts = (" " + letter * (self.letters - 1) for letter in "ab")
        pair = Pair("17+19=?", *texts, line=1)
        tokenized = tokenize_pairs(load_tokenizer(), [pair] * PAIRS)
        return model, collate_pairs(tokenized, torch.zeros(PAIRS, 2))


def seconds_of(model: GPT, batch: PairBatch) -> float:
    """Of the passes over one batch."""
    started = time.perf_counter()
    accumulate_gradients(model, [batch], "float32", **objective(asdict(Config())))
    ended = time.perf_counter()
    model.zero_grad(set_to_none=True)
    return ended - started


def measure_turns(shapes: list[Shape], sizes: list[int]) -> list[dict]:
    """The size of each shape, and its seconds in every round but the first, which warms up."""
    built, seconds = [shape.build() for shape in shapes], [[] for _ in shapes]
    for _ in range(ROUNDS + 1):
        for own, parts in zip(seconds, built, strict=True):
            own.append(seconds_of(*parts))
    return [
        asdict(shape) | {"size": size, "seconds": own[1:]}
        for shape, size, own in zip(shapes, sizes, seconds, strict=True)
    ]


def measure() -> dict:
    """Widths with the parameters of each as its size; lengths with the characters of a row."""
    widths = [Shape(width, USUAL_LETTERS) for width in WIDTHS]
    lengths = [Shape(USUAL_WIDTH, letters) for letters in LETTERS]
    parameters = [shape.build()[0].get_num_params(non_embedding=False) for shape in widths]
    rows = [shape.build()[1].pairs.inputs.shape[1] for shape in lengths]
    return {"widths": measure_turns(widths, parameters), "lengths": measure_turns(lengths, rows)}


def growth_table(results: list[dict], name: str, size: str) -> str:
    """A row a shape, and below it the exponent of the seconds over the two largest sizes."""
    rows = [[name, size, f"{PAIRS} pairs, s, median (lowest to highest)"]]
    for result in results:
        shown = str(result["width" if name == "width" else "letters"])
        rows.append([shown, f"{result['size']:,}", median_and_spread(result["seconds"], 2)])
    costs = [median(result["seconds"]) for result in results]
    slope = exponent([result["size"] for result in results], costs)
    return markdown([*rows, ["exponent at the end", "", slope]])


def render(values: dict) -> dict[str, str]:
    return {
        "widths": growth_table(values["widths"], "width", "parameters"),
        "lengths": growth_table(values["lengths"], "letters of an answer", "characters of a row"),
    }


MEASUREMENT = Measurement("shapes", "python -m bench.shapes", measure, render, 1, of_base=False)

if __name__ == "__main__":
    print_result(MEASUREMENT)
