"""From a JSON value to the texts of a pair, and the mistakes in them that keep a file from use."""

import re
from collections import Counter

from dpo.data.chat import is_chat, read_chat
from dpo.data.keys import (
    PARTS,
    SHOWN_NAMES,
    find_format,
    key_problems,
    object_problems,
    question_elsewhere,
)
from dpo.data.pair import Findings, Pair, Problem
from dpo.data.syntax_hints import shorten
from sft.tokenizer import LOOK_ALIKES, describe_character, remedy

_LOOK_ALIKES = frozenset(LOOK_ALIKES)


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
    wanted, problems = find_format(value), []
    if not wanted and isinstance(value, dict) and is_chat(value):
        value, problems = read_chat(value)
        wanted = find_format(value)
    if not wanted:
        return None, problems or object_problems(value) or key_problems(value)
    if len(value) > len(wanted):
        for key in value:
            if key not in wanted:
                keys.add(shorten(key), line)
    clean = {key: _replace_look_alikes(value[key], line, characters) for key in wanted}
    if "prompt" in clean:
        texts = clean["prompt"], clean["chosen"], clean["rejected"]
        problems = _answer_problems(*texts)
    else:
        prompt, chosen = split_text(clean["positive"])
        rejected_prompt, rejected = split_text(clean["negative"])
        texts = prompt, chosen, rejected
        problems = (
            question_elsewhere(value, clean)
            or _prompt_problems(clean, prompt, rejected_prompt)
            or _answer_problems(*texts)
        )
    return (None, problems) if problems else (texts, [])


def _prompt_problems(clean: dict[str, str], prompt: str, rejected_prompt: str) -> list[Problem]:
    """What keeps two texts from beginning with one question; at most one problem."""
    positive, negative = clean["positive"], clean["negative"]
    for name, text, other in (("negative", negative, positive), ("positive", positive, negative)):
        if "?" not in text and "?" in other:
            remedy = f"write the question before its answer, or use {PARTS}"
            sentence = f"the {name} does not begin with the question: {shorten(text)}; {remedy}"
            return [Problem(f"bare {name}", sentence)]
    if "?" not in positive:
        remedy = f"the question ends with ?, or say where it ends with {PARTS}"
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
    if _LOOK_ALIKES.isdisjoint(text) or _as_it_was(text):
        return text
    for character in sorted(set(text) & _LOOK_ALIKES):
        instead = LOOK_ALIKES[character]
        characters.add(f"{character!r} -> {instead!r}", line, text.count(character))
        text = text.replace(character, instead)
    return text


def _as_it_was(text: str) -> str:
    """The text before its UTF-8 was read as Windows-1252; empty if it was not."""
    if text.isascii():
        return ""
    try:
        return text.encode("cp1252").decode()
    except UnicodeError:
        return ""


_CODE = re.compile(r"&#?\w{2,8};|\\[a-z]+")  # of HTML, of a line break, of LaTeX


def find_text_problems(text: str, alphabet: frozenset[str], max_length: int) -> list[Problem]:
    """Why a prompt with its answer cannot be trained on: characters, line breaks, length.

    `alphabet` are the characters that a text may have, without the line break.
    """
    over = len(text) + 1 - max_length  # the newline that ends an answer counts
    if over <= 0 and alphabet.issuperset(text):
        return []
    problems = []
    if was := _as_it_was(text):
        sentence = f"{shorten(text)} is UTF-8 that was read as Windows-1252; write {shorten(was)}"
        problems.append(Problem("read wrongly", sentence))
        text = was
    if code := _CODE.search(text):
        sentence = (
            f"{code[0]!r} is the code of a character; write that, or for a line break a space"
        )
        problems.append(Problem("code", sentence))
    for character, count in Counter(_CODE.sub("", text)).items():
        if character != "\n" and character not in alphabet:
            times = f" ({count} times)" if count > 1 else ""
            what = describe_character(character)
            problems.append(Problem(what, f"{what}{times}: {remedy(character)}"))
    if "\n" in text:
        instead = "write a space, or at the end nothing"
        sentence = f"a line break inside {shorten(text)}; it would end the answer; {instead}"
        problems.append(Problem("line break", sentence))
    if over > 0:
        length = f"{len(text):,} characters and an end mark, {over:,} over max_length; shorten it"
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
