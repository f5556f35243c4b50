"""Reads the zip archives that `torch.save` writes, and nothing of what a stranger may have put into one is executed.

`weights_only=True` alone is not enough: torch checks no checksums, unpacks bombs, and builds tensors that reach beyond
their data. So every part is checked before the next one costs anything: the file, the archive, the pickle's
instructions one by one, every tensor against its record. What passed is copied, and torch reads the copy.
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
MOST_DIMENSIONS = 64  # of a tensor, in torch, too
MOST_INSTRUCTIONS = 200_000  # a checkpoint with an optimizer has some thousand
MEMBER = re.compile(
    r"[^/\\]+/(data\.pkl|version|byteorder|data/[0-9]+|\.data/serialization_id|\.format_version|\.storage_alignment)"
)
ITEM_BYTES = {
    "torch.DoubleStorage": 8, "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}  # fmt: skip
ORDERED_DICT, TENSOR, PARAMETER = (
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
)  # fmt: skip
GLOBALS = {ORDERED_DICT, TENSOR, PARAMETER, *ITEM_BYTES}
SAVE_AGAIN = "its owner can save it again: torch.save({'model': model.state_dict(), 'model_args': {...}}, path)"
DOWNLOAD_AGAIN = "download it again"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what is wrong and what to do."""


def read_archive(path: Path, remedy: str) -> dict:
    """The dict in an archive of `torch.save`: plain tensors, texts, numbers, dicts, lists and tuples of such.

    CheckpointError for anything else; `remedy` says what to do if there is no such file.
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
            raise CheckpointError(f"{path} cannot be read ({error.strerror}); copy it to another disk") from None
        except Exception as error:  # torch's own message advises to switch the protection off: it is not shown
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}); {DOWNLOAD_AGAIN}") from None


def _check_start_and_end(file: BinaryIO) -> None:
    """Whether this is a whole zip archive, and its table of contents of a reasonable size."""
    start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("is a Git LFS pointer, not the weights; run `git lfs pull`")
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(f"is a web page, not the weights; {DOWNLOAD_AGAIN} in a browser, past any warning page")
    if not start.startswith(b"PK\x03\x04"):
        old = " but a bare pickle or a file of an old torch" if start.startswith(b"\x80") else ""
        raise CheckpointError(f"is not a PyTorch (zip) checkpoint{old}; {SAVE_AGAIN}")
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 98))  # the end record, and before it its 64-bit sibling, if there is one
    end = file.read()
    if end[-22:-18] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise CheckpointError(f"is cut off; {DOWNLOAD_AGAIN}")
    directory = int.from_bytes(end[-10:-6], "little")
    if end[:4] == b"PK\x06\x06" and end[56:60] == b"PK\x06\x07":
        directory = int.from_bytes(end[40:48], "little")
    if directory > LARGEST_DIRECTORY:
        raise CheckpointError(f"has a table of contents of {directory} bytes, which no checkpoint needs; not opened")


def archive_bytes(contents: dict) -> memoryview:
    """What `torch.save` writes; CheckpointError for contents that `read_archive` would not take for plain data."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    with zipfile.ZipFile(buffer) as archive:
        _inspect(archive, len(buffer.getbuffer()))
    return buffer.getbuffer()


def _checked_copy(archive: zipfile.ZipFile, size: int) -> io.BytesIO:
    """The archive once more, in memory, of the parts that passed every check and their checksums."""
    inspected = _inspect(archive, size)
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as checked:
        for member in archive.infolist():
            try:
                data = inspected.get(member.filename) or archive.read(member)
            except zipfile.BadZipFile:
                raise CheckpointError(f"is damaged (checksum of {member.filename[:80]!r}); {DOWNLOAD_AGAIN}") from None
            checked.writestr(zipfile.ZipInfo(member.filename), data)
    copy.seek(0)
    return copy


