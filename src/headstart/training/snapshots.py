"""Snapshots: the weights at the ends of cycles, where the rate has come down and the network has settled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from headstart.storage import load_tensors, save_tensors
from headstart.training.callbacks import Callback
from headstart.training.run import Row, Run


class Snapshots(Callback):
    """Writes the weights into `folder` at the end of each cycle of the schedule, one file each, atomically.

    What is validated is what is written: an average of the weights, where one stands in for them. Each
    cycle ends in another minimum, so that the snapshots of one run make an ensemble: Huang et al., arXiv
    1704.00109. `paths` names those of the phase under way, oldest first. Raises `StorageError` when the
    disk is full, `OutputError` when writing is refused.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.names: list[str] = []

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the phase under way, oldest first."""
        return tuple(self.folder / name for name in self.names)

    def before_fit(self, run: Run) -> None:
        """Begin anew with each phase; after a restart within one nothing is forgotten."""
        if run.span is None or run.span.done == 0:
            self.names = []

    def after_epoch(self, run: Run, row: Row) -> None:
        """Write the weights where a cycle ends."""
        if run.span is None or not run.span.at_cycle_end:
            return
        name = f"step-{run.step:09d}.safetensors"
        judged = run.average or {}
        state: dict[str, Tensor] = run.model.state_dict()
        if run.ranks.first:
            save_tensors(self.folder / name, {key: judged.get(key, tensor) for key, tensor in state.items()})
        self.names.append(name)

    def load(self) -> list[dict[str, Tensor]]:
        """Read the states of the phase under way, oldest first, onto the CPU."""
        return [load_tensors(path) for path in self.paths]

    def state(self) -> dict[str, Any]:
        """Return the names of the files."""
        return {"names": list(self.names)}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back the names of the files."""
        self.names = list(state["names"])
