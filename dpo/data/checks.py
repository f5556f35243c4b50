"""What makes a JSON value a pair, and what is wrong with one: a mistake keeps a file from use."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from dpo.data.chat import is_chat, read_chat
from dpo.data.json_reader import NEAR, shorten
from dpo.data.pair import Findings, Pair, Problem
from dpo.data.text_reader import PAIR
from sft.tokenizer import LOOK_ALIKES, describe_character, remedy

KEYS = ({"positive", "negative"}, {"prompt", "chosen", "rejected"})  # the two formats of a pair
SHOWN_NAMES = 8  # of what is replaced or not used
SHOWN_PATHS = 3
NAMES = KEYS[0] | KEYS[1]
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
        return [_no_object(value)]
    if any(keys <= value.keys() and _are_columns(map(value.get, keys)) for keys in KEYS):
        sentence = "the keys hold lists, as columns of a table; write an object for each pair"
        return [Problem("columns", sentence)]
    paths = [] if NAMES & value.keys() else _find_pairs_inside(value)
    if not paths:
        return []
    what, alone = "list stands", "write the list alone"
    if not all(len(path) == 1 and isinstance(value[path[0]], list) for path in paths):
        what, alone = "pairs stand", "write each pair alone, one a line"
    elif len(paths) > 1:
        alone = "write the lists alone, one after another"
    where = " and ".join(" > ".join(map(shorten, path)) for path in paths[:SHOWN_PATHS])
    others = " and others" if len(paths) > SHOWN_PATHS else ""
    return [Problem("wrapper", f"the {what} inside an object, under {where}{others}; {alone}")]


def _no_object(value: object) -> Problem:
    kind = _kind_of(value)
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        remedy = "write it without the quotes around it and the backslashes in it"
        return Problem(
            "written twice", f"a text that holds JSON, which was written twice; {remedy}"
        )
    sentence = f"a pair is an object with `positive` and `negative`, not {kind}; write {PAIR}"
    return Problem(f"no object: {kind}", sentence)


def _kind_of(value: object) -> str:
    """What JSON calls a value."""
    kinds = {list: "a list", dict: "an object", str: "a text", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _are_columns(texts: Iterable[object]) -> bool:
    return all(isinstance(inside, list | dict) for inside in texts)


def _find_pairs_inside(value: dict) -> list[list[str]]:
    """The keys on the way to pairs, under each key that has some; else to any lists of objects."""
    found = {key: _path_to_pair(inside) for key, inside in value.items()}
    paths = [[key, *path] for key, path in found.items() if path is not None]
    lists = {key: inside for key, inside in value.items() if isinstance(inside, list) and inside}
    return paths or [[key] for key, inside in lists.items() if isinstance(inside[0], dict)]


def _path_to_pair(value: object, depth: int = 4) -> list[str] | None:
    """The keys on the way to the first object with a key of a pair; None if there is none."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict) or not depth:
        return None
    if NAMES & value.keys():
        return []
    paths = ((key, _path_to_pair(inside, depth - 1)) for key, inside in value.items())
    return next(([key, *path] for key, path in paths if path is not None), None)


def _key_problems(value: dict) -> list[Problem]:
    """Keys that are no texts, keys that lack, and keys that were probably meant to be those."""
    wanted = max(KEYS, key=lambda keys: len(keys & value.keys()))
    problems, others, missing = [], [], wanted - value.keys()
    for key, inside in value.items():
        if key in wanted:
            problems += [] if _is_text(inside) else [_no_text(key, inside)]
        elif meant := _meant_key(key[:NEAR], frozenset(wanted - value.keys())):
            missing -= {meant}
            sentence = f"unknown key {shorten(key)}; write {meant!r}"
            problems.append(Problem(f"unknown key for {meant}", sentence))
        else:
            others.append(shorten(key))
    return problems + ([_missing(sorted(missing), others, value)] if missing else [])


@lru_cache(maxsize=1000)
def _meant_key(key: str, missing: frozenset[str]) -> str:
    """Which of the missing keys was probably meant; empty if none."""
    near = difflib.get_close_matches(key.strip().lower(), sorted(missing), n=1)
    return near[0] if near else ""


def _no_text(key: str, inside: object) -> Problem:
    kind = _kind_of(inside)
    remedy = (
        "write a pair for each of its texts" if kind == "a list" else "write the text in quotes"
    )
    found = "" if kind == "a text" else f" ({kind})"
    return Problem(f"empty {key}", f"{key!r} is empty or not a text{found}; {remedy}")


def _missing(missing: list[str], others: list[str], value: dict) -> Problem:
    """The sentence about keys that lack, where the object has these others."""
    has = ", ".join(others[:SHOWN_NAMES])
    if others and not NAMES & value.keys():
        remedy = (
            f"a pair has {_PARTS}, or `positive` and `negative`; rename them, and add what lacks"
        )
        return Problem("unknown keys", f"unknown key{'s' * (len(others) > 1)} {has}: {remedy}")
    sentence = f"{' and '.join(map(repr, missing))} {'are' if len(missing) > 1 else 'is'} missing"
    if others:
        sentence += f"; the other keys are {has}: rename what is meant, or add what lacks"
    elif missing == ["prompt"]:
        sentence += "; if both texts begin with the question, call them `positive` and `negative`"
    return Problem(f"missing {missing}", sentence)


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
