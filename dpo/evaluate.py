"""How often is a model right? `python -m dpo.evaluate --checkpoint=dpo/dpo.pt` prints a table with intervals.

Greedy answers, graded exactly: an answer counts as right if its number **and** its reason are right.
"""

import json
import math
import random
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from configurator import run_program
from dpo.arithmetic import FORMS, Question, domain, grade, is_refusal
from model import GPT
from sft.answers import MAX_NEW_TOKENS, answer_prompts
from sft.checkpoint import load_model
from sft.device import best_device
from sft.files import write_atomically
from sft.tokenizer import Tokenizer, load_tokenizer

GROUPS = ("held_out/additive", "held_out/multiplicative", "seen/additive", "seen/multiplicative")
SHARES = ("answer", "reason", "refused", "ended")  # shown beside the right answers
PROBE = 64  # so many questions, or a few more, are answered in full before the rest is guessed


@dataclass
class Config:
    """python -m dpo.evaluate: ask a model and grade its answers."""

    checkpoint: str = "dpo/dpo.pt"  # the model to ask
    n: int = 1200  # questions per group at most, the forms alike; held-out products are fewer
    seed: int = 1  # of the sample of questions
    json: str = ""  # also write all figures to this file
    ask: str = ""  # answer this one question instead
    prompts: str = ""  # answer a file of questions instead, one a line
    device: str = "auto"  # auto, cpu, cuda or mps


@dataclass(frozen=True, slots=True)
class Reply:
    """A question, what a model wrote after it, and what that is worth."""

    question: Question
    text: str
    answer: bool  # the number is right
    reason: bool  # the reason is true, about this fact, and gives that number
    outcome: str  # right (both), refused, or wrong (everything else)

    @property
    def ended(self) -> bool:
        """Whether the model ended the answer by itself, with a full stop or a newline."""
        return len(self.text) < MAX_NEW_TOKENS or self.text.endswith(".")


def judge(question: Question, text: str) -> Reply:
    """The reply that `text` is to the question."""
    verdict = grade(question, text)
    outcome = "right" if verdict.correct else "refused" if is_refusal(text) else "wrong"
    return Reply(question, text, verdict.answer, verdict.reason, outcome)


def sample_questions(group: str, n: int, seed: int) -> list[Question]:
    """At most n different questions of one group of GROUPS, every form as often as the others as long as it lasts."""
    if n < 1:
        raise ValueError(f"n is {n}; at least one question a group is needed")
    rng = random.Random(f"{seed} {group}")
    pools = [[q for q in domain(form) if q.group == group] for form in FORMS]
    pools = [rng.sample(pool, len(pool)) for pool in pools if pool]
    turns = [question for turn in range(max(map(len, pools))) for pool in pools for question in pool[turn : turn + 1]]
    return turns[:n]


def sample_domain(n: int, seed: int) -> list[Question]:
    """At most n questions of every group."""
    return [question for group in GROUPS for question in sample_questions(group, n, seed)]


