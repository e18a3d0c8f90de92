"""Request bodies: read within limits, held in memory alone, and taken apart into pictures.

Three forms: multipart (one part for each picture), JSON with base64, and the bare bytes of one picture. What
a client calls the type of a picture is not looked at: its bytes decide. Nothing is written to a disk, and
nothing that a client names is opened or fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from headstart.deploy.service.problems import RefusedError
from headstart.deploy.service.settings import Settings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_NAME = 200
# Parsing more than this at once would keep others waiting for more than about a millisecond.
_AT_ONCE = 2**18
_FORMS = "send multipart/form-data, application/json, or the bytes of one picture as image/…"


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that was sent: what it was called ("" where nothing), and its bytes."""

    name: str
    data: bytes


class Held:
    """How many bytes of bodies are in memory, of all requests together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes so many bytes more; all are given back at the end.

        That function raises `RefusedError` where there would be too many.
        """
        own = 0

        def take(count: int) -> None:
            nonlocal own
            if self.bytes + count > self.limit:
                raise RefusedError(
                    503, "BUSY", "too much is being sent at once", "try again later", retry_after=1
                )
            own += count
            self.bytes += count

        try:
            yield take
        finally:
            self.bytes -= own


async def read_pictures(request: Request, settings: Settings, take: Callable[[int], None]) -> list[Upload]:
    """Return the pictures of a request, at least one.

    `take`: of `Held.share`. Raises `RefusedError` for a body that is too long, too slow, or not as it
    must be.
    """
    _check_head(request, settings)
    kind, options = parse_options_header(request.headers.get("content-type"))
    chunks = _chunks(request, settings, take)
    if kind == b"multipart/form-data":
        found = await _multipart(chunks, options.get(b"boundary", b""), settings)
    elif kind == b"application/json":
        data = await _whole(chunks)
        found = await _in_thread_if_long(_from_json, data, settings)
    elif kind.startswith(b"image/") or kind == b"application/octet-stream":
        found = [Upload("", await _whole(chunks))]
        if not found[0].data:
            raise _nothing()
    else:
        raise RefusedError(415, "UNSUPPORTED_BODY", "bodies of this type are not read", _FORMS)
    if not found:
        raise _nothing()
    return found


def _nothing() -> RefusedError:
    return RefusedError(400, "NO_PICTURE", "there is no picture in the request", _FORMS)


def _check_head(request: Request, settings: Settings) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "ENCODED_BODY", "compressed bodies are not read", "send the body as it is")
    length = request.headers.get("content-length")
    if length is not None and int(length) > settings.body_bytes:  # that it is a number, the parser has seen
        raise _too_long(settings)


def _too_long(settings: Settings) -> RefusedError:
    return RefusedError(
        413,
        "BODY_TOO_LARGE",
        f"the request is larger than {settings.body_bytes / 2**20:.3g} MB",
        "send fewer or smaller pictures at once",
    )


async def _chunks(request: Request, settings: Settings, take: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Yield the body as it comes, never more of it than is allowed."""
    clock = asyncio.get_running_loop().time
    deadline, received = clock() + settings.body_seconds, 0
    body = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(deadline + received / settings.body_rate):
                chunk = await anext(body, None)
        except TimeoutError as error:
            raise RefusedError(
                408, "TOO_SLOW", "the request did not arrive in time", "send smaller pictures"
            ) from error
        if chunk is None:
            return
        received += len(chunk)
        if received > settings.body_bytes:
            raise _too_long(settings)
        take(len(chunk))
        yield chunk


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _in_thread_if_long(
    parse: Callable[[bytes, Settings], list[Upload]], data: bytes, settings: Settings
) -> list[Upload]:
    if len(data) <= _AT_ONCE:
        return parse(data, settings)
    return await asyncio.to_thread(parse, data, settings)


# ---- multipart -----------------------------------------------------------------------------------


async def _multipart(chunks: AsyncIterator[bytes], boundary: bytes, settings: Settings) -> list[Upload]:
    if not boundary:
        raise _bad_multipart("it names no boundary")
    parts = _Parts(settings)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise _bad_multipart("it is not well formed") from error
    if not parts.ended:
        raise _bad_multipart("it is cut short")
    return parts.found


def _bad_multipart(why: str) -> RefusedError:
    return RefusedError(400, "BAD_MULTIPART", f"the multipart body cannot be read: {why}", _FORMS)


class _Parts:
    """Gathers the parts of a multipart body as the parser tells of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.found: list[Upload] = []
        self.ended = False
        self._field, self._value = b"", b""
        self._name: str | None = None
        self._data = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        """Return what the parser is to call."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.found) >= self.settings.pictures:
            raise too_many(self.settings)
        self._field, self._value, self._name = b"", b"", None
        self._data = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            if b"filename" in options:
                self._name = options[b"filename"].decode("utf-8", errors="replace")
        self._field, self._value = b"", b""

    def _headers_finished(self) -> None:
        if self._name is None:
            raise RefusedError(
                422,
                "UNKNOWN_FIELD",
                "a part of the multipart body is no file",
                "send files alone; options go into the address, and addresses of pictures are not fetched",
            )

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]

    def _part_end(self) -> None:
        self.found.append(Upload(_tidy(self._name or ""), bytes(self._data)))
        self._data = bytearray()

    def _end(self) -> None:
        self.ended = True


def too_many(settings: Settings) -> RefusedError:
    """Return the problem of a request with more pictures than are allowed."""
    return RefusedError(
        413,
        "TOO_MANY_PICTURES",
        f"the request holds more than {settings.pictures} pictures",
        "send them in several requests",
    )


def _tidy(name: str) -> str:
    """Return a file's name without its folders and without what no screen shows."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "�" for c in last)[:_MAX_NAME]


# ---- JSON ----------------------------------------------------------------------------------------


def _from_json(data: bytes, settings: Settings) -> list[Upload]:
    """Read {"pictures": [{"name": "a.jpg", "data": "<base64>"}, "<base64>", …]}."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "BAD_JSON", "the body is not JSON", _FORMS) from error
    if not isinstance(said, dict) or set(said) != {"pictures"} or not isinstance(said["pictures"], list):
        raise _bad_field("the body is not an object with the one field pictures, a list")
    if len(said["pictures"]) > settings.pictures:
        raise too_many(settings)
    return [_entry(entry, number) for number, entry in enumerate(said["pictures"])]


def _entry(entry: Any, number: int) -> Upload:
    if isinstance(entry, str):
        entry = {"data": entry}
    if not isinstance(entry, dict) or not {"data"} <= set(entry) <= {"data", "name"}:
        raise _bad_field(f"pictures[{number}] does not have the fields data and, perhaps, name")
    name, text = entry.get("name", ""), entry["data"]
    if not isinstance(name, str) or not isinstance(text, str):
        raise _bad_field(f"pictures[{number}] does not consist of texts")
    try:
        return Upload(_tidy(name), base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise _bad_field(f"pictures[{number}].data is not base64") from error


def _bad_field(message: str) -> RefusedError:
    return RefusedError(
        422, "BAD_FIELD", message, 'send {"pictures": [{"name": "a.jpg", "data": "…base64…"}]}; no addresses'
    )
