"""From a file to the text of its JSON; what is another kind of file is named as what it is.

Lines and characters that no JSON has between its texts (of an unfinished merge, of Markdown, of a
web page) are reported and blanked, so that the pairs around them are still read in their places.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from dpo.data.pair import PairsError, Problem
from dpo.data.syntax_hints import PAIR
from sft.files import open_plain

LARGEST_FILE = 32 * 2**20  # bytes: 200,000 pairs and more
_REMEDY = (
    "`python -m dpo.make_pairs` makes a file of pairs; one has at most "
    f"{LARGEST_FILE // 2**20} MiB, some 200,000 pairs: split a larger one"
)

_UNPACK = "unpack it and give the file that is inside"
_EXPORT = "export it as JSON lines, an object a line"
FIRST_BYTES = {  # of files that are often taken for a file of pairs
    b"\x1f\x8b": f"packed with gzip; {_UNPACK}",
    b"PK\x03\x04": f"a zip archive or an office document; {_UNPACK}, or export it as JSON lines",
    b"BZh": f"packed with bzip2; {_UNPACK}",
    b"\xfd7zXZ\x00": f"packed with xz; {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"packed with zstd; {_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"packed with 7-Zip; {_UNPACK}",
    b"Rar!": f"packed with rar; {_UNPACK}",
    b"PAR1": f"a parquet table; {_EXPORT}",
    b"ARROW1": f"an Arrow table; {_EXPORT}",
    b"ORC": f"an ORC table; {_EXPORT}",
    b"SQLite format 3": f"an SQLite database; {_EXPORT}",
    b"\xd0\xcf\x11\xe0": f"an old office document; {_EXPORT}",
    **{bytes([0x80, protocol]): f"a Python pickle; {_EXPORT}" for protocol in range(2, 6)},
    b"\x93NUMPY": f"a NumPy array; {_EXPORT}",
    b"%PDF": f"a PDF; {_EXPORT}",
    b"{\\rtf": "rich text; save it as plain text",
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` fetches the file itself",
}
TAR = b"ustar"  # stands at byte 257


def read_text(path: Path) -> str:
    """The file's text; PairsError if it is missing, too large, packed, binary or not in UTF-8."""
    with open_plain(path, LARGEST_FILE, PairsError, _REMEDY) as file:
        data = file.read(LARGEST_FILE)
    if kind := _kind_of_bytes(data):
        raise PairsError(f"{path.name}: this is {kind}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        if error.reason == "unexpected end of data":
            reason = "the file ends inside a character, as if it had been cut; get the whole file"
        else:
            reason = f"the file is not UTF-8, it looks like {_encoding_of(data)}"
        raise PairsError(f"{path.name} line {line}: {reason}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise PairsError(
            f"{path.name} line {line}: a zero byte in it, it looks like {_encoding_of(data)}"
        )
    if "\n" not in text:
        text = text.replace("\r", "\n")  # the line breaks of old Macs, and of some spreadsheets
    if kind := _kind_of_text(text):
        raise PairsError(f"{path.name} line 1: this is {kind}")
    return text


def _kind_of_bytes(data: bytes) -> str:
    """What a file is that is no plain text, and what to do with it; empty if that is not known."""
    if data[257:262] == TAR:
        return f"a tar archive; {_UNPACK}"
    return next((kind for start, kind in FIRST_BYTES.items() if data.startswith(start)), "")


def _is_utf_16(data: bytes) -> bool:
    """Whether it begins with UTF-16's mark, or has a zero in every other byte and only there."""
    beginning = data[:200]
    zeros = abs(beginning[::2].count(0) - beginning[1::2].count(0))
    return data.startswith((b"\xff\xfe", b"\xfe\xff")) or zeros > 0.4 * len(beginning)


def _encoding_of(data: bytes) -> str:
    """What a file looks like that is no text in UTF-8, and what to do with it."""
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32; save it as UTF-8"
    if _is_utf_16(data):
        return "UTF-16; save it as UTF-8"
    if b"\0" in data:
        return f"a binary file or a damaged copy; get it again, or {_EXPORT}"
    return "another encoding, such as Windows-1252; save it as UTF-8"


_KEYS = r"(?:positive|negative|prompt|chosen|rejected)"
_WEB_PAGE = re.compile(r"<(?:[!?]|html|head|body|script)", re.IGNORECASE)
_NOTEBOOK = re.compile(r'\{\s*"cells"\s*:')
_YAML = re.compile(rf"^\s*(?:-\s+)?{_KEYS}\s*:", re.MULTILINE)
_TABLE = re.compile(r'sep=|\|?[\w "]+(?:[,;\t|][\w "]+)+\|?(?:\n|$)')  # a row of names
_JSON_IN_TABLE = re.compile(r'[^[{]*\{""\w+""\s*:')  # a quote inside a cell is written twice


def _kind_of_text(text: str) -> str:
    """What a text is that has no JSON object at all, and what to do with it."""
    beginning = text[:2000].strip()
    if _WEB_PAGE.match(beginning):
        return "a web page or XML; download the file itself"
    if _NOTEBOOK.match(beginning):
        return "a Jupyter notebook; write the pairs from a cell of it, with json.dump"
    if _JSON_IN_TABLE.match(beginning):
        return "a table (CSV) with JSON in its cells; write only that JSON, one object a line"
    # What is only brackets is a list without pairs, as JSON has it.
    if "{" in text or "}" in text or not beginning.strip("[], \t\r\n"):
        return ""
    unit, kind = (
        "pair",
        f"a file without JSON objects, it begins {beginning.split(chr(10), 1)[0][:40]!r}",
    )
    if _YAML.search(beginning):
        kind = "YAML"
    elif _TABLE.match(beginning):
        unit, kind = "row", "a table (CSV)"
    return f"{kind}; write each {unit} as {PAIR}, one a line"


# What is between the texts

_MERGE = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?:[ \t].*)?\r?$", re.MULTILINE)
_FENCE = re.compile(  # perhaps with a title, but no beginning of a pair or a list
    r"^[ \t]*(?:```|~~~)(?:[^`\n:[{]|\{[^`\n:[{}]*\})*$", re.MULTILINE
)
INVISIBLE = (
    "\u00a0\u00ad\u0085\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u2069\u3000\ufeff"  # a class
)
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
_TEXT_OR_COLOUR = re.compile(r'"(?:[^"\\\n]|\\.)*"|\x1b\[[\d;]*m')
_TEXT_OR_INVISIBLE = re.compile(rf'"(?:[^"\\\n]|\\.)*"|[{INVISIBLE}]')


