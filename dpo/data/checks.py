"""What makes a JSON value a pair, what is wrong with one, and what is odd about a list of them.

A mistake keeps a file from being used. An oddity is only a warning; one more kind of oddity is one
function in ODDITIES.
"""

import difflib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dpo.data.json_reader import NEAR, shorten
from dpo.data.pair import Pair
from sft.arithmetic import Question, parse_question
from sft.grading import Grade, grade, parse_answer
from sft.tokenizer import LOOK_ALIKES, Tokenizer, describe_character, remedy

KEYS = ({"positive", "negative"}, {"prompt", "chosen", "rejected"})  # the two formats of a pair
SHOWN_LINES = 5  # of each kind of oddity


def read_pair_texts(
    value: object, line: int, replaced: dict[str, list[int]]
) -> tuple[tuple[str, str, str] | None, list[str]]:
    """Prompt, chosen and rejected of one JSON object and no problems, or None and the problems.

    Look-alikes of the model's characters are replaced, and the line is noted in `replaced`.
    """
    problems = _object_problems(value) or _key_problems(value)
    if problems:
        return None, problems
    clean = {key: _replace_look_alikes(text, line, replaced) for key, text in value.items()}
    if "prompt" in clean:
        texts = clean["prompt"], clean["chosen"], clean["rejected"]
        rejected_prompt = clean["prompt"]
    else:
        prompt, chosen = split_text(clean["positive"])
        rejected_prompt, rejected = split_text(clean["negative"])
        texts = prompt, chosen, rejected
        problems = [
            f"no question mark in {shorten(text)}; the question ends with ?"
            for text in clean.values()
            if "?" not in text
        ]
    problems = problems or _answer_problems(*texts, rejected_prompt)
    return (None, problems) if problems else (texts, [])


