"""The mean of models that started alike: `python -m sft.average runs/a.pt runs/b.pt --out=FILE`.

Runs that part after a common stage end near to each other, each with errors of its own; the mean of
their weights has fewer (Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482).
Afterwards it prints what the mean knows, on validation questions.
"""

from dataclasses import dataclass

import torch

from configurator import run_program
from model import GPT
from sft.checkpoint.weights import load_model, save_checkpoint
from sft.device import best_device
from sft.knowledge import describe_knowledge
from sft.progress import silenced

QUESTIONS = 150  # validation questions of a kind


@dataclass
class Config:
    """python -m sft.average: the mean of the weights of several models."""

    models: tuple[str, ...] = ()  # checkpoints of one architecture, two or more
    out: str = "runs/mean.pt"  # checkpoint to write, in half precision
    quiet: bool = False  # print nothing but errors
    device: str = "auto"  # auto, cpu, cuda or mps


@torch.no_grad()
def average(models: list[GPT]) -> GPT:
    """The first of these models, which then has the mean of all weights.

    ValueError for fewer than two, and for models of other shapes.
    """
    if len(models) < 2:
        raise ValueError(f"a mean needs two models or more, and there are {len(models)}")
    first = models[0]
    if any(model.config != first.config for model in models):
        raise ValueError("the models have different shapes; a mean needs models that started alike")
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        parameters[0].copy_(torch.stack(parameters).mean(dim=0))
    return first


def main(config: Config) -> None:
    device = best_device(config.device)
    mean = average([load_model(path, device)[0] for path in config.models])
    save_checkpoint(config.out, mean, torch.float16)
    with silenced(config.quiet):
        model, tokenizer = load_model(config.out, device)
        print(f"wrote {config.out}")
        print(describe_knowledge(model, tokenizer, "validation", QUESTIONS))


if __name__ == "__main__":
    run_program(main, Config())
