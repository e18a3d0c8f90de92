"""Checkpoints: a run written whole and read back bit by bit, without pickle.

`folder/step-000000120/` holds `model.safetensors`, `optimizer.safetensors`, `callbacks.safetensors`,
`extra.safetensors`, `state.json`, and `manifest.json` with the size and SHA-256 of each. A checkpoint
is there whole or not at all; one that was altered is passed over, and the one before it is taken.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.environment import versions
from headstart.errors import ConfigError, InputMissingError
from headstart.storage import json_bytes, load_tensors, read_json, tensor_bytes
from headstart.training.adjustments import Adjustments
from headstart.training.callbacks import Callback, named_callbacks
from headstart.training.checkpoint_folder import checkpoints, fault_of, prune, write_checkpoint_folder
from headstart.training.disk import Disk
from headstart.training.failures import failure_of
from headstart.training.interrupts import PASSING_REASONS
from headstart.training.run import History, Run, Span


@dataclass(frozen=True)
class Found:
    """A checkpoint that was found whole: its folder, its state, and what a person should know."""

    path: Path
    state: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def extra(self) -> dict[str, Any]:
        """What was handed to `save_checkpoint` as `extra`."""
        found: dict[str, Any] = self.state["extra"]
        return found

    @property
    def failure(self) -> str:
        """The traceback of the error that ended training there, "" where none did."""
        return str((self.state.get("failure") or {}).get("traceback", ""))

    @property
    def adjustments(self) -> Adjustments:
        """What the run had found out about the machine; an older checkpoint knows less of it."""
        return Adjustments.from_plain(self.state.get("adjustments", {}))

    def extra_tensors(self) -> dict[str, Tensor]:
        """Read what was handed to `save_checkpoint` as `extra_tensors`."""
        return self.tensors("extra")

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Read the tensors of `model`, `optimizer`, `callbacks` or `extra`, in memory as they lay."""
        found = load_tensors(self.path / f"{group}.safetensors")
        for name, strides in self.state["strides"][group].items():
            read = found[name]
            found[name] = torch.empty_strided(read.shape, strides, dtype=read.dtype).copy_(read)
        return found


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
    extra_tensors: Mapping[str, Tensor] | None = None,
    run_id: str = "",
    keep: int = 2,
    known: set[str] | None = None,
    spare: Sequence[str] = (),
    disk: Disk | None = None,
) -> Path:
    """Write `run` to a new folder below `folder`, and return it; all but the newest `keep` whole ones go.

    Kept are the model's state, the optimiser's, the span under way, the history, the states of
    `callbacks` by their names, the random states of Python, NumPy and torch, and `extra` (what JSON
    can hold) and `extra_tensors`. `run_id` tells the checkpoints of one run from another's. `known`
    has the names of checkpoints that were found whole, and is added to; `spare` names some to keep.
    Raises `StorageError` when the disk is full or fails, `OutputError` when writing is refused;
    what was there before is then untouched.
    """
    files = checkpoint_files(
        run, callbacks=callbacks, extra=extra, extra_tensors=extra_tensors, run_id=run_id
    )
    target = write_checkpoint_folder(folder, run.step, files, disk=disk)
    known = set() if known is None else known
    known.add(target.name)
    prune(folder, known, keep=keep, spare=spare, disk=disk)
    return target


def checkpoint_files(
    run: Run,
    *,
    callbacks: Sequence[Callback] = (),
    extra: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, Tensor] | None = None,
    run_id: str = "",
) -> dict[str, bytes]:
    """Return the files of a checkpoint, but for its manifest."""
    callback_tensors, callback_plain = _callback_states(callbacks)
    groups = {
        "callbacks": {**callback_tensors, **_random_tensors(run)},
        "extra": dict(extra_tensors or {}),
        "model": run.model.state_dict(),
        "optimizer": _optimizer_tensors(run),
    }
    state = _plain_state(run, callback_plain, dict(extra or {}), run_id)
    state["strides"] = {name: _strides(tensors) for name, tensors in groups.items()}
    return {
        **{f"{name}.safetensors": tensor_bytes(tensors) for name, tensors in groups.items()},
        "state.json": json_bytes(state),
    }


