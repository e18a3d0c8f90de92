"""Files that lie elsewhere (s3://, gs://, memory://, https://): listed and read through fsspec."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from headstart.data.samples import shown
from headstart.errors import DataError, InputMissingError, StorageError, UsageError


def is_remote(place: str) -> bool:
    """Tell whether a place is a URL; a path on disk never has two slashes after a colon here."""
    return "://" in place


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, which fsspec keeps, and the path within it."""
    from fsspec.core import url_to_fs

    protocol = url.split("://", 1)[0]
    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        raise UsageError(
            f"{shown(protocol)}:// needs a package that is not installed: {error}",
            'install it with: pip install "headstart[remote]"',
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{shown(protocol)}:// is not known: {shown(str(error))}", "use s3://, gs:// or https://"
        ) from error
    return files, str(path)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what a store raises into our errors; each has its own kinds beside those of the system."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputMissingError(f"there is no {shown(url)}", "look for a slip in the URL") from error
    except PermissionError as error:
        raise InputMissingError(
            f"{shown(url)} may not be read", "set the credentials that the store asks for"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise StorageError(f"{shown(url)} cannot be read: {shown(what)}", "try again later") from error


def read_remote(url: str, offset: int = 0, length: int | None = None, *, most: int | None = None) -> bytes:
    """Return the bytes of a remote file, or `length` of them from `offset` on.

    Raises `InputMissingError` when it is not there or closed to us, `StorageError` when the store fails,
    and `DataError` TOO_MANY_BYTES for a whole file of more than `most` bytes.
    """
    with _explained(url):
        files, path = _opened(url)
        if length is None and most is not None and int(files.info(path)["size"] or 0) > most:
            raise DataError(f"{shown(url)} has more than {most:,} bytes", code="TOO_MANY_BYTES")
        end = None if length is None else offset + length
        data: bytes = files.cat_file(path, start=offset, end=end)
        return data


@contextmanager
def open_remote(url: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a remote file for reading; gives the stream and its size in bytes."""
    with _explained(url):
        files, path = _opened(url)
        size = int(files.info(path)["size"])
        with files.open(path, "rb") as stream:
            yield stream, size


def list_remote(url: str) -> dict[str, int]:
    """Return the files below a remote folder: their paths relative to it and their sizes, sorted."""
    with _explained(url):
        files, path = _opened(url)
        found = files.find(path, detail=True)
        return {posixpath.relpath(name, path): int(found[name]["size"] or 0) for name in sorted(found)}


def glob_remote(url: str) -> list[str]:
    """Return the URLs that a remote pattern matches, sorted."""
    with _explained(url):
        files, path = _opened(url)
        return sorted(str(files.unstrip_protocol(name)) for name in files.glob(path))


def is_remote_folder(url: str) -> bool:
    """Tell whether a URL is a folder of a store."""
    with _explained(url):
        files, path = _opened(url)
        return bool(files.isdir(path))
