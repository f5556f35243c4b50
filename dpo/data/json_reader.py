"""From the text of a pairs file to its JSON values, each with its line.

Python's own reader stops at the first mistake. This one goes on at the next object, also within one
line, so that all mistakes are named at once, each with its line and its remedy.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from dpo.data.pair import PairsError, Problem
from dpo.data.syntax_hints import (
    BEGINNINGS,
    NO_COMMA,
    SPACE,
    excerpt,
    explain_syntax,
    find_place,
    shorten,
)
from dpo.data.text_reader import blank_strangers

WINDOW = 4096  # characters that are tried first: an error costs as much as what was tried is long
MOST_LONG_MISTAKES = 100  # in values longer than that: each costs as much as the whole file
MOST_SYNTAX_ERRORS = 100_000  # a file with more holds something else than pairs
TOO_MANY = f"after {MOST_SYNTAX_ERRORS:,} mistakes of syntax the rest of the file was not read"


class Entry(NamedTuple):
    """A value of the file, or a mistake; `number` counts the values, and is 0 between them."""

    line: int
    number: int
    value: object
    problem: Problem | None = None


def read_values(text: str) -> Iterator[Entry]:
    """All values in JSON lists, or in a text with one after another, and all mistakes of syntax."""
    text, problems, is_merge = blank_strangers(text.rstrip(SPACE))
    yield from (Entry(line, 0, None, problem) for line, problem in problems)
    yield from _Reader(text, commas_wanted=not is_merge).read()


class _Reader:
    """Goes through a text from value to value; every step moves on, whatever stands there."""

    def __init__(self, text: str, commas_wanted: bool):
        self.text = text
        self.commas_wanted = commas_wanted  # an unfinished merge lacks some
        self.position = self.number = 0  # the place of the next step, and the values so far
        self.line, self.line_start, self.counted = 1, 0, 0  # for `_line_at`
        self.in_list = self.after_value = self.had_list = False
        self.inner_lists = 0  # that are open now
        self.is_wrapped = False  # the list stands inside an object, whose rest says nothing
        self.is_open_said = self.is_inner_said = self.is_cut = False
        self.syntax_errors = self.long_mistakes = 0
        self.decoder = json.JSONDecoder(
            object_pairs_hook=_no_duplicate_keys, parse_constant=_no_constant
        )

    def read(self) -> Iterator[Entry]:
        while (position := _skip_space(self.text, self.position)) < len(self.text):
            self.position = position
            if entry := self._step(self.text[position]):
                yield entry
            if self.syntax_errors == MOST_SYNTAX_ERRORS:
                yield self._between("too many", TOO_MANY)
                return
        # Without the brackets of an inner list that is not closed, the file may be closed already.
        if self.in_list and not self.is_cut and not self.is_inner_said:
            remedy = "end the file with ], or get the whole file if it was cut"
            yield self._between("not closed", f"the list is not closed; {remedy}")

    def _step(self, character: str) -> Entry | None:
        """Read one value, bracket or comma; None if there is nothing to say about it."""
        if self.is_wrapped and not self.in_list and character != "[":
            self.position = _next_list(self.text, self.position)
            return None
        if character == ",":
            return self._comma()
        if character == "]":
            return self._close()
        if character == "[" and not self.in_list:
            self.in_list, self.after_value = True, False
            self.position += 1
            return None
        if character == "[" and self.text.startswith(
            "{", _skip_space(self.text, self.position + 1)
        ):
            return self._inner_list()
        if character == "{" and self.in_list and self.after_value and self.commas_wanted:
            self.after_value = False  # the next step reads the pair
            problem = "no comma between this pair and the one before; add it"
            line = self._line_at(self.position)
            return Entry(line, self.number + 1, None, Problem("no comma", problem))
        return self._value()

    def _inner_list(self) -> Entry:
        """The beginning of a list of pairs in the list; its pairs are read like all others."""
        sentence = "a list inside the list; take its [ and ] away, keep what is between"
        entry = self._between("inner list", sentence)
        self.inner_lists += 1
        self.position, self.after_value, self.is_inner_said = self.position + 1, False, True
        return entry

    def _comma(self) -> Entry | None:
        was_after_value, self.after_value = self.after_value, False
        entry, following = None, _skip_space(self.text, self.position + 1)
        if not self.in_list and was_after_value:
            entry = self._not_opened()
        elif not was_after_value:
            entry = self._between("comma", "a comma that parts nothing; remove it")
        elif self.text.startswith("]", following):
            entry = self._between("last comma", "comma after the last pair; remove it")
        self.position += 1
        return entry

    def _close(self) -> Entry | None:
        """The end of a list, or a bracket without its beginning."""
        entry = None
        if self.inner_lists:
            self.inner_lists -= 1
            self.position, self.after_value = self.position + 1, True
            return None
        if not self.in_list:
            extra = "a ] too many; remove it"
            entry = self._between("]", extra) if self.had_list else self._not_opened()
        self.in_list, self.after_value, self.had_list = False, False, True
        self.position += 1
        return entry

    def _not_opened(self) -> Entry | None:
        """Said once: every further comma has the same reason."""
        if self.is_open_said:
            return None
        self.is_open_said = True
        remedy = "put [ before the first pair and ] behind the last"
        return self._between("not opened", f"commas or a ] as in a list, but no [; {remedy}")

    def _value(self) -> Entry | None:
        """The value that begins here, or what is wrong with it."""
        start = self.position
        line = self._line_at(start)
        if not self.in_list and self.text[start] not in '{["':
            return self._stray(line)  # perhaps the number of a line
        try:
            value, end = self._decode(start)
            if isinstance(value, str) and self.text.startswith(":", _skip_space(self.text, end)):
                raise PairsError("no { before this pair; add it")
        except json.JSONDecodeError as error:
            is_stray = self.text[start] not in '{["'
            return self._stray(line) if is_stray else self._mistake(line, error.msg, error.pos)
        except PairsError as error:
            return self._skip(line, Problem(str(error).partition(" ")[0], str(error)))
        except (ValueError, RecursionError):
            problem = "nested too deeply or a number too long; a pair holds texts only"
            self.position = _OPENERS.match(self.text, start).end() - 1  # in each, it is as deep
            return self._skip(line, Problem("deep", problem))
        self.position, self.after_value = end, True
        self.number += 1
        return Entry(line, self.number, value)

    def _decode(self, start: int) -> tuple[object, int]:
        """The value at a position, and where it ends. Errors have their place in the whole text."""
        window = self.text[start : start + WINDOW]
        try:
            value, length = self.decoder.raw_decode(window)
            if length < WINDOW:
                return value, start + length
        except json.JSONDecodeError as error:
            # The end of the window could be the reason, unless it is far or the file's end.
            is_inside = error.pos < WINDOW - 16 and not error.msg.startswith("Unterminated")
            is_final = is_inside or len(window) < WINDOW
            if is_final or self.long_mistakes == MOST_LONG_MISTAKES:
                error.pos += start
                raise
        try:
            return self.decoder.raw_decode(self.text, start)
        except json.JSONDecodeError:
            self.long_mistakes += 1
            raise

    def _mistake(self, line: int, message: str, position: int) -> Entry | None:
        """The sentence about a mistake of syntax inside a pair.

        None for what follows from an unfinished merge, which is said by itself.
        """
        start, text = self.position, self.text
        if not self.number and (wrapper := _WRAPPER.match(text, start)):
            return self._unwrap(wrapper)
        place = find_place(text, position)
        hint = explain_syntax(message, text, position)
        is_at_end = message.startswith("Unterminated") or position == len(text)
        if is_at_end and not text.endswith(("}", "]")) and _next_object(text, start) == len(text):
            self.is_cut = True
            hint = "the file ends inside a pair, as if it had been cut; get the whole file"
        newline = text.rfind("\n", start, place)
        column = place - (self.line_start - 1 if newline < 0 else newline)
        line += text.count("\n", start, place)
        sentence = f"not JSON at column {column}: {hint}; there: {excerpt(text, place)}"
        entry = self._skip(line, Problem(hint, sentence))
        return entry if self.commas_wanted or hint != NO_COMMA else None

    def _unwrap(self, wrapper: re.Match) -> Entry:
        """Go on inside an object that cannot be read as a whole, at the list in it."""
        key = shorten(wrapper["key"])
        sentence = f"the list stands inside an object, under {key}; write the list alone"
        entry = self._between("wrapper", sentence)
        self.position, self.is_wrapped = wrapper.end("before"), True
        return entry

    def _skip(self, line: int, problem: Problem) -> Entry:
        """Go on at the next object; no comma is asked for, it may be among what was skipped."""
        self.position, self.after_value = _next_object(self.text, self.position), False
        self.number += 1
        self.syntax_errors += 1
        return Entry(line, self.number, None, problem)

    def _stray(self, line: int) -> Entry:
        """Something that is neither value nor bracket; it is shown as far as it goes."""
        start = self.position
        self.position = _end_of_stray(self.text, start, self.in_list)
        self.syntax_errors += 1
        stray = self.text[start : self.position].strip(SPACE)
        for beginning, hint in BEGINNINGS.items():
            if stray.startswith(beginning):
                return Entry(line, 0, None, Problem(hint, f"not JSON: {hint}"))
        where = "between the pairs" if self.number else "before the first pair"
        if self.had_list and not self.in_list:
            where = "after the end of the list"
        shown = repr(stray[:30]) + ("..." if len(stray) > 30 else "")
        if stray.endswith('"}'):
            remedy = "get the whole file, or write what lacks"
            problem = f"a pair without its beginning: {shown}; {remedy}"
            return Entry(line, 0, None, Problem("no beginning", problem))
        problem = Problem(where, f"text {where}: {shown}; it is no pair, remove just that")
        return Entry(line, 0, None, problem)

    def _between(self, kind: str, sentence: str) -> Entry:
        return Entry(self._line_at(self.position), 0, None, Problem(kind, sentence))

    def _line_at(self, position: int) -> int:
        """The line of a position, asked for in rising order: the text is counted once."""
        new_lines = self.text.count("\n", self.counted, position)
        if new_lines:
            self.line += new_lines
            self.line_start = self.text.rfind("\n", self.counted, position) + 1
        self.counted = position
        return self.line


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in SPACE:
        position += 1
    return position


# Beginnings inside each other, and the keys between them.
_OPENERS = re.compile(r'(?:[\s{[]++|"[^"\n]*+"\s*+:)++|.')

# Objects inside a pair: the messages of a chat.
_INNER = r"\s*[\"'](?:role|from|content|value)\b"
_KEY = r"\s*[\"'\u201c][\w ]{1,30}[\"'\u201d]\s*[:\"'\u201c]"
_OBJECT = re.compile(rf"\n[ \t\r]*(\{{)(?!{_INNER})|(\{{)(?!{_INNER})(?={_KEY})")


# An object that holds a list of pairs, and not the messages of a chat.
_OWN = "messages|conversations|prompt|chosen|rejected|positive|negative"  # keys of a pair
_WRAPPER = re.compile(
    r'(?P<before>\{\s*(?:"[^"\n]*"\s*:\s*(?:"[^"\n]*"|[-\w.]+)\s*,\s*)*'  # what is no list
    rf'"(?P<key>(?!(?:{_OWN})")[^"\n]*)"\s*:\s*)\[\s*\{{(?!{_INNER})'
)
_LIST = re.compile(r"\[\s*\{")


def _next_list(text: str, position: int) -> int:
    match = _LIST.search(text, position)
    return match.start() if match else len(text)


def _next_object(text: str, position: int) -> int:
    """Where to go on after a mistake: the next object, or the list's end. Always further on."""
    match = _OBJECT.search(text, position + 1)
    if match:
        return match.start(match.lastindex)
    end = text.rfind("]", position + 1)  # a program may go on behind it
    return len(text) if end < 0 or '"' in text[end:] else end


