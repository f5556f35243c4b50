"""What a list of pairs holds, and what that means for a run: `python -m dpo.pairs FILE --report`.

Coverage by form, operand, carry and answer, what is rejected, and what the pairs share with the
questions that a model is tested on.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from dpo.data.pair import Pair
from sft.arithmetic import FORMS, STEP_8, Question, domain, parse_question
from sft.grading import grade, is_refusal, parse_answer

UNEVEN = 3  # times as many pairs of one form as of another
DOMINANT = 0.2  # share of the questions that have one answer
REJECTED = ("refusal", "wrong number", "right number", "something else")


@dataclass(frozen=True)
class Share:
    """How many of n, and which part that is of the whole domain, if that can be said."""

    count: int
    n: int
    usual: float | None = None

    @property
    def rate(self) -> float:
        return self.count / self.n if self.n else 0.0

    def __str__(self) -> str:
        if not self.n:
            return "no such pairs"
        usual = "" if self.usual is None else f"; {self.usual:.0%} in the whole domain"
        return f"{self.rate:.0%} ({self.count:,} of {self.n:,}{usual})"


@dataclass(frozen=True)
class PairsProfile:
    """What a file of pairs holds."""

    pairs: int
    questions: list[Question]  # of the pairs that ask arithmetic, in order
    forms: dict[str, int]  # pairs of every form, in the order of FORMS
    operands: Counter[int]  # questions that show this number
    answers: Counter[int]
    rejected: dict[str, int]  # rejected answers of every kind
    lengths: tuple[float, float]  # medians of chosen and rejected answers, in characters
    shares: dict[str, Share]


def profile_pairs(pairs: list[Pair]) -> PairsProfile:
    """Count what the pairs hold."""
    asked = [parse_question(pair.prompt) for pair in pairs]
    questions = [question for question in asked if question]
    forms = Counter(question.form for question in questions)
    kinds = (_kind(question, pair.rejected) for question, pair in zip(asked, pairs, strict=True))
    rejected = Counter(kinds)
    operands: Counter[int] = Counter()
    for question in questions:
        operands.update({question.a, question.b})  # a set: 17+17=? shows one number
    return PairsProfile(
        pairs=len(pairs),
        questions=questions,
        forms={form: forms[form] for form in FORMS},
        operands=operands,
        answers=Counter(question.answer for question in questions),
        rejected={kind: rejected[kind] for kind in REJECTED},
        lengths=(median(len(p.chosen) for p in pairs), median(len(p.rejected) for p in pairs)),
        shares=_shares(questions),
    )


def _kind(question: Question | None, answer: str) -> str:
    """Which of REJECTED an answer is."""
    if is_refusal(answer):
        return "refusal"
    if question is None or parse_answer(answer).value is None:
        return "something else"
    return "right number" if grade(question, answer).answer else "wrong number"


def _shares(questions: list[Question]) -> dict[str, Share]:
    """Of the pairs: how many are hard or trivial. Of the facts: how many the pairs ask.

    Beside a share of the pairs stands that of the whole domain, which shows what is usual.
    """
    everything = [question for form in FORMS for question in domain(form)]
    additive, all_additive = ([q for q in part if q.additive] for part in (questions, everything))
    others, all_others = ([q for q in part if not q.additive] for part in (questions, everything))
    shares = {
        "additive pairs that carry or borrow": Share(
            sum(q.carries for q in additive),
            len(additive),
            usual=sum(q.carries for q in all_additive) / len(all_additive),
        ),
        "multiplicative pairs with a factor 0 or 1": Share(
            sum(q.trivial for q in others),
            len(others),
            usual=sum(q.trivial for q in all_others) / len(all_others),
        ),
    }
    # A fact is asked in whatever form: 36-19=? asks the family of 17+19=36, too.
    asked = {question.family for question in questions}
    for kind, part in (("additive", all_additive), ("multiplicative", all_others)):
        seen = {question.family for question in part if not question.held_out}
        shares[f"seen {kind} facts that are asked"] = Share(len(seen & asked), len(seen))
    return shares


def describe_profile(profile: PairsProfile) -> str:
    """The profile in words and figures, and at the end what to think about."""
    lines = list(_coverage(profile)) if profile.questions else []
    rejected = ", ".join(f"{kind} {count:,}" for kind, count in profile.rejected.items())
    chosen_length, rejected_length = profile.lengths
    lines += [
        f"rejected answers: {rejected}",
        f"median length: chosen {chosen_length:g} characters, rejected {rejected_length:g}",
    ]
    advice = [f"think about: {text}" for text in findings(profile)]
    return "\n".join(lines + (advice or ["nothing odd about what they cover"]))


def _coverage(profile: PairsProfile) -> Iterator[str]:
    """The lines about the questions, of which there must be some."""
    questions, operands, answers = profile.questions, profile.operands, profile.answers
    yield f"forms: {', '.join(f'{form} {count:,}' for form, count in profile.forms.items())}"
    shown = sorted((n for n in range(100) if n in operands), key=operands.__getitem__)
    rare = ", ".join(f"{number} ({operands[number]} times)" for number in shown[:3]) or "none"
    yield f"operands: {len(shown)} of the numbers from 0 to 99; least often {rare}"
    answer, times = answers.most_common(1)[0]
    spread = f"{len(answers):,} different ones from {min(answers)} to {max(answers)}"
    yield f"answers: {spread}; most often {answer} ({times} times)"
    yield from (f"{name}: {share}" for name, share in profile.shares.items())
    yield f"pairs that ask a held-out fact: {sum(question.held_out for question in questions):,}"
    families = {question.family for question in questions}
    related = sum(parse_question(text).family in families for text in STEP_8)
    yield (
        f"prompts of Step 8: {len(_of_step_8(questions))} of {len(STEP_8)} are pairs themselves, "
        f"the fact behind {related} is asked in one form or another"
    )


def _of_step_8(questions: list[Question]) -> list[str]:
    texts = {question.text for question in questions}
    return [text for text in STEP_8 if text in texts]


def findings(profile: PairsProfile) -> list[str]:
    """What is probably not meant, each with what to do about it; a run starts nevertheless."""
    if not profile.questions:
        return [
            "no pair asks arithmetic: no test of this repository tells what a run learns from them"
        ]
    return [*_findings_of_forms(profile), *_findings_of_answers(profile)]


def _findings_of_forms(profile: PairsProfile) -> Iterator[str]:
    """Forms that are missing, and forms that outweigh others."""
    absent = ", ".join(form for form, count in profile.forms.items() if not count)
    if absent:
        yield f"no pair of the form {absent}: add some, if that is to be answered, too"
    present = {form: count for form, count in profile.forms.items() if count}
    ranked = Counter(present).most_common()
    (most, many), (least, few) = ranked[0], ranked[-1]
    if many > UNEVEN * few:
        yield (
            f"{many:,} pairs of the form {most} and {few:,} of {least}: "
            "a run mostly sees the former, even it out"
        )


def _findings_of_answers(profile: PairsProfile) -> Iterator[str]:
    """An answer that always pays, questions of the tests, and rejected answers that are right."""
    questions = profile.questions
    answer, times = profile.answers.most_common(1)[0]
    if times > DOMINANT * len(questions):
        share = f"{times / len(questions):.0%} of the answers are {answer}"
        yield f"{share}: saying so always pays, vary the questions"
    if held_out := sum(question.held_out for question in questions):
        yield (
            f"{held_out:,} pairs ask a held-out fact: "
            "leave them out, or held-out accuracy means less"
        )
    if shown := _of_step_8(questions):
        yield (
            f"{', '.join(shown)} will be asked in Step 8: "
            "there, a right answer shows memory, not calculating"
        )
    if right := profile.rejected["right number"]:
        yield f"{right:,} rejected answers have the right number: was that meant?"
