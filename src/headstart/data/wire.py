"""Messages over a pipe: a length, a header in JSON, then bytes. No object ever travels."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from io import FileIO
from typing import Any

_LENGTH = struct.Struct(">I")
_MAX_HEADER = 64 * 2**10


def send(pipe: FileIO, header: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write one message; raises `OSError` where the other side is gone."""
    text = json.dumps(header).encode("ascii")
    for part in (_LENGTH.pack(len(text)) + text, payload):
        rest = memoryview(part)
        while rest:
            rest = rest[pipe.write(rest) :]


def receive(pipe: FileIO) -> dict[str, Any]:
    """Read a message's header; what follows it is read by `fill`.

    Raises `EOFError` where the other side is gone, and `ValueError` for what is no header.
    """
    (length,) = _LENGTH.unpack(fill(pipe, bytearray(_LENGTH.size)))
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(fill(pipe, bytearray(length)))
    if not isinstance(header, dict):
        raise ValueError("a header that is no table")
    return header


def fill(pipe: FileIO, buffer: bytearray) -> bytearray:
    """Read until `buffer` is full, and return it; raises `EOFError` where the other side is gone."""
    fill_view(pipe, memoryview(buffer))
    return buffer


def fill_view(pipe: FileIO, view: memoryview) -> None:
    """Read until `view`, of bytes, is full; raises `EOFError` where the other side is gone."""
    while view:
        count = pipe.readinto(view)
        if not count:
            raise EOFError
        view = view[count:]
