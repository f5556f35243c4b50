"""Where a model is right and where not: `python -m dpo.atlas` asks all 38,683 questions.

It asks base and tuned model, prints the result table and what the mistakes have in common, and
draws runs/atlas.png; --out=dpo/images/atlas.png makes the README's. The maps also show results
below zero and products of two digits by one. The answers are kept in runs/answers, so that a second
call takes seconds.
"""

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from configurator import run_program
from dpo.evaluation.replies import Reply, answer_questions, judge
from dpo.evaluation.tables import describe_group, evaluate, percent, rate, table, wilson
from dpo.plots.answers import atlas_figure
from dpo.plots.style import check_picture, save_figure
from dpo.training.provenance import ROOT, code_hash, weights_hash
from sft.arithmetic import FORMS, SIDES, Question, domain
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import write_atomically, write_json
from sft.grading import parse_answer

MAPS = {  # the forms that are drawn, operand a against operand b, and the ranges of each
    "a+b": ("standard",),
    "a-b": ("standard", "negatives"),
    "a*b": ("standard", "products"),
}
ANSWER_CODE = [ROOT / "model.py", ROOT / "sft/meta.pkl"]  # what an answer depends on
ANSWER_CODE += [ROOT / f"sft/{name}.py" for name in ("arithmetic", "generation", "sequences")]
ANSWER_CODE += [ROOT / "sft/tokenizer.py", ROOT / "sft/checkpoint/weights.py"]


@dataclass
class Config:
    """python -m dpo.atlas: ask base and tuned model every question, and draw what they answer."""

    base: str = "sft/gpt.pt"  # the model before
    checkpoint: str = "dpo/dpo.pt"  # the model after
    out: str = "runs/atlas.png"  # the figure
    answers: str = "runs/answers"  # folder that keeps the answers
    json: str = ""  # also write all figures to this file
    device: str = "auto"  # auto, cpu, cuda or mps


def whole_domain() -> list[Question]:
    """Every question of every form, in the range of the pairs."""
    return list(itertools.chain.from_iterable(map(domain, FORMS)))


def map_domain(form: str) -> list[Question]:
    """Every question that the map of this form shows."""
    return list(itertools.chain.from_iterable(domain(form, ranges) for ranges in MAPS[form]))


def everything() -> list[Question]:
    """The whole domain, and what the maps show besides."""
    on_maps = itertools.chain.from_iterable(map(map_domain, MAPS))
    return list(dict.fromkeys([*whole_domain(), *on_maps]))


def ask_everything(
    checkpoint: str, folder: str, device: str = "auto", progress: str = ""
) -> list[Reply]:
    """A greedy reply to each of `everything`, read from `folder` if this model has answered before.

    The file there is named after the hashes of the weights and of the code that answers, so that an
    old one is never taken for a new one. A damaged one is written again.
    """
    questions = everything()
    model, tokenizer = load_model(checkpoint, best_device(device))
    path = Path(folder) / f"{weights_hash(model)}-{code_hash(ANSWER_CODE)}.json"
    texts = _kept_answers(path)
    if texts.keys() == {question.text for question in questions}:
        return [judge(question, texts[question.text]) for question in questions]
    replies = answer_questions(model, tokenizer, questions, progress)
    texts = {reply.question.text: reply.text for reply in replies}
    write_atomically(path, json.dumps(texts, indent=0).encode())
    return replies


def _kept_answers(path: Path) -> dict[str, str]:
    """Answers by question; none if the file is missing or damaged."""
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        return {}
    return texts


def sample_maps(n: int, seed: int) -> list[Question]:
    """At most n questions of every form that is drawn."""
    rng, questions = random.Random(seed), []
    for form in MAPS:
        asked = map_domain(form)
        questions += rng.sample(asked, min(n, len(asked)))
    return questions


def outcome_map(replies: list[Reply], form: str) -> np.ndarray:
    """Outcomes of one form, (100, 100), operand a by row and b by column.

    `right`, `wrong`, `refused`, or empty where there is no such question.
    """
    cells = np.full((100, 100), "", dtype="<U7")  # texts of at most seven characters
    for reply in replies:
        if reply.question.form == form:
            cells[reply.question.a, reply.question.b] = reply.outcome
    return cells


