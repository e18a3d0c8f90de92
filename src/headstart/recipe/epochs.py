"""The rows of epochs go into the run folder as they come."""

from __future__ import annotations

from headstart.recipe.folder import RunFolder
from headstart.training import Callback
from headstart.training.run import Row, Run


class EpochRows(Callback):
    """Appends each epoch's row to the history of a run folder."""

    first_only = True

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def after_epoch(self, run: Run, row: Row) -> None:
        """Append one line."""
        self.folder.epoch(row)
