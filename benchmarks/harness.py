"""The harness of all rows: one JSON file per claim, with machine, versions, n and spread.

Supports no claim itself. It needs nothing but the standard library, so that it runs unchanged in the
environment of headstart and in the environment of the baseline.

    python benchmarks/harness.py            # prints this machine and the installed versions
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "headstart", "torch", "torchvision", "timm", "fastai", "onnxruntime", "opencv-python-headless",
    "simplejpeg", "pillow", "numpy", "scikit-learn", "safetensors", "fastapi", "uvicorn",
)  # fmt: skip

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """What the row was measured on: processor, cores that may be used, memory, operating system, load."""
    model = platform.processor() or platform.machine()
    cpu_information = Path("/proc/cpuinfo")
    if cpu_information.exists():
        for line in cpu_information.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {"cpu": model, "cores": cores, "os": platform.platform()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["ram_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    if hasattr(os, "getloadavg"):
        # A row measured beside other work must show it.
        facts["load_average"] = [round(load, 2) for load in os.getloadavg()]
    return facts


def versions() -> dict[str, str]:
    """Version of Python and of every package of interest that this interpreter has."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def versions_of(python: str) -> dict[str, str]:
    """As `versions`, for another interpreter."""
    if Path(python) == Path(sys.executable):
        return versions()
    answer = subprocess.run([python, __file__], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(answer)["versions"])


def spread(values: Iterable[float], *, digits: int = 3) -> dict[str, float]:
    """Smallest, middle and largest value, and how many there are.

    Raises `statistics.StatisticsError` when there is no value.
    """
    known = list(values)
    return {
        "n": len(known),
        "median": round(statistics.median(known), digits),
        "min": round(min(known), digits),
        "max": round(max(known), digits),
    }


def write_row(
    claim: str,
    results: Any,
    *,
    n: int,
    name: str,
    spreads: Mapping[str, Mapping[str, float]] | None = None,
    baseline_python: str | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Write `folder/name.json`, print it, and return its path.

    `n` is the number of measurements behind the row; `spreads` holds `spread(…)` of each measured series.
    """
    row = {
        "claim": claim,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "n": n,
        "spread": {key: dict(value) for key, value in (spreads or {}).items()},
        "results": results,
    }
    if baseline_python is not None:
        row["baseline_versions"] = versions_of(baseline_python)
    file = folder / f"{name}.json"
    write_json(file, row)
    print(json.dumps(row, indent=2))
    return file


def write_json(file: Path, value: Any) -> None:
    """Write JSON so that a reader sees the whole file or none: a killed run leaves no half row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(file)


def seconds_since_process_start() -> float:
    """Wall seconds since the kernel started this process: interpreter start and imports are counted.

    Linux counts process starts in ticks of 10 ms, so this is exact to a hundredth of a second.
    """
    # The second field, the command, may hold spaces and brackets: count from its closing bracket.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


@dataclass
class Finished:
    """A whole process that ended: seconds from its start, and the lines it printed with their seconds."""

    command: list[str]
    seconds: float
    returncode: int
    lines: list[tuple[float, str]] = field(default_factory=list)

    def first(self, wanted: Callable[[str], bool]) -> float | None:
        """Seconds at which the first wanted line arrived; None when none did."""
        return next((seconds for seconds, line in self.lines if wanted(line)), None)


def run_process(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    echo: bool = False,
) -> Finished:
    """Run a command from nothing to its end and time it, with the arrival time of every line of its stdout.

    `environment` is added to this process's own. stderr goes to `log`, or is dropped. A failure is returned,
    not raised: the caller knows which part of the row it costs.
    """
    merged = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    lines: list[tuple[float, str]] = []
    with open(log or os.devnull, "w") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=errors, text=True, env=merged, errors="replace"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append((time.perf_counter() - start, line.rstrip("\n")))
                if echo:
                    print(line, end="", flush=True)
            process.wait()
        seconds = time.perf_counter() - start
    return Finished(list(command), seconds, process.returncode, lines)


def json_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The lines that are JSON objects; other lines, such as a library's notices, are passed over."""
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


if __name__ == "__main__":
    print(json.dumps({"machine": machine(), "versions": versions()}, indent=2))