def held_out_map(form: str) -> np.ndarray:
    """Whether the question with operands a and b is of a held-out family, (100, 100) like above.

    Here those of validation count as well: the model has seen neither.
    """
    cells = np.zeros((100, 100), dtype=bool)
    for question in map_domain(form):
        cells[question.a, question.b] = question.held_out
    return cells


def draw(replies: dict[str, list[Reply]]) -> Figure:
    """The maps of one or more models, each under its name: a row of maps per model."""
    maps = {}
    for name, members in replies.items():
        maps[name] = {form: outcome_map(members, form) for form in MAPS}
    return atlas_figure(maps, {form: held_out_map(form) for form in MAPS})


def wrong_digits(reply: Reply) -> str:
    """Which digits of a number are wrong: `ones`, `ones and tens`, ..., or `length`."""
    value = parse_answer(reply.text).value
    if value is None:
        return "no number"
    given, right = str(value), str(reply.question.answer)
    if len(given) != len(right):
        return "length"
    differing = []
    for name, one, other in zip(
        ("ones", "tens", "hundreds"), reversed(given), reversed(right), strict=False
    ):
        if one != other:
            differing.append(name)
    return " and ".join(differing) or "none (the reason is wrong)"


def worst_operands(replies: list[Reply], count: int = 10) -> list[tuple[int, int, int]]:
    """(number, wrong answers, questions) of the operands whose questions most surely go wrong.

    A question counts for both of its operands. They are ordered by the lower end of the interval of
    their rate, so that one mistake in two questions is no record.
    """
    asked, wrong = Counter(), Counter()
    for reply in replies:
        for number in {reply.question.a, reply.question.b}:
            asked[number] += 1
            wrong[number] += reply.outcome == "wrong"
    worst = sorted(asked, key=lambda number: wilson(wrong[number], asked[number]), reverse=True)
    return [(number, wrong[number], asked[number]) for number in worst[:count] if wrong[number]]


def describe_mistakes(replies: list[Reply]) -> str:
    """What the mistakes have in common: carries, the wrong digit, the ten worst operands."""
    lines = ["Right answers"]
    lines += [_describe_kind(name, belongs, replies) for name, belongs in KINDS.items()]
    wrong = [reply for reply in replies if reply.outcome == "wrong"]
    lines.append(f"wrong answers: {len(wrong):,} of {len(replies):,}")
    if wrong:
        digits = Counter(map(wrong_digits, wrong)).most_common()
        lines.append("wrong digit: " + ", ".join(f"{name} {count}" for name, count in digits))
        worst = worst_operands(replies)
        operands = (f"{number} ({times} of {asked})" for number, times, asked in worst)
        lines.append("operands that go wrong most: " + ", ".join(operands))
    return "\n".join(lines)


KINDS: dict[str, Callable[[Question], bool]] = {  # every question is of one of them
    "additive with a carry or borrow": lambda q: q.carries,
    "additive without": lambda q: q.additive and not q.carries,
    "multiplicative, factors from 2": lambda q: not q.additive and not q.trivial,
    "multiplicative with a factor 0 or 1": lambda q: q.trivial,
}


def _describe_kind(name: str, belongs: Callable[[Question], bool], replies: list[Reply]) -> str:
    """The rates of right answers to one kind of questions, for each side of the split."""
    members = [reply for reply in replies if belongs(reply.question)]
    sides = []
    for split in ("test", "validation", "train"):
        outcomes = [r.outcome for r in members if r.question.split == split]
        share = rate(outcomes.count("right"), len(outcomes))
        sides.append(f"{describe_group(SIDES[split])} {percent(share)} of {len(outcomes):,}")
    return f"{name}: {', '.join(sides)}"


def main(config: Config) -> None:
    check_picture(config.out)
    replies = {}
    for name, checkpoint in (("before", config.base), ("after", config.checkpoint)):
        progress = f"asking {checkpoint}"
        replies[name] = ask_everything(checkpoint, config.answers, config.device, progress)
    usual = {
        name: [reply for reply in members if reply.question.range == "standard"]
        for name, members in replies.items()
    }
    results = {name: evaluate(members) for name, members in usual.items()}
    print(f"{table(results)}\n\nAfter:\n{describe_mistakes(usual['after'])}")
    if config.json:
        write_json(config.json, results)
    save_figure(draw(replies), config.out)


if __name__ == "__main__":
    run_program(main, Config())
