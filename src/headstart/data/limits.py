"""How large a picture may be before it is refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused before any decoder sees it.

    `pixels`: the largest height x width; a file of a few hundred kB can hold 400 million pixels.
    `file_bytes`: the largest file.
    """

    pixels: int = 64_000_000
    file_bytes: int = 100_000_000
