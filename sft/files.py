"""Files, read and written so that nothing breaks: only plain files are opened; a write is whole, or did not happen."""

import errno
import glob
import hashlib
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota used up, larger than a file may be
STALE_SECONDS = 600  # a temporary file that nobody has written to for so long belongs to no living process
TRIES = 6  # to replace a file that another program, such as a virus scanner on Windows, holds open for a moment


class SaveError(OSError):
    """A file that could not be written; the message says why and what to do. The old file is as it was."""


def open_plain(path: Path, largest: int, error: type[ValueError], remedy: str) -> BinaryIO:
    """A regular file of 1 to `largest` bytes, open for reading; otherwise `error` with one sentence."""
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


def write_atomically(path: str | Path, data: bytes | memoryview, previous: Path | None = None) -> None:
    """Replace the file in one move, or leave it as it was; SaveError says what kept it from being written.

    The bytes go into a temporary file in the same folder first. Whatever happens in between, be it an exception, a
    killed process or a full disk, the old file stays; in the end it becomes `previous`, if that is given. Temporary
    files of killed processes are removed.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as failure:
        raise SaveError(f"cannot write into {path.parent} ({failure.strerror}); name another folder") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))
        if previous is not None:
            with suppress(FileNotFoundError):  # the first one, or another process is just replacing it
                replace(path, previous)
        replace(temporary, path)
    except OSError as failure:
        Path(temporary).unlink(missing_ok=True)
        if previous is not None and not path.exists() and previous.exists():
            replace(previous, path)
        if failure.errno in FULL:
            raise SaveError(_missing_room(path.parent, len(data), path.name)) from None
        raise SaveError(f"{path} was not written ({failure.strerror}); the old file, if any, is as it was") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def replace(old: str | Path, new: Path) -> None:
    """Move a file onto another in one step; waits up to 1.5 seconds for whoever holds it open on Windows."""
    for attempt in range(TRIES):
        try:
            return os.replace(old, new)
        except PermissionError:
            if attempt + 1 == TRIES:
                raise
            time.sleep(0.05 * 2**attempt)


def check_folder(folder: Path, needed: int) -> None:
    """SaveError unless files can be written into the folder, and so many bytes fit: to be asked before long work."""
    write_atomically(folder / ".room", b"\n")
    (folder / ".room").unlink(missing_ok=True)
    if shutil.disk_usage(folder).free < needed:
        raise SaveError(_missing_room(folder, needed, "what this run writes"))


def _missing_room(folder: Path, needed: int, what: str) -> str:
    free = shutil.disk_usage(folder).free
    missing = f"{(needed - free) / 1e6:.0f} MB are missing" if needed > free else "a quota or limit allows no more"
    return (
        f"no room for {what} in {folder}: it needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free, {missing}. "
        "Free some space and go on; nothing that was saved is lost"
    )


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        return 0o644


def sweep(path: Path) -> None:
    """Remove what killed processes have left of this file; not what another process is writing now."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
        except FileNotFoundError:
            pass
