"""Several processes that train one network: which of them this is, and what they tell one another.

`torchrun --standalone --nproc-per-node=2 -m headstart train …` starts them, or `accelerate launch --multi_gpu
--num_processes 2 -m headstart train …` (on CPUs, too: with `--cpu` it starts one, tried with 1.15), or
whatever else sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Each runs the same program over the same
table of samples, and takes its share of every batch (`ordering.batch_bounds`).
What decides anything is the same number everywhere: gradients and losses are added up, predictions gathered,
what a clock says is said by rank 0. So all take the same way, and rank 0 alone writes files and prints.

Nothing is pickled: arrays and text travel as bytes, a rank's numbers as a row of a table.
"""

from __future__ import annotations

import os
import socket
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from headstart.environment import process_started
from headstart.errors import LostRankError, UsageError
from headstart.types import World

if TYPE_CHECKING:
    import torch

Kind = TypeVar("Kind", bound=np.generic)

# How long one may wait for another: rank 0 may look at a million pictures meanwhile. A rank that ends is
# noticed at once, whatever this is, since its connections close with it.
PATIENCE = timedelta(hours=6)
MEETING = timedelta(minutes=5)
# A rank that ends for an error of its own is still there for a moment after its connections have closed.
_ENDING_SECONDS = 3.0
_DIMENSIONS = 6