_END_IN_LIST = re.compile(r"\n|\{|\]|,(?=\s*(?:\n|\{))")
_END_OUTSIDE = re.compile(r"[\n{[]")
_END_OF_COMMENT = {"/*": re.compile(r"\*/"), "//": re.compile("\n"), "#": re.compile("\n")}


def _end_of_stray(text: str, start: int, in_list: bool) -> int:
    """Where something that is no JSON ends: with the line, or before what may be JSON again."""
    end = _END_IN_LIST if in_list else _END_OUTSIDE
    for beginning, comment_end in _END_OF_COMMENT.items():
        if text.startswith(beginning, start):
            end = comment_end
    match = end.search(text, start + 1)
    if not match:
        return len(text)
    return match.end() if match[0] == "*/" else match.start()


def _no_duplicate_keys(items: list[tuple[str, object]]) -> dict:
    """The object, where Python's reader would silently take the last of two values of one key."""
    found = dict(items)
    if len(found) != len(items):
        twice = Counter(key for key, _ in items).most_common(1)[0][0]
        raise PairsError(
            f"key {shorten(twice)} stands twice in one pair; part two pairs by "
            "}, {, or give the key its right name"
        )
    return found


def _no_constant(name: str) -> None:
    """NaN and Infinity, which Python reads although JSON has none."""
    raise PairsError(f"{name} is no text, perhaps an empty cell of a table; write the text there")
