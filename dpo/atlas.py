"""Where a model is right and where not: `python -m dpo.atlas` asks all 38,683 questions.

It asks base and tuned model and prints the result table and what the mistakes have in common. It
draws maps of the tuned model, a square a fact family, into runs/atlas.png; they also show results
below zero, three digits, and two digits by one. The answers are kept in runs/answers, so that a
second call takes seconds.
"""

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from configurator import run_program
from dpo.evaluation.replies import Reply, answer_questions, judge
from dpo.evaluation.tables import counted, describe_group, evaluate, rate, table, wilson
from dpo.plots.answers import Square, atlas_figure
from dpo.plots.style import OUTCOMES, check_picture, save_figure
from dpo.training.provenance import ROOT, code_hash, weights_hash
from sft.arithmetic import (
    ADDITIVE,
    FORMS,
    MULTIPLICATIVE,
    SIDES,
    Question,
    domain,
    is_held_out,
    pool,
)
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import write_atomically, write_json
from sft.grading import parse_answer

MAPS = {  # its forms, its ranges of numbers, and how many mistakes have room beside it
    "sums and differences": (ADDITIVE, ("standard",), 4),
    "results below zero": (ADDITIVE, ("negatives",), 4),
    "three digits": (ADDITIVE, ("three_digits",), 4),
    "products and quotients": (MULTIPLICATIVE, ("standard", "products"), 6),
}
MOST_FAMILIES = 5000  # on a map, besides those that the whole domain asks about
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


def everything() -> list[Question]:
    """The whole domain, and what the maps show besides."""
    return list(dict.fromkeys([*whole_domain(), *sample_maps(MOST_FAMILIES, seed=1)]))


def sample_maps(n: int, seed: int) -> list[Question]:
    """One question about each of at most n fact families of every map."""
    rng, questions = random.Random(seed), []
    for forms, ranges, _ in MAPS.values():
        asked = [q for r in ranges for form in forms for q in pool(form, r) if not q.trivial]
        rng.shuffle(asked)
        one_each = list({question.family: question for question in asked}.values())
        questions += rng.sample(one_each, min(n, len(one_each)))
    return questions


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


def replies_of_map(replies: list[Reply], name: str) -> list[Reply]:
    """Those that belong on this map: without the factors 0 and 1, which are rules and not facts."""
    forms, ranges, _ = MAPS[name]
    on_map = []
    for reply in replies:
        question = reply.question
        if question.form in forms and not question.trivial and question.range in ranges:
            on_map.append(reply)
    return on_map


def squares(replies: list[Reply]) -> list[Square]:
    """A square for every fact family: what became of all questions about it, by the worst reply."""
    worst_last, families = list(OUTCOMES), {}
    for reply in replies:
        outcome = families.get(reply.question.family, worst_last[0])
        families[reply.question.family] = max(outcome, reply.outcome, key=worst_last.index)
    found = []
    for family, outcome in families.items():
        smaller, larger = map(int, re.findall(r"\d+", family))
        found.append(Square(smaller, larger, outcome, set_aside=is_held_out(family)))
    return found


def mistakes(replies: list[Reply], most: int) -> list[str]:
    """At most so many of the wrong answers, spread over the replies, the longest first."""
    wrong = [reply for reply in replies if reply.outcome == "wrong"]
    every = max(1, len(wrong) // most)
    return sorted(map(describe_mistake, wrong[::every][:most]), key=len, reverse=True)


def describe_mistake(reply: Reply) -> str:
    """The calculation as the model had it, and what is right: `51+98=159 (149)`."""
    left, operator, right = reply.question.solution
    said, answer = parse_answer(reply.text).value, reply.question.answer
    if said == answer:
        return f"{left}{operator}{right}={said}, wrong reason"
    return f"{left}{operator}{right}={'no number' if said is None else said} ({answer})"


def draw(replies: list[Reply]) -> Figure:
    """The maps of one model's replies, with some of its mistakes."""
    maps, wrong = {}, {}
    for name, (*_, most) in MAPS.items():
        members = replies_of_map(replies, name)
        maps[name], wrong[name] = squares(members), mistakes(members, most)
    return atlas_figure(maps, wrong)


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
    """How many answers to one kind of questions are right, for each side of the split."""
    members = [reply for reply in replies if belongs(reply.question)]
    sides = []
    for split in ("test", "validation", "train"):
        outcomes = [r.outcome for r in members if r.question.split == split]
        share = rate(outcomes.count("right"), len(outcomes))
        sides.append(f"{describe_group(SIDES[split])} {counted(share)}")
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
    print(f"{table(results, counted)}\n\nAfter:\n{describe_mistakes(usual['after'])}")
    if config.json:
        write_json(config.json, results)
    save_figure(draw(replies["after"]), config.out)


if __name__ == "__main__":
    run_program(main, Config())
