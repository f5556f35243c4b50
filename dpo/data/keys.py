"""What makes a JSON value a pair: an object with the keys of one of two formats.

Where it is none, how it differs: wrapped, in columns, under other names, without a text.
"""

import difflib
from collections.abc import Iterable
from functools import lru_cache

from dpo.data.pair import Problem
from dpo.data.syntax_hints import NEAR, PAIR, shorten

KEYS = ({"positive", "negative"}, {"prompt", "chosen", "rejected"})  # the two formats of a pair
NAMES = KEYS[0] | KEYS[1]
PARTS = "`prompt`, `chosen` and `rejected`"
SHOWN_NAMES = 8  # of keys
SHOWN_PATHS = 3


def find_format(value: object) -> set[str] | None:
    """The keys of a pair, if the value has all keys of one format, with a text under each."""
    if not isinstance(value, dict):
        return None
    for keys in KEYS:
        if keys <= value.keys() and all(map(_is_text, map(value.get, keys))):
            return keys
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not (value == "" or value.isspace())


def object_problems(value: object) -> list[Problem]:
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
    """Whether each holds many texts: in a list, or under the numbers of rows."""
    return all(inside and (_are_texts(inside) or _are_rows(inside)) for inside in texts)


def _are_rows(inside: object) -> bool:
    return isinstance(inside, dict) and all(map(str.isdigit, inside))


def _are_texts(inside: object) -> bool:
    return isinstance(inside, list) and not any(isinstance(one, list | dict) for one in inside)


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


def key_problems(value: dict) -> list[Problem]:
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
    remedy = "write the text in quotes"
    if kind in ("a list", "an object"):
        remedy = (
            "write a pair for each of its texts" if _are_texts(inside) else "write the text alone"
        )
    found = "" if kind == "a text" else f" ({kind})"
    return Problem(f"empty {key}", f"{key!r} is empty or not a text{found}; {remedy}")


def _missing(missing: list[str], others: list[str], value: dict) -> Problem:
    """The sentence about keys that lack, where the object has these others."""
    has = ", ".join(others[:SHOWN_NAMES])
    if others and not NAMES & value.keys():
        remedy = (
            f"a pair has {PARTS}, or `positive` and `negative`; rename them, and add what lacks"
        )
        return Problem("unknown keys", f"unknown key{'s' * (len(others) > 1)} {has}: {remedy}")
    sentence = f"{' and '.join(map(repr, missing))} {'are' if len(missing) > 1 else 'is'} missing"
    if others:
        sentence += f"; the other keys are {has}: rename what is meant, or add what lacks"
    elif missing == ["prompt"]:
        sentence += "; if both texts begin with the question, call them `positive` and `negative`"
    return Problem(f"missing {missing}", sentence)


def question_elsewhere(value: dict, clean: dict[str, str]) -> list[Problem]:
    """Whether both texts are bare answers, and the question stands under a key of its own."""
    if any("?" in text for text in clean.values()):
        return []
    for key, inside in value.items():
        if key not in clean and isinstance(inside, str) and "?" in inside:
            sentence = f"the question stands under {shorten(key)}; call the three keys {PARTS}"
            return [Problem("elsewhere", sentence)]
    return []
