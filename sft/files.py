"""Reading and writing: only plain files are opened, and a file is written whole or not at all."""

import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

# The disk is full, the user's quota is used up, or the file would be larger than one may be.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STALE_SECONDS = 600  # no living process leaves its temporary file untouched for so long
TRIES = 6  # on Windows a file cannot be replaced while another program, say a scanner, has it open


class SaveError(OSError):
    """A file that could not be written. The message says why and what to do; the old file stays."""


def open_plain(path: Path, largest: int, error: type[ValueError], remedy: str) -> BinaryIO:
    """A regular file of 1 to `largest` bytes, open for reading; if not, `error` with one sentence.

    The kind is checked before the file is opened, since opening a pipe waits until somebody writes
    into it; the size before anything is read, so that no file fills the memory.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise error(f"{path} is {kind}; {remedy}")
        if not 0 < status.st_size <= largest:
            size = f"{status.st_size / 2**20:.0f} MiB and too large" if status.st_size else "empty"
            raise error(f"{path} is {size}; {remedy}")
        return path.open("rb")
    except FileNotFoundError:
        raise error(f"{path}: no such file; {remedy}") from None
    except PermissionError:
        raise error(f"{path} may not be read by this user; change its permissions") from None
    except OSError as failure:  # among others a link that leads to itself
        raise error(f"{path} cannot be opened ({failure.strerror}); {remedy}") from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of the file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(
    path: str | Path, data: bytes | memoryview, previous: Path | None = None
) -> None:
    """Replace the file in one step, or leave it as it was; SaveError says why it was not written.

    The bytes first go into a temporary file in the same folder, which then takes the place of the
    old file. If anything happens before that, be it an exception, a killed process or a full disk,
    the old file is still there. With `previous`, the old file gets that name instead of being
    lost. Temporary files that killed processes have left are removed. A link stays one: the file
    that it leads to is replaced. What is no plain file, such as a device, is not.
    """
    path = Path(path)
    if os.path.islink(path):  # unlike Path's own, False where nobody may look
        path = Path(os.path.realpath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if path.is_dir() else "no plain file"
        raise SaveError(f"{path} is {kind}; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        descriptor, temporary = _temporary_beside(path)
    except OSError as failure:
        reason = f"cannot write into {path.parent} ({failure.strerror}); name another folder"
        raise SaveError(reason) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # on the disk, before its name says that it is complete
        os.chmod(temporary, _mode(path))
        if previous is not None:
            # There is no old file yet, or another process is replacing it at this moment.
            with suppress(FileNotFoundError):
                replace(path, previous)
        replace(temporary, path)
    except OSError as failure:
        remove(temporary)
        # If the old file has been put aside already, and nothing came in its place: put it back.
        if previous is not None and not path.exists() and previous.exists():
            replace(previous, path)
        if failure.errno in FULL:
            raise SaveError(_missing_room(path.parent, len(data), path.name)) from None
        reason = f"{path} was not written ({failure.strerror})"
        raise SaveError(f"{reason}; the old file, if any, is as it was") from None
    except BaseException:  # Ctrl-C is not an Exception
        remove(temporary)
        raise


def _temporary_beside(path: Path) -> tuple[int, str]:
    """A new file in the same folder, open. Only within one disk is a move a single step."""
    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")


def replace(old: str | Path, new: Path) -> None:
    """Move a file onto another in one step; on Windows, wait up to 1.5 seconds while it is open."""
    _patiently(os.replace, old, new)


def remove(path: str | Path) -> None:
    """Delete a file, if there is one; on Windows, wait up to 1.5 seconds while it is open."""
    with suppress(FileNotFoundError):
        _patiently(os.unlink, path)


def _patiently(action: Callable, *paths: str | Path) -> None:
    for attempt in range(TRIES):
        try:
            return action(*paths)
        except PermissionError:
            if attempt + 1 == TRIES:
                raise
            time.sleep(0.05 * 2**attempt)


def check_folder(folder: Path, needed: int) -> None:
    """SaveError unless the folder can be written and has room for `needed` bytes.

    To be called before long work, so that a full disk is found now and not at the end.
    """
    write_atomically(folder / ".room", b"\n")
    remove(folder / ".room")
    if shutil.disk_usage(folder).free < needed:
        raise SaveError(_missing_room(folder, needed, "what this run writes"))


def _missing_room(folder: Path, needed: int, what: str) -> str:
    free = shutil.disk_usage(folder).free
    missing = "a quota or limit allows no more"
    if needed > free:
        missing = f"{(needed - free) / 1e6:.0f} MB are missing"
    return (
        f"no room for {what} in {folder}: it needs {needed / 1e6:.1f} MB, "
        f"{free / 1e6:.1f} MB are free, {missing}. "
        "Free some space and go on; nothing that was saved is lost"
    )


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced; a temporary file would be its owner's alone."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        return 0o644


def sweep(path: Path) -> None:
    """Remove the temporary files of killed processes, but none that another process is writing."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
        except (FileNotFoundError, PermissionError):  # another process was quicker, or has it open
            pass


def write_json(path: str | Path, value: object) -> None:
    """Write plain data as JSON, one value a line, as `write_atomically` does."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())
