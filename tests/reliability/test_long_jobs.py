"""A job of 20,000 pictures that is killed again and again: each row once, none lost, in order."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from tests.unit.deploy.conftest import manifest_of, picture, small_model

from headstart.deploy import save_bundle

COUNT, KILLS = 20_000, 5
# No picture is looked at twice that was in a part: so the work of all processes together is known.
COMMAND = (
    "import sys; from headstart.deploy import jobs, load_predictor;"
    "p = load_predictor(sys.argv[1], device='cpu', batch_size=64, trusted=True);"
    "jobs.predict_into(p, sys.argv[2], sys.argv[3], top=1,"
    " on_progress=lambda done, total: print(done, flush=True))"
)


def test_a_job_of_20000_pictures_survives_its_kills(tmp_path: Path) -> None:
    model = small_model()
    save_bundle(tmp_path / "model", [model], manifest_of(model))
    (tmp_path / "pictures").mkdir()
    for number in range(COUNT):
        Image.fromarray(picture(number, 12, 16)).save(tmp_path / "pictures" / f"{number:05}.bmp")
    out, chance, kills, starts = tmp_path / "out.csv", random.Random(0), 0, []
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "model"), str(tmp_path / "pictures"), str(out)]
    for killed in [True] * KILLS + [False]:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            starts.append(int(process.stdout.readline()))
            if killed:
                time.sleep(chance.uniform(0, 3))
                process.send_signal(signal.SIGKILL)
            process.stdout.read()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    with open(out, encoding="utf-8", newline="") as stream:
        names = [Path(row["path"]).name for row in csv.DictReader(stream)]
    assert names == [f"{number:05}.bmp" for number in range(COUNT)]
    assert kills >= 2
    assert starts == sorted(starts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.csv", "pictures"]
    print(f"{COUNT} pictures, {kills} kills, first rows of each start: {starts}")
