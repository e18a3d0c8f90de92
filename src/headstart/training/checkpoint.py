"""Checkpoints: a run written whole and read back bit by bit, without pickle.

`folder/step-000000120/` holds `model.safetensors`, `optimizer.safetensors`, `callbacks.safetensors`,
`state.json`, and `manifest.json` with the size and SHA-256 of each. A checkpoint is there whole or
not at all; one that was altered is passed over, and the one before it is taken.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.errors import ConfigError, HeadstartError, InputMissingError
from headstart.storage import (
    folder_written_whole,
    load_tensors,
    read_json,
    save_tensors,
    sha256_file,
    write_json,
)
from headstart.training.adjustments import Adjustments
from headstart.training.callbacks import Callback
from headstart.training.run import History, Run, Span

SCHEMA = 1
FILES = ("callbacks.safetensors", "model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{9,})")


@dataclass(frozen=True)
class Restored:
    """What `load_checkpoint` did: which checkpoint it took, `extra`, and what a person should know."""

    path: Path
    extra: dict[str, Any]
    notes: tuple[str, ...] = ()


def save_checkpoint(
    folder: Path,
    run: Run,
    *,
    callbacks: Sequence[Callback] = (),
    extra: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Write `run` to a new folder below `folder`, and return it; all but the newest `keep` go.

    Kept are the model's state, the optimiser's, the span under way, the history, the states of
    `callbacks`, the random states of Python, NumPy and torch, and `extra` (what JSON can hold).
    Raises `StorageError` when the disk is full or fails, `OutputError` when writing is refused;
    what was there before is then untouched.
    """
    target = folder / _folder_name(run.step)
    callback_tensors, callback_plain = _callback_states(callbacks)
    with folder_written_whole(target, replace=True) as temporary:
        save_tensors(temporary / "model.safetensors", run.model.state_dict())
        save_tensors(temporary / "optimizer.safetensors", _optimizer_tensors(run))
        save_tensors(temporary / "callbacks.safetensors", {**callback_tensors, **_random_tensors(run)})
        write_json(temporary / "state.json", _plain_state(run, callback_plain, dict(extra or {})))
        files = {
            name: {"bytes": (temporary / name).stat().st_size, "sha256": sha256_file(temporary / name)}
            for name in FILES
        }
        write_json(temporary / "manifest.json", {"schema": SCHEMA, "step": run.step, "files": files})
    for old in checkpoints(folder)[max(1, keep) :]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(path: Path, run: Run, *, callbacks: Sequence[Callback] = ()) -> Restored:
    """Put the newest good checkpoint of `path` into `run` and `callbacks`.

    `path` is a folder of checkpoints, or one of them. `run` must have the same model, and an
    optimiser if the checkpoint has one; its groups are made as they were. An altered or torn
    checkpoint is passed over, which `notes` says. Raises `InputMissingError` where there is none,
    `ConfigError` where none is good or the model differs (with the first differences).
    """
    candidates = [path] if (path / "manifest.json").is_file() else checkpoints(path)
    if not candidates:
        raise InputMissingError(f"there is no checkpoint in {path}", "name the folder of a run")
    faults: list[str] = []
    for candidate in candidates:
        fault = fault_of(candidate)
        if fault:
            faults.append(f"{candidate.name}: {fault}")
            continue
        extra, notes = _restore(candidate, run, callbacks)
        passed = (f"{'; '.join(faults)}: taken instead: {candidate.name}",) if faults else ()
        return Restored(candidate, extra, (*passed, *notes))
    raise ConfigError(
        f"no checkpoint in {path} is whole: {'; '.join(faults[:3])}", "start again, or restore a backup"
    )


def _folder_name(step: object) -> str:
    return f"step-{step:09d}" if isinstance(step, int) else ""


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the one with the highest step first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), entry) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))]
    return [entry for _, entry in sorted(found, reverse=True)]