def _object_problems(value: object) -> list[str]:
    """What keeps a JSON value from being one object for one pair."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        return [f"a pair is an object with `positive` and `negative`, not a {kind}"]
    for key, inside in value.items():
        if isinstance(inside, list):
            return [f"the list stands inside an object, under {shorten(key)}; write the list alone"]
    return []


def _key_problems(value: dict) -> list[str]:
    """Keys that a pair has not, each with the one that was probably meant; then those that lack."""
    keys = next((keys for keys in KEYS if keys & set(value)), KEYS[0])
    problems = []
    for key in sorted(set(value) - keys):
        near = difflib.get_close_matches(key[:NEAR], sorted(keys), n=1)
        advice = f"write {near[0]!r}" if near else f"a pair has only {', '.join(sorted(keys))}"
        problems.append(f"unknown key {shorten(key)}; {advice}")
    for key in sorted(keys):
        if key not in value:
            problems.append(f"{key!r} is missing")
        elif not isinstance(value[key], str) or not value[key].strip():
            problems.append(f"{key!r} is empty or not a text")
    return problems


def _answer_problems(prompt: str, chosen: str, rejected: str, rejected_prompt: str) -> list[str]:
    """The first thing that keeps two answers from being a choice; at most one problem."""
    if prompt != rejected_prompt:
        prompts = f"{shorten(prompt)} and {shorten(rejected_prompt)}"
        return [f"the prompts differ: {prompts}; both texts must ask the same question"]
    if not (chosen.strip() and rejected.strip()):
        return ["no answer after the question"]
    return ["positive and negative are the same text"] if chosen == rejected else []


def split_text(text: str) -> tuple[str, str]:
    """Prompt (up to and with the first question mark) and answer."""
    prompt, mark, answer = text.partition("?")
    return prompt + mark, answer


def _replace_look_alikes(text: str, line: int, replaced: dict[str, list[int]]) -> str:
    for character in set(text) & LOOK_ALIKES.keys():
        replaced.setdefault(character, []).extend([line] * text.count(character))
        text = text.replace(character, LOOK_ALIKES[character])
    return text


def find_text_problems(text: str, tokenizer: Tokenizer, max_length: int) -> list[str]:
    """Why a prompt with its answer cannot be trained on: characters, line breaks, length."""
    problems = []
    for character, count in Counter(text).items():
        if character not in tokenizer.stoi:
            times = f" ({count} times)" if count > 1 else ""
            problems.append(f"{describe_character(character)}{times}: {remedy(character)}")
    if "\n" in text:
        problems.append(
            f"a line break inside {shorten(text)}; "
            "it ends an answer, so an answer cannot contain one"
        )
    over = len(text) + 1 - max_length  # the newline that ends an answer counts
    if over > 0:
        problems.append(
            f"{text[:30]!r}... has {len(text)} characters and an end mark, {over} over max_length"
        )
    return problems


def find_contradictions(pairs: list[Pair]) -> list[str]:
    """Pairs of which another one is the reverse: a sentence for the earlier of the two."""
    lines = {(p.prompt, p.chosen, p.rejected): p.line for p in pairs}
    problems = []
    for pair in pairs:
        reverse = lines.get((pair.prompt, pair.rejected, pair.chosen))
        if reverse is not None and pair.line < reverse:
            problems.append(f"line {pair.line}: prefers what line {reverse} rejects")
    return problems


@dataclass(frozen=True, slots=True)
class Inspected:
    """A pair, and what the functions in ODDITIES need to know about it."""

    pair: Pair
    question: Question | None  # that the prompt asks, if it asks arithmetic
    verdict: Grade | None  # on the chosen answer, if there is a question
    first_same: Pair  # the first pair with these three texts, perhaps this one
    first_asked: Pair  # the first pair with this prompt, perhaps this one


Oddity = tuple[str, str]  # what the pairs of this kind do, and where: a line, perhaps with a reason


def _stands_twice(it: Inspected) -> Oddity | None:
    if it.first_same is it.pair:
        return None
    return "stand twice", f"{it.pair.line} (as {it.first_same.line})"


def _has_another_answer(it: Inspected) -> Oddity | None:
    if it.first_same is not it.pair or it.first_asked.chosen == it.pair.chosen:
        return None
    kind = "give a question another positive answer than an earlier line"
    return kind, f"{it.pair.line} (and {it.first_asked.line})"


def _has_wrong_number(it: Inspected) -> Oddity | None:
    if it.verdict is None or it.verdict.answer:
        return None
    kind = "have a wrong number in the positive answer"
    return kind, f"{it.pair.line} (right: {it.question.answer})"


def _has_wrong_reason(it: Inspected) -> Oddity | None:
    """A number without a reason is no oddity, and a wrong number is one already."""
    if it.verdict is None or not it.verdict.answer or it.verdict.reason:
        return None
    if parse_answer(it.pair.chosen).reason is None:
        return None
    return "have a wrong reason in the positive answer", str(it.pair.line)


def _asks_held_out_fact(it: Inspected) -> Oddity | None:
    if it.question is None or not it.question.held_out:
        return None
    return "ask for a held-out fact, so that held-out accuracy means less", str(it.pair.line)


def _writes_unusually(it: Inspected) -> Oddity | None:
    if it.question is None or it.pair.prompt == it.question.text:
        return None
    instance = f"{it.pair.prompt!r} instead of {it.question.text!r}"
    return f"write a question unlike the others, for instance {instance}", str(it.pair.line)


def _has_odd_spaces(it: Inspected) -> Oddity | None:
    answer = it.pair.chosen
    if answer.startswith(" ") and not answer.startswith("  ") and not answer.endswith(" "):
        return None
    kind = "do not have exactly one space between question and answer, and none after it"
    return kind, str(it.pair.line)


ODDITIES: tuple[Callable[[Inspected], Oddity | None], ...] = (
    _stands_twice,
    _has_another_answer,
    _has_wrong_number,
    _has_wrong_reason,
    _asks_held_out_fact,
    _writes_unusually,
    _has_odd_spaces,
)


def find_oddities(pairs: list[Pair]) -> list[str]:
    """What can be trained on but is probably not meant: a sentence a kind, with its first lines."""
    places: dict[str, list[str]] = {}  # by kind, in the order in which the file shows them
    first_same: dict[tuple[str, str, str], Pair] = {}
    first_asked: dict[str, Pair] = {}
    for pair in pairs:
        question = parse_question(pair.prompt)
        inspected = Inspected(
            pair,
            question,
            grade(question, pair.chosen) if question else None,
            first_same.setdefault((pair.prompt, pair.chosen, pair.rejected), pair),
            first_asked.setdefault(pair.prompt, pair),
        )
        for find_oddity in ODDITIES:
            if oddity := find_oddity(inspected):
                kind, place = oddity
                places.setdefault(kind, []).append(place)
    sentences = []
    for kind, found in places.items():
        more = " ..." if len(found) > SHOWN_LINES else ""
        sentences.append(f"{len(found)} pairs {kind}: line {', '.join(found[:SHOWN_LINES])}{more}")
    return sentences