def _strides(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return how tensors lie in memory that do not lie row by row, which safetensors does not say.

    Bits depend on it: AdamW gave others where its moments lay otherwise than a channels-last weight.
    """
    return {
        name: list(tensor.stride())
        for name, tensor in tensors.items()
        if tensor.stride() != torch.empty(tensor.shape, device="meta").stride()
        and tensor.stride() == torch.empty_like(tensor, device="meta").stride()
    }


def find_checkpoint(path: Path, *, run_id: str | None = None) -> Found:
    """Return the newest good checkpoint of `path`, a folder of checkpoints or one of them.

    An altered or torn checkpoint is passed over, and so is one of another run than `run_id`; `notes`
    says so, and which error had ended training there. Raises `InputMissingError` where there is none,
    `ConfigError` where none is good.
    """
    candidates = [path] if (path / "manifest.json").is_file() else checkpoints(path)
    if not candidates:
        raise InputMissingError(f"there is no checkpoint in {path}", "name the folder of a run")
    faults: list[str] = []
    for candidate in candidates:
        fault = fault_of(candidate)
        state = {} if fault else read_json(candidate / "state.json")
        if not fault and run_id is not None and state["run"] != run_id:
            fault = "it is of another run"
        if fault:
            faults.append(f"{candidate.name}: {fault}")
            continue
        notes = [f"{'; '.join(faults)}: taken instead: {candidate.name}"] if faults else []
        if state.get("failure"):
            notes.append(f"training had been ended by {state['failure']['error']}")
        return Found(candidate, state, tuple(notes))
    raise ConfigError(
        f"no checkpoint in {path} is whole: {'; '.join(faults[:3])}", "start again, or restore a backup"
    )


def load_checkpoint(path: Path | Found, run: Run, *, callbacks: Sequence[Callback] = ()) -> Restored:
    """Put the newest good checkpoint of `path` (see `find_checkpoint`) into `run` and `callbacks`.

    `run` must have the same model, and an optimiser if the checkpoint has one; its groups are made as
    they were. A callback gets what one of its name left: its class, and a number where there are
    several. Raises as `find_checkpoint` does, and `ConfigError` where the model differs (with the
    first differences) or a callback that left something is missing.
    """
    found = path if isinstance(path, Found) else find_checkpoint(path)
    notes = _restore(found, run, callbacks)
    return Restored(found.path, found.extra, (*found.notes, *notes))


def set_threads(found: Found) -> tuple[str, ...]:
    """Let torch compute with as many threads as when a checkpoint was written; say so where that is a change.

    The order in which numbers are added, and so their last bits, depends on it.
    """
    count, now = int(found.state["threads"]), torch.get_num_threads()
    if count == now:
        return ()
    torch.set_num_threads(count)
    return (f"torch computes with {count} threads, as it did, and not with {now}",)


def _plain_state(
    run: Run, callbacks: dict[str, dict[str, Any]], extra: dict[str, Any], run_id: str
) -> dict[str, Any]:
    return {
        "run": run_id,
        "step": run.step,
        "epoch": run.epoch,
        "seed": run.seed,
        "precision": run.precision,
        "device": str(run.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "versions": versions(),
        "failure": failure_of(run),
        "stop_reason": "" if run.stop_reason in PASSING_REASONS else run.stop_reason,
        "span": run.span.to_plain() if run.span is not None else None,
        "history": run.history.rows,
        "adjustments": run.adjustments.to_plain(),
        "optimizer": _optimizer_settings(run),
        "trained": [name for name, parameter in run.model.named_parameters() if parameter.requires_grad],
        "callbacks": callbacks,
        "random": _random_plain(),
        "extra": extra,
    }


def _restore(found: Found, run: Run, callbacks: Sequence[Callback]) -> list[str]:
    state = found.state
    model = found.tensors("model")
    _check_model(run.model, model)
    named = named_callbacks(callbacks)
    _check_callbacks(named, state["callbacks"])
    run.model.load_state_dict(model)
    _restore_optimizer(run, state["optimizer"], found.tensors("optimizer"))
    tensors = found.tensors("callbacks")
    _restore_callbacks(named, state["callbacks"], tensors)
    run.step, run.epoch, run.seed = state["step"], state["epoch"], state["seed"]
    run.history = History(state["history"])
    run.span = Span.from_plain(state["span"]) if state["span"] is not None else None
    run.adjustments = found.adjustments
    run.stop_reason, run.stop_signal = state["stop_reason"], None
    notes = _differences(run, state)
    run.precision = state["precision"]
    _restore_random(state["random"], tensors, run)
    return notes


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


def _callback_states(callbacks: Sequence[Callback]) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return the tensors and the rest of what callbacks remember, of those that remember something."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for name, callback in named_callbacks(callbacks).items():
        state = callback.state()
        if state:
            tensors |= {f"{name}/{key}": v for key, v in state.items() if isinstance(v, Tensor)}
            plain[name] = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
    return tensors, plain


def _check_callbacks(named: Mapping[str, Callback], saved: Mapping[str, Any]) -> None:
    missing = [name for name in saved if name not in named]
    forgotten = [name for name, callback in named.items() if name not in saved and callback.state()]
    if missing or forgotten:
        raise ConfigError(
            f"the checkpoint has the states of {', '.join(saved) or 'no callback'}"
            + (f"; {', '.join(missing)} is not among the callbacks now" if missing else "")
            + (f", and none of {', '.join(forgotten)}" if forgotten else ""),
            "pass the callbacks that it was saved with",
        )


def _restore_callbacks(
    named: Mapping[str, Callback], plain: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]
) -> None:
    for name, values in plain.items():
        prefix = f"{name}/"
        own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        named[name].restore_state({**values, **own})


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
