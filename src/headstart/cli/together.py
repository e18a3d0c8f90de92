"""The command line where `torchrun` has started it several times."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from headstart import processes
from headstart.errors import UsageError

# Everything else is done by one process as fast as by many.
TOGETHER = (("train",), ("resume",), ("plan", "run"))


@contextlib.contextmanager
def taking_part(arguments: Sequence[str]) -> Iterator[None]:
    """Join the processes that were started with this one, if any; all but rank 0 print nothing on stdout.

    Raises `UsageError` for a command that knows no others.
    """
    if not processes.started_with_others():
        yield
        return
    asked = {"-h", "--help", "--version"} & set(arguments)
    if not asked and not any(tuple(arguments[: len(each)]) == each for each in TOGETHER):
        names = ", ".join(" ".join(each) for each in TOGETHER)
        raise UsageError(
            f"headstart {' '.join(arguments[:1])} runs in one process",
            f"leave torchrun out; it is for {names}",
        )
    with processes.joined() as ranks, contextlib.ExitStack() as stack:
        if not ranks.first:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield


def own_rank() -> int:
    """Return the number of this process among those that were started together, 0 for one alone."""
    said = os.environ.get("RANK", "")
    with contextlib.suppress(UsageError):
        return int(said) if said.isdecimal() and processes.started_with_others() else 0
    return 0
