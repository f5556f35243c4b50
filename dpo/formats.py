"""Questions written otherwise, and with other numbers, than in the pairs: `python -m dpo.formats`.

None of them is part of the headline figures. A refusal is as good as a right answer here; what
counts against a model is a wrong answer given with confidence.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from configurator import run_program
from dpo.evaluation.replies import Reply, answer_questions
from dpo.evaluation.tables import markdown, percent, rate
from model import GPT
from sft.arithmetic import FORMS, MULTIPLICATIVE, Question, domain
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import write_json
from sft.tokenizer import Tokenizer

OUTCOMES = ("right", "refused", "wrong")


@dataclass
class Config:
    """python -m dpo.formats: ask a model in unusual ways, and beyond the ranges of the pairs."""

    checkpoint: str = "dpo/dpo.pt"  # the model to ask
    n: int = 200  # questions per format at most
    seed: int = 1  # of the sample of questions
    json: str = ""  # also write the figures to this file
    device: str = "auto"  # auto, cpu, cuda or mps


@dataclass(frozen=True)
class Format:
    """Which questions are asked, and how they are written."""

    forms: tuple[str, ...] = FORMS
    ranges: str = "standard"  # of the numbers: standard, products, negatives or sums
    trivial: bool | None = None  # only with, or only without a factor 0 or 1
    write: Callable[[str], str] = str  # from the usual wording of a question to this one


def spaced(text: str) -> str:
    """The question with spaces around its signs."""
    return "".join(f" {c} " if c in "+-*/=" else c for c in text)


FORMATS = {
    "as in the pairs": Format(),
    "space after the comma: 72-x=34, x=?": Format(
        tuple(f for f in FORMS if "x" in f), write=lambda text: text.replace(",", ", ")
    ),
    "spaces around the signs: 17 + 19 = ?": Format(write=spaced),
    "no sign for times: 3x=51,x=?": Format(("a*x=b",), write=lambda text: text.replace("*", "")),
    "factors 0 and 1: 1*17=?": Format(MULTIPLICATIVE, trivial=True),
    "products above 99: 47*8=?": Format(ranges="products"),
    "negative differences: 17-36=?": Format(ranges="negatives"),
    "three-digit sums: 317+219=?": Format(ranges="sums"),
}


def sample_format(name: str, n: int, seed: int) -> tuple[list[Question], list[str]]:
    """At most n different questions of one of FORMATS, and how they are written."""
    if n < 1:
        raise ValueError(f"n is {n}; at least one question a format is needed")
    kind, pool = FORMATS[name], []
    for form in kind.forms:
        for question in domain(form, kind.ranges):
            if kind.trivial in (None, question.trivial):
                pool.append(question)
    questions = random.Random(f"{seed} {name}").sample(pool, min(n, len(pool)))
    return questions, [kind.write(question.text) for question in questions]


def ask_formats(model: GPT, tokenizer: Tokenizer, n: int, seed: int) -> dict[str, list[Reply]]:
    """The replies to a sample of every format."""
    replies = {}
    for name in FORMATS:
        questions, prompts = sample_format(name, n, seed)
        replies[name] = answer_questions(model, tokenizer, questions, prompts=prompts)
    return replies


def outcomes(replies: list[Reply]) -> dict:
    """n, and the shares of right, refused and wrong answers: they add up to one."""
    n = len(replies)
    shares = {name: rate(sum(r.outcome == name for r in replies), n) for name in OUTCOMES}
    return {"n": n} | shares


def formats_table(replies: dict[str, list[Reply]]) -> str:
    """A row per format, with 95 % intervals."""
    rows = [["format", "n", *OUTCOMES]]
    for name, members in replies.items():
        shares = outcomes(members)
        rows.append([name, str(shares["n"]), *(percent(shares[key]) for key in OUTCOMES)])
    return markdown(rows)


def main(config: Config) -> None:
    model, tokenizer = load_model(config.checkpoint, best_device(config.device))
    replies = ask_formats(model, tokenizer, config.n, config.seed)
    print(formats_table(replies))
    if config.json:
        write_json(config.json, {name: outcomes(members) for name, members in replies.items()})


if __name__ == "__main__":
    run_program(main, Config())