def blank_strangers(text: str) -> tuple[str, list[tuple[int, Problem]], bool]:
    """The text with spaces for what does not belong there; its problems by line; if it is a merge.

    Every other character keeps its place.
    """
    found = [(match, _merge_problem(match[0])) for match in _MERGE.finditer(text)]
    is_merge = bool(found)
    for match in _FENCE.finditer(text):
        problem = "a line of Markdown ('```'); remove that line, keep what is between"
        found.append((match, Problem("fence", problem)))
    if "\x1b[" in text:
        for match in _TEXT_OR_COLOUR.finditer(text):
            if not match[0].startswith('"'):
                problem = "colours of a terminal; make the file without them, as with jq -M"
                found.append((match, Problem("colours", problem)))
    if not text.isascii() and _INVISIBLE.search(text):
        for match in _TEXT_OR_INVISIBLE.finditer(text):
            if not match[0].startswith('"'):
                found.append((match, _invisible_problem(match[0])))
    if not found:
        return text, [], False
    found.sort(key=lambda one: one[0].start())
    return _blank(text, [match for match, _ in found]), list(_by_line(text, found)), is_merge


def _merge_problem(line: str) -> Problem:
    return Problem(
        "merge",
        f"an unfinished merge ({line.strip()[:40]!r}); take the marker lines away, keep the pairs "
        "of both sides, and where a marker stands inside a pair make two of it",
    )


def _invisible_problem(character: str) -> Problem:
    code = f"U+{ord(character):04X} {unicodedata.name(character, 'without a name')}"
    return Problem(
        f"invisible {character}",
        f"an invisible character between the texts, {code}; put a plain space there",
    )


def _by_line(text: str, found: list[tuple[re.Match, Problem]]) -> Iterator[tuple[int, Problem]]:
    """Each problem with its line; one of a kind a line."""
    line, counted, last = 1, 0, None
    for match, problem in found:
        line += text.count("\n", counted, match.start())
        counted = match.start()
        if (line, problem.kind) != last:
            yield line, problem
        last = line, problem.kind


def _blank(text: str, matches: list[re.Match]) -> str:
    """The text with spaces in place of these matches, which stand in order."""
    parts = [text[: matches[0].start()]]
    for match, following in pairwise([*matches, None]):
        parts.append(" " * len(match[0]))
        parts.append(text[match.end() : following.start() if following else len(text)])
    return "".join(parts)
