"""What is in a file of pairs, and what that means for a run: `python -m dpo.pairs FILE --report`.

Coverage by form, operand, carry and answer, what is rejected, and what the pairs share with the questions that a model
is tested on.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from dpo.arithmetic import FORMS, STEP_8, Question, domain, grade, is_refusal, parse_answer, parse_question
from dpo.pairs import Pair

BATCH = 64  # pairs in the usual step
FEW = 4 * BATCH  # pairs
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
        usual = "" if self.usual is None else f"; {self.usual:.0%} in the whole domain"
        return f"{self.rate:.0%} ({self.count:,} of {self.n:,}{usual})" if self.n else "no such pairs"


@dataclass(frozen=True)
class Examination:
    """What a file of pairs holds."""

    pairs: int
    questions: list[Question]  # of the pairs that ask arithmetic, in order
    forms: dict[str, int]  # pairs of every form, in the order of FORMS
    operands: Counter[int]  # questions that show this number
    answers: Counter[int]
    rejected: dict[str, int]  # rejected answers of every kind
    lengths: tuple[float, float]  # medians of chosen and rejected answers, in characters
    shares: dict[str, Share]


def examine(pairs: list[Pair]) -> Examination:
    asked = [parse_question(pair.prompt) for pair in pairs]
    questions = [question for question in asked if question]
    forms = Counter(question.form for question in questions)
    rejected = Counter(_kind(question, pair.rejected) for question, pair in zip(asked, pairs, strict=True))
    return Examination(
        pairs=len(pairs),
        questions=questions,
        forms={form: forms[form] for form in FORMS},
        operands=Counter(number for question in questions for number in {question.a, question.b}),
        answers=Counter(question.answer for question in questions),
        rejected={kind: rejected[kind] for kind in REJECTED},
        lengths=tuple(median(map(len, texts)) for texts in zip(*((p.chosen, p.rejected) for p in pairs), strict=True)),
        shares=_shares(questions),
    )


def _kind(question: Question | None, answer: str) -> str:
    if is_refusal(answer):
        return "refusal"
    if question is None or parse_answer(answer).value is None:
        return "something else"
    return "right number" if grade(question, answer).answer else "wrong number"


def _shares(questions: list[Question]) -> dict[str, Share]:
    everything = [question for form in FORMS for question in domain(form)]
    additive, whole = ([q for q in part if q.additive] for part in (questions, everything))
    others, whole_others = ([q for q in part if not q.additive] for part in (questions, everything))
    families = {question.family for question in questions}
    shares = {
        "additive pairs that carry or borrow": Share(
            sum(q.carries for q in additive), len(additive), sum(q.carries for q in whole) / len(whole)
        ),
        "multiplicative pairs with a factor 0 or 1": Share(
            sum(q.trivial for q in others), len(others), sum(q.trivial for q in whole_others) / len(whole_others)
        ),
    }
    for kind, part in (("additive", whole), ("multiplicative", whole_others)):
        known = {question.family for question in part if not question.held_out}
        shares[f"seen {kind} facts that are asked"] = Share(len(known & families), len(known))
    return shares


def report(found: Examination) -> str:
    """The examination in words and figures, and at the end what to think about."""
    lines, advice = list(_coverage(found)) if found.questions else [], findings(found)
    return "\n".join(
        [
            *lines,
            f"rejected answers: {', '.join(f'{kind} {count:,}' for kind, count in found.rejected.items())}",
            f"median length: chosen {found.lengths[0]:g} characters, rejected {found.lengths[1]:g}",
            *(f"think about: {text}" for text in advice),
            *([] if advice else ["nothing odd about what they cover"]),
        ]
    )


def _coverage(found: Examination) -> Iterator[str]:
    yield f"forms: {', '.join(f'{form} {count:,}' for form, count in found.forms.items())}"
    there = sorted((n for n in range(100) if n in found.operands), key=found.operands.__getitem__)
    rare = ", ".join(f"{number} ({found.operands[number]} times)" for number in there[:3]) or "none"
    yield f"operands: {len(there)} of the numbers from 0 to 99; least often {rare}"
    answer, times = found.answers.most_common(1)[0]
    spread = f"{len(found.answers):,} different ones from {min(found.answers)} to {max(found.answers)}"
    yield f"answers: {spread}; most often {answer} ({times} times)"
    yield from (f"{name}: {share}" for name, share in found.shares.items())
    families = {question.family for question in found.questions}
    related = sum(parse_question(text).family in families for text in STEP_8)
    yield f"pairs that ask a held-out fact: {sum(question.held_out for question in found.questions):,}"
    yield (
        f"prompts of Step 8: {len(_of_step_8(found.questions))} of {len(STEP_8)} are pairs themselves, "
        f"the fact behind {related} is asked in one form or another"
    )


def _of_step_8(questions: list[Question]) -> list[str]:
    texts = {question.text for question in questions}
    return [text for text in STEP_8 if text in texts]


def findings(found: Examination) -> list[str]:
    """What is probably not meant, each with what to do about it; none of it keeps a run from starting."""
    questions, advice = found.questions, []
    if found.pairs < FEW:
        advice.append(f"few pairs, a pass makes {-(-found.pairs // BATCH)} steps of {BATCH}: add some, or more epochs")
    if not questions:
        return [*advice, "no pair asks arithmetic: no test of this repository tells what a run learns from them"]
    absent = [form for form, count in found.forms.items() if not count]
    if absent:
        advice.append(f"no pair of the form {', '.join(absent)}: add some, if that is to be answered, too")
    present = Counter({form: count for form, count in found.forms.items() if count}).most_common()
    (most, many), (least, few) = present[0], present[-1]
    if many > UNEVEN * few:
        advice.append(
            f"{many:,} pairs of the form {most} and {few:,} of {least}: a run mostly sees the former, even it out"
        )
    answer, times = found.answers.most_common(1)[0]
    if times > DOMINANT * len(questions):
        advice.append(
            f"{times / len(questions):.0%} of the answers are {answer}: saying so always pays, vary the questions"
        )
    held_out = sum(question.held_out for question in questions)
    if held_out:
        advice.append(f"{held_out:,} pairs ask a held-out fact: leave them out, or held-out accuracy means less")
    if shown := _of_step_8(questions):
        advice.append(
            f"{', '.join(shown)} will be asked in Step 8: there, a right answer shows memory, not calculating"
        )
    if found.rejected["right number"]:
        advice.append(f"{found.rejected['right number']:,} rejected answers have the right number: was that meant?")
    return advice