class _Peer(NamedTuple):
    machine: float
    pid: int
    started: float


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone unless it has `joined` others.

    Everything here is called by all ranks, in the same order; alone it costs nothing. What finds that
    another rank has ended raises `LostRankError`, which names it.
    """

    world: World = World()
    peers: tuple[_Peer, ...] = ()

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.world.rank

    @property
    def count(self) -> int:
        """How many processes there are."""
        return self.world.size

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.world.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.world.rank == 0

    def table(self, *values: float) -> NDArray[np.float64]:
        """Return the numbers that each rank gave, a row for each: float64 (ranks, values), exact."""
        rows = np.zeros((self.count, len(values)))
        rows[self.rank] = values
        if not self.alone:
            import torch

            with self._watched():
                torch.distributed.all_reduce(torch.from_numpy(rows))
        return rows

    def wait(self) -> None:
        """Wait until all are here."""
        self.table(0.0)

    def of_first(self, value: float) -> float:
        """Return what rank 0 gave: for what a clock decides."""
        return float(self.table(value)[0, 0])

    def gathered(self, array: NDArray[Kind]) -> list[NDArray[Kind]]:
        """Return the arrays of all ranks, by rank: of one dtype, any number of rows, and else one shape.

        An empty array may have any shape.
        """
        if self.alone:
            return [array]
        import torch

        shape = (*array.shape, *[-1] * (_DIMENSIONS - array.ndim))
        shapes = self.table(*shape).astype(np.int64)
        counts = shapes[:, 0]
        inner = [side for side in shapes[int(counts.argmax()), 1:].tolist() if side >= 0]
        each = int(np.prod(inner)) * array.itemsize
        own = torch.zeros(int(counts.max()) * each, dtype=torch.uint8)
        sent = np.ascontiguousarray(array).view(np.uint8).reshape(-1) if array.size else np.zeros(0, np.uint8)
        own[: len(sent)] = torch.from_numpy(sent.copy())
        parts = [torch.empty_like(own) for _ in range(self.count)]
        with self._watched():
            torch.distributed.all_gather(parts, own)
        return [
            part.numpy()[: count * each].view(array.dtype).reshape(count, *inner)
            for part, count in zip(parts, counts.tolist(), strict=True)
        ]

    def said(self, text: str) -> tuple[str, ...]:
        """Return the texts that the ranks gave, by rank."""
        parts = self.gathered(np.frombuffer(text.encode("utf-8", errors="surrogateescape"), np.uint8))
        return tuple(part.tobytes().decode("utf-8", errors="surrogateescape") for part in parts)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the sum over all ranks in the place of each tensor, through one buffer, bit-equal everywhere.

        The tensors are of floating point and on one device.
        """
        if self.alone or not tensors:
            return
        import torch

        kind = max((tensor.dtype for tensor in tensors), key=lambda dtype: dtype.itemsize)
        buffer = torch.cat([tensor.detach().reshape(-1).to(kind) for tensor in tensors])
        with self._watched():
            torch.distributed.all_reduce(buffer)
        pieces = torch.split(buffer, [tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, piece in zip(tensors, pieces, strict=True):
                tensor.copy_(piece.view(tensor.shape))

    def side_by_side(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensors of all ranks, by rank: (ranks, …). They have one shape, dtype and device."""
        if self.alone:
            return tensor.unsqueeze(0)
        import torch

        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        with self._watched():
            torch.distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    def take_from_first(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put what rank 0 has in the place of each tensor."""
        if self.alone:
            return
        import torch

        with self._watched(), torch.no_grad():
            for tensor in tensors:
                # A broadcast wants memory in order, which channels-last is not.
                whole = tensor.detach().contiguous()
                torch.distributed.broadcast(whole, 0)
                tensor.copy_(whole)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let rank 0 do what is within, then the others, who find in a cache what it left there."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    # ---- one that is lost ------------------------------------------------------------------------

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> LostRankError:
        gone = self._ended()
        named = " and ".join(f"rank {rank} (process {self.peers[rank].pid})" for rank in gone)
        reason = str(error).strip().splitlines()[0][:200]
        return LostRankError(
            f"{named} of {self.count} ended before its time, so rank {self.rank} stops, too"
            if gone
            else f"rank {self.rank} of {self.count} cannot reach the others any more: {reason}",
            "what that one said last tells why; what was saved is whole: go on with headstart resume RUN, "
            "on as many processes as you like",
        )

    def _ended(self) -> list[int]:
        """Return the ranks on this machine that do not run any more."""
        if not self.peers:
            return []
        here = self.peers[self.rank].machine
        until = time.monotonic() + _ENDING_SECONDS
        while True:
            gone = [
                rank
                for rank, peer in enumerate(self.peers)
                if peer.machine == here and process_started(peer.pid) != peer.started
            ]
            if gone or time.monotonic() > until:
                return gone
            time.sleep(0.02)


ALONE = Ranks()
"""One process that has joined no others."""

_joined: list[Ranks] = []


def current() -> Ranks:
    """Return this process among those that it has joined: alone where it has joined none."""
    return _joined[-1] if _joined else ALONE


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Join the processes that were started with this one, for as long as the block lasts.

    `environment` says how many there are and where they meet, as `torchrun` sets it: RANK, WORLD_SIZE,
    MASTER_ADDR, MASTER_PORT. Where it names no others this process stays alone, and torch is not imported.
    Raises `UsageError` where it is not complete.
    """
    if _joined or not started_with_others(environment):
        yield current()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if environment.get("MASTER_PORT") == "0":
        missing.append("MASTER_PORT")  # where each would choose a port of its own
    if missing:
        raise UsageError(
            f"WORLD_SIZE says {environment['WORLD_SIZE']} processes, and {', '.join(missing)} is not set",
            "start them with torchrun --standalone --nproc-per-node=2 -m headstart train …",
        )
    import torch

    world = World(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    _meet(world)
    ranks = _introduced(world)
    _joined.append(ranks)
    try:
        yield ranks
    except LostRankError:
        # To take leave of those who are gone may take for ever; the process is about to end.
        raise
    except BaseException:
        torch.distributed.destroy_process_group()
        raise
    else:
        torch.distributed.destroy_process_group()
    finally:
        _joined.remove(ranks)


def _meet(world: World) -> None:
    """Make torch's process group: on the CPU by gloo, between CUDA devices by NCCL."""
    import torch
    from torch.distributed.rendezvous import rendezvous

    cuda = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    try:
        store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=MEETING))
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UsageError(
            f"rank {world.rank} of {world.size} did not meet the others: {reason}",
            "look at MASTER_ADDR and MASTER_PORT, or start them with torchrun --standalone",
        ) from error


def _introduced(world: World) -> Ranks:
    """Let every rank know the others' processes, to tell later which of them has ended."""
    pid = os.getpid()
    machine = float(zlib.crc32(socket.gethostname().encode()))
    rows = Ranks(world).table(machine, pid, process_started(pid) or 0.0)
    return Ranks(world, tuple(_Peer(host, int(each), started) for host, each, started in rows.tolist()))


def started_with_others(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this process was started as one of several.

    Raises `UsageError` for a number that is none, and where several were asked for and one was started.
    """
    said = environment.get("WORLD_SIZE", "")
    if not said and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= environment.keys():
        # It sets the address where several are asked for, and leaves the rest to MPI.
        raise UsageError(
            "accelerate launch was asked for several processes, and starts only one with --cpu",
            "on CPUs, too: accelerate launch --multi_gpu --num_processes 2 -m headstart train …",
        )
    said = said or "1"
    if not said.isdecimal():
        raise UsageError(
            f"WORLD_SIZE is {said!r}, which is no number of processes", "unset it, or use torchrun"
        )
    return int(said) > 1


def local_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of this process on its machine; None where it was started alone."""
    said = environment.get("LOCAL_RANK", "")
    return int(said) if said.isdecimal() and started_with_others(environment) else None


def on_this_machine(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many of the processes that were started together share this machine: 1 for one alone."""
    said = environment.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(said)) if said.isdecimal() and started_with_others(environment) else 1


def in_order_of(
    wanted: NDArray[np.int64], index: NDArray[np.int64], *columns: NDArray[Any]
) -> tuple[NDArray[Any], ...]:
    """Return (index, *columns) with their rows in the order in which `wanted` names them.

    `index` (rows,): which of `wanted` each row is; each occurs at most once.
    """
    sorter = np.argsort(wanted, kind="stable")
    places = sorter[np.searchsorted(wanted, index, sorter=sorter)]
    order = np.argsort(places, kind="stable")
    return (index[order], *(column[order] for column in columns))
