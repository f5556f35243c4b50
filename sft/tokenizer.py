"""Characters to ids and back. `python -m sft.tokenizer` writes `sft/meta.pkl`, the assignment's vocabulary, again."""

import io
import pickle
import pickletools
import string
import unicodedata
from pathlib import Path

from sft.files import open_plain, write_atomically

VOCABULARY_PATH = Path(__file__).parent / "meta.pkl"
ALPHABET = (
    "\n '*+,-./=?\N{RIGHT SINGLE QUOTATION MARK}" + string.digits + string.ascii_uppercase + string.ascii_lowercase
)

# What people type or paste, and what the model's alphabet has for it. Everything else that is unknown is an error.
LOOK_ALIKES = {
    "!": ".", "\u00d7": "*", "\u22c5": "*", "\u00f7": "/", "\u2215": "/", "\u2212": "-", "\u2013": "-", "\u2014": "-",
    "\uff1d": "=", "\uff1f": "?", "\uff0b": "+",
    "\u2018": "'", "\u201c": "'", "\u201d": "'", "`": "'", "\u00b4": "'", "\u00a0": " ", "\u2009": " ",
    "\u202f": " ", "\t": " ",
} | {chr(0xFF10 + digit): str(digit) for digit in range(10)}  # fmt: skip

_LARGEST_FILE = 64 * 1024
_REMEDY = "it comes with the repository, or make it with `python -m sft.tokenizer`"
_OPCODES = {
    "PROTO", "FRAME", "EMPTY_DICT", "MEMOIZE", "MARK", "SHORT_BINUNICODE", "BINUNICODE", "BININT", "BININT1", "BININT2",
    "BINPUT", "BINGET", "SETITEM", "SETITEMS", "STOP",
}  # fmt: skip


class VocabularyError(ValueError):
    """The vocabulary file, or a text that does not fit it."""


class Tokenizer:
    """One id per character. `stoi` and `itos` are the two directions, as in nanoGPT's meta.pkl."""

    def __init__(self, stoi: dict[str, int]):
        self.stoi = stoi
        self.itos = {i: character for character, i in stoi.items()}

    def __len__(self) -> int:
        return len(self.stoi)

    def encode(self, text: str) -> list[int]:
        """Ids of the text; VocabularyError names the first character that has none, its place, and the remedy."""
        try:
            return [self.stoi[character] for character in text]
        except KeyError as error:
            unknown = error.args[0]
            raise VocabularyError(
                f"{describe(unknown)} at position {text.index(unknown)} of {text!r}: {remedy(unknown)}"
            ) from None

    def decode(self, ids: list[int]) -> str:
        return "".join(self.itos[int(i)] for i in ids)


def describe(character: str) -> str:
    """The character with its code and name, for messages."""
    name = unicodedata.name(character, "without a name")
    return f"character {character!r} (U+{ord(character):04X} {name}) is not in the model's alphabet"


def remedy(character: str) -> str:
    return (
        f"write {LOOK_ALIKES[character]!r}"
        if character in LOOK_ALIKES
        else "remove it or spell it with letters, digits or ' * + , - . / = ?"
    )


def load_tokenizer(path: str | Path = VOCABULARY_PATH) -> Tokenizer:
    """Read a nanoGPT meta.pkl (`vocab_size`, `stoi`, `itos`) without running any code it may contain."""
    path = Path(path)
    with open_plain(path, _LARGEST_FILE, VocabularyError, _REMEDY) as file:
        return Tokenizer(_checked_stoi(_plain_unpickle(file.read(_LARGEST_FILE), path), path))


class _NoGlobals(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _plain_unpickle(data: bytes, path: Path) -> object:
    """Unpickle dicts, texts and small integers; any other instruction is refused before anything runs."""
    try:
        opcodes = list(pickletools.genops(data))
        refused = [opcode.name for opcode, _, _ in opcodes if opcode.name not in _OPCODES]
        if refused or opcodes[-1][2] != len(data) - 1:
            raise pickle.UnpicklingError(
                f"instruction {refused[0]} is not allowed" if refused else "bytes follow its end"
            )
        return _NoGlobals(io.BytesIO(data)).load()
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise VocabularyError(f"{path} is not a plain vocabulary ({str(error)[:80]!r}); {_REMEDY}") from None


def _checked_stoi(meta: object, path: Path) -> dict[str, int]:
    if not isinstance(meta, dict) or not isinstance(meta.get("stoi"), dict) or not isinstance(meta.get("itos"), dict):
        raise VocabularyError(f"{path} holds no `stoi` and `itos` tables; it must be nanoGPT's meta.pkl")
    stoi, itos = meta["stoi"], meta["itos"]
    for character, i in stoi.items():
        if type(character) is not str or len(character) != 1 or "\ud800" <= character <= "\udfff":
            raise VocabularyError(f"{path}: {str(character)[:20]!r} in stoi is no single character")
        if type(i) is not int or type(itos.get(i)) is not str or itos[i] != character:
            raise VocabularyError(f"{path}: the id that stoi gives {character!r} is not what itos says")
    if sorted(stoi.values()) != list(range(len(stoi))) or len(itos) != len(stoi) or meta.get("vocab_size") != len(stoi):
        raise VocabularyError(
            f"{path}: {len(stoi)} characters, but their ids are not 0 to {len(stoi) - 1} or vocab_size differs"
        )
    for i in range(len(stoi)):
        if itos[i] != ALPHABET[i : i + 1]:
            expected = repr(ALPHABET[i]) if i < len(ALPHABET) else "not there"
            raise VocabularyError(
                f"{path}: id {i} is {itos[i]!r}, in the assignment's vocabulary it is {expected}; "
                "questions, answers and ids of digits are made for that one"
            )
    return {character: i for i, character in enumerate(ALPHABET)}


if __name__ == "__main__":
    table = {character: i for i, character in enumerate(ALPHABET)}
    contents = {"vocab_size": len(table), "stoi": table, "itos": {i: character for character, i in table.items()}}
    write_atomically(VOCABULARY_PATH, pickle.dumps(contents, protocol=4))
    print(f"wrote {VOCABULARY_PATH.name}: {len(table)} characters")
