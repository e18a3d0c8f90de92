"""What a bundle is, without making its networks: hashes checked, numbers counted, decisions said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.deploy.bundle import bundle_files, check_file, read_manifest
from headstart.deploy.manifest import Manifest
from headstart.storage import Piece, check_safetensors
from headstart.types import Task


@dataclass(frozen=True)
class Inspection:
    """What a bundle is: `path`, `form` (`folder` or `file`), `manifest`, bytes and SHA-256 by file.

    `parameters`: the numbers in the weights of each network, buffers counted.
    """

    path: Path
    form: str
    manifest: Manifest
    files: dict[str, dict[str, Any]]
    parameters: tuple[int, ...]

    @property
    def decisions(self) -> tuple[str, ...]:
        """What the model would decide of a picture, one sentence each."""
        manifest = self.manifest
        tags = manifest.task is Task.MULTI_LABEL
        said = ["any number of tags" if tags else f"one of {len(manifest.classes)} classes"]
        if manifest.thresholds is not None:
            low, high = min(manifest.thresholds), max(manifest.thresholds)
            said.append(f"a tag from a probability of {low:.3g} … {high:.3g} on, each its own")
        if manifest.sets is not None:
            said.append(f"a set of classes that holds the true one for {100 * manifest.sets.level:g} %")
        if manifest.novelty is not None:
            said.append(f"none of these, as {100 * manifest.novelty.rate:g} % of known pictures are called")
        views = f"several views ({manifest.tta_policy})" if manifest.tta else "one view"
        said.append(f"from {views} of each picture by {_networks(len(manifest.members))}")
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {
            "path": str(self.path),
            "form": self.form,
            "files": self.files,
            "parameters": list(self.parameters),
            "decisions": list(self.decisions),
            "manifest": self.manifest.to_dict(),
        }


def inspect_bundle(path: str | Path) -> Inspection:
    """Read a bundle and check the hash of every file; needs no torch.

    Raises as `load_bundle` does, except that weights are not compared with the network that they are for.
    """
    path = Path(path)
    manifest, places = read_manifest(path), bundle_files(path)
    files: dict[str, dict[str, Any]] = {}
    for name, place in sorted(places.items()):
        size = place.length if isinstance(place, Piece) else place.stat().st_size
        files[name] = {"bytes": size}
        if name in manifest.files:
            check_file(place, manifest.files[name])
            files[name]["sha256"] = manifest.files[name].sha256
    counts = [
        sum(math.prod(shape) for _, shape in check_safetensors(places[member.file]).values())
        for member in manifest.members
    ]
    return Inspection(path, "file" if path.is_file() else "folder", manifest, files, tuple(counts))


def _networks(count: int) -> str:
    return "one network" if count == 1 else f"{count} networks"
