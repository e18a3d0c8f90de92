"""Requests that are none, each another one, and what comes back."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from tests.unit.deploy.service.conftest import file_of
from tests.unit.deploy.service.running import BOUNDARY, Running, multipart

MULTIPART_HEAD = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n".encode()
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def status_of(answer: bytes) -> int | None:
    """The status of an answer, None where the connection was just closed."""
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(found[1]) if found else None


def alive(service: Running) -> bool:
    """Whether a good picture is still judged."""
    return service.predict(file_of(1)).status == 200


def malformed(random: np.random.Generator, count: int) -> Iterator[bytes]:
    """Yield requests that are damaged somewhere: in their line, their head, their parts or their JSON."""
    body, _ = multipart(b"no picture", b"nor this")
    whole = b"POST /predict HTTP/1.1\r\nHost: x\r\n" + MULTIPART_HEAD
    bodies = {
        MULTIPART_HEAD: body,
        b"Content-Type: application/json\r\n": b'{"pictures": [{"name": "a", "data": "bm8="}, "bm8="]}',
    }
    for number in range(count):
        kind = number % 5
        head, content = list(bodies.items())[number % 2]
        if kind == 0:  # not even HTTP
            yield [random.bytes(int(random.integers(1, 400))) + b"\r\n\r\n", HTTP2 + random.bytes(30)][
                number % 2
            ]
            continue
        if kind == 1:  # a damaged head
            data = bytearray(whole + b"Content-Length: 5\r\n\r\nhello")
            for place in random.integers(0, len(whole), int(random.integers(1, 6))).tolist():
                data[place] = int(random.integers(0, 256))
            yield bytes(data)
            continue
        if kind == 2:  # a body that is cut, and says so
            content = content[: int(random.integers(0, len(content) - 3))]
        elif kind == 3:  # damaged bytes in a body
            changed = bytearray(content)
            for place in random.integers(0, len(changed), int(random.integers(1, 9))).tolist():
                changed[place] = int(random.integers(0, 256))
            content = bytes(changed)
        else:  # less than it says
            head += b"X-Rest: never\r\n"
        length = len(content) + (5 if kind == 4 else 0)
        yield (
            b"POST /predict HTTP/1.1\r\nHost: x\r\n" + head + b"Content-Length: %d\r\n\r\n" % length + content
        )
