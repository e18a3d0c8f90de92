"""Fingerprints: what stays the same of a picture that was encoded anew, made smaller, cropped or mirrored.

The first part of a fingerprint holds the signs of a picture's 255 lowest cosine coefficients (the
perceptual hash of Zauner 2010, with the sign in place of the median). Mirroring negates exactly the
coefficients of odd frequency across, so the mirrored picture is found by one exclusive or. The second
part holds the picture's mean colours in 8 x 8 fields, against which candidates are checked: the signs
of drawings and of digits repeat by chance where their colours do not.

Pairs are found without comparing all with all, by multi-index hashing (Norouzi, Punjani & Fleet 2012):
two signs that differ little agree wholly in one of several bands of bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from headstart.data.grouping import Groups, Joined
from headstart.types import Pixels

# Measured on 300 flowers and 300 cats and dogs at a short side of 256 (q60, half size, one pixel cut from
# each side, mirrored, and all of these together): copies differ in at most 23 of the 255 signs, strangers
# in at least 82; series of one subject lie between, from 21 on.
MOST_SIGNS = 32
# The squared difference of the colours over the product of their deviations. Of the same copies all are
# below 0.013. Of 1,797 handwritten digits a half agree in their signs with another one, none in this.
MOST_COLOUR = 0.03

_SIDE = 32
_LOW = 16
_FIELDS = 8
_SIGN_BYTES = _LOW * _LOW // 8
_BAND_BITS = 16
# Two cuttings of the 256 bits into 16 bands: one misses 0.3 % of the pairs that differ in 23 bits.
_CUTTINGS = 2
# Of more rows than these that share a band, one of each group stands for all, and each is compared with
# so many: pictures that are nearly alike by the thousand would otherwise make the square of it.
_MOST_IN_BUCKET = 256
_PAIRS_AT_ONCE = 2**20

_ODD_ACROSS = np.packbits(np.tile(np.arange(_LOW) % 2 == 1, (_LOW, 1)).reshape(-1)).view(np.uint64)
_SET_BITS = np.array([number.bit_count() for number in range(2**16)], np.uint8)


def fingerprint(pixels: Pixels) -> bytes:
    """Return the fingerprint of a picture (height, width, 3 or 1), 416 bytes; grey is the same in both.

    It hardly depends on the size at which the picture is held, as long as that is 96 pixels or more;
    of smaller ones, those that were cropped are not recognised.
    """
    import cv2

    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32))[:_LOW, :_LOW]
    signs = waves > 0
    signs[0, 0] = False  # the mean brightness, which is never negative
    step = _SIDE // _FIELDS
    fields = small.reshape(_FIELDS, step, _FIELDS, step, 3).mean((1, 3), dtype=np.float32)
    return bytes(np.packbits(signs).tobytes() + fields.astype("<f2").tobytes())


def near_groups(fingerprints: Sequence[bytes]) -> Groups:
    """Return the group of each row, int64 (N,): equal where a chain of near fingerprints joins two rows.

    Each group's number is that of its first row; an empty fingerprint is like no other. Pairs that differ
    in up to 15 signs are always found, those that differ in more nearly always. The order of the rows
    makes no difference, unless more than 256 of them share a band.
    """
    rows = np.flatnonzero([len(each) > 0 for each in fingerprints]).astype(np.int64)
    if len(rows) < 2:
        return np.arange(len(fingerprints), dtype=np.int64)
    table = np.frombuffer(b"".join(fingerprints[row] for row in rows.tolist()), np.uint8)
    table = table.reshape(len(rows), -1)
    signs = np.ascontiguousarray(table[:, :_SIGN_BYTES]).view(np.uint64)
    colours = np.ascontiguousarray(table[:, _SIGN_BYTES:]).view("<f2").reshape(-1, _FIELDS, _FIELDS, 3)
    joined = Joined(len(rows))
    for mirrored in (False, True):
        both = np.concatenate([signs, signs ^ _ODD_ACROSS]) if mirrored else signs
        for keys in _bands(both):
            # Neighbours first: where thousands are alike, they leave next to nothing to compare.
            for pairs in (_neighbours(keys), *_sharing(keys, np.tile(joined.groups, 1 + mirrored))):
                new = _unjoined(pairs, joined.groups, mirrored=mirrored)
                near = new[_signs_agree(signs, new, _ODD_ACROSS if mirrored else None)]
                joined.join(near[_colours_agree(colours, near, mirrored=mirrored)])
    groups = np.arange(len(fingerprints), dtype=np.int64)
    groups[rows] = rows[joined.groups]
    return groups


def _bands(signs: NDArray[np.uint64]) -> Iterator[NDArray[np.uint16]]:
    """Yield 16 bits of each row's signs at a time, (rows,)."""
    bits = np.unpackbits(signs.view(np.uint8), axis=1)
    for cutting in range(_CUTTINGS):
        # A bit generator's raw stream is fixed by NumPy's promise; `permutation` is not.
        order = np.argsort(np.random.Philox(key=cutting).random_raw(bits.shape[1]), kind="stable")
        keys = np.ascontiguousarray(np.packbits(bits[:, order], axis=1)).view(np.uint16)
        yield from keys.T


