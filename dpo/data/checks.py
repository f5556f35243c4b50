"""What makes a JSON value a pair, and what is wrong with one: a mistake keeps a file from use."""

import difflib
from collections import Counter

from dpo.data.chat import is_chat, read_chat
from dpo.data.json_reader import NEAR, shorten
from dpo.data.pair import Findings, Pair, Problem
from sft.tokenizer import LOOK_ALIKES, describe_character, remedy

KEYS = ({"positive", "negative"}, {"prompt", "chosen", "rejected"})  # the two formats of a pair
SHOWN_NAMES = 8  # of what is replaced or not used
_LOOK_ALIKES = frozenset(LOOK_ALIKES)
_PARTS = "`prompt`, `chosen` and `rejected`"


class Replaced:
    """What a file has and a run does not see: each name with its count and its first line."""

    def __init__(self):
        self.found: dict[str, list[int]] = {}  # name -> count, first line

    def add(self, name: str, line: int, times: int = 1) -> None:
        self.found.setdefault(name, [0, line])[0] += times

    def __str__(self) -> str:
        shown = [
            f"{name} ({count:,}, first in line {line})"
            for name, (count, line) in list(self.found.items())[:SHOWN_NAMES]
        ]
        more = len(self.found) - len(shown)
        return ", ".join(shown) + (f" and {more:,} others" if more else "")


def read_pair_texts(
    value: object, line: int, characters: Replaced, keys: Replaced
) -> tuple[tuple[str, str, str] | None, list[Problem]]:
    """Prompt, chosen and rejected of one JSON object and no problems, or None and the problems.

    Look-alikes of the model's characters are replaced and noted, and so are keys of no use.
    """
    wanted, problems = _find_format(value), []
    if not wanted and isinstance(value, dict) and is_chat(value):
        value, problems = read_chat(value)
        wanted = _find_format(value)
    if not wanted:
        return None, problems or _object_problems(value) or _key_problems(value)
    for key in value.keys() - wanted:
        keys.add(shorten(key), line)
    clean = {key: _replace_look_alikes(value[key], line, characters) for key in wanted}
    if "prompt" in clean:
        texts = clean["prompt"], clean["chosen"], clean["rejected"]
        problems = _answer_problems(*texts)
    else:
        prompt, chosen = split_text(clean["positive"])
        rejected_prompt, rejected = split_text(clean["negative"])
        texts = prompt, chosen, rejected
        problems = _prompt_problems(clean, prompt, rejected_prompt) or _answer_problems(*texts)
    return (None, problems) if problems else (texts, [])


def _find_format(value: object) -> set[str] | None:
    """The keys of a pair, if the value has all keys of one format, with a text under each."""
    if not isinstance(value, dict):
        return None
    for keys in KEYS:
        if keys <= value.keys() and all(map(_is_text, map(value.get, keys))):
            return keys
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not (value == "" or value.isspace())


