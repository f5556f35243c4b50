"""How often is a model right? `python -m dpo.evaluate --checkpoint=dpo/dpo.pt` prints a table.

Greedy answers, graded exactly: an answer is right if its number **and** its reason are right.
"""

from dataclasses import dataclass
from pathlib import Path

from configurator import run_program
from dpo.evaluation.replies import answer_questions, sample_domain
from dpo.evaluation.tables import evaluate, forms_table, table
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import write_json
from sft.generation import generate_answers


@dataclass
class Config:
    """python -m dpo.evaluate: ask a model and grade its answers."""

    checkpoint: str = "dpo/dpo.pt"  # the model to ask
    n: int = 1200  # questions per group at most, the forms alike; held-out products are fewer
    seed: int = 1  # of the sample of questions
    split: str = "test"  # held-out families: test, to report; validation, to choose settings by
    json: str = ""  # also write all figures to this file
    ask: str = ""  # answer this one question instead
    prompts: str = ""  # answer a file of questions instead, one a line
    device: str = "auto"  # auto, cpu, cuda or mps


def main(config: Config) -> None:
    model, tokenizer = load_model(config.checkpoint, best_device(config.device))
    if config.ask or config.prompts:
        prompts = _read_prompts(config)
        answers = generate_answers(model, tokenizer, prompts)
        for prompt, answer in zip(prompts, answers, strict=True):
            print(f"{prompt}\t{answer}")
        return
    questions = sample_domain(config.n, config.seed, config.split)
    replies = answer_questions(model, tokenizer, questions, progress="asking")
    result = evaluate(replies, config.split)
    print(f"{table({Path(config.checkpoint).name: result})}\n\n{forms_table(result)}")
    if config.json:
        write_json(config.json, {"checkpoint": config.checkpoint, "seed": config.seed, **result})


def _read_prompts(config: Config) -> list[str]:
    """The one question, or those of the file, without empty lines."""
    if config.ask:
        lines = [config.ask]
    else:
        lines = Path(config.prompts).read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


if __name__ == "__main__":
    run_program(main, Config())