def fault_of(checkpoint: Path) -> str:
    """Return what is wrong with a checkpoint's files, "" if each is as it was written."""
    try:
        manifest = read_json(checkpoint / "manifest.json", max_bytes=2**16)
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            return "its manifest is of another version"
        # Every byte of the manifest is then a hash, a size or a name that is checked below.
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        if (checkpoint / "manifest.json").read_bytes() != text.encode():
            return "its manifest was altered"
        if checkpoint.name != _folder_name(manifest.get("step")):
            return "its manifest is that of another checkpoint"
        files = manifest.get("files")
        if not isinstance(files, dict) or tuple(files) != FILES or len(manifest) != 3:
            return "its manifest lists other files"
        for name in FILES:
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            size = file.stat().st_size
            if size != files[name].get("bytes"):
                return f"{name} has {size} bytes instead of {files[name].get('bytes')}"
            if sha256_file(file) != files[name].get("sha256"):
                return f"{name} was altered"
    except (HeadstartError, OSError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return ""


def _plain_state(run: Run, callbacks: list[dict[str, Any]], extra: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "step": run.step,
        "epoch": run.epoch,
        "seed": run.seed,
        "precision": run.precision,
        "device": str(run.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "span": run.span.to_plain() if run.span is not None else None,
        "history": run.history.rows,
        "adjustments": run.adjustments.to_plain(),
        "optimizer": _optimizer_settings(run),
        "trained": [name for name, parameter in run.model.named_parameters() if parameter.requires_grad],
        "callbacks": callbacks,
        "random": _random_plain(),
        "extra": extra,
    }


def _restore(checkpoint: Path, run: Run, callbacks: Sequence[Callback]) -> tuple[dict[str, Any], list[str]]:
    state = read_json(checkpoint / "state.json")
    model = load_tensors(checkpoint / "model.safetensors")
    _check_model(run.model, model)
    if len(state["callbacks"]) != len(callbacks):
        raise ConfigError(
            f"the checkpoint has the states of {len(state['callbacks'])} callbacks, not {len(callbacks)}",
            "pass the callbacks that it was saved with, in the same order",
        )
    run.model.load_state_dict(model)
    _restore_optimizer(run, state["optimizer"], load_tensors(checkpoint / "optimizer.safetensors"))
    tensors = load_tensors(checkpoint / "callbacks.safetensors")
    _restore_callbacks(callbacks, state["callbacks"], tensors)
    run.step, run.epoch, run.seed = state["step"], state["epoch"], state["seed"]
    run.history = History(state["history"])
    run.span = Span.from_plain(state["span"]) if state["span"] is not None else None
    run.adjustments = Adjustments.from_plain(state.get("adjustments", {}))
    run.stop_reason, run.stop_signal = "", None
    notes = _differences(run, state)
    run.precision = state["precision"]
    _restore_random(state["random"], tensors, run)
    return state["extra"], notes


def _differences(run: Run, state: Mapping[str, Any]) -> list[str]:
    now = {"device": str(run.device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return [
        f"no longer bit-identical because {name} is {value}, and was {state[name]}"
        for name, value in now.items()
        if state[name] != value
    ]


def _check_model(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        lines = [f"{name}: {found.get(name)} instead of {expected.get(name)}" for name in wrong[:5]]
        raise ConfigError(
            f"the checkpoint is of another model: {len(wrong)} tensors differ ({'; '.join(lines)})",
            "resume with the architecture, head and classes that the run began with",
        )


def _optimizer_settings(run: Run) -> list[dict[str, Any]] | None:
    """Return each parameter group with its settings and the names of its parameters."""
    if run.optimizer is None:
        return None
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    return [
        {
            "params": [names[id(parameter)] for parameter in group["params"]],
            "settings": {key: value for key, value in group.items() if key != "params"},
        }
        for group in run.optimizer.param_groups
    ]


def _optimizer_tensors(run: Run) -> dict[str, Tensor]:
    if run.optimizer is None:
        return {}
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{entry}": value
        for parameter, entries in run.optimizer.state.items()
        for entry, value in entries.items()
        if isinstance(value, Tensor)
    }


def _restore_optimizer(run: Run, groups: list[dict[str, Any]] | None, tensors: Mapping[str, Tensor]) -> None:
    if groups is None:
        return
    if run.optimizer is None:
        raise ConfigError("the checkpoint has an optimiser, the run has none", "make one with make_optimizer")
    parameters = dict(run.model.named_parameters())
    fused = bool(run.optimizer.defaults.get("fused"))
    run.optimizer.param_groups.clear()
    run.optimizer.state.clear()
    for group in groups:
        settings = {name: tuple(v) if isinstance(v, list) else v for name, v in group["settings"].items()}
        run.optimizer.add_param_group({"params": [parameters[n] for n in group["params"]], **settings})
    for name, tensor in tensors.items():
        owner, _, entry = name.rpartition("/")
        # Plain optimisers count their steps on the CPU, fused ones beside the parameter.
        beside = fused or tensor.ndim > 0
        place = parameters[owner].device if beside else torch.device("cpu")
        run.optimizer.state[parameters[owner]][entry] = tensor.to(place)


def _callback_states(callbacks: Sequence[Callback]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    tensors: dict[str, Tensor] = {}
    plain: list[dict[str, Any]] = []
    for number, callback in enumerate(callbacks):
        state = callback.state()
        tensors |= {f"{number}/{name}": v for name, v in state.items() if isinstance(v, Tensor)}
        plain.append({name: value for name, value in state.items() if not isinstance(value, Tensor)})
    return tensors, plain


def _restore_callbacks(
    callbacks: Sequence[Callback], plain: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]
) -> None:
    for number, (callback, values) in enumerate(zip(callbacks, plain, strict=True)):
        prefix = f"{number}/"
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        callback.restore_state({**values, **own})


def _random_tensors(run: Run) -> dict[str, Tensor]:
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    tensors = {
        "random/torch": torch.random.get_rng_state(),
        "random/numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
    }
    if torch.device(run.device).type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(torch.device(run.device))
    return tensors


def _random_plain() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return {
        "python": [version, list(internal), gauss],
        "numpy": {
            "pos": numpy_state["state"]["pos"],
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        },
    }


def _restore_random(plain: Mapping[str, Any], tensors: Mapping[str, Tensor], run: Run) -> None:
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = plain["numpy"]
    key = tensors["random/numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy_state["pos"], numpy_state["has_gauss"], numpy_state["gauss"]))
    torch.random.set_rng_state(tensors["random/torch"])
    if "random/cuda" in tensors and torch.device(run.device).type == "cuda":
        torch.cuda.set_rng_state(tensors["random/cuda"], torch.device(run.device))
