"""Labels from names, from a function or from lists become samples."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.data.classes import Labels, encode_labels, encode_tag_lists, no_labels
from headstart.data.remote import is_remote
from headstart.data.rows import Rules, rows_of, samples_from_rows
from headstart.data.samples import Samples, shown
from headstart.data.scan import list_pictures
from headstart.errors import DataError, UsageError

Label = str | int | None
LabelFunction = Callable[[Path], "Label | Sequence[str]"]


def from_lists(
    paths: Sequence[str | os.PathLike[str]],
    labels: Sequence[Label | Sequence[str]] | None = None,
    *,
    root: str | os.PathLike[str] = ".",
    split: Sequence[str] | None = None,
    group: Sequence[object] | None = None,
    classes: Sequence[str] | None = None,
    rules: Rules | None = None,
) -> Samples:
    """Make samples from lists of one length; the paths are relative to `root`.

    A label is a name (a whole number becomes its digits), a list of names for tags, or None where it is
    unknown. Without `labels` all are unknown. Rows are numbered from 0 in messages. Raises `UsageError`
    for lists that differ in length, and what `samples_from_rows` raises.
    """
    place = os.fspath(root)
    pictures = [os.fspath(path) for path in paths]
    encoded = no_labels(len(pictures)) if labels is None else _encoded(labels, classes)
    rows = rows_of(
        pictures,
        encoded,
        split=None if split is None else [str(part or "") for part in split],
        group=None if group is None else ["" if name is None else str(name) for name in group],
    )
    where = place.rstrip("/") if is_remote(place) else Path(place).expanduser().absolute()
    return samples_from_rows(where, rows, rules or Rules())


def from_function(
    path: str | os.PathLike[str],
    label: LabelFunction,
    *,
    classes: Sequence[str] | None = None,
    rules: Rules | None = None,
) -> Samples:
    """List a folder and all below it; `label` is called with each picture's path and returns its label.

    The path is relative to the folder. What `label` returns is as in `from_lists`. Raises `DataError`
    LABEL_FUNCTION naming the picture where it fails or returns something else.
    """
    root, paths, skipped = list_pictures(path)
    return _with_skipped(
        from_lists(paths, [_called(label, name) for name in paths], root=root, classes=classes, rules=rules),
        skipped,
    )


def from_regex(
    path: str | os.PathLike[str], pattern: str, *, classes: Sequence[str] | None = None,
    rules: Rules | None = None,
) -> Samples:  # fmt: skip
    r"""List a folder and all below it; the label is what a group of `pattern` finds in the path.

    The pattern is searched in the path relative to the folder, with "/" between its parts: the group
    called `label`, else the first, is the class; groups called `split` and `group` fill those columns. For
    names such as `great_dane_12.jpg`: `([^/]+)_\d+\.jpg$`. Raises `UsageError` for a pattern that is none,
    and `DataError` NO_MATCH with five examples where it does not match every name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"the pattern {shown(pattern)} is no regular expression: {error}") from error
    if not compiled.groups:
        raise UsageError(
            f"the pattern {shown(pattern)} has no group", "put parentheses around the label: ([^/]+)_\\d+"
        )
    root, paths, skipped = list_pictures(path)
    matches = [compiled.search(name) for name in paths]
    unmatched = [name for name, match in zip(paths, matches, strict=True) if match is None]
    if unmatched:
        raise DataError(
            f"the pattern does not match {len(unmatched)} of {len(paths)} names, such as "
            f"{', '.join(map(shown, unmatched[:5]))}",
            f"it is searched in the path below {shown(str(root))}; rename the files or widen it",
            code="NO_MATCH",
        )
    found = [match for match in matches if match is not None]
    names = compiled.groupindex
    label: str | int = "label" if "label" in names else _first_nameless(compiled)
    columns = {name: [match[name] or "" for match in found] for name in ("split", "group") if name in names}
    samples = from_lists(
        paths, [match[label] or "" for match in found], root=root, classes=classes, rules=rules, **columns
    )
    return _with_skipped(samples, skipped)


def _first_nameless(pattern: re.Pattern[str]) -> int:
    named = set(pattern.groupindex.values())
    nameless = [number for number in range(1, pattern.groups + 1) if number not in named]
    if not nameless:
        raise UsageError("no group of the pattern is the label", "call one (?P<label>…)")
    return nameless[0]


def _with_skipped(samples: Samples, skipped: Counter[str]) -> Samples:
    both = Counter(samples.skipped) + skipped
    return replace(samples, skipped={why: count for why, count in sorted(both.items()) if count})


def _called(label: LabelFunction, name: str) -> Label | Sequence[str]:
    try:
        found = label(Path(name))
    except Exception as error:  # whatever a person's own function may raise
        raise DataError(
            f"the labelling function failed on {shown(name)}: {type(error).__name__}: {shown(str(error))}",
            "let it return None for pictures without a label",
            code="LABEL_FUNCTION",
        ) from error
    return found


def _encoded(labels: Sequence[Label | Sequence[str]], classes: Sequence[str] | None) -> Labels:
    kinds = (list, tuple, set, frozenset)
    if any(isinstance(label, kinds) for label in labels):
        for row, label in enumerate(labels):
            if not isinstance(label, kinds) or not all(isinstance(tag, str) for tag in label):
                raise DataError(
                    f"row {row} has {shown(repr(label))[:80]} where others have a list of tags",
                    "give every row a list of names, an empty one where there are no tags",
                    code="BAD_TAG",
                )
        return encode_tag_lists([list(label) for label in labels], classes)  # type: ignore[arg-type]
    for row, label in enumerate(labels):
        if not (label is None or isinstance(label, str | int | np.integer)) or isinstance(label, bool):
            raise DataError(
                f"row {row} has {shown(repr(label))[:80]} for a label",
                "give a name, a list of names for tags, or None where it is unknown",
                code="BAD_LABEL",
            )
    return encode_labels(["" if label is None else str(label) for label in labels], classes)
