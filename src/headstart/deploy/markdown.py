"""Markdown of names that anybody chose: whatever they hold, they are shown and mean nothing.

For CommonMark with the tables of GitHub, which the model hub takes, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from headstart.data.samples import shown

LONGEST = 80
"""Of longer names the beginning is shown."""

# Marks that turn the direction of the text around them, and those that only fonts see.
_DIRECTIONS = re.compile(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~#$&!]")


def one_line(text: str, *, longest: int = LONGEST) -> str:
    """Return a text as one printable line, cut where it is longer; marks of direction are spelled out."""
    line = _DIRECTIONS.sub(lambda mark: mark.group().encode("unicode_escape").decode("ascii"), shown(text))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def code(text: str) -> str:
    """Return a name as a code span, in which nothing has a meaning; fit for a cell of a table, too.

    >>> code("a`b|c")
    '``a`b\\\\|c``'
    """
    line = one_line(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    # A blank on either side is taken away again, but not from a span of blanks alone.
    blank = " " if line.strip(" ") and (line[0] in " `" or line[-1] in " `") else ""
    return f"{fence}{blank}{line}{blank}{fence}"


def plain(text: str, *, longest: int = LONGEST) -> str:
    """Return a text in which nothing has a meaning, to stand within a sentence or a cell."""
    return _SPECIAL.sub(r"\\\g<0>", one_line(text, longest=longest))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a table of cells that are Markdown; the first `left` columns are words, the others figures."""
    marks = ["---" if number < left else "---:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))
