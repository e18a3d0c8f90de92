"""Where the weights of a body come from: a file, a folder of files, or the hub.

Finding and identifying weights needs no torch, so that what was computed from them before can be
found again in milliseconds.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import ConfigError, InputMissingError, StorageError, UsageError
from headstart.storage import load_tensors, sha256_file

if TYPE_CHECKING:
    import torch

THREE_WAYS = (
    "give a file with --weights FILE, or a folder of <timm name>.safetensors with HEADSTART_WEIGHTS; "
    "or choose an --arch whose weights are cached{cached}; or train without with --from-scratch"
)
# Of keys that differ, so many are named.
NAMED = 5


@dataclass(frozen=True)
class WeightsSource:
    """Where weights came from: `kind` is `file`, `hub`, `scratch` or `module` (the user's own).

    `location` is a path or a hub name, `sha256` that of the file (empty where there is none),
    `licence` what the registry says of the weights (empty when unknown).
    """

    kind: str
    location: str = ""
    sha256: str = ""
    licence: str = ""


def find_weights(arch: str, weights: str | Path | None = None) -> Path | None:
    """Return the safetensors file for `arch`, or None where the hub is to be asked.

    `weights` is a file, a folder of `<timm name>.safetensors`, or a bundle; without it,
    `HEADSTART_WEIGHTS` is looked at, and a folder there that lacks `arch` leads to the hub. Raises
    `InputMissingError` when what was asked for is not there.
    """
    chosen = weights or os.environ.get("HEADSTART_WEIGHTS")
    if not chosen:
        return None
    path = Path(chosen).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputMissingError(
            f"the weights {path} are not there", "give a .safetensors file, a bundle or a folder of them"
        )
    names = [f"{arch}.safetensors", f"{arch.partition('.')[0]}.safetensors"]
    if (path / "manifest.json").is_file():
        names.append("model.safetensors")
    for name in names:
        if (path / name).is_file():
            return path / name
    if not weights:
        return None
    there = sorted(file.name for file in path.glob("*.safetensors"))
    raise InputMissingError(
        f"the folder {path} has no {names[0]}",
        f"it has {', '.join(there[:NAMED])}" if there else "it has no .safetensors file",
    )


def weights_identity(arch: str, weights: str | Path | None = None) -> str:
    """Return a text that is equal only for the same weights of the same architecture.

    The SHA-256 of the file, or for the hub the registry's name and version. Needs neither torch nor
    timm. Raises `InputMissingError` when the weights asked for are not there.
    """
    path = find_weights(arch, weights)
    if path is None:
        return f"{arch}@hub:timm-{version('timm')}"
    return f"{arch}@sha256:{sha256_file(path)}"


def hub_cache_dir() -> Path:
    """Return the folder in which the hub's client keeps what it has downloaded."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def cached_architectures() -> tuple[str, ...]:
    """Return the names of the timm weights that need no download, sorted."""
    found = {file.parts[-4] for file in hub_cache_dir().glob("models--timm--*/snapshots/*/*.safetensors")}
    names = {name.removeprefix("models--timm--") for name in found}
    chosen = os.environ.get("HEADSTART_WEIGHTS")
    if chosen and Path(chosen).expanduser().is_dir():
        names |= {file.stem for file in Path(chosen).expanduser().glob("*.safetensors")}
    return tuple(sorted(names))


def download_weights(arch: str, hub_id: str | None, file_name: str | None) -> Path:
    """Return the hub's safetensors file for `arch`, from the hub's cache or over the network.

    Raises `UsageError` when the registry knows no weights for `arch`, and `StorageError`, with the
    ways out, when the hub cannot be reached.
    """
    if not hub_id:
        raise UsageError(
            f"there are no pretrained weights for {arch}", "give --weights FILE, or train with --from-scratch"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    # Pickled weights (.bin) are never read; timm's repositories hold the same as safetensors.
    name = (file_name or "pytorch_model.bin").replace("pytorch_", "").replace(".bin", ".safetensors")
    wanted: dict[str, Any] = {"repo_id": repository, "filename": name, "revision": revision or None}
    try:
        return Path(hf_hub_download(**wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        _check_the_hub_has_an_address()
        return Path(hf_hub_download(**wanted))
    except Exception as error:  # whatever the hub's client and its HTTP library of the day raise
        cached = cached_architectures()
        some = f" ({', '.join(cached[:NAMED])})" if cached else ""
        raise StorageError(
            f"the weights of {arch} could not be downloaded from {repository}: {_first_line(error)}",
            THREE_WAYS.format(cached=some),
        ) from error


def _check_the_hub_has_an_address() -> None:
    """Raise `OSError` at once where there is no network; the client would try for 24 seconds."""
    import urllib.parse
    import urllib.request

    if urllib.request.getproxies() or os.environ.get("HF_HUB_OFFLINE"):
        return
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    socket.getaddrinfo(endpoint.hostname, endpoint.port or 443)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def load_weights(
    module: torch.nn.Module,
    path: Path,
    *,
    arch: str,
    classifier: Sequence[str] = (),
    convert: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Load a safetensors file into a body; a classifier in the file is left out.

    Keys may be timm's own, or those of a bundle (`backbone.<timm name>` and `head.<...>`).
    `classifier` holds timm's names of the classifier layer; `convert` turns other layouts into
    timm's and is tried when the keys do not fit as they are. Raises `ConfigError` naming the first
    keys that differ and how many do.
    """
    found: Mapping[str, torch.Tensor] = _without_prefix(load_tensors(path))
    dropped = tuple(f"{_empty_prefix(module, name)}." for name in classifier)
    differing = _differing(module, found, dropped)
    if differing and convert is not None:
        try:
            converted = convert(dict(found))
        except (KeyError, IndexError, RuntimeError, ValueError, AttributeError, TypeError):
            converted = found  # not one of the layouts that timm can convert
        after = _differing(module, converted, dropped)
        if len(after) < len(differing):
            found, differing = converted, after
    if differing:
        raise ConfigError(
            f"the weights {path} do not fit {arch}: {len(differing)} of {len(found)} keys differ: "
            + "; ".join(differing[:NAMED]),
            _whose(path, arch),
        )
    known = module.state_dict().keys()
    module.load_state_dict({name: tensor for name, tensor in found.items() if name in known}, strict=False)


def _without_prefix(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    return ours or dict(tensors)


def _empty_prefix(module: torch.nn.Module, classifier: str) -> str:
    """The shortest start of a classifier's name under which the body holds no parameters."""
    parts = classifier.split(".")
    filled = {name.rpartition(".")[0] for name in module.state_dict()}
    for count in range(1, len(parts)):
        start = ".".join(parts[:count])
        if not any(name == start or name.startswith(start + ".") for name in filled):
            return start
    return classifier


def _differing(
    module: torch.nn.Module, found: Mapping[str, torch.Tensor], dropped: tuple[str, ...]
) -> list[str]:
    wanted = module.state_dict()
    missing = [
        f"{name} is missing"
        for name in wanted
        if name not in found and not name.endswith("num_batches_tracked")
    ]
    shapes = [
        f"{name} has shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    unknown = [f"{name} is unknown" for name in found if name not in wanted and not name.startswith(dropped)]
    return [*shapes, *missing, *unknown]


def _whose(path: Path, arch: str) -> str:
    """What the file says of itself, as a hint."""
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        said = json.loads(stream.read(length)).get("__metadata__", {}).get("architecture")
    if isinstance(said, str) and said != arch:
        return f"the file says that it is for {said[:80]}: use --arch {said[:80]}"
    return f"give weights that were made for {arch}, or the --arch that they were made for"
