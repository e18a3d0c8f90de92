"""Kill a run at random moments, again and again: what comes out must be what an unbroken run gives.

    python -m tests.reliability.crash_matrix --kills 50 --seed 0

Each run of two phases (the head, then everything, with mixup) is killed one to four times, by SIGKILL, by
SIGTERM, or by SIGKILL with its newest checkpoint cut short afterwards; it goes on with another number of
threads that read pictures, half the time with an empty cache, and its outcome is compared, hash by hash,
with that of a run that nobody touched. What was counted is printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.reliability.runs import (
    Case,
    check_ids,
    forked,
    import_everything,
    killed_after,
    leftovers,
    make_case,
    outcome,
    wait,
    work,
)

from headstart.training.checkpoint_folder import checkpoints

HOW = ("kill", "kill", "kill", "terminate", "kill and cut the newest checkpoint")


def reference(case: Case, root: Path) -> tuple[dict[str, str], float]:
    """Return the outcome of a run that nobody touched, and the seconds that a run takes."""
    for name in ("warm", "reference"):
        started = time.monotonic()
        assert wait(forked(lambda name=name: work(case, root / name))) == 0
        seconds = time.monotonic() - started
    check_ids(root / "reference")
    return outcome(root / "reference"), seconds


def break_and_go_on(case: Case, out: Path, drawn: random.Random, seconds: float, counts: Counter[str]) -> int:
    """Run until the end, broken off one to four times; return how often it was."""
    broken, cache = 0, os.environ["HEADSTART_CACHE"]
    for _ in range(drawn.randint(1, 4)):
        threads, how = drawn.randint(0, 3), drawn.choice(HOW)
        number = signal.SIGTERM if how == "terminate" else signal.SIGKILL
        child = forked(lambda threads=threads: work(case, out, threads=threads))
        code = killed_after(child, drawn.uniform(0.02, seconds), number)
        if code is None:
            break
        broken += 1
        counts[how] += 1
        counts[f"ended with {code}"] += 1
        newest = checkpoints(out / "progress" / "checkpoints")
        if "cut" in how and len(newest) > 1:
            file = newest[0] / "model.safetensors"
            os.truncate(file, file.stat().st_size // 2)
            counts["checkpoints cut"] += 1
        # Before the first checkpoint a run begins anew, and may well find another engine the faster.
        if newest and drawn.random() < 0.5:
            os.environ["HEADSTART_CACHE"] = f"{cache} {out.name} {broken}"
            counts["caches lost"] += 1
    assert wait(forked(lambda: work(case, out, threads=drawn.randint(0, 3)))) == 0, f"{out} cannot go on"
    os.environ["HEADSTART_CACHE"] = cache
    return broken


def matrix(kills: int, seed: int, root: Path) -> dict[str, object]:
    """Break runs off until there were `kills`; return what was counted. Raises where an outcome differs."""
    import_everything()
    case = make_case(root / "case")
    expected, seconds = reference(case, root)
    counts: Counter[str] = Counter()
    done = runs = 0
    while done < kills:
        drawn = random.Random(f"{seed} {runs}")
        out = root / f"run-{runs}"
        done += break_and_go_on(case, out, drawn, seconds, counts)
        found = outcome(out)
        different = sorted(name for name in expected if found[name] != expected[name])
        assert not different, f"seed {seed}, run {runs}: {', '.join(different)} differ"
        assert not leftovers(out), f"seed {seed}, run {runs}: {leftovers(out)} were left"
        check_ids(out)
        runs += 1
        print(f"{done} of {kills} breaks, {runs} runs, no difference", file=sys.stderr, flush=True)
    return {
        "breaks": done, "runs": runs, "seed": seed, "seconds_of_a_run": round(seconds, 2),
        "hashes_compared": runs * len(expected), "different": 0, **dict(counts.most_common()),
    }  # fmt: skip


def main() -> None:
    """Read the flags, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["HEADSTART_CACHE"] = str(Path(name) / "cache")
        print(json.dumps(matrix(given.kills, given.seed, Path(name))))
    sys.exit(0)


if __name__ == "__main__":
    main()