def answer_questions(
    model: GPT, tokenizer: Tokenizer, questions: list[Question], progress: str = "", prompts: list[str] | None = None
) -> list[Reply]:
    """Greedy replies, in order; `prompts` replaces the usual wording of the questions.

    A few are asked first. If the model is mostly right there, the others are guessed to be right, else to be what it
    said most often: `answer_prompts` confirms or drops each guess, so that only the time depends on it.
    """
    prompts = prompts or [question.text for question in questions]
    probe = range(0, len(questions), max(1, len(questions) // PROBE))
    texts = answer_prompts(model, tokenizer, [prompts[i] for i in probe])
    if len(texts) < len(questions):
        knows = sum(judge(questions[i], text).outcome == "right" for i, text in zip(probe, texts, strict=True))
        usual = Counter(texts).most_common(1)[0][0]
        guesses = [q.right_answer for q in questions] if 2 * knows > len(texts) else [usual] * len(questions)
        texts = answer_prompts(model, tokenizer, prompts, guesses=guesses, progress=progress)
    return [judge(question, text) for question, text in zip(questions, texts, strict=True)]


def wilson(count: float, n: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927): honest at 0 % and 100 %, too."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    centre = (count + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(count * (n - count) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(count: float, n: int) -> dict[str, float]:
    low, high = wilson(count, n)
    return {"n": n, "count": count, "rate": count / n if n else 0.0, "low": low, "high": high}


def summarise(replies: list[Reply]) -> dict:
    """n, the rates that can be counted in replies, and their median length in characters."""
    shares = {name: rate(sum(r.outcome == name for r in replies), len(replies)) for name in ("right", "refused")}
    shares |= {
        name: rate(sum(getattr(r, name) for r in replies), len(replies)) for name in ("answer", "reason", "ended")
    }
    length = statistics.median(len(r.text) for r in replies) if replies else 0
    return {"n": len(replies), **shares, "median_length": length}


def evaluate(replies: list[Reply]) -> dict:
    """The figures of every group and form.

    The groups `.../factors_from_2` count the products and quotients without a factor 0 or 1 once more: those are
    rules, not facts.
    """
    groups = {}
    for group in GROUPS:
        members = [r for r in replies if r.question.group == group]
        groups[group] = summarise(members)
        if group.endswith("multiplicative"):
            groups[f"{group}/factors_from_2"] = summarise([r for r in members if not r.question.trivial])
    forms = {
        f"{side}/{form}": summarise([r for r in replies if r.question.form == form and r.question.held_out == held_out])
        for side, held_out in (("held_out", True), ("seen", False))
        for form in FORMS
    }
    return {"n": len(replies), "decoding": "greedy", "groups": groups, "forms": forms}


def in_words(group: str) -> str:
    """`held_out/multiplicative/factors_from_2` as a reader's `held-out multiplicative, factors from 2`."""
    side, kind, *rest = group.split("/")
    return " ".join([side.replace("_", "-"), kind]) + "".join(f", {word.replace('_', ' ')}" for word in rest)


def percent(share: dict) -> str:
    """`99.97 % (99.83 to 99.99)`: the rate and its 95 % interval; a dash where nothing was asked."""
    if not share["n"]:
        return "-"
    return f"{100 * share['rate']:.2f} % ({100 * share['low']:.2f} to {100 * share['high']:.2f})"


def markdown(rows: list[list[str]]) -> str:
    """Rows as a table in Markdown, aligned so that it reads well as plain text, too; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (w + 2) for w in widths)}|")
    return "\n".join(lines)


def table(results: dict[str, dict]) -> str:
    """The groups of one or more results of `evaluate`, each under its name (`before`, `after`), with 95 % intervals."""
    rows = [["questions", "model", "n", "right", *(f"{key}, %" for key in SHARES), "median length"]]
    for group in next(iter(results.values()))["groups"]:
        for name, result in results.items():
            s = result["groups"][group]
            shares = [f"{100 * s[key]['rate']:.2f}" if s["n"] else "-" for key in SHARES]
            rows.append([in_words(group), name, f"{s['n']:,}", percent(s["right"]), *shares, f"{s['median_length']:g}"])
    return markdown(rows)


def forms_table(result: dict) -> str:
    """Right answers of every form, held-out and seen families apart."""
    rows = [["form", "held-out, n", "right", "seen, n", "right"]]
    for form in FORMS:
        sides = [result["forms"][f"{side}/{form}"] for side in ("held_out", "seen")]
        rows.append([f"`{form}`", *(cell for s in sides for cell in (f"{s['n']:,}", percent(s["right"])))])
    return markdown(rows)


def main(config: Config) -> None:
    tokenizer = load_tokenizer()
    model = load_model(config.checkpoint, best_device(config.device), len(tokenizer))
    if config.ask or config.prompts:
        lines = [config.ask] if config.ask else Path(config.prompts).read_text(encoding="utf-8-sig").splitlines()
        prompts = [line.strip() for line in lines if line.strip()]
        for prompt, answer in zip(prompts, answer_prompts(model, tokenizer, prompts), strict=True):
            print(f"{prompt}\t{answer}")
        return
    questions = sample_domain(config.n, config.seed)
    result = evaluate(answer_questions(model, tokenizer, questions, progress="asking"))
    print(f"{table({Path(config.checkpoint).name: result})}\n\n{forms_table(result)}")
    if config.json:
        write_json(config.json, {"checkpoint": config.checkpoint, "seed": config.seed, **result})


def write_json(path: str | Path, result: dict) -> None:
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    run_program(main, Config())
