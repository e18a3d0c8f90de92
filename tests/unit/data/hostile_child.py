"""A decoding child whose decoder has the faults of real ones: certain pixels make it crash or hang.

Started in place of the real child by the tests of `children` and of the audit. The first pixel of a
picture is the spell; everything else is decoded as ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.decoding_child import serve
from headstart.data.images import Decoded, decode_with_size

CRASH, SLEEP, STOP, SPIN, NONSENSE, GREED, FAULT, ONCE, LAST = range(1, 10)


def spelled(data: bytes, **options: Any) -> Decoded:
    decoded = decode_with_size(data, **options)
    first = decoded.pixels[0, 0].tolist()
    match first[0] if first[1:] == [77, 78] else 0:
        case 1:
            ctypes.string_at(0)
        case 2:
            time.sleep(60)
        case 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        case 4:
            while True:
                pass
        case 5:
            return Decoded(decoded.pixels, (-1, 10**9), "../../etc/passwd")
        case 6:
            np.ones(2**33, np.uint8)
        case 7:
            raise KeyError("a fault of the decoder's own")
        case 8:
            marker = Path(os.environ["HOSTILE_MARKER"])
            if not marker.exists():
                # Files cannot be written here, so the parent's test makes it: by a folder.
                marker.mkdir()
                ctypes.string_at(0)
        case 9:
            print("what a library prints must not reach the parent", flush=True)
            os.write(2, b"noise" * 100_000)
        case _:
            pass
    return decoded


if __name__ == "__main__":
    sys.exit(serve(spelled))
