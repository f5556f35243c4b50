"""From the bytes of a pairs file to its JSON values, each with its line.

Python's own reader stops at the first mistake. This one goes on, so that all of them are named at
once, each with its line and its remedy.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from dpo.data.pair import PairsError
from sft.files import open_plain

NEAR = 200  # characters around a mistake that are looked at
MOST_SYNTAX_ERRORS = 100  # a file with more holds something else than pairs and is not read on
LARGEST_FILE = 256 * 2**20  # bytes


def read_text(path: Path) -> str:
    """The file's text; PairsError if it is missing, too large or not in UTF-8."""
    with open_plain(
        path, LARGEST_FILE, PairsError, "`python -m dpo.make_pairs` makes a file of pairs"
    ) as file:
        data = file.read(LARGEST_FILE)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        is_utf_16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        looks = "UTF-16" if is_utf_16 else "another encoding, such as Windows-1252"
        line = data[: error.start].count(b"\n") + 1
        raise PairsError(
            f"{path.name} line {line}: the file is not UTF-8, it looks like {looks}; "
            "save it as UTF-8"
        ) from None


def read_values(text: str) -> Iterator[tuple[int, object, str]]:
    """(line, value, problem) of every value in a JSON list, or in a text with one after another.

    `problem` is empty where there is a value. After a syntax error the reading goes on at the next
    line that opens an object.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_no_duplicate_keys, parse_constant=_no_constant)
    line_at = _line_counter(text)
    position = _skip_space(text, 0)
    in_list = text.startswith("[", position)
    position += in_list
    after_value, syntax_errors = False, 0
    while not _is_end(text, position := _skip_space(text, position), in_list):
        line = line_at(position)
        if in_list and after_value:
            after_value = False  # whatever stands here, the next turn reads a value
            if text[position] == ",":
                position += 1
                if text.startswith("]", _skip_space(text, position)):
                    yield line, None, "comma after the last pair; remove it"
                continue
            yield line, None, "no comma between this pair and the one before; add it"
        try:
            value, position = decoder.raw_decode(text, position)
            after_value = True
            yield line, value, ""
        except (ValueError, RecursionError) as error:
            yield getattr(error, "lineno", line), None, _syntax_hint(error, text)
            # No comma is asked for after a mistake: it may be among what was skipped.
            position, after_value = _next_object(text, position), False
            syntax_errors += 1
            if syntax_errors == MOST_SYNTAX_ERRORS:
                nth = f"the {MOST_SYNTAX_ERRORS}th mistake of its kind"
                yield line, None, f"{nth}; the rest of the file was not read"
                return
    if in_list and (problem := _ending_problem(text, position)):
        yield line_at(position), None, problem


def _line_counter(text: str) -> Callable[[int], int]:
    """The line of a position, asked for in rising order: each part of the text is counted once."""
    line, counted = 1, 0

    def line_at(position: int) -> int:
        nonlocal line, counted
        line += text.count("\n", counted, position)
        counted = position
        return line

    return line_at


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _is_end(text: str, position: int, in_list: bool) -> bool:
    return position >= len(text) or (in_list and text[position] == "]")


def _ending_problem(text: str, position: int) -> str:
    """What is wrong where a list ended, or should have: nothing, if only space follows its ]."""
    if position >= len(text):
        return "the list is not closed; end the file with ]"
    rest = text[position + 1 :].strip()
    return f"text after the end of the list: {rest[:30]!r}; remove it" if rest else ""


def _next_object(text: str, position: int) -> int:
    """Where to go on after a mistake: the next line that opens an object, or the list's end.

    Always beyond `position`, so that the reading ends.
    """
    after = position + 1
    while (position := text.find("\n", position)) >= 0:
        position = _skip_space(text, position)
        if text.startswith("{", position):
            return position
    return max(after, len(text.rstrip().removesuffix("]")))


SYNTAX_HINTS = {  # by what stands where the JSON reader gave up
    "'": "single quotes; JSON wants double quotes",
    "\u201c": "curly quotes; write straight ones",
    "\u201d": "curly quotes; write straight ones",
    "//": "a comment; JSON has none, remove it",
    "#": "a comment; JSON has none, remove it",
}


def _syntax_hint(error: Exception, text: str) -> str:
    """What is wrong and what to do about it, and the line itself, cut to 100 characters."""
    if isinstance(error, PairsError):
        return str(error)
    if not isinstance(error, json.JSONDecodeError):
        return "nested too deeply or a number too long; a pair holds texts only"
    before = text[max(0, error.pos - NEAR) : error.pos].rstrip()
    rest = text[error.pos : error.pos + NEAR].lstrip()
    hint = error.msg[0].lower() + error.msg[1:]
    for beginning, known in SYNTAX_HINTS.items():
        if rest.startswith(beginning):
            hint = known
    # Python gives the place of the }, or from 3.13 on that of the comma before it.
    comma_before = (before + rest[:1]).endswith((",", ",}"))
    if comma_before and rest.lstrip(", \t\r\n").startswith("}"):
        hint = "a comma before }; remove it"
    if error.msg.startswith("Invalid control character"):
        hint = "a line break or tab inside a text; write the text on one line"
    start = text.rfind("\n", 0, error.pos) + 1
    line = text[start : start + 100].split("\n", 1)[0]
    shown = "".join(character if character.isprintable() else " " for character in line)
    return f"not JSON at column {error.colno}: {hint}\n      {shown.rstrip()}"


def shorten(text: str) -> str:
    """The text in quotes, cut if it is long; control characters come out as their codes."""
    return repr(text) if len(text) <= NEAR else f"{text[:NEAR]!r}..."


def _no_duplicate_keys(items: list[tuple[str, object]]) -> dict:
    """The object, where Python's reader would silently take the last of two values of one key."""
    if len(dict(items)) != len(items):
        twice = Counter(key for key, _ in items).most_common(1)[0][0]
        raise PairsError(f"key {shorten(twice)} stands twice in one pair")
    return dict(items)


def _no_constant(name: str) -> None:
    """NaN and Infinity, which Python reads although JSON has none."""
    raise PairsError(f"{name} is no text")
