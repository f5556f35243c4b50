"""Make preference pairs: `python -m dpo.make_pairs` writes dpo/pos_neg_pairs.json.

The shipped file is small and meant to be read and edited: questions of one form stand together, the
plainest first. `--n=100000 --negatives=refusal --out=FILE` makes a large one in seconds.

The positive of each question is the right answer. Its negative is what the base itself says when
sampled, unless that is a number; or a plain refusal, or a near miss. No pair asks for a
held-out fact, or the questions of the notebook's Step 8.

With `--from=dpo/dpo.pt --out=runs/own.json` both answers are that model's own (on-policy): of
several drawn to a question a right one is preferred to a wrong one. A question that it always gets
right, or always wrong, gives no pair.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from configurator import run_program
from dpo.data.pair import Pair
from dpo.data.pair_file import write_pairs
from dpo.evaluation.replies import judge
from sft.arithmetic import (
    FORMS,
    RANGES,
    REFUSAL,
    STEP_8,
    Question,
    families_in,
    is_held_out,
    parse_question,
    pool,
)
from sft.checkpoint.weights import load_model
from sft.corpus import TRIVIAL_KEPT, wrong_value
from sft.device import best_device
from sft.generation import generate_answers
from sft.grading import grade, parse_answer
from sft.progress import silenced

NEGATIVES = ("base", "refusal", "near_miss")
PLAINEST_FIRST = sorted(FORMS, key=lambda form: "x" in form)
TRIES = 4  # answers drawn from the base per question before the refusal is taken


@dataclass
class Config:
    """python -m dpo.make_pairs: generate preference pairs."""

    n: int = 64  # how many pairs; with --from, to how many questions
    seed: int = 1  # of questions and negatives
    negatives: str = "base"  # base (its own), refusal or near_miss (wrong number); not with --from
    ranges: str = "standard"  # asked, by comma: standard, negatives, three_digits, products
    base: str = "sft/gpt.pt"  # the model whose answers are the negatives
    from_: str = ""  # a model whose own right and wrong answers are the pairs
    samples: int = 8  # answers drawn to each question, with --from
    temperature: float = 1.0  # at which they are drawn
    out: str = "dpo/pos_neg_pairs.json"  # file to write
    quiet: bool = False  # print nothing but errors
    device: str = "auto"  # auto, cpu, cuda or mps


def draw_questions(n: int, ranges: list[str], rng: random.Random) -> list[Question]:
    """n questions of seen families, every form alike and together.

    None comes twice before all of its form have come once.
    """

    def endless(questions: list[Question]) -> Iterator[Question]:
        while True:
            yield from rng.sample(questions, len(questions))

    streams = []
    for form in PLAINEST_FIRST:
        if questions := _askable(form, ranges, rng):  # a range has not all forms
            streams.append(endless(questions))
    drawn = [next(streams[i % len(streams)]) for i in range(n)]
    return sorted(drawn, key=lambda question: PLAINEST_FIRST.index(question.form))


def _askable(form: str, ranges: list[str], rng: random.Random) -> list[Question]:
    """Those of a form that pairs may ask, with few of the factors 0 and 1."""
    questions = []
    for name in ranges:
        questions += [q for q in pool(form, name) if not q.held_out and q.text not in STEP_8]
    return [q for q in questions if not q.trivial or rng.random() < TRIVIAL_KEPT]


def sampled_negatives(questions: list[Question], config: Config) -> list[str]:
    """For each question an answer of the base, drawn at temperature 1, that can be a negative.

    It must claim no number: a wrong one parts from the right one at a digit, and there the base is
    sure already. Nor may it name a held-out fact. If none comes in TRIES, it is the refusal.
    """
    model, tokenizer = load_model(config.base, best_device(config.device))
    generator = torch.Generator().manual_seed(config.seed)
    negatives = [""] * len(questions)
    for attempt in range(1, TRIES + 1):
        missing = [i for i, negative in enumerate(negatives) if not negative]
        if not missing:
            break
        texts, label = [questions[i].text for i in missing], f"sampling the base, try {attempt}"
        answers = generate_answers(
            model, tokenizer, texts, 1.0, generator=generator, progress=label
        )
        for i, answer in zip(missing, answers, strict=True):
            if _can_be_rejected(answer) and parse_answer(answer).value is None:
                negatives[i] = answer
    return [negative or REFUSAL for negative in negatives]


def _can_be_rejected(answer: str) -> bool:
    """Whether there is an answer at all, and it names no held-out fact.

    Pairs must not say anything about those, not even as what is rejected.
    """
    return bool(answer.strip()) and not _names_held_out(answer)


def _names_held_out(answer: str) -> bool:
    return any(map(is_held_out, families_in(answer)))


def own_answers(questions: list[Question], config: Config) -> list[tuple[Question, str, str]]:
    """Question, right and wrong answer, where the model `from_` has given both.

    It answers each question `samples` times; of its right and of its wrong answers the most
    frequent one is taken. ValueError if no question has both.
    """
    model, tokenizer = load_model(config.from_, best_device(config.device))
    n = config.samples
    texts = [question.text for question in questions for _ in range(n)]
    generator = torch.Generator().manual_seed(config.seed)
    drawn = generate_answers(
        model, tokenizer, texts, config.temperature, generator=generator, progress="sampling"
    )
    found, right_ones = [], 0
    for i, question in enumerate(questions):
        right, wrong = [], []  # each with the most frequent answer first
        for answer, count in Counter(drawn[i * n : (i + 1) * n]).most_common():
            if judge(question, answer).outcome == "right":
                right.append(answer)
                right_ones += count
            elif _can_be_rejected(answer):
                wrong.append(answer)
        if right and wrong:
            found.append((question, right[0], wrong[0]))
    share = f"{right_ones / len(drawn):.1%} of {len(drawn):,} drawn answers are right"
    if not found:
        raise ValueError(
            f"{share}, and no question has a right and a wrong one: ask more (n), or wider ranges"
        )
    print(f"{share}; {len(found):,} of {len(questions):,} questions have a right and a wrong one")
    return found


def make_pairs(config: Config) -> list[Pair]:
    """The pairs. ValueError for wrong settings."""
    ranges = _check(config)
    rng = random.Random(config.seed)
    questions = draw_questions(config.n, ranges, rng)
    if config.from_:
        rows = own_answers(list(dict.fromkeys(questions)), config)  # each question once
    else:
        negatives = _negatives(questions, config, rng)
        positives = [question.right_answer for question in questions]
        rows = list(zip(questions, positives, negatives, strict=True))
    for question, right, _ in rows:
        # Judged from the text that is written, not from what it was made of.
        asked = parse_question(question.text)
        assert asked is not None and grade(asked, right).correct and not asked.held_out, question
    return [
        Pair(question.text, right, wrong, number)
        for number, (question, right, wrong) in enumerate(rows, start=1)
    ]


def _check(config: Config) -> list[str]:
    """The names of the ranges; ValueError for settings of which no pairs can be made."""
    if config.negatives not in NEGATIVES:
        raise ValueError(
            f"negatives is {config.negatives!r}; it must be one of {', '.join(NEGATIVES)}"
        )
    ranges = config.ranges.split(",")
    if unknown := set(ranges) - set(RANGES):
        raise ValueError(f"ranges names {min(unknown)!r}; known are {', '.join(RANGES)}")
    if config.n < 1:
        raise ValueError(f"n is {config.n}; at least one pair is needed")
    if config.from_ and (config.samples < 2 or config.temperature <= 0):
        raise ValueError(
            "samples must be at least 2 and temperature above 0: "
            "one question needs different answers"
        )
    return ranges


def _negatives(questions: list[Question], config: Config, rng: random.Random) -> list[str]:
    if config.negatives == "base":
        return sampled_negatives(questions, config)
    if config.negatives == "refusal":
        return [REFUSAL] * len(questions)
    return [q.answer_text(wrong_value(rng, q.answer)) for q in questions]


def main(config: Config) -> None:
    if config.from_ and Path(config.out).resolve() == Path(Config.out).resolve():
        raise ValueError(
            f"this would replace the shipped {config.out}; name another file: --out=runs/own.json"
        )
    with silenced(config.quiet):
        pairs = make_pairs(config)
        write_pairs(config.out, pairs)
        print(f"wrote {len(pairs):,} pairs to {config.out}")


if __name__ == "__main__":
    run_program(main, Config())
