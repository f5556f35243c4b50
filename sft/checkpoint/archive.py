"""Reads the zip archives that `torch.save` writes; whatever is in one, nothing of it is executed.

Such an archive holds `data.pkl`, a pickle that says how to put the contents together, and a record
`data/0`, `data/1`, ... with the numbers of each tensor. A pickle is a small program for a machine
with a stack, and may call any function of Python. A checkpoint may come from a stranger.

`torch.load(weights_only=True)` alone is not enough: it checks no checksums, unpacks small files to
huge ones, and builds tensors that reach beyond their data. So each part is checked before the next
one costs anything: the file, the archive, the instructions of the pickle, and every tensor against
its record. What has passed is copied, and torch reads the copy.
"""

import io
import math
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from sft.files import open_plain

LARGEST_FILE = 2 * 2**30  # bytes
LARGEST_DIRECTORY = 4 * 2**20  # bytes of the archive's table of contents
LARGEST_PICKLE = 16 * 2**20  # bytes
MOST_MEMBERS = 10_000
MOST_DIMENSIONS = 64  # of a tensor; torch allows no more either
MOST_INSTRUCTIONS = 200_000  # a checkpoint with an optimizer has some thousand
MEMBER = re.compile(  # names of all entries: one folder, and in it what torch.save writes
    r"[^/\\]+/(data\.pkl|version|byteorder|data/[0-9]+"
    r"|\.data/serialization_id|\.format_version|\.storage_alignment)"
)
ITEM_BYTES = {
    "torch.DoubleStorage": 8, "torch.FloatStorage": 4,
    "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}  # fmt: skip
ORDERED_DICT, TENSOR, PARAMETER = (
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
)  # fmt: skip
GLOBALS = {ORDERED_DICT, TENSOR, PARAMETER, *ITEM_BYTES}  # all that a pickle may ask Python for
SAVE_AGAIN = (
    "its owner can save it again: "
    "torch.save({'model': model.state_dict(), 'model_args': {...}}, path)"
)
DOWNLOAD_AGAIN = "download it again"


OTHER_FILES = {  # by their first bytes
    b"\x80": f"a bare pickle or a file of an old torch; {SAVE_AGAIN}",  # before 1.6
    b"\x93NUMPY": f"an array of NumPy; {SAVE_AGAIN}",
    b"\x89HDF": f"a file of Keras (HDF5); {SAVE_AGAIN}",
    b"GGUF": f"a file of llama.cpp (GGUF); {SAVE_AGAIN}",
    b"\x1f\x8b": "packed with gzip; unpack it and give the file that is inside",
}
SAFETENSORS = (
    "a file of safetensors; `python -m dpo.export --format=nanogpt --checkpoint=FOLDER --out=FILE` "
    "makes a checkpoint of a GPT-2 in its folder"
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what is wrong and what to do."""


def read_archive(path: Path, remedy: str) -> dict:
    """The dict in an archive of `torch.save`, if it is plain data; if not, CheckpointError.

    Plain data are tensors, texts, numbers, and dicts, lists and tuples of them. `remedy` says what
    to do if there is no such file.
    """
    with open_plain(path, LARGEST_FILE, CheckpointError, remedy) as file:
        try:
            _check_start_and_end(file)
            with zipfile.ZipFile(file) as archive:
                checked = _checked_copy(archive, file.seek(0, io.SEEK_END))
            return torch.load(checked, map_location="cpu", weights_only=True, mmap=False)
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from None
        except MemoryError:
            raise
        except OSError as error:
            reason = f"{path} cannot be read ({error.strerror})"
            raise CheckpointError(f"{reason}; copy it to another disk") from None
        # Whatever else a damaged file makes zipfile, pickletools or torch raise. Its message is not
        # shown: torch's advises to switch the protection off.
        except Exception as error:
            reason = f"{path} is damaged ({type(error).__name__})"
            raise CheckpointError(f"{reason}; {DOWNLOAD_AGAIN}") from None


def _check_start_and_end(file: BinaryIO) -> None:
    """CheckpointError unless this is a whole zip archive with a table of contents of fair size.

    The size matters first, because `zipfile` reads the whole table as soon as it opens the file.
    """
    start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("is a Git LFS pointer, not the weights; run `git lfs pull`")
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        raise CheckpointError(
            f"is a web page, not the weights; {DOWNLOAD_AGAIN} in a browser, past any warning page"
        )
    if not start.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"is not a PyTorch (zip) checkpoint{_what_else(start)}")
    size = file.seek(0, io.SEEK_END)
    # A zip ends with a record of 22 bytes. In a large one there stand before it its 64-bit sibling
    # (56 bytes) and a pointer to that (20 bytes): 98 bytes in all.
    file.seek(max(0, size - 98))
    end = file.read()
    if end[-22:-18] != b"PK\x05\x06" or end[-2:] != b"\0\0":  # last: the length of a comment
        raise CheckpointError(f"is cut off; {DOWNLOAD_AGAIN}")
    directory = int.from_bytes(end[-10:-6], "little")  # bytes of the table of contents
    if end[:4] == b"PK\x06\x06" and end[56:60] == b"PK\x06\x07":
        directory = int.from_bytes(end[40:48], "little")  # the sibling's number counts
    if directory > LARGEST_DIRECTORY:
        raise CheckpointError(
            f"has a table of contents of {directory} bytes, which no checkpoint needs; not opened"
        )


def _what_else(start: bytes) -> str:
    """What begins like this, as far as that is known, and what to do about it."""
    for first, kind in OTHER_FILES.items():
        if start.startswith(first):
            return f" but {kind}"
    if start[8:10] == b'{"':  # behind the length of this table of contents
        return f" but {SAFETENSORS}"
    text = " ".join(start.decode("latin-1").split())
    if text.isascii() and text.isprintable():
        return f" but a text ({text[:30]!r}); {DOWNLOAD_AGAIN}"
    if not start.strip(b"\0"):
        return f" but begins with zeros, as after a failed copy; {DOWNLOAD_AGAIN}"
    return f"; {SAVE_AGAIN}"


def archive_bytes(contents: dict) -> memoryview:
    """What `torch.save` writes; CheckpointError for contents that `read_archive` would refuse."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    with zipfile.ZipFile(buffer) as archive:
        _inspect(archive, len(buffer.getbuffer()))
    return buffer.getbuffer()


def _checked_copy(archive: zipfile.ZipFile, size: int) -> io.BytesIO:
    """A copy of the archive in memory, after all checks.

    `archive.read` compares each entry with its checksum. Since torch reads the copy, a file that is
    exchanged after the checks does no harm, and neither does what stands between the entries.
    """
    inspected = _inspect(archive, size)
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as checked:
        for member in archive.infolist():
            try:
                data = inspected.get(member.filename) or archive.read(member)
            except zipfile.BadZipFile:
                reason = f"is damaged (checksum of {member.filename[:80]!r})"
                raise CheckpointError(f"{reason}; {DOWNLOAD_AGAIN}") from None
            checked.writestr(zipfile.ZipInfo(member.filename), data)
    copy.seek(0)
    return copy


def _inspect(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    """Name and content of data.pkl, after all entries and every instruction of it were checked."""
    members = archive.infolist()
    root = _checked_root(members)
    _check_sizes(members, size)
    pickle = next((member for member in members if member.filename == f"{root}/data.pkl"), None)
    if pickle is None or pickle.file_size > LARGEST_PICKLE:
        raise CheckpointError(f"has no data.pkl, or one of more than 16 MiB; {SAVE_AGAIN}")
    data = f"{root}/data/"
    records = {
        m.filename.removeprefix(data): m.file_size for m in members if m.filename.startswith(data)
    }
    pickled = archive.read(pickle)
    _Inspection(records).run(pickled)
    return {pickle.filename: pickled}


def _checked_root(members: list[zipfile.ZipInfo]) -> str:
    """The folder that all entries lie in, if their names are those that `torch.save` gives."""
    names = [member.filename for member in members]
    roots = {name.partition("/")[0] for name in names}
    odd = [name for name in names if not MEMBER.fullmatch(name)]
    if odd and not any(name.endswith("data.pkl") for name in names):
        reason = f"is another kind of zip archive (with {odd[0][:80]!r})"
        raise CheckpointError(f"{reason}; if that is the checkpoint, unpack it; else {SAVE_AGAIN}")
    if odd or len(set(names)) < len(names) or len(roots) != 1 or len(names) > MOST_MEMBERS:
        reason = "has no entries, too many, or some twice"
        if odd:
            reason = f"has the unexpected entry {odd[0][:80]!r}"
        raise CheckpointError(f"{reason}; {SAVE_AGAIN}")
    return roots.pop()


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    """CheckpointError unless the entries take just the bytes they claim, in a file of `size`."""
    # Without compression nothing can unpack to more than it is; bit 0 of the flags: encrypted.
    stored = (m.compress_type == zipfile.ZIP_STORED and not m.flag_bits & 1 for m in members)
    if not all(stored):
        reason = "is compressed or encrypted, which torch.save never does"
        raise CheckpointError(f"{reason}; {SAVE_AGAIN}")
    lying = any(member.file_size != member.compress_size for member in members)
    # Entries that overlap, many names for the same bytes, show in the sum.
    if lying or sum(member.file_size for member in members) > size:
        raise CheckpointError(f"claims other sizes than it has; {DOWNLOAD_AGAIN}")


# What lies on the stack of an inspection in place of the objects that the pickle would build.


@dataclass(frozen=True)
class _Global:
    """A function or class, by its name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The numbers of a tensor, in a record of their own."""

    items: int
    item_bytes: int


@dataclass(eq=False)
class _Dict:
    """A dict, of which only the keys matter."""

    ordered: bool
    keys: set[str | int]


_LIST, _TENSOR = _Global("a list"), _Global("a tensor")


class _Inspection:
    """Goes through a pickle, instruction by instruction, as torch would, but builds nothing.

    On the stack lie numbers, texts and tuples, and for anything else a token that says what it
    would be. The pickle of `{"step": 5}`, for example: EMPTY_DICT, BINUNICODE "step", BININT1 5,
    SETITEM, STOP.
    """

    def __init__(self, records: dict[str, int]):
        self.records = records  # bytes of each data record
        self.stack: list = []
        self.below: list[list] = []  # the stack before each MARK; behind a mark an empty one begins
        self.memo: dict[int, object] = {}  # what BINPUT keeps, for BINGET to push again
        self.kinds: dict[str, str] = {}  # type of each record; for torch the first mention decides
        self.tensor_bytes = 0  # of all tensors so far

    def run(self, pickled: bytes) -> None:
        """CheckpointError unless it is a dict of plain data, whose tensors lie in their records."""
        end = -1
        for count, (opcode, argument, position) in enumerate(pickletools.genops(pickled)):
            if count >= MOST_INSTRUCTIONS:
                raise CheckpointError(
                    f"has more than {MOST_INSTRUCTIONS} pickle instructions; {SAVE_AGAIN}"
                )
            if opcode.name == "STOP":
                end = position
            else:
                self._follow(opcode.name, argument)
        if self.below or len(self.stack) != 1 or end != len(pickled) - 1:
            raise CheckpointError(
                f"is damaged (data.pkl does not end where it should); {DOWNLOAD_AGAIN}"
            )
        if not isinstance(self.stack[0], _Dict):
            raise CheckpointError(f"holds no dict with the weights; {SAVE_AGAIN}")
        # Many tensors on one record would fill the memory later. Twice is fair: tied weights share.
        if self.tensor_bytes > 2 * sum(self.records.values()):
            raise CheckpointError("has tensors larger than all of its data; not loaded")

    def _follow(self, name: str, argument) -> None:
        """What one instruction does to the stack; only those that `torch.save` writes are known."""
        push, pop = self.stack.append, self.stack.pop
        match name:
            case "PROTO":
                self._require(
                    argument == 2, f"is a pickle of protocol {argument}, torch.save writes 2"
                )
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "BINFLOAT":
                push(argument)
            case "LONG1":
                self._require(-(2**63) <= argument < 2**63, "has numbers of more than 64 bits")
                push(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT" | "EMPTY_LIST":
                push(_Dict(False, set()) if name == "EMPTY_DICT" else _LIST)
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = 0 if name == "EMPTY_TUPLE" else int(name[-1])
                push(tuple([pop() for _ in range(length)][::-1]))
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self._to_mark()
                self.stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = [pop()] if name == "APPEND" else self._to_mark()
                self._require(self.stack[-1] is _LIST, "appends to something that is not a list")
            case "SETITEM" | "SETITEMS":
                # Key, value, key, value, ...; a key that is a large tuple would take long to hash.
                items = [pop(), pop()][::-1] if name == "SETITEM" else self._to_mark()
                plain = all(map(_is_key, items[::2]))
                target = self.stack[-1]
                self._require(
                    plain and isinstance(target, _Dict),
                    "has keys that are no short texts or small numbers",
                )
                target.keys.update(items[::2])
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                push(_allowed(argument.replace(" ", ".")))
            case "BINPERSID":
                push(self._storage(pop()))
            case "REDUCE":
                arguments, function = pop(), pop()
                push(self._call(function, arguments))
            case "BUILD":
                # So a module's state_dict, an OrderedDict, gets its attribute _metadata.
                state, target = pop(), self.stack[-1]
                metadata = isinstance(state, _Dict) and state.keys <= {"_metadata"}
                self._require(metadata and self._is_ordered(target), "sets the inside of an object")
            case _:
                raise CheckpointError(
                    f"has the pickle instruction {name}, which no plain data needs; {SAVE_AGAIN}"
                )

    def _to_mark(self) -> list:
        """All that was pushed since the last mark, which is removed."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def _require(self, condition: bool, otherwise: str) -> None:
        if not condition:
            raise CheckpointError(f"{otherwise}; {SAVE_AGAIN}")

    @staticmethod
    def _is_ordered(item: object) -> bool:
        return isinstance(item, _Dict) and item.ordered

    def _storage(self, reference) -> _Storage:
        """The storage that a reference names, if its record has just the bytes that it needs.

        A reference is ("storage", type, record, device, items).
        """
        kind, storage, record, _, items = reference
        item_bytes = ITEM_BYTES[storage.name]
        plain = kind == "storage" and type(record) is str and type(items) is int
        fits = (
            plain
            and self.kinds.setdefault(record, storage.name) == storage.name
            and self.records.get(record) == items * item_bytes
        )
        if not fits:
            raise CheckpointError(
                f"is damaged (a record of its data has not the stated size); {DOWNLOAD_AGAIN}"
            )
        return _Storage(items, item_bytes)

    def _call(self, function, arguments: tuple):
        """What one of the three functions that plain data needs would give."""
        if function == _Global(ORDERED_DICT) and arguments == ():
            return _Dict(True, set())
        if function == _Global(PARAMETER):
            tensor, requires_grad, hooks = arguments
            plain = tensor is _TENSOR and type(requires_grad) is bool and self._is_ordered(hooks)
            self._require(plain, "has odd parameters")
            return _TENSOR
        self._require(function == _Global(TENSOR), "calls something that is not a function")
        storage, offset, sizes, strides, requires_grad, hooks = arguments
        inside = _lies_within(storage, offset, sizes, strides)
        if not inside or type(requires_grad) is not bool or not self._is_ordered(hooks):
            raise CheckpointError(f"has a tensor that reaches beyond its data; {DOWNLOAD_AGAIN}")
        self.tensor_bytes += math.prod(sizes) * storage.item_bytes
        return _TENSOR


def _lies_within(storage: object, offset: int, sizes: tuple, strides: tuple) -> bool:
    """Whether all items of a tensor lie in its storage.

    Item (i, j, ...) stands at offset + i * strides[0] + j * strides[1] + ...
    """
    numbers = (offset, *sizes, *strides)
    plain = isinstance(storage, _Storage) and all(type(n) is int and n >= 0 for n in numbers)
    if not plain or len(sizes) != len(strides) or len(sizes) > MOST_DIMENSIONS:
        return False  # before the product, which takes long for thousands of sizes
    items = math.prod(sizes)
    last = offset + sum((n - 1) * by for n, by in zip(sizes, strides, strict=True))
    # With a stride of 0, many items would be one: a few bytes would stand for a huge tensor.
    return items <= storage.items and (not items or last < storage.items)


def _is_key(key: object) -> bool:
    """Whether this is a short text or a small number; of large ones, many can share one hash."""
    return len(key) < 1000 if type(key) is str else type(key) is int and abs(key) < 2**31


def _allowed(name: str) -> _Global:
    """What the pickle asks Python for, if plain data needs it; anything else might be harmful."""
    if name not in GLOBALS:
        reason = f"asks for {name[:80]!r}, which is no plain tensor, text or number"
        raise CheckpointError(f"{reason}; nothing was run; {SAVE_AGAIN}")
    return _Global(name)