def _inspect(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    """Name and content of data.pkl, if it asks for nothing but plain data and the entries are those of `torch.save`."""
    members = archive.infolist()
    names = [member.filename for member in members]
    roots = {name.partition("/")[0] for name in names}
    odd = [name for name in names if not MEMBER.fullmatch(name)]
    if odd or len(set(names)) < len(names) or len(roots) != 1 or len(names) > MOST_MEMBERS:
        reason = f"has the unexpected entry {odd[0][:80]!r}" if odd else "has no entries, too many, or some twice"
        raise CheckpointError(f"{reason}; {SAVE_AGAIN}")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise CheckpointError(f"is compressed or encrypted, which torch.save never does; {SAVE_AGAIN}")
    lying = any(member.file_size != member.compress_size for member in members)
    if lying or sum(member.file_size for member in members) > size:
        raise CheckpointError(f"claims other sizes than it has; {DOWNLOAD_AGAIN}")
    [root] = roots
    pickle = next((member for member in members if member.filename == f"{root}/data.pkl"), None)
    if pickle is None or pickle.file_size > LARGEST_PICKLE:
        raise CheckpointError(f"has no data.pkl, or one of more than 16 MiB; {SAVE_AGAIN}")
    data = f"{root}/data/"
    records = {m.filename.removeprefix(data): m.file_size for m in members if m.filename.startswith(data)}
    pickled = archive.read(pickle)
    _Inspection(records).run(pickled)
    return {pickle.filename: pickled}


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    items: int
    item_bytes: int


@dataclass(eq=False)
class _Dict:
    ordered: bool
    keys: set[str | int]


_LIST, _TENSOR = _Global("a list"), _Global("a tensor")


class _Inspection:
    """Follows a pickle instruction by instruction without building anything, as torch's own reader would go.

    On the stack lie numbers, texts, tuples, and for everything else a token that says what it would be.
    """

    def __init__(self, records: dict[str, int]):
        self.records = records  # bytes of each data record
        self.stack: list = []
        self.below: list[list] = []  # the stacks under each mark
        self.memo: dict[int, object] = {}
        self.kinds: dict[str, str] = {}  # type of each record, which torch takes from the first that names it
        self.tensor_bytes = 0

    def run(self, pickled: bytes) -> None:
        """CheckpointError unless the pickle is a dict of plain data, and all of its tensors lie in their records."""
        end = -1
        for count, (opcode, argument, position) in enumerate(pickletools.genops(pickled)):
            if count >= MOST_INSTRUCTIONS:
                raise CheckpointError(f"has more than {MOST_INSTRUCTIONS} pickle instructions; {SAVE_AGAIN}")
            if opcode.name == "STOP":
                end = position
            else:
                self._follow(opcode.name, argument)
        if self.below or len(self.stack) != 1 or end != len(pickled) - 1:
            raise CheckpointError(f"is damaged (data.pkl does not end where it should); {DOWNLOAD_AGAIN}")
        if not isinstance(self.stack[0], _Dict):
            raise CheckpointError(f"holds no dict with the weights; {SAVE_AGAIN}")
        if self.tensor_bytes > 2 * sum(self.records.values()):  # twice, since tied weights share their data
            raise CheckpointError("has tensors larger than all of its data; not loaded")

    def _follow(self, name: str, argument) -> None:
        push, pop = self.stack.append, self.stack.pop
        match name:
            case "PROTO":
                self._require(argument == 2, f"is a pickle of protocol {argument}, torch.save writes 2")
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
                self._require(self.stack[-1] is _LIST, "appends to what is no list")
            case "SETITEM" | "SETITEMS":
                items = [pop(), pop()][::-1] if name == "SETITEM" else self._to_mark()
                plain = all(map(_is_key, items[::2]))
                target = self.stack[-1]
                self._require(plain and isinstance(target, _Dict), "has keys that are no short texts or small numbers")
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
                state, target = pop(), self.stack[-1]
                metadata = isinstance(state, _Dict) and state.keys <= {"_metadata"}  # of a module's state_dict
                self._require(metadata and self._is_ordered(target), "sets the inside of an object")
            case _:
                raise CheckpointError(f"has the pickle instruction {name}, which no plain data needs; {SAVE_AGAIN}")

    def _to_mark(self) -> list:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _require(self, condition: bool, otherwise: str) -> None:
        if not condition:
            raise CheckpointError(f"{otherwise}; {SAVE_AGAIN}")

    @staticmethod
    def _is_ordered(item: object) -> bool:
        return isinstance(item, _Dict) and item.ordered

    def _storage(self, reference) -> _Storage:
        """The storage that `("storage", type, record, device, items)` names, if its record has just that many bytes."""
        kind, storage, record, _, items = reference
        item_bytes = ITEM_BYTES[storage.name]
        plain = kind == "storage" and type(record) is str and type(items) is int
        if (
            not plain
            or self.kinds.setdefault(record, storage.name) != storage.name
            or self.records.get(record) != items * item_bytes
        ):
            raise CheckpointError(f"is damaged (a record of its data has not the stated size); {DOWNLOAD_AGAIN}")
        return _Storage(items, item_bytes)

    def _call(self, function, arguments: tuple):
        if function == _Global(ORDERED_DICT) and arguments == ():
            return _Dict(True, set())
        if function == _Global(PARAMETER):
            tensor, requires_grad, hooks = arguments
            plain = tensor is _TENSOR and type(requires_grad) is bool and self._is_ordered(hooks)
            self._require(plain, "has odd parameters")
            return _TENSOR
        self._require(function == _Global(TENSOR), "calls what is no function")
        storage, offset, sizes, strides, requires_grad, hooks = arguments
        numbers = (offset, *sizes, *strides)
        inside = (
            isinstance(storage, _Storage)
            and all(type(number) is int and number >= 0 for number in numbers)
            and len(sizes) == len(strides) <= MOST_DIMENSIONS
            and (items := math.prod(sizes)) <= storage.items
            and (not items or offset + sum((n - 1) * by for n, by in zip(sizes, strides, strict=True)) < storage.items)
        )
        if not inside or type(requires_grad) is not bool or not self._is_ordered(hooks):
            raise CheckpointError(f"has a tensor that reaches beyond its data; {DOWNLOAD_AGAIN}")
        self.tensor_bytes += items * storage.item_bytes
        return _TENSOR


def _is_key(key: object) -> bool:
    return len(key) < 1000 if type(key) is str else type(key) is int and abs(key) < 2**31


def _allowed(name: str) -> _Global:
    if name not in GLOBALS:
        raise CheckpointError(
            f"asks for {name[:80]!r}, which is no plain tensor, text or number; nothing was run; {SAVE_AGAIN}"
        )
    return _Global(name)
