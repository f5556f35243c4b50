"""Characters to ids and back.

`python -m sft.tokenizer` writes `sft/meta.pkl` again, the vocabulary of the assignment.
"""

import io
import pickle
import pickletools
import string
import unicodedata
from pathlib import Path

from sft.files import open_plain, write_atomically

VOCABULARY_PATH = Path(__file__).parent / "meta.pkl"
ALPHABET = (
    "\n '*+,-./=?\N{RIGHT SINGLE QUOTATION MARK}"
    + string.digits
    + string.ascii_uppercase
    + string.ascii_lowercase
)

# What people type or paste, and what the model's alphabet has for it. Any other character that it
# lacks is an error.
LOOK_ALIKES = {
    "!": ".", "\u3002": ".", "\uff0e": ".", "\uff1d": "=", "\uff1f": "?", "\uff0b": "+",
    "\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u2217": "*", "\u2715": "*", "\uff0a": "*",
    "\u00f7": "/", "\u2215": "/", "\u2044": "/", "\uff0f": "/",
    "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "\uff0d": "-",
    "\u2018": "'", "\u201c": "'", "\u201d": "'", "`": "'", "\u00b4": "'",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\t": " ",
} | {chr(0xFF10 + digit): str(digit) for digit in range(10)}  # fmt: skip

_LARGEST_FILE = 64 * 1024  # bytes
_REMEDY = "it comes with the repository, or make it with `python -m sft.tokenizer`"
# The instructions of a pickle that make dicts, texts and integers. None imports or calls anything.
_OPCODES = {
    "PROTO", "FRAME", "EMPTY_DICT", "MEMOIZE", "MARK", "SHORT_BINUNICODE", "BINUNICODE",
    "BININT", "BININT1", "BININT2", "BINPUT", "BINGET", "SETITEM", "SETITEMS", "STOP",
}  # fmt: skip


class VocabularyError(ValueError):
    """A vocabulary file that cannot be used, or a text with a character that it lacks."""


class Tokenizer:
    """One id per character. `stoi` and `itos` are the two directions, as in nanoGPT's meta.pkl."""

    def __init__(self, stoi: dict[str, int]):
        self.stoi = stoi
        self.itos = {i: character for character, i in stoi.items()}

    def __len__(self) -> int:
        return len(self.stoi)

    def encode(self, text: str) -> list[int]:
        """The ids of the text.

        VocabularyError names the first character without an id, its place, and what to do.
        """
        try:
            return [self.stoi[character] for character in text]
        except KeyError as error:
            unknown = error.args[0]
            place = f"at position {text.index(unknown)} of {text!r}"
            raise VocabularyError(
                f"{describe_character(unknown)} {place}: {remedy(unknown)}"
            ) from None

    def decode(self, ids: list[int]) -> str:
        return "".join(self.itos[int(i)] for i in ids)


def describe_character(character: str) -> str:
    """The character with its code and name, for messages."""
    name = unicodedata.name(character, "without a name")
    return f"character {character!r} (U+{ord(character):04X} {name}) is not in the model's alphabet"


def remedy(character: str) -> str:
    """What to write instead of a character that the alphabet lacks, for messages."""
    if instead := LOOK_ALIKES.get(character, str(unicodedata.decimal(character, ""))):
        return f"write {instead!r}"
    return "remove it or spell it with letters, digits or ' * + , - . / = ?"


def load_tokenizer(path: str | Path = VOCABULARY_PATH) -> Tokenizer:
    """The tokenizer in a nanoGPT meta.pkl (`vocab_size`, `stoi`, `itos`); no code in it is run."""
    path = Path(path)
    with open_plain(path, _LARGEST_FILE, VocabularyError, _REMEDY) as file:
        return Tokenizer(_checked_stoi(_plain_unpickle(file.read(_LARGEST_FILE), path), path))


class _NoGlobals(pickle.Unpickler):
    """A second lock behind `_OPCODES`: every name that a pickle asks Python for is refused."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _plain_unpickle(data: bytes, path: Path) -> object:
    """The dicts, texts and small integers in a pickle.

    A pickle is a small program. All of its instructions are read first, without running any, and
    one that plain data does not need is refused.
    """
    try:
        opcodes = list(pickletools.genops(data))  # (instruction, argument, place in data) each
        refused = [opcode.name for opcode, _, _ in opcodes if opcode.name not in _OPCODES]
        if refused or opcodes[-1][2] != len(data) - 1:  # its end, STOP, must be the last byte
            raise pickle.UnpicklingError(
                f"instruction {refused[0]} is not allowed" if refused else "bytes follow its end"
            )
        return _NoGlobals(io.BytesIO(data)).load()
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise VocabularyError(
            f"{path} is not a plain vocabulary ({str(error)[:80]!r}); {_REMEDY}"
        ) from None


def _checked_stoi(meta: object, path: Path) -> dict[str, int]:
    """The table from characters to ids, if it and its inverse are those of the assignment."""
    tables = [meta.get(name) for name in ("stoi", "itos")] if isinstance(meta, dict) else [None]
    if not all(isinstance(table, dict) for table in tables):
        raise VocabularyError(
            f"{path} holds no `stoi` and `itos` tables; it must be nanoGPT's meta.pkl"
        )
    stoi, itos = tables
    for character, i in stoi.items():
        # Half of a surrogate pair is a str of length 1, too, but no text that can be written.
        if type(character) is not str or len(character) != 1 or "\ud800" <= character <= "\udfff":
            raise VocabularyError(f"{path}: {str(character)[:20]!r} in stoi is no single character")
        if type(i) is not int or type(itos.get(i)) is not str or itos[i] != character:
            raise VocabularyError(
                f"{path}: the id that stoi gives {character!r} is not what itos says"
            )
    size = len(stoi)
    complete = sorted(stoi.values()) == list(range(size)) and len(itos) == size
    if not complete or meta.get("vocab_size") != size:
        raise VocabularyError(
            f"{path}: {size} characters, but their ids are not 0 to {size - 1} "
            "or vocab_size differs"
        )
    for i in range(size):
        if itos[i] != ALPHABET[i : i + 1]:
            expected = repr(ALPHABET[i]) if i < len(ALPHABET) else "not there"
            raise VocabularyError(
                f"{path}: id {i} is {itos[i]!r}, in the assignment's vocabulary it is {expected}; "
                "questions, answers and ids of digits are made for that one"
            )
    return {character: i for i, character in enumerate(ALPHABET)}


if __name__ == "__main__":
    table = {character: i for i, character in enumerate(ALPHABET)}
    contents = {
        "vocab_size": len(table),
        "stoi": table,
        "itos": {i: character for character, i in table.items()},
    }
    write_atomically(VOCABULARY_PATH, pickle.dumps(contents, protocol=4))
    print(f"wrote {VOCABULARY_PATH.name}: {len(table)} characters")
