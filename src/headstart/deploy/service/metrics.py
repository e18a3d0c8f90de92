"""What the service counts, in the text form that Prometheus reads.

By hand: it is fifty lines for a few numbers, where the usual package brings a registry that is global to the
process, and would carry the counts of one service into the next.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """How many values were at most so large, their sum, and their number."""

    def __init__(self, limits: Sequence[float]) -> None:
        self.limits = tuple(limits)
        self._counts = [0] * (len(limits) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect.bisect_left(self.limits, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str = "") -> Iterable[str]:
        """Yield its lines; `labels` are `a="b"` and so on."""
        total, comma = 0, "," if labels else ""
        for limit, count in zip((*self.limits, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels}{comma}le="{limit}"}} {total}'
        around = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{around} {self._sum:.6f}"
        yield f"{name}_count{around} {total}"


class Metrics:
    """What happened since the start.

    Of paths only the service's own are counted apart: nobody fills the memory with others.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.pictures: Counter[tuple[str, str]] = Counter()
        self.reloads: Counter[str] = Counter()
        self.seconds: dict[str, Histogram] = {}
        self.batches = Histogram(SIZES)
        self.in_flight = 0

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests[path, status] += 1
        self.seconds.setdefault(path, Histogram(SECONDS)).add(seconds)

    def text(self, waiting: dict[str, int], ready: bool) -> str:
        """Return all of it; `waiting`: how many pictures wait for each model."""
        lines = [
            *_head("headstart_requests_total", "counter", "Requests by path and status."),
            *(
                f'headstart_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.requests.items())
            ),
            *_head("headstart_pictures_total", "counter", "Pictures by model and what became of them."),
            *(
                f'headstart_pictures_total{{model="{_escaped(model)}",status="{status}"}} {count}'
                for (model, status), count in sorted(self.pictures.items())
            ),
            *_head("headstart_request_seconds", "histogram", "Seconds from a request's head to its answer."),
            *(
                line
                for path, histogram in sorted(self.seconds.items())
                for line in histogram.lines("headstart_request_seconds", f'path="{path}"')
            ),
            *_head("headstart_batch_pictures", "histogram", "Pictures that went through a network together."),
            *self.batches.lines("headstart_batch_pictures"),
            *_head("headstart_reloads_total", "counter", "Reloads by what became of the model."),
            *(
                f'headstart_reloads_total{{result="{result}"}} {count}'
                for result, count in sorted(self.reloads.items())
            ),
            *_head("headstart_waiting_pictures", "gauge", "Pictures that wait for a model."),
            *(
                f'headstart_waiting_pictures{{model="{_escaped(name)}"}} {count}'
                for name, count in waiting.items()
            ),
            *_head("headstart_requests_in_flight", "gauge", "Requests that are being answered."),
            f"headstart_requests_in_flight {self.in_flight}",
            *_head("headstart_ready", "gauge", "Whether the service takes pictures."),
            f"headstart_ready {int(ready)}",
            *_memory(),
        ]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, words: str) -> tuple[str, str]:
    return (f"# HELP {name} {words}", f"# TYPE {name} {kind}")


def _memory() -> Iterable[str]:
    try:
        said = Path("/proc/self/status").read_text("ascii", errors="replace")
    except OSError:  # not Linux
        return
    for line in said.splitlines():
        if line.startswith("VmRSS:"):
            yield from _head("process_resident_memory_bytes", "gauge", "Memory of this process.")
            yield f"process_resident_memory_bytes {1024 * int(line.split()[1])}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
