"""Where a model is right and where not: `python -m dpo.atlas` asks base and tuned model all 38,683 questions.

It prints the result table and what the mistakes have in common, and draws dpo/atlas.png. The answers are kept in
runs/answers/, so that a second call takes seconds.
"""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from configurator import run_program
from dpo.arithmetic import FORMS, Question, domain, parse_answer
from dpo.evaluate import Reply, answer_questions, evaluate, judge, percent, rate, table, wilson, write_json
from dpo.plots import atlas_figure, check_picture, save_figure
from dpo.provenance import ROOT, code_hash, weights_hash
from sft.checkpoint import load_model
from sft.device import best_device
from sft.files import write_atomically
from sft.tokenizer import load_tokenizer

MAPS = ("a+b", "a-b", "a*b")  # the forms that are drawn, operand a against operand b
ANSWER_CODE = [ROOT / "model.py", ROOT / "dpo/arithmetic.py", ROOT / "sft/meta.pkl"]
ANSWER_CODE += [ROOT / f"sft/{name}.py" for name in ("answers", "checkpoint", "rows", "tokenizer")]


@dataclass
class Config:
    """python -m dpo.atlas: ask base and tuned model every question, draw and describe the outcome."""

    base: str = "sft/gpt.pt"  # the model before
    checkpoint: str = "dpo/dpo.pt"  # the model after
    out: str = "runs/atlas.png"  # the figure
    answers: str = "runs/answers"  # folder that keeps the answers
    json: str = ""  # also write all figures to this file
    device: str = "auto"  # auto, cpu, cuda or mps


def whole_domain() -> list[Question]:
    return [question for form in FORMS for question in domain(form)]


def ask_everything(checkpoint: str, folder: str, device: str = "auto", progress: str = "") -> list[Reply]:
    """A greedy reply to every question of the domain; read from `folder` if this model has given them before.

    The file is named after the hashes of the weights and of the code that answers, so an old one is never mistaken
    for a new one; a damaged one is written again.
    """
    questions, tokenizer = whole_domain(), load_tokenizer()
    model = load_model(checkpoint, best_device(device), len(tokenizer))
    path = Path(folder) / f"{weights_hash(model)}-{code_hash(ANSWER_CODE)}.json"
    texts = _kept_answers(path)
    if texts.keys() == {question.text for question in questions}:
        return [judge(question, texts[question.text]) for question in questions]
    replies = answer_questions(model, tokenizer, questions, progress)
    write_atomically(path, json.dumps({r.question.text: r.text for r in replies}, indent=0).encode())
    return replies


def _kept_answers(path: Path) -> dict[str, str]:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return texts if isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values()) else {}


def sample_maps(n: int, seed: int) -> list[Question]:
    """At most n questions of every form that is drawn."""
    rng = random.Random(seed)
    return [question for form in MAPS for question in rng.sample(domain(form), min(n, len(domain(form))))]


def outcome_map(replies: list[Reply], form: str) -> np.ndarray:
    """(100, 100) outcomes of one form: `right`, `wrong`, `refused`, or empty; row a, column b."""
    cells = np.full((100, 100), "", dtype="<U7")
    for reply in replies:
        if reply.question.form == form:
            cells[reply.question.a, reply.question.b] = reply.outcome
    return cells


def held_out_map(form: str) -> np.ndarray:
    """(100, 100) whether the question of this form with operands a, b is of a held-out family."""
    cells = np.zeros((100, 100), dtype=bool)
    for question in domain(form):
        cells[question.a, question.b] = question.held_out
    return cells


def draw(replies: dict[str, list[Reply]]) -> Figure:
    """The maps of one or more models, each under its name: a row of maps per model."""
    maps = {name: {form: outcome_map(members, form) for form in MAPS} for name, members in replies.items()}
    return atlas_figure(maps, {form: held_out_map(form) for form in MAPS})


def wrong_digits(reply: Reply) -> str:
    """Which digits of a wrong number differ from the right one: `ones`, `tens`, `ones and tens`, ...; or `length`."""
    value = parse_answer(reply.text).value
    if value is None:
        return "no number"
    given, right = str(value), str(reply.question.answer)
    if len(given) != len(right):
        return "length"
    names = ("ones", "tens", "hundreds")
    differing = [name for name, g, r in zip(names, reversed(given), reversed(right), strict=False) if g != r]
    return " and ".join(differing) or "none (the reason is wrong)"


def worst_operands(replies: list[Reply], count: int = 10) -> list[tuple[int, int, int]]:
    """(number, wrong answers, questions) of the operands that are surest to go wrong; a question counts for both.

    By the lower end of the interval of the rate, so that one mistake in two questions is no record.
    """
    asked, wrong = Counter(), Counter()
    for reply in replies:
        for number in {reply.question.a, reply.question.b}:
            asked[number] += 1
            wrong[number] += reply.outcome == "wrong"
    worst = sorted(asked, key=lambda number: wilson(wrong[number], asked[number]), reverse=True)
    return [(number, wrong[number], asked[number]) for number in worst[:count] if wrong[number]]


def mistakes_in_words(replies: list[Reply]) -> str:
    """What the mistakes have in common: carries, the digit that is wrong, the ten worst operands."""

    def right(name: str, belongs: Callable[[Question], bool]) -> str:
        sides = []
        for side, held_out in (("held-out", True), ("seen", False)):
            members = [r for r in replies if belongs(r.question) and r.question.held_out == held_out]
            share = rate(sum(r.outcome == "right" for r in members), len(members))
            sides.append(f"{side} {percent(share)} of {len(members):,}")
        return f"{name}: {', '.join(sides)}"

    wrong = [reply for reply in replies if reply.outcome == "wrong"]
    lines = [
        "Right answers",
        right("additive with a carry or borrow", lambda q: q.carries),
        right("additive without", lambda q: q.additive and not q.carries),
        right("multiplicative, factors from 2", lambda q: not q.additive and not q.trivial),
        right("multiplicative with a factor 0 or 1", lambda q: q.trivial),
        f"wrong answers: {len(wrong):,} of {len(replies):,}",
    ]
    if wrong:
        digits = Counter(map(wrong_digits, wrong)).most_common()
        operands = (f"{number} ({times} of {asked})" for number, times, asked in worst_operands(replies))
        lines += [
            "wrong digit: " + ", ".join(f"{name} {count}" for name, count in digits),
            "operands that go wrong most: " + ", ".join(operands),
        ]
    return "\n".join(lines)


def main(config: Config) -> None:
    check_picture(config.out)
    replies = {
        name: ask_everything(checkpoint, config.answers, config.device, progress=f"asking {checkpoint}")
        for name, checkpoint in (("before", config.base), ("after", config.checkpoint))
    }
    results = {name: evaluate(members) for name, members in replies.items()}
    print(f"{table(results)}\n\nAfter:\n{mistakes_in_words(replies['after'])}")
    save_figure(draw(replies), config.out)
    if config.json:
        write_json(config.json, results)


if __name__ == "__main__":
    run_program(main, Config())
