"""Where a run stands, on disk: what was asked for (run.json), the pictures, and the checkpoints.

`run.json` is written before the first step; it says how the data is found again and what to do with it.
`progress/pictures.csv` lists the pictures as they were, and `progress/checkpoints/` the checkpoints, which
hold everything that the run has learnt since: between two phases, and within one. When the run is
complete `progress/` goes.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import environment
from headstart.errors import ConfigError, InputMissingError
from headstart.processes import current
from headstart.recipe.body import Body
from headstart.recipe.changes import Changes, compare, compare_settings, data_key, settings_of, table_of
from headstart.recipe.folder import plain
from headstart.storage import (
    content_key,
    read_capped,
    read_json,
    remove_leftovers,
    sha256_bytes,
    write_atomic,
    write_json,
)
from headstart.training import Plan

if TYPE_CHECKING:
    from headstart.imagedata import ImageData
    from headstart.recipe.steps import EightSteps
    from headstart.training import Checkpointer, Found

SCHEMA = 1
NAME = "run.json"
PICTURES = "progress/pictures.csv"
MAX_PICTURES_BYTES = 2**30


@dataclass(frozen=True)
class Origin:
    """How the data of a run is found again: `kind` says who knows, `options` are theirs.

    `folder`: `ImageData.from_folder` with these options. `command`: the command line, with its own.
    `given`: the caller, who must hand it in again.
    """

    kind: str = "given"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Saving:
    """How often checkpoints are written, and how many are kept; see `Checkpointer`."""

    steps: int | None = None
    seconds: float = 300.0
    most_of_time: float = 0.03
    keep: int = 2


@dataclass(frozen=True)
class Journal:
    """What a run was begun with; `path` is its folder."""

    path: Path
    said: Mapping[str, Any]

    @classmethod
    def begin(cls, steps: EightSteps, *, folds: int | None = None) -> Journal:
        """Write down what a run begins with; `folds`: of how many an ensemble is to be made."""
        table = table_of(steps.data)
        said = plain(
            {
                "schema": SCHEMA,
                "complete": False,
                "created": datetime.datetime.now(datetime.UTC).isoformat(),
                "origin": {"kind": steps.origin.kind, "options": steps.origin.options},
                "plan": steps.plan.to_yaml(),
                "body": {
                    "arch": steps.body.arch,
                    "weights": None
                    if steps.body.weights is None
                    else str(Path(steps.body.weights).absolute()),
                    "from_scratch": steps.body.from_scratch,
                },
                "budget": steps.clock.budget,
                "rate_ratio": steps.rate_ratio,
                "metric": steps.metric,
                "device": steps.device,
                "threads": steps.data.threads,
                "classes": list(steps.data.classes),
                "data": data_key(steps.data),
                "pictures": sha256_bytes(table),
                "settings": settings_of(steps.data),
                "saving": dataclasses.asdict(steps.saving),
                "folds": folds,
                "versions": environment.versions(),
            }
        )
        said["id"] = content_key(said)
        path = steps.folder.path
        write_atomic(path / PICTURES, table)
        write_json(path / NAME, said)
        return cls(path, said)

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read what a run was begun with.

        Raises `InputMissingError` where no run was begun, `ConfigError` where it cannot be understood.
        """
        if not (path / NAME).is_file():
            raise InputMissingError(
                f"there is nothing to resume in {path}", "name the folder of a run, as train --out made it"
            )
        said = read_json(path / NAME)
        known = {
            "schema",
            "complete",
            "origin",
            "plan",
            "body",
            "metric",
            "device",
            "settings",
            "data",
            "saving",
        }
        if not isinstance(said, dict) or said.get("schema") != SCHEMA or not known <= said.keys():
            raise ConfigError(f"{path / NAME} is not what a run of this version writes", "begin a new run")
        return cls(path, said)

    @property
    def complete(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.said["complete"])

    @property
    def plan(self) -> Plan:
        """The plan that is followed."""
        return Plan.from_yaml(self.said["plan"])

    @property
    def body(self) -> Body:
        """What the run started from."""
        return Body(**self.said["body"])

    @property
    def origin(self) -> Origin:
        """How the data is found again."""
        return Origin(**self.said["origin"])

    @property
    def folds(self) -> int | None:
        """Of how many folds the run is to make an ensemble; None for a run of its own."""
        count = self.said.get("folds")
        return None if count is None else int(count)

    def changes(self, data: ImageData) -> Changes:
        """Return how data and its settings differ from what the run was begun with."""
        settings = compare_settings(self.said["settings"], data)
        if data_key(data) == self.said["data"]:
            return settings
        table = read_capped(self.path / PICTURES, MAX_PICTURES_BYTES)
        if sha256_bytes(table) != self.said["pictures"]:
            raise ConfigError(f"{self.path / PICTURES} was altered", "restore it, or begin a new run")
        pictures = compare(table, self.said["classes"], data)
        return Changes((*settings.lines, *pictures.lines), settings.harmful or pictures.harmful)

    def version_notes(self) -> list[str]:
        """Return in which versions this machine differs from the one that the run began on."""
        now = environment.versions()
        return [
            f"no longer bit-identical because {name} is {now.get(name, 'missing')}, and was {version}"
            for name, version in self.said.get("versions", {}).items()
            if now.get(name) != version
        ]

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "progress" / "checkpoints"

    def find(self) -> Found | None:
        """Return the newest good checkpoint, or None where the run has come to none yet.

        Raises `ConfigError` where there are checkpoints and none of them is whole.
        """
        from headstart.training import find_checkpoint

        try:
            return find_checkpoint(self.checkpoints, run_id=self.said["id"])
        except InputMissingError:
            return None

    @property
    def saving(self) -> Saving:
        """How often checkpoints are written."""
        return Saving(**self.said["saving"])

    def checkpointer(self, steps: EightSteps) -> Checkpointer:
        """Return what writes the checkpoints of the run."""
        from headstart.recipe.state import state_of
        from headstart.training import Checkpointer

        return Checkpointer(
            self.checkpoints,
            extra=lambda: state_of(steps),
            run_id=self.said["id"],
            warn=lambda text: steps.narrator.say(f"  ! {text}"),
            **dataclasses.asdict(steps.saving),
        )

    def sweep(self) -> None:
        """Remove what a process that was killed left half written."""
        if not current().first:
            return
        for folder in (self.path, self.path / "progress", self.checkpoints):
            remove_leftovers(folder)

    def end(self) -> None:
        """Write down that the run is complete; its checkpoints are not needed any more."""
        if not current().first:
            return
        write_json(self.path / NAME, {**self.said, "complete": True})
        shutil.rmtree(self.path / "progress", ignore_errors=True)
