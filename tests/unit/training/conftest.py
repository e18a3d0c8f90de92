"""A tiny network and an in-memory source, to train without pictures."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from headstart.training import Run, group_rates, make_optimizer
from headstart.types import Batch


@dataclass
class ArraySource:
    """Rows of numbers whose class is the sign of their first; the last batch may be short."""

    inputs: np.ndarray
    targets: np.ndarray
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    @property
    def sample_count(self) -> int:
        return len(self.inputs)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng(epoch).permutation(len(self.inputs))
        for number in range(start, len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield Batch(self.inputs[rows], self.targets[rows], rows)


@pytest.fixture
def make_source() -> Callable[..., ArraySource]:
    def make(count: int = 40, batch_size: int = 8, width: int = 6) -> ArraySource:
        inputs = np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)
        return ArraySource(inputs, (inputs[:, 0] > 0).astype(np.int64), batch_size)

    return make


@pytest.fixture
def make_net() -> Callable[..., nn.Sequential]:
    """Linear, batch norm, dropout: all that remembers or draws."""

    def make(seed: int = 0, width: int = 6) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
            )

    return make


def groups_of(net: nn.Sequential) -> list[list[nn.Parameter]]:
    """The network in two groups, the body and the last layer."""
    return [list(net[:-1].parameters()), list(net[-1].parameters())]


@pytest.fixture
def make_run(make_net: Callable[..., nn.Sequential]) -> Callable[..., Run]:
    def make(
        net: nn.Sequential | None = None,
        *,
        seed: int = 5,
        rates: Sequence[float] | None = None,
        name: str = "adamw",
    ) -> Run:
        net = net if net is not None else make_net()
        rates = rates or group_rates(1e-2, 2)
        return Run(net, make_optimizer(groups_of(net), rates, name=name), seed=seed, precision="float32")

    return make


def bits(run: Run) -> dict[str, bytes]:
    """Every number of a run's model and optimiser, as bytes."""
    found = {name: tensor.detach().numpy().tobytes() for name, tensor in run.model.state_dict().items()}
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    assert run.optimizer is not None
    for parameter, entries in run.optimizer.state.items():
        for entry, value in entries.items():
            found[f"{names[id(parameter)]}/{entry}"] = value.numpy().tobytes()
    return found


@pytest.fixture(name="bits")
def bits_fixture() -> Callable[[Run], dict[str, bytes]]:
    return bits


def fingerprint(run) -> dict[str, str]:
    """Hashes of all that must be as before."""

    def digest(value: object) -> str:
        return hashlib.sha256(repr(value).encode()).hexdigest()

    def tensor(value) -> str:
        return hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()

    optimizer = run.optimizer
    found = {f"model {name}": tensor(value) for name, value in run.model.state_dict().items()}
    found |= {
        f"gradient {name}": digest(None if p.grad is None else p.grad.tolist())
        for name, p in run.model.named_parameters()
    }
    names = {id(p): name for name, p in run.model.named_parameters()}
    for parameter, entries in optimizer.state.items():
        found |= {f"state {names[id(parameter)]} {key}": tensor(value) for key, value in entries.items()}
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    found["settings"] = digest(settings)
    found["modes"] = digest([module.training for module in run.model.modules()])
    found["python"] = digest(random.getstate())
    found["numpy"] = digest([str(part) for part in np.random.get_state(legacy=False).items()])
    found["torch"] = tensor(torch.random.get_rng_state())
    found["run"] = digest((run.step, run.epoch, run.history.rows, run.stop_reason))
    return found


@pytest.fixture
def trace() -> Callable[[Run], dict[str, str]]:
    return fingerprint


@pytest.fixture
def validate_with() -> Callable[[Run, ArraySource], Callable[[], dict[str, float]]]:
    def make(run: Run, source: ArraySource) -> Callable[[], dict[str, float]]:
        def validate() -> dict[str, float]:
            run.model.eval()
            with torch.no_grad():
                logits = run.model(torch.from_numpy(source.inputs))
                targets = torch.from_numpy(source.targets)
                valid_loss = nn.functional.cross_entropy(logits, targets).item()
                accuracy = (logits.argmax(1) == targets).float().mean().item()
            run.model.train()
            return {"valid_loss": valid_loss, "accuracy": accuracy}

        return validate

    return make


def comparable(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Rows of a history without what the clock says."""
    return [{name: v for name, v in row.items() if name not in ("time", "seconds")} for row in rows]


@pytest.fixture(name="comparable")
def comparable_fixture() -> Callable[[Sequence[dict[str, object]]], list[dict[str, object]]]:
    return comparable


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads, much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
