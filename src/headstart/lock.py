"""One process at a time writes to a folder."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

from headstart.environment import process_started
from headstart.errors import OutputError

NAME = "run.lock"
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.ENOSYS)


class Lock:
    """Holds a folder for this process; use it as a context.

    The system itself lets go of it when the process ends, however that happens, so no lock is ever
    stale. Where a file system has no such locks, the number and the start of the process that the file
    names say whether it still runs: a number may be in use again. Raises `OutputError` on entering
    where another process holds it, and names that process.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._handle: int | None = None

    def __enter__(self) -> Lock:
        while self._handle is None:
            handle = self._open()
            if not self._take(handle):
                os.close(handle)
                raise _in_use(self.path)
            # Whoever held it may have removed it since it was opened here.
            if _same_file(handle, self.path):
                self._handle = handle
            else:
                os.close(handle)
        text = json.dumps({"pid": os.getpid(), "started": process_started(os.getpid())})
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text.encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(
                f"the folder {self.path.parent} cannot be written: {error.strerror}",
                "choose a folder that you can write to",
            ) from error

    def _take(self, handle: int) -> bool:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    return False
        owner = _owner(self.path)
        return owner is None or owner[0] == os.getpid() or process_started(owner[0]) != owner[1]


def refuse_used(folder: Path) -> None:
    """Raise `OutputError` where a running process holds the folder, before anything else is done."""
    owner = _owner(folder / NAME)
    if owner is not None and owner[0] != os.getpid() and process_started(owner[0]) == owner[1]:
        raise _in_use(folder / NAME)


def _in_use(path: Path) -> OutputError:
    owner = _owner(path)
    who = f"process {owner[0]}" if owner else "another process"
    return OutputError(f"{path.parent} is in use by {who}", "wait for it, or choose another folder")


def _owner(path: Path) -> tuple[int, float | None] | None:
    """Return the number and the start of the process that a lock names, None where it names none."""
    try:
        said = json.loads(path.read_text("ascii"))
        return int(said["pid"]), said["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _same_file(handle: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) if os.name == "posix" else True
