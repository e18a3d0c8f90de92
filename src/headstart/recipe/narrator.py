"""What a run tells the person who waits for it: steps, reasons, progress, outcomes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from headstart.recipe.result import StepResult
    from headstart.training import Callback

OnProgress = Callable[[int, int], None]


class Narrator:
    """Says nothing; the base of those that do."""

    def say(self, text: str) -> None:
        """Say one line."""

    def step(self, number: int, name: str, reason: str) -> None:
        """A step begins, for this reason."""

    def outcome(self, result: StepResult) -> None:
        """A step has ended with this result."""

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[OnProgress]:
        """Show how far a piece of work is; call the given function with (done, total)."""
        yield lambda done, total: None

    def callbacks(self, metric: str) -> Sequence[Callback]:
        """Return the training callbacks that show epochs as they pass."""
        return ()


class TerminalNarrator(Narrator):
    """Tells the run on stderr: bars and colours in a terminal, plain lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console

            console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self.console = console

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False)

    def step(self, number: int, name: str, reason: str) -> None:
        """Print the step's title and, below it, why it is taken."""
        from rich.text import Text

        title = Text.assemble("\n", (f"Step {number}" if number else "First", "bold cyan"), "  ")
        self.console.print(title + Text(name, "bold"))
        self.console.print(Text(f"  {reason}", "dim"))

    def outcome(self, result: StepResult) -> None:
        """Print what the step gave, what it cost, and whether it is kept."""
        from rich.text import Text

        marks = {True: ("✓", "bold green"), False: ("↶", "bold yellow"), None: ("·", "dim")}
        mark, style = marks[result.kept]
        if self.console.encoding.lower().replace("-", "") != "utf8":
            mark = {True: "+", False: "-", None: "."}[result.kept]
        line = Text.assemble("  ", (mark, style), " ", result.outcome)
        line.append(f"  {result.seconds:.1f} s", "dim")
        self.console.print(line)
        if result.verdict is not None:
            self.console.print(
                Text.assemble("    ", (result.verdict.kind, "bold"), f": {result.verdict.text}")
            )

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[OnProgress]:
        """Show a bar with pictures per second; elsewhere one line every ten seconds."""
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = ("  {task.description}", BarColumn(32), MofNCompleteColumn(), TimeRemainingColumn())
            texts = [TextColumn(c) if isinstance(c, str) else c for c in columns]
            with Progress(*texts, console=self.console, transient=True) as bar:
                task = bar.add_task(what, total=None)
                yield lambda done, total: bar.update(task, completed=done, total=total)
            return
        last = time.monotonic()

        def plain(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > 10:
                last = time.monotonic()
                self.say(f"  {what}: {done} of {total}")

        yield plain

    def callbacks(self, metric: str) -> Sequence[Callback]:
        """Return the live bar and the epoch table; in a notebook a table with a curve."""
        from headstart.training import progress_for

        return (progress_for(metric, self.console),)
