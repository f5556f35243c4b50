"""Make preference pairs: `python -m dpo.make_pairs` writes dpo/pos_neg_pairs.json.

`--n=100000 --negatives=refusal --out=FILE` makes a large file in seconds.

The positive of each question is the right answer. Its negative is what the base itself says when sampled, unless that
happens to be right; or a plain refusal, or a near miss. No pair asks for a held-out fact.
"""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from configurator import configure
from dpo.arithmetic import FORMS, RANGES, REFUSAL, Question, domain, families_in, grade, is_held_out, parse_question
from sft.answers import answer_prompts
from sft.checkpoint import load_model
from sft.corpus import wrong_value
from sft.device import best_device
from sft.files import write_atomically
from sft.tokenizer import load_tokenizer

NEGATIVES = ("base", "refusal", "near_miss")
TRIES = 4  # samples of the base per question before the refusal is taken


@dataclass
class Config:
    """python -m dpo.make_pairs: generate preference pairs."""

    n: int = 3072  # how many pairs
    seed: int = 1  # of questions and negatives
    negatives: str = "base"  # base: sampled from the base model; refusal; near_miss: a wrong number
    ranges: str = "standard"  # which questions, by comma: standard, products, negatives, sums
    base: str = "sft/gpt.pt"  # the model whose answers are the negatives
    out: str = "dpo/pos_neg_pairs.json"  # file to write
    device: str = "auto"  # auto, cpu, cuda or mps


def draw_questions(n: int, ranges: list[str], rng: random.Random) -> list[Question]:
    """n questions of seen families, every form alike; none twice before all of its form were asked."""

    def endless(pool: list[Question]) -> Iterator[Question]:
        while True:
            yield from rng.sample(pool, len(pool))

    pools = [[q for name in ranges for q in domain(form, name) if not q.held_out] for form in FORMS]
    streams = [endless(pool) for pool in pools if pool]
    questions = [next(streams[i % len(streams)]) for i in range(n)]
    rng.shuffle(questions)
    return questions


def sampled_negatives(questions: list[Question], config: Config) -> list[str]:
    """For each question an answer of the base at temperature 1 that is not right and spells out no held-out fact."""
    tokenizer, device = load_tokenizer(), best_device(config.device)
    model = load_model(config.base, device, len(tokenizer))
    generator = torch.Generator().manual_seed(config.seed)
    negatives = [""] * len(questions)
    for attempt in range(1, TRIES + 1):
        missing = [i for i, negative in enumerate(negatives) if not negative]
        texts = [questions[i].text for i in missing]
        answers = answer_prompts(
            model, tokenizer, texts, 1.0, generator=generator, progress=f"sampling the base, try {attempt}"
        )
        for i, answer in zip(missing, answers, strict=True):
            held_out = any(map(is_held_out, families_in(answer)))
            if answer.strip() and not held_out and not grade(questions[i], answer).answer:
                negatives[i] = answer
    return [negative or REFUSAL for negative in negatives]


def make_pairs(config: Config) -> list[dict[str, str]]:
    if config.negatives not in NEGATIVES:
        raise ValueError(f"negatives is {config.negatives!r}; it must be one of {', '.join(NEGATIVES)}")
    ranges = config.ranges.split(",")
    if unknown := set(ranges) - set(RANGES):
        raise ValueError(f"ranges names {min(unknown)!r}; known are {', '.join(RANGES)}")
    if config.n < 1:
        raise ValueError(f"n is {config.n}; at least one pair is needed")
    rng = random.Random(config.seed)
    questions = draw_questions(config.n, ranges, rng)
    if config.negatives == "base":
        negatives = sampled_negatives(questions, config)
    elif config.negatives == "refusal":
        negatives = [REFUSAL] * len(questions)
    else:
        negatives = [q.answer_text(wrong_value(rng, q.answer)) for q in questions]
    pairs = []
    for question, negative in zip(questions, negatives, strict=True):
        asked = parse_question(question.text)  # judged from the text that is written, not from what it was made of
        assert asked is not None and grade(asked, question.right_answer).correct and not asked.held_out, question
        pairs.append({"negative": question.text + negative, "positive": question.text + question.right_answer})
    return pairs


def main(config: Config) -> None:
    pairs = make_pairs(config)
    lines = ",\n".join(json.dumps(pair, ensure_ascii=False) for pair in pairs)
    write_atomically(config.out, f"[\n{lines}\n]\n".encode())
    print(f"wrote {len(pairs)} pairs to {config.out}")


if __name__ == "__main__":
    try:
        main(configure(Config(), sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
