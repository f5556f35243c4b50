"""How often is a model right? `python -m dpo.evaluate --checkpoint=dpo/dpo.pt` prints a table.

Greedy answers, graded exactly: an answer is right if its number **and** its reason are right.
"""

import codecs
import sys
from dataclasses import dataclass
from pathlib import Path

from configurator import run_program
from dpo.evaluation.replies import answer_questions, sample_domain
from dpo.evaluation.tables import evaluate, forms_table, table
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import open_plain, write_json
from sft.generation import generate_answers

LARGEST_FILE = 16 * 2**20  # bytes of questions
ONE_A_LINE = "write one question a line, like 17+19=?"


@dataclass
class Config:
    """python -m dpo.evaluate: ask a model and grade its answers."""

    checkpoint: str = "dpo/dpo.pt"  # the model to ask
    n: int = 1200  # questions per group at most, the forms alike; held-out products are fewer
    seed: int = 1  # of the sample of questions
    split: str = "test"  # held-out families: test, to report; validation, to choose settings by
    json: str = ""  # also write all figures to this file
    ask: str = ""  # answer this one question instead
    prompts: str = ""  # answer a file of questions instead, one a line; - is standard input
    device: str = "auto"  # auto, cpu, cuda or mps


def main(config: Config) -> None:
    prompts = _read_prompts(config) if config.ask or config.prompts else []
    model, tokenizer = load_model(config.checkpoint, best_device(config.device))
    if prompts:
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
    """The one question, or those of the file, without empty lines; ValueError if there is none."""
    if config.ask and config.prompts:
        raise ValueError("--ask is one question and --prompts a file of them; give one of the two")
    if config.json:
        raise ValueError("--json holds the figures of a table; --ask and --prompts make none")
    source = "--ask" if config.ask else config.prompts
    if config.ask:
        text = config.ask
    elif config.prompts == "-":
        source = "standard input"
        text = _decode(sys.stdin.buffer.read() if sys.stdin else b"", source)  # it may be closed
    else:
        with open_plain(Path(source), LARGEST_FILE, ValueError, ONE_A_LINE) as file:
            text = _decode(file.read(LARGEST_FILE), source)
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{source} holds no question; {ONE_A_LINE}")
    return prompts


def _decode(data: bytes, source: str) -> str:
    """The text in UTF-8, or in UTF-16 as Windows PowerShell's `>` writes it; ValueError if none."""
    is_utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # no question has this character; UTF-16 without its mark is full of them
        raise ValueError(f"{source} is no text in UTF-8 or UTF-16; save it as UTF-8")
    return text


if __name__ == "__main__":
    run_program(main, Config())
