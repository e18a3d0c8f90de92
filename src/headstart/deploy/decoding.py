"""How a predictor decodes: in its own threads, or in child processes where strangers' bytes do no harm."""

from __future__ import annotations

import threading

from headstart.data import Colours, DecodingChildren, Limits
from headstart.data.children import CrashError
from headstart.data.facts import NOTHING
from headstart.data.images import Decoded, decode_with_size
from headstart.data.verdicts import Known, Verdicts
from headstart.deploy.pictures import Item
from headstart.errors import DataError
from headstart.storage import sha256_bytes

# A child takes as long to start as it does for some 120 pictures of 500 x 400.
_PICTURES_BEFORE_ANOTHER = 128

# Pixels that are in memory already are limited by their number, not by the bytes we wrap them in.
_IN_MEMORY = Limits(file_bytes=2**40)


class Decoder:
    """Decodes pictures for the networks that want them with one short side, on one background.

    `apart`: in child processes, at most `count`, which are started when they are first needed and stay
    until `close`. A file whose bytes an audit found good under the same rules is decoded here all the
    same, and one that was found bad not again. What is found bad now is recorded; what is good is not: the
    facts that the record holds take 0.3 ms to measure, and a service would fill the disk. Of bytes that
    never were a file nothing is looked up or recorded. What came as pixels is never sent to a child:
    nobody's file is read. Safe to use from many threads.
    """

    def __init__(self, short_side: int, colours: Colours, *, count: int) -> None:
        self.short_side, self.colours, self.count = short_side, colours, count
        self.limits = Limits()
        self._lock = threading.Lock()
        self._children: DecodingChildren | None = None
        self._verdicts: Verdicts | None = None

    def __call__(self, item: Item, data: bytes, *, apart: bool) -> Decoded:
        """Decode the bytes that `item` gave; raises `DataError`, `StorageError` where no child can start."""
        if item.origin == "pixels":
            return self._here(data, _IN_MEMORY)
        if not apart:
            return self._here(data, self.limits)
        if item.origin == "bytes":
            return self._pool().decode(data)
        return self._file(data)

    def _here(self, data: bytes, limits: Limits) -> Decoded:
        return decode_with_size(data, short_side=self.short_side, limits=limits, colours=self.colours)

    def _file(self, data: bytes) -> Decoded:
        verdicts, sha256 = self._record(), sha256_bytes(data)
        known = verdicts.find(sha256)
        if known is not None and known.code:
            raise DataError(known.message, code=known.code)
        if known is not None:
            return self._here(data, self.limits)
        try:
            return self._pool().decode(data)
        except DataError as error:
            if not isinstance(error, CrashError) or error.lasting:
                verdicts.add(sha256, Known(error.code, error.message, NOTHING))
            raise

    def _pool(self) -> DecodingChildren:
        with self._lock:
            if self._children is None:
                self._children = DecodingChildren(
                    short_side=self.short_side,
                    limits=self.limits,
                    colours=self.colours,
                    count=self.count,
                    pictures_before_another=_PICTURES_BEFORE_ANOTHER,
                )
            return self._children

    def _record(self) -> Verdicts:
        with self._lock:
            if self._verdicts is None:
                self._verdicts = Verdicts.open(
                    short_side=self.short_side, limits=self.limits, colours=self.colours
                )
            return self._verdicts

    def write(self) -> None:
        """Write down what was found bad."""
        with self._lock:
            verdicts = self._verdicts
        if verdicts is not None:
            verdicts.write()

    def close(self) -> None:
        """End the children and close the record; both are opened again where they are needed again."""
        with self._lock:
            children, self._children = self._children, None
            verdicts, self._verdicts = self._verdicts, None
        if children is not None:
            children.close()
        if verdicts is not None:
            verdicts.close()
