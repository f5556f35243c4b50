"""The questions of the lesson, answers drawn at random, and how many are right, group by group."""

import torch

from dpo.evaluation.replies import GROUPS, Reply, judge, sample_facts
from dpo.evaluation.tables import markdown
from model import GPT
from sft.arithmetic import Question
from sft.generation import generate_answers
from sft.tokenizer import Tokenizer

GROUP_NAMES = {
    "held_out/additive": "sums and differences, set aside",
    "held_out/multiplicative": "products and quotients, set aside",
    "seen/additive": "sums and differences, known to the base",
    "seen/multiplicative": "products and quotients, known to the base",
}


def sample_groups(n: int, seed: int) -> list[Question]:
    """`sample_facts` of each group of the test. ValueError if n is below 1."""
    if n < 1:
        raise ValueError(f"n is {n}; at least one question a group is needed")
    return [question for group in GROUPS for question in sample_facts(group, n, seed)]


def draw_replies(
    model: GPT,
    tokenizer: Tokenizer,
    questions: list[Question],
    temperature: float,
    seed: int,
    progress: str = "",
) -> list[Reply]:
    """A reply to each question, its characters drawn at that temperature; `progress` as a bar."""
    prompts, generator = [q.text for q in questions], torch.Generator().manual_seed(seed)
    texts = generate_answers(
        model, tokenizer, prompts, temperature, generator=generator, progress=progress
    )
    return [judge(question, text) for question, text in zip(questions, texts, strict=True)]


def group_replies(replies: list[Reply]) -> dict[str, list[Reply]]:
    """The replies under the name of their group, in the order of GROUP_NAMES."""
    by_group = {}
    for group, name in GROUP_NAMES.items():
        members = [reply for reply in replies if reply.question.group == group]
        if members:
            by_group[name] = members
    return by_group


def count_right(replies: list[Reply]) -> int:
    """How many have the right number and the right reason."""
    return sum(reply.outcome == "right" for reply in replies)


def right_table(runs: dict[str, list[Reply]]) -> str:
    """Right answers of one or more models to the same questions, a row a group, in Markdown."""
    rows = [["questions", "n", "facts", *runs]]
    grouped = [group_replies(replies) for replies in runs.values()]
    for name, members in grouped[0].items():
        facts = {reply.question.family for reply in members}
        counts = [str(count_right(groups[name])) for groups in grouped]
        rows.append([name, str(len(members)), str(len(facts)), *counts])
    return markdown(rows)