def _object_problems(value: object) -> list[Problem]:
    """What keeps a JSON value from being one object for one pair."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        sentence = f"a pair is an object with `positive` and `negative`, not a {kind}"
        return [Problem(f"no object: {kind}", sentence)]
    lists = [shorten(key) for key, inside in value.items() if isinstance(inside, list)]
    if not lists:
        return []
    if any(keys <= value.keys() for keys in KEYS):
        sentence = "the keys hold lists, as columns of a table; write an object for each pair"
        return [Problem("columns", sentence)]
    where = " and ".join(lists[:SHOWN_NAMES])
    alone = "write the list alone"
    if len(lists) > 1:
        alone = "write the lists alone, one after another"
    sentence = f"the list stands inside an object, under {where}; {alone}"
    return [Problem("wrapper", sentence)]


def _key_problems(value: dict) -> list[Problem]:
    """Keys that are no texts, keys that lack, and keys that were probably meant to be those."""
    wanted = next((keys for keys in KEYS if keys <= value.keys()), None)
    if wanted:
        empty = [key for key in sorted(wanted) if not _is_text(value[key])]
        return [Problem(f"empty {key}", f"{key!r} is empty or not a text") for key in empty]
    wanted = next((keys for keys in KEYS if keys & value.keys()), KEYS[0])
    problems = []
    for key in sorted(value.keys() - wanted):
        near = difflib.get_close_matches(key[:NEAR].lower(), sorted(wanted), n=1)
        advice = f"write {near[0]!r}" if near else f"a pair has {', '.join(sorted(wanted))}"
        problems.append(Problem("unknown key", f"unknown key {shorten(key)}; {advice}"))
    for key in sorted(wanted):
        if key not in value:
            problems.append(Problem(f"missing {key}", f"{key!r} is missing"))
        elif not _is_text(value[key]):
            problems.append(Problem(f"empty {key}", f"{key!r} is empty or not a text"))
    return problems


def _prompt_problems(clean: dict[str, str], prompt: str, rejected_prompt: str) -> list[Problem]:
    """What keeps two texts from beginning with one question; at most one problem."""
    positive, negative = clean["positive"], clean["negative"]
    for name, text, other in (("negative", negative, positive), ("positive", positive, negative)):
        if "?" not in text and "?" in other:
            remedy = f"write the question before its answer, or use {_PARTS}"
            sentence = f"the {name} does not begin with the question: {shorten(text)}; {remedy}"
            return [Problem(f"bare {name}", sentence)]
    if "?" not in positive:
        remedy = f"the question ends with ?, or say where it ends with {_PARTS}"
        return [Problem("no mark", f"no question mark in {shorten(positive)}; {remedy}")]
    if prompt != rejected_prompt:
        prompts = f"{shorten(prompt)} and {shorten(rejected_prompt)}"
        remedy = "both texts must begin with the same question"
        return [Problem("prompts", f"the prompts differ: {prompts}; {remedy}")]
    return []


def _answer_problems(prompt: str, chosen: str, rejected: str) -> list[Problem]:
    """What keeps two answers from being a choice; at most one problem."""
    if not (chosen.strip() and rejected.strip()):
        return [Problem("no answer", f"no answer after the question {shorten(prompt)}")]
    if chosen == rejected:
        sentence = "positive and negative are the same text; change the one that is not meant"
        return [Problem("same", sentence)]
    return []


def split_text(text: str) -> tuple[str, str]:
    """Prompt (up to and with the first question mark) and answer."""
    prompt, mark, answer = text.partition("?")
    return prompt + mark, answer


def _replace_look_alikes(text: str, line: int, characters: Replaced) -> str:
    if _LOOK_ALIKES.isdisjoint(text):
        return text
    for character in sorted(set(text) & _LOOK_ALIKES):
        instead = LOOK_ALIKES[character]
        characters.add(f"{character!r} -> {instead!r}", line, text.count(character))
        text = text.replace(character, instead)
    return text


def find_text_problems(text: str, alphabet: frozenset[str], max_length: int) -> list[Problem]:
    """Why a prompt with its answer cannot be trained on: characters, line breaks, length.

    `alphabet` are the characters that a text may have, without the line break.
    """
    over = len(text) + 1 - max_length  # the newline that ends an answer counts
    if over <= 0 and alphabet.issuperset(text):
        return []
    problems = []
    for character, count in Counter(text).items():
        if character != "\n" and character not in alphabet:
            times = f" ({count} times)" if count > 1 else ""
            what = describe_character(character)
            problems.append(Problem(what, f"{what}{times}: {remedy(character)}"))
    if "\n" in text:
        sentence = f"a line break inside {shorten(text)}; it would end the answer, write a space"
        problems.append(Problem("line break", sentence))
    if over > 0:
        length = f"{len(text):,} characters and an end mark, {over:,} over max_length"
        problems.append(Problem("too long", f"{text[:30]!r}... has {length}"))
    return problems


def find_contradictions(pairs: list[Pair], numbers: list[int], found: Findings) -> None:
    """Add the pairs of which another one is the reverse, each at the earlier of the two.

    `numbers` says which value of its file each pair is.
    """
    last = {(pair.prompt, pair.chosen, pair.rejected): i for i, pair in enumerate(pairs)}
    for i, pair in enumerate(pairs):
        reverse = last.get((pair.prompt, pair.rejected, pair.chosen), -1)
        if reverse > i:
            other = f"line {pairs[reverse].line} (pair {numbers[reverse]})"
            sentence = f"prefers what {other} rejects; exchange the two answers in one of both"
            found.add("contradiction", f"line {pair.line} (pair {numbers[i]})", sentence)
