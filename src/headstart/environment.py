"""What this machine is and what is installed on it: for reports, `doctor` and benchmarks."""

from __future__ import annotations

import functools
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "headstart",
    "torch",
    "timm",
    "onnxruntime",
    "onnx",
    "opencv-python-headless",
    "simplejpeg",
    "pillow",
    "numpy",
    "scikit-learn",
    "pandas",
    "safetensors",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Return the system, the processor, how many cores this process may use, and the memory in MB."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": core_count(),
        "memory_mb": _memory_mb(),
    }


def core_count() -> int:
    """Return how many processor cores this process may use."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_mb() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):
        return 0


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has had resident; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In kilobytes, on macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def process_seconds() -> float:
    """Return the seconds since this process began, imports included.

    Elsewhere than on Linux: since this module was imported, near the start of every command.
    """
    try:
        with open("/proc/self/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED


_IMPORTED = time.monotonic()


def process_started(pid: int) -> float | None:
    """Return when a process began, in ticks since the machine did; None where no such process runs.

    Elsewhere than on Linux: 0 where it runs.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
        return None if fields[0] == b"Z" else float(fields[19])
    except OSError:
        if os.path.isdir("/proc/self"):
            return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return 0.0
    except OSError:
        return None
    return 0.0
