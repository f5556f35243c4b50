"""Retention: whether a tuned model still gives the everyday answers of its base."""

from dpo.evaluation.tables import count_and_examples, counted, rate
from model import GPT
from sft.corpus import everyday_lines
from sft.generation import generate_answers
from sft.tokenizer import Tokenizer


def answer_small_talk(model: GPT, tokenizer: Tokenizer) -> list[str]:
    """The greedy answers to all everyday questions of the base's corpus, in its order.

    The corpus's answers are the drafts: they save time and change nothing.
    """
    lines = everyday_lines()
    prompts, answers = [prompt for prompt, _ in lines], [answer for _, answer in lines]
    return generate_answers(model, tokenizer, prompts, drafts=answers)


def measure_retention(model: GPT, tokenizer: Tokenizer) -> dict:
    """The share of everyday questions that get the corpus's own answer."""
    said, right = answer_small_talk(model, tokenizer), [answer for _, answer in everyday_lines()]
    return _agreement(said, right)


def _agreement(one: list[str], other: list[str]) -> dict[str, float]:
    """How many answers are the same in both, with the interval of their share."""
    return rate(sum(a == b for a, b in zip(one, other, strict=True)), len(one))


def describe_retention(before: GPT, after: GPT, tokenizer: Tokenizer) -> str:
    """What became of the everyday answers: the same ones, changed ones, examples."""
    lines = everyday_lines()
    right = [answer for _, answer in lines]
    old, new = (answer_small_talk(model, tokenizer) for model in (before, after))
    same, at_first, now = (
        counted(_agreement(*texts)) for texts in ((old, new), (old, right), (new, right))
    )
    changed = []
    for (prompt, _), said, says in zip(lines, old, new, strict=True):
        if said != says:
            changed.append(f"{prompt}{said} -> {says}")
    return "\n".join(
        [
            f"Everyday questions: {same} answered as before.",
            f"With the corpus's own answer: {at_first} before, {now} after.",
            *count_and_examples("answered otherwise", changed),
        ]
    )
