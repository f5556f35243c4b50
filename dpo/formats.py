"""What a model can answer and what it cannot, kind by kind: `python -m dpo.formats`.

The kinds with an answer are what the pairs ask, the same otherwise written, and other numbers; most
of them are in no pair. The others are those of `sft/unanswerable.py`: nothing of the kind was ever
answered in the base's corpus, and a model that knows its limits refuses. What counts against it is
*wrong with confidence*: the share of all questions that it neither answers rightly nor refuses.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from configurator import run_program
from dpo.evaluation.replies import SPLITS, Reply, answer_questions, families_of, take_turns
from dpo.evaluation.tables import clustered_rate, markdown, percent
from dpo.plots.kinds import kinds_figure
from dpo.plots.style import check_picture, save_figure
from model import GPT
from sft.arithmetic import (
    ADDITIVE,
    DRESSES,
    FORMS,
    MULTIPLICATIVE,
    Question,
    parse_question,
    pool,
)
from sft.checkpoint.weights import from_json_tensor, load_checkpoint, load_model
from sft.device import best_device
from sft.files import write_json
from sft.tokenizer import Tokenizer
from sft.unanswerable import KINDS, draw_unanswerable

OUTCOMES = ("right", "refused", "wrong")
GROUPS = {  # what the base's corpus does with a kind: the outcome to wish for, and the questions
    "answered": ("right", "that the base can calculate"),
    "refused": ("refused", "that it cannot, of kinds that it has met"),
    "never": ("refused", "that it cannot, of kinds that it has never met"),
}
TRIES = 20  # texts drawn for each that is wanted: a kind may have fewer different ones


@dataclass
class Config:
    """python -m dpo.formats: ask a model every kind of question, also what has no answer."""

    checkpoint: str = "dpo/dpo.pt"  # the model to ask
    before: str = "sft/gpt.pt"  # a model to ask first, to see what tuning changed; empty: none
    n: int = 300  # questions per kind at most
    seed: int = 1  # of the sample of questions
    split: str = "test"  # held-out families: test, to report; validation, to choose settings by
    figure: str = ""  # also draw the kinds into this file
    json: str = ""  # also write the figures to this file
    device: str = "auto"  # auto, cpu, cuda or mps


@dataclass(frozen=True)
class Format:
    """A kind with an answer: which questions are asked, and how they are written."""

    forms: tuple[str, ...] = FORMS
    ranges: str = "standard"  # of the numbers: one of RANGES
    trivial: bool | None = None  # only with, or only without a factor 0 or 1
    write: Callable[[str], str] = str  # from the usual wording of a question to this one

    def includes(self, question: Question) -> bool:
        return (
            question.form in self.forms
            and question.range == self.ranges
            and self.trivial in (None, question.trivial)
        )

    def is_asked_by(self, prompt: str) -> bool:
        """Whether a prompt is a question of this kind, written like this."""
        question = parse_question(prompt)
        return (
            question is not None
            and self.includes(question)
            and self.write(question.text) == prompt
            and (self.write is str or prompt != question.text)
        )


WITH_X = tuple(form for form in FORMS if "x" in form)
FORMATS = {
    "sums and differences: 17+19=?": Format(ADDITIVE),
    "products and quotients: 3*17=?": Format(MULTIPLICATIVE, trivial=False),
    "factors 0 and 1: 1*17=?": Format(MULTIPLICATIVE, trivial=True),
    "spaces around the signs: 17 + 19 = ?": Format(write=DRESSES["spaces_around_signs"]),
    "space after the comma: 72-x=34, x=?": Format(WITH_X, write=DRESSES["space_after_comma"]),
    "no sign for times: 3x=51,x=?": Format(("a*x=b",), write=DRESSES["no_sign_for_times"]),
    "results below zero: 17-36=?": Format(ranges="negatives"),
    "three digits: 317+219=?": Format(ranges="three_digits"),
    "two digits by one: 47*8=?": Format(ranges="products"),
}
# The kinds without an answer, named alike: the name in KINDS of each.
WITHOUT_ANSWER = {f"{name.replace('_', ' ')}: {KINDS[name].example}": name for name in KINDS}


def sample_kind(
    name: str, n: int, seed: int, split: str = "test"
) -> tuple[list[Question | None], list[str]]:
    """At most n different questions of one kind, and how they are written.

    Those with an answer are of the held-out families of `split`, all forms alike while they last.
    The others are of no family; where the question is None, there is no answer at all.
    """
    if n < 1:
        raise ValueError(f"n is {n}; at least one question a kind is needed")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    rng = random.Random(f"{seed} {split} {name}")
    if name in WITHOUT_ANSWER:
        drawn = (draw_unanswerable(rng, WITHOUT_ANSWER[name]) for _ in range(TRIES * n))
        prompts = _first_different(drawn, n)
        return [parse_question(prompt) for prompt in prompts], prompts
    kind, pools = FORMATS[name], []
    for form in kind.forms:
        pools.append([q for q in _set_aside(form, kind.ranges, split) if kind.includes(q)])
    questions = take_turns(pools, n, rng)
    return questions, [kind.write(question.text) for question in questions]


@cache
def _set_aside(form: str, ranges: str, split: str) -> list[Question]:
    return [question for question in pool(form, ranges) if question.split == split]


def _first_different(texts: Iterable[str], n: int) -> list[str]:
    found: dict[str, None] = {}
    for text in texts:
        found[text] = None
        if len(found) == n:
            break
    return list(found)


def ask_kinds(
    model: GPT, tokenizer: Tokenizer, n: int, seed: int, split: str = "test"
) -> dict[str, list[Reply]]:
    """The replies to a sample of every kind, with an answer and without."""
    replies = {}
    for name in (*FORMATS, *WITHOUT_ANSWER):
        questions, prompts = sample_kind(name, n, seed, split)
        replies[name] = answer_questions(model, tokenizer, questions, prompts=prompts)
    return replies


def outcomes(replies: list[Reply]) -> dict:
    """n, and the shares of right, refused and wrong answers: they add up to one."""
    families = families_of([reply.question for reply in replies])
    shares = {
        name: clustered_rate([reply.outcome == name for reply in replies], families)
        for name in OUTCOMES
    }
    return {"n": len(replies)} | shares


def summarise_kinds(replies: dict[str, list[Reply]], prompts: list[str] | None = None) -> dict:
    """The outcomes of every kind, and *wrong with confidence*: the wrong ones among all.

    `groups` are the kinds that the base answers, refuses, and never met, taken together. `prompts`
    are those of the model's pairs; `in_pairs` counts them by kind. It is None for a kind without an
    answer if there are pairs of such questions: they are not told apart.
    """
    everything = [reply for members in replies.values() for reply in members]
    counts = count_prompts(prompts or [])
    kinds, groups = {}, {}
    for name, members in replies.items():
        kinds[name] = {
            "in_base": _in_base(name),
            "in_pairs": counts[name],
            **outcomes(members),
        }
    for group in GROUPS:
        names = [name for name in kinds if kinds[name]["in_base"] == group]
        groups[group] = outcomes([reply for name in names for reply in replies[name]])
    wrong = outcomes(everything)["wrong"]
    return {"wrong_with_confidence": wrong, "groups": groups, "kinds": kinds}


def count_prompts(prompts: list[str]) -> dict[str, int | None]:
    """How many prompts are of each kind, without telling apart those that have no answer."""
    counts: dict[str, int | None] = {}
    for name, kind in FORMATS.items():
        counts[name] = sum(map(kind.is_asked_by, prompts))
    with_digits = [prompt for prompt in prompts if any(map(str.isdigit, prompt))]
    others = len(with_digits) - sum(counts.values())
    return counts | dict.fromkeys(WITHOUT_ANSWER, None if others else 0)


def _in_base(name: str) -> str:
    """What the base has seen of a kind: right answers among other lines, refusals, nothing."""
    if name in FORMATS:
        return "answered"
    return "refused" if KINDS[WITHOUT_ANSWER[name]].met else "never"


def describe_outcomes(replies: dict[str, list[Reply]]) -> str:
    """How many answers to questions of all kinds are right, refused and wrong."""
    everything = [reply for members in replies.values() for reply in members]
    counts = (f"{outcomes(everything)[name]['count']:,} {name}" for name in OUTCOMES)
    return f"of {len(everything):,} questions {', '.join(counts)}"


def kinds_table(summary: dict) -> str:
    """The shares of all kinds and of each group, with 95 % intervals; below them a row per kind.

    The rows are counts, in the order of GROUPS: an interval of one kind would say little.
    """
    share, kinds = summary["wrong_with_confidence"], summary["kinds"]
    asked = f"{share['n']:,} questions of {len(kinds)} kinds"
    lines = [f"- wrong with confidence: {percent(share)} of {asked}"]
    rows = [["kind", "in the base", "in the pairs", "n", *OUTCOMES]]
    for group, (outcome, questions) in GROUPS.items():
        together = summary["groups"][group]
        lines.append(f"- {outcome}: {percent(together[outcome])} of {together['n']:,} {questions}")
        members = (kind for kind in kinds.items() if kind[1]["in_base"] == group)
        rows += [_kind_row(name, shares) for name, shares in members]
    return "\n".join([*lines, "", markdown(rows)])


def _kind_row(name: str, shares: dict) -> list[str]:
    pairs = {None: "?", 0: "none"}.get(shares["in_pairs"], f"{shares['in_pairs']}")
    counts = (f"{shares[outcome]['count']:,}" for outcome in OUTCOMES)
    return [name, shares["in_base"], pairs, f"{shares['n']:,}", *counts]


def prompts_of(checkpoint: str) -> list[str]:
    """The prompts of the pairs that a model was tuned on; none for a base."""
    pairs = load_checkpoint(checkpoint).extras.get("pairs")
    rows = from_json_tensor(pairs) if isinstance(pairs, Tensor) else []
    rows = rows if isinstance(rows, list) else []  # a file may come from anywhere
    return [str(row[0]) for row in rows if isinstance(row, list) and row]


def main(config: Config) -> None:
    if config.figure:
        check_picture(config.figure)
    summaries = {}
    for path in filter(None, (config.before, config.checkpoint)):
        model, tokenizer = load_model(path, best_device(config.device))
        replies = ask_kinds(model, tokenizer, config.n, config.seed, config.split)
        summaries[path] = summarise_kinds(replies, prompts_of(path))
        print(f"{path}: {describe_outcomes(replies)}")
    print(f"\n{kinds_table(summaries[config.checkpoint])}")
    if config.json:
        write_json(config.json, {"split": config.split, "models": summaries})
    if config.figure:
        names = ("before", "after") if len(summaries) == 2 else ("after",)
        save_figure(kinds_figure(dict(zip(names, summaries.values(), strict=True))), config.figure)


if __name__ == "__main__":
    run_program(main, Config())
