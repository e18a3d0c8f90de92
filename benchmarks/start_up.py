"""Claim: `headstart --help` and `import headstart` take less than 0.3 s, and neither imports torch.

    python benchmarks/start_up.py --fastai-python PATH/TO/python [--n 11]

Whole processes, in turn: `headstart --help`, `import headstart`, `import fastai.vision.all`, and an empty
Python of each environment as the floor. One round beforehand is not counted: it fills the page cache and
writes byte code.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from harness import RESULTS, run_process, spread, write_row

CLAIM = "`headstart --help` and `import headstart` take less than 0.3 s (median) and do not import torch"
LIMIT = 0.3


def imports_torch(command: list[str]) -> bool:
    """Whether a Python command imports torch, by the interpreter's own list of imports."""
    listing = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]], capture_output=True, text=True, check=True
    )
    names = {
        line.rpartition("|")[2].strip()
        for line in listing.stderr.splitlines()
        if line.startswith("import time:")
    }
    return "torch" in names


def main() -> None:
    """Measure in turn and write the row."""
    parser = argparse.ArgumentParser(description="Start-up times, fastai beside.")
    parser.add_argument(
        "--fastai-python", default=sys.executable, help="Python of an environment with fastai"
    )
    parser.add_argument("--headstart", default=str(Path(sys.executable).with_name("headstart")))
    parser.add_argument("--n", type=int, default=7, help="rounds, at least 7")
    parser.add_argument("--only", choices=("fastai",), help="leave headstart out, to try the mechanics")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.n < 7:
        parser.error("--n must be at least 7: single runs vary by a half")
    commands = {
        "empty Python, fastai's environment": [options.fastai_python, "-c", "pass"],
        "import fastai.vision.all": [options.fastai_python, "-W", "ignore", "-c", "import fastai.vision.all"],
    }
    if options.only is None:
        commands = {
            "headstart --help": [options.headstart, "--help"],
            "import headstart": [sys.executable, "-c", "import headstart"],
            "empty Python, headstart's environment": [sys.executable, "-c", "pass"],
            **commands,
        }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for round_number in range(options.n + 1):
        for name, command in commands.items():
            finished = run_process(command)
            if finished.returncode != 0:
                raise SystemExit(f"{' '.join(command)} failed with {finished.returncode}")
            if round_number > 0:
                seconds[name].append(finished.seconds)
    spreads = {name: spread(values) for name, values in seconds.items()}
    results: dict[str, object] = {
        "seconds": {name: [round(v, 4) for v in values] for name, values in seconds.items()}
    }
    if options.only is None:
        results["imports torch"] = {
            "headstart --help": imports_torch([sys.executable, "-m", "headstart", "--help"]),
            "import headstart": imports_torch([sys.executable, "-c", "import headstart"]),
        }
        results["below the limit"] = {
            name: spreads[name]["median"] < LIMIT for name in ("headstart --help", "import headstart")
        }
    write_row(
        CLAIM,
        results,
        n=options.n,
        name="start_up",
        spreads=spreads,
        baseline_python=options.fastai_python,
        folder=options.results,
    )


if __name__ == "__main__":
    main()
