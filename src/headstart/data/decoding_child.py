"""The process in which strangers' bytes are decoded: what goes wrong there goes wrong alone.

Started by `children`, with its settings as JSON in its one argument. It reads one picture after another
from stdin and answers on stdout, until stdin ends.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

from headstart.data import wire
from headstart.data.colours import Colours
from headstart.data.images import Decoded, decode_with_size
from headstart.data.limits import Limits
from headstart.errors import DataError

Read = Callable[..., Decoded]


def serve(read: Read = decode_with_size) -> None:
    """Answer requests until there are no more; `read` decodes, as `decode_with_size` does."""
    # A Ctrl-C in the terminal reaches the whole group: it is the parent that decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.argv[1])
    limits = Limits(**settings["limits"])
    background = tuple(settings["colours"]["background"])
    options = {
        "short_side": settings["short_side"],
        "limits": limits,
        "colours": Colours(background, settings["colours"]["channels"]),
    }
    requests, answers = _own_channels()
    _limit(limits)
    wire.send(answers, {"ready": True})
    while True:
        try:
            data = bytes(wire.fill(requests, bytearray(int(wire.receive(requests)["bytes"]))))
        except EOFError:
            return
        _set_alarm(limits.decode_seconds)
        header, pixels = _answer(read, data, options)
        _set_alarm(0)
        wire.send(answers, header, pixels)


def _answer(read: Read, data: bytes, options: dict[str, Any]) -> tuple[dict[str, Any], memoryview | bytes]:
    try:
        decoded = read(data, **options)
    except DataError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}, b""
    except MemoryError:
        return {"code": "TOO_MANY_PIXELS", "message": "decoding it needs too much memory", "hint": ""}, b""
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return {"code": "DECODER_CRASH", "message": f"the decoder failed: {text}", "hint": ""}, b""
    header = {
        "shape": list(decoded.pixels.shape),
        "size": list(decoded.size),
        "format": decoded.format,
        "mode": decoded.mode,
        "orientation": decoded.orientation,
    }
    return header, decoded.pixels.data.cast("B")


def _own_channels() -> tuple[FileIO, FileIO]:
    """Take stdin and stdout for the messages; what a C library prints goes nowhere."""
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return FileIO(requests, "rb"), FileIO(answers, "wb")


def _limit(limits: Limits) -> None:
    """Set what the system lets us limit: memory, and neither core dumps nor files from here."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        # Data, not address space: decoders that start threads reserve gigabytes which they never touch.
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
        wanted = pages * resource.getpagesize() + limits.decode_bytes
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def _set_alarm(seconds: float) -> None:
    """Let the system end this process at the latest a little after `seconds`; 0: no more.

    The parent looks at the clock too; but a parent that was killed cannot, and a decoder that hangs
    would go on for ever.
    """
    if sys.platform != "win32":
        signal.alarm(math.ceil(seconds) + 1 if seconds else 0)


if __name__ == "__main__":
    serve()
