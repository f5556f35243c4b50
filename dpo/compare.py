"""What changed from one model to another: `python -m dpo.compare` compares the last two training runs.

Which questions turned right and which wrong, which pairs and settings differ, and what became of the small talk.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from configurator import configure
from dpo.arithmetic import parse_question
from dpo.evaluate import Reply, answer_questions, percent, rate, sample_domain
from model import GPT
from sft.answers import answer_prompts
from sft.checkpoint import is_plain, load_checkpoint, load_model, unpack
from sft.corpus import everyday_lines
from sft.device import best_device
from sft.tokenizer import Tokenizer, load_tokenizer

SHOWN = 5  # examples of each kind
MOST_EDITED = 200  # questions of changed pairs that are asked at most


@dataclass
class Config:
    """python -m dpo.compare: two runs of `dpo.train` or of the notebook, beside each other."""

    before: str = "dpo/dpo.previous.pt"  # the earlier run
    after: str = "dpo/dpo.pt"  # the later run
    n: int = 100  # questions per group
    seed: int = 1  # of the sample of questions
    device: str = "auto"  # auto, cpu, cuda or mps


@dataclass(frozen=True)
class Run:
    """What `dpo.pt` says about the run that wrote it."""

    settings: dict
    pairs: list[tuple[str, str, str]]  # prompt, chosen, rejected


def read_run(path: str | Path) -> Run:
    """Settings and pairs of a run; ValueError if there is none, or the checkpoint is not of a training run."""
    if not Path(path).exists():
        raise ValueError(f"{path}: no such run; every training but a repeated one keeps the run before it")
    extras = load_checkpoint(path).extras
    if not isinstance(extras.get("pairs"), Tensor) or not is_plain(extras.get("config")):
        raise ValueError(f"{path} does not say on which pairs it was tuned; train again to compare it")
    pairs = unpack(extras["pairs"])
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise ValueError(f"{path} has pairs that are no texts; train again to compare it")
    return Run(extras["config"], [tuple(pair) for pair in pairs])


def _is_pair(row: object) -> bool:
    return isinstance(row, list) and len(row) == 3 and all(isinstance(text, str) and text.isprintable() for text in row)


def pairs_difference(before: list[tuple], after: list[tuple]) -> tuple[list[tuple], list[tuple]]:
    """The rows that only the earlier and that only the later list has, in order; what stands twice counts twice."""
    only_before, only_after = Counter(before) - Counter(after), Counter(after) - Counter(before)
    return list(only_before.elements()), list(only_after.elements())


def turned(before: list[Reply], after: list[Reply]) -> tuple[list[tuple[Reply, Reply]], list[tuple[Reply, Reply]]]:
    """(old, new) replies to the questions that became right, and to those that no longer are."""
    both = list(zip(before, after, strict=True))
    became = [(old, new) for old, new in both if old.outcome != "right" == new.outcome]
    ceased = [(old, new) for old, new in both if old.outcome == "right" != new.outcome]
    return became, ceased


def _counted(name: str, lines: list[str]) -> list[str]:
    """How many there are, and the first few of them."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"{name}: {len(lines)}", *(f"  {line}" for line in lines[:SHOWN]), *more]


def describe_pairs(before: list[tuple], after: list[tuple]) -> str:
    """The row-level difference of two lists of pairs, in words; another answer to a question is a changed row."""
    gone, new = pairs_difference(before, after)
    if not gone and not new:
        return f"Pairs: the same {len(after):,} rows."
    rows_of: dict[str, list[tuple]] = {}
    for row in gone:
        rows_of.setdefault(row[0], []).append(row)
    added, edits = [], []
    for row in new:
        if not rows_of.get(row[0]):
            added.append(row)
            continue
        old = rows_of[row[0]].pop(0)
        edits += [f"{row[0]}{was} -> {now}" for was, now in zip(old[1:], row[1:], strict=True) if was != now]
    removed = [row for rows in rows_of.values() for row in rows]
    lines = [f"Pairs: {len(before):,} rows before, {len(after):,} now.", *_counted("changed answers", edits)]
    for name, rows in (("added", added), ("removed", removed)):
        lines += _counted(name, [f"{prompt}{chosen}  not {rejected}" for prompt, chosen, rejected in rows])
    return "\n".join(lines)


def describe_answers(before: list[Reply], after: list[Reply]) -> str:
    """Which questions turned right and which wrong, in words."""
    right = [sum(reply.outcome == "right" for reply in replies) for replies in (before, after)]
    lines = [f"Right answers to {len(after):,} questions: {right[0]:,} before, {right[1]:,} now."]
    for name, changes in zip(("turned right", "turned wrong"), turned(before, after), strict=True):
        lines += _counted(name, [f"{new.question.text}{old.text} -> {new.text}" for old, new in changes])
    return "\n".join(lines)


def compare_runs(config: Config) -> str:
    """The last two runs in words: settings, pairs, and the answers to a sample and to the edited questions."""
    runs = [read_run(path) for path in (config.before, config.after)]
    old, new = (run.settings for run in runs)
    shared = [key for key in new if key in old and key != "resume"]
    settings = [f"{key} {old[key]} -> {new[key]}" for key in shared if new[key] != old[key]]
    edited = [row[0] for rows in pairs_difference(runs[0].pairs, runs[1].pairs) for row in rows]
    questions = sample_domain(config.n, config.seed)
    questions += [q for prompt in dict.fromkeys(edited) if (q := parse_question(prompt))][:MOST_EDITED]
    questions = list(dict.fromkeys(questions))
    tokenizer, device = load_tokenizer(), best_device(config.device)
    replies = [
        answer_questions(load_model(path, device, len(tokenizer)), tokenizer, questions)
        for path in (config.before, config.after)
    ]
    return "\n\n".join(
        [
            f"Settings that differ: {', '.join(settings) or 'none'}.",
            describe_pairs(runs[0].pairs, runs[1].pairs),
            describe_answers(*replies),
        ]
    )


def describe_small_talk(before: GPT, after: GPT, tokenizer: Tokenizer) -> str:
    """What became of the everyday questions of the base's corpus: same answers, changed ones, examples."""
    lines = everyday_lines()
    prompts = [prompt for prompt, _ in lines]
    old, new = (answer_prompts(model, tokenizer, prompts, guesses=[a for _, a in lines]) for model in (before, after))
    right = [answer for _, answer in lines]

    def agree(one: list[str], other: list[str]) -> str:
        return percent(rate(sum(a == b for a, b in zip(one, other, strict=True)), len(lines)))

    changed = [f"{p}{a} -> {b}" for p, a, b in zip(prompts, old, new, strict=True) if a != b]
    return "\n".join(
        [
            f"{len(lines)} everyday questions: {agree(old, new)} answered as before.",
            f"With the corpus's own answer: {agree(old, right)} before, {agree(new, right)} after.",
            *_counted("answered otherwise", changed),
        ]
    )


if __name__ == "__main__":
    try:
        print(compare_runs(configure(Config(), sys.argv[1:])))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