def _neighbours(keys: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The pairs of rows that have the same key and are next to each other among those that have."""
    order = np.argsort(keys, kind="stable")
    same = keys[order[:-1]] == keys[order[1:]]
    return np.stack([order[:-1][same], order[1:][same]], axis=1).astype(np.int64)


def _sharing(keys: NDArray[np.uint16], groups: Groups) -> Iterator[NDArray[np.int64]]:
    """Yield the pairs (lower, higher) of rows that have the same key.

    Where very many have it, one of each group stands for all, and each is paired with so many others.
    """
    order = np.argsort(keys, kind="stable").astype(np.int64)
    if len(order) > _MOST_IN_BUCKET:
        order = _thinned(order, keys, groups)
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(starts, append=len(ordered))
    ends = np.repeat(starts + lengths, lengths)
    here = np.arange(len(ordered))
    reach = np.minimum(ends - here - 1, _MOST_IN_BUCKET)
    while len(here):
        # As many rows at a time as together make no more pairs than fit.
        most = max(1, int(np.searchsorted(np.cumsum(reach), _PAIRS_AT_ONCE)))
        part, each = here[:most], reach[:most]
        first = np.repeat(part, each)
        steps = np.arange(len(first)) - np.repeat(np.cumsum(each) - each, each) + 1
        yield np.stack([order[first], order[first + steps]], axis=1)
        here, reach = here[most:], reach[most:]


def _thinned(order: NDArray[np.int64], keys: NDArray[np.uint16], groups: Groups) -> NDArray[np.int64]:
    """The rows in order of their keys; where a key has very many, only the first of each group."""
    crowded = (np.bincount(keys, minlength=2**16) > _MOST_IN_BUCKET)[keys[order]]
    if not crowded.any():
        return order
    rows = order[crowded]
    _, first = np.unique(keys[rows].astype(np.int64) * len(keys) + groups[rows], return_index=True)
    kept = np.concatenate([order[~crowded], rows[first]])
    return np.asarray(kept[np.argsort(keys[kept], kind="stable")], np.int64)


def _unjoined(pairs: NDArray[np.int64], groups: Groups, *, mirrored: bool) -> NDArray[np.int64]:
    """Those pairs that are not in one group yet; of a picture and a mirrored one, where that is asked."""
    if mirrored:  # the rows from `count` on are mirrored
        count = len(groups)
        pairs = pairs[(pairs[:, 0] < count) != (pairs[:, 1] < count)] % count
    return np.asarray(pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]], np.int64)


def _signs_agree(
    signs: NDArray[np.uint64], pairs: NDArray[np.int64], mask: NDArray[np.uint64] | None
) -> NDArray[np.bool_]:
    other = signs[pairs[:, 1]]
    differing = signs[pairs[:, 0]] ^ (other if mask is None else other ^ mask)
    return np.asarray(_SET_BITS[differing.view(np.uint16)].sum(1, dtype=np.int64) <= MOST_SIGNS)


def _colours_agree(
    colours: NDArray[np.float16], pairs: NDArray[np.int64], *, mirrored: bool
) -> NDArray[np.bool_]:
    pairs_at_once = 2**12
    agree = [np.zeros(0, np.bool_)]
    for start in range(0, len(pairs), pairs_at_once):
        part = pairs[start : start + pairs_at_once]
        one, other = (colours[part[:, side]].astype(np.float32) for side in (0, 1))
        if mirrored:
            other = other[:, :, ::-1]
        spread = _deviation(one) * _deviation(other)
        agree.append(((one - other) ** 2).sum((1, 2, 3)) <= MOST_COLOUR * spread)
    return np.concatenate(agree)


def _deviation(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of the fields' deviation from their mean colour, (pairs,)."""
    centred = colours - colours.mean((1, 2), keepdims=True)
    return np.asarray(np.sqrt((centred**2).sum((1, 2, 3))))
