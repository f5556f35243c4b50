"""From questions to graded replies: what is asked, what a model answers, what that is worth."""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

from model import GPT
from sft.arithmetic import FORMS, SIDES, Question, domain
from sft.generation import MAX_NEW_TOKENS, generate_answers
from sft.grading import Grade, grade, is_refusal
from sft.tokenizer import Tokenizer

MOST = 100_000  # more questions than a group has
SPLITS = ("test", "validation")  # of the held-out families: to report, and to choose settings by
PROBE = 64  # questions, or a few more, that are answered in full before the others get drafts


def groups_of(split: str) -> tuple[str, ...]:
    """The four groups that are asked: of the held-out families those of one of SPLITS; the seen.

    What is chosen by validation is reported by the test, so that no figure is of questions by which
    something was chosen.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    sides = (SIDES[split], SIDES["train"])
    return tuple(f"{side}/{kind}" for side in sides for kind in ("additive", "multiplicative"))


GROUPS = groups_of("test")


@dataclass(frozen=True, slots=True)
class Reply:
    """A question, what a model wrote after it, and what that is worth."""

    question: Question | None  # None: what was asked has no answer
    text: str
    answer: bool  # the number is right
    reason: bool  # the reason is true, about this fact, and gives that number
    outcome: str  # right (both), refused, or wrong (everything else)

    @property
    def ended(self) -> bool:
        """Whether the model ended the answer by itself, with a full stop or a newline."""
        return len(self.text) < MAX_NEW_TOKENS or self.text.endswith(".")


def judge(question: Question | None, text: str) -> Reply:
    """The reply that `text` is to the question. Where there is no answer, nothing is right."""
    verdict = grade(question, text) if question else Grade(answer=False, reason=False)
    outcome = "right" if verdict.correct else "refused" if is_refusal(text) else "wrong"
    return Reply(question, text, verdict.answer, verdict.reason, outcome)


def families_of(questions: Sequence[Question | None]) -> list[Hashable]:
    """The fact family of each question; what has no answer is a family by itself, its place."""
    return [question.family if question else place for place, question in enumerate(questions)]


def sample_questions(group: str, n: int, seed: int) -> list[Question]:
    """At most n different questions of one group; all forms alike while they last."""
    if n < 1:
        raise ValueError(f"n is {n}; at least one question a group is needed")
    pools = [_questions_in(group, form) for form in FORMS]
    return take_turns(pools, n, random.Random(f"{seed} {group}"))


def sample_facts(group: str, n: int, seed: int) -> list[Question]:
    """At most n questions of a group, all forms alike while they last.

    Without the factors 0 and 1: these are rules, not facts.
    """
    facts = [q for q in sample_questions(group, MOST, seed) if not q.trivial]
    pools = [[question for question in facts if question.form == form] for form in FORMS]
    return take_turns(pools, n, random.Random(f"{seed} {group}"))


def take_turns(pools: list[Sequence[Question]], n: int, rng: random.Random) -> list[Question]:
    """At most n questions, drawn from all pools in turn while they last."""
    pools = [rng.sample(pool, len(pool)) for pool in pools if pool]
    questions = []
    for turn in zip_longest(*pools):  # one question of every pool, None where it has run out
        questions += [question for question in turn if question is not None]
    return questions[:n]


@cache  # the family of 38,683 questions takes half a second, and every run asks for it
def _questions_in(group: str, form: str) -> tuple[Question, ...]:
    return tuple(question for question in domain(form) if question.group == group)


def sample_domain(n: int, seed: int, split: str = "test") -> list[Question]:
    """At most n questions of every group of that split."""
    questions = []
    for group in groups_of(split):
        questions += sample_questions(group, n, seed)
    return questions


def answer_questions(
    model: GPT,
    tokenizer: Tokenizer,
    questions: list[Question] | list[Question | None],
    progress: str = "",
    prompts: list[str] | None = None,
) -> list[Reply]:
    """Greedy replies, in order; `prompts` replaces the usual wording of the questions.

    A prompt whose question is None has no answer.

    Some are asked first, evenly spread. If the model is mostly right there, the draft of each
    answer is the right one, else what the model said most often. `generate_answers` confirms or
    drops each draft, so they change how long this takes and not what it gives.
    """
    prompts = prompts or [question.text for question in questions]
    probe = range(0, len(questions), max(1, len(questions) // PROBE))  # indices
    texts = generate_answers(model, tokenizer, [prompts[i] for i in probe])
    if len(texts) < len(questions):
        drafts = _draft_answers(questions, [questions[i] for i in probe], texts)
        texts = generate_answers(model, tokenizer, prompts, drafts=drafts, progress=progress)
    return [judge(question, text) for question, text in zip(questions, texts, strict=True)]


def _draft_answers(questions: list[Question], probe: list[Question], texts: list[str]) -> list[str]:
    """What the model will probably answer, since it answered these texts to the probe."""
    replies = map(judge, probe, texts)
    right = sum(reply.outcome == "right" for reply in replies)  # none of those without an answer
    if 2 * right > len(texts):
        return [question.right_answer if question else "" for question in questions]
    most_common, _ = Counter(texts).most_common(1)[0]
    return [most_common] * len(questions)
