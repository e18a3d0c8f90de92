"""What a picture may cost before it is refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may cost.

    `pixels`: the largest height x width; a file of a few hundred kB can hold 400 million pixels.
    `file_bytes`: the largest file. Both are looked at before any decoder sees the picture.
    `decode_seconds`, `decode_bytes`: the longest time, in seconds of the clock, and the most memory
    beyond its own start that the audit's child may take to decode one picture.
    """

    pixels: int = 64_000_000
    file_bytes: int = 100_000_000
    decode_seconds: float = 5.0
    decode_bytes: int = 2 * 2**30
