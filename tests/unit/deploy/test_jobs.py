"""A long job gives each row once, in order, however often it is killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from headstart.deploy import Predictor, load_predictor
from headstart.deploy.jobs import predict_into
from headstart.errors import InputMissingError, OutputError, UsageError
from headstart.evaluation import Predictions

from .conftest import Saved, manifest_of, picture, small_model


class Stopped(BaseException):
    """What a test stops a job with: nothing in it catches this."""


@pytest.fixture(scope="module")
def predictor(saved: Saved) -> Iterator[Predictor]:
    with load_predictor(saved.folder, device="cpu", engine="eager", trusted=True) as found:
        yield found


def fill(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(picture(number, 16, 20)).save(folder / f"{number:04}.png")
    (folder / "0007.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 little pictures, of which one cannot be read."""
    return fill(tmp_path_factory.mktemp("tiny") / "pictures", 200)


def stop_after(rows: int) -> object:
    def on_progress(done: int, total: int) -> None:
        if done >= rows:
            raise Stopped

    return on_progress


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_job_that_was_stopped_goes_on_and_gives_the_same_table(
    predictor: Predictor, tiny: Path, tmp_path: Path, kind: str
) -> None:
    whole, broken = tmp_path / f"whole.{kind}", tmp_path / f"broken.{kind}"
    predict_into(predictor, tiny, whole, features=True, part_rows=64)
    for rows in (64, 128):
        with pytest.raises(Stopped):
            predict_into(predictor, tiny, broken, features=True, part_rows=64, on_progress=stop_after(rows))  # type: ignore[arg-type]
        assert not broken.exists()
    done = predict_into(predictor, tiny, broken, features=True, part_rows=64)
    assert (done.rows, done.unread, done.resumed) == (200, 1, 128)
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [broken.name, whole.name]


def test_the_table_says_what_the_predictor_says(predictor: Predictor, tiny: Path, tmp_path: Path) -> None:
    wanted = predictor.predict(tiny)
    predict_into(predictor, tiny, tmp_path / "a.csv", part_rows=64)
    again = Predictions.from_csv(tmp_path / "a.csv")
    assert again.paths == wanted.paths
    assert again.statuses.tolist() == wanted.statuses.tolist()
    assert again.statuses[7] == "NOT_AN_IMAGE"
    np.testing.assert_allclose(again.probabilities, wanted.probabilities, atol=1e-6)

    predict_into(predictor, tiny, tmp_path / "a.parquet", top=2, features=True, part_rows=64)
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert "p_cat" not in table
    assert table["prediction"] == wanted.predicted_labels()
    second = np.sort(wanted.probabilities, axis=1)[:, -2]
    np.testing.assert_allclose(
        [np.nan if value is None else value for value in table["probability_2"]], second, atol=1e-6
    )
    assert table["features"][7] is None
    features = predictor.features(tiny)
    assert np.isnan(features[7]).all()
    np.testing.assert_allclose(table["features"][5], features[5], atol=1e-5)
    assert wanted.to_frame(top=2)["prediction_2"].tolist() == table["prediction_2"]


@pytest.mark.parametrize("what", ["pictures", "more", "size", "model", "options"])
def test_another_job_is_refused_and_can_begin_anew(
    predictor: Predictor, tiny: Path, tmp_path: Path, what: str
) -> None:
    own = fill(tmp_path / "own", 70)
    out = tmp_path / "out.csv"
    with pytest.raises(Stopped):
        predict_into(predictor, own, out, part_rows=64, on_progress=stop_after(64))  # type: ignore[arg-type]
    given, options, other = own, {}, predictor
    if what == "pictures":
        (own / "0003.png").rename(own / "0003 b.png")
    elif what == "more":
        Image.fromarray(picture(3, 16, 20)).save(own / "9999.png")
    elif what == "size":
        (own / "0003.png").write_bytes(b"other")
    elif what == "options":
        options = {"top": 2}
    else:
        from headstart.deploy import save_bundle

        model = small_model(seed=4)
        save_bundle(tmp_path / "model", [model], manifest_of(model))
        other = load_predictor(tmp_path / "model", device="cpu", engine="eager", trusted=True)
    with pytest.raises(OutputError, match="unfinished job") as refused:
        predict_into(other, given, out, part_rows=64, **options)  # type: ignore[arg-type]
    named = {"model": "model", "options": "options"}.get(what, "pictures")
    assert f"other {named}" in refused.value.message
    done = predict_into(other, given, out, part_rows=64, replace_old=True, **options)  # type: ignore[arg-type]
    assert done.resumed == 0
    assert len(rows_of(out)) == len(list(own.iterdir()))


def test_a_table_that_is_there_is_kept_unless_it_is_to_be_replaced(
    predictor: Predictor, tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        predict_into(predictor, tiny, out)
    with pytest.raises(Stopped):
        predict_into(predictor, tiny, out, replace_old=True, part_rows=64, on_progress=stop_after(64))  # type: ignore[arg-type]
    assert out.read_text() == "mine"
    assert predict_into(predictor, tiny, out, part_rows=64).resumed == 64
    assert len(rows_of(out)) == 200


def test_other_pictures_of_an_iterator_are_seen_in_what_is_done(
    predictor: Predictor, tiny: Path, tmp_path: Path
) -> None:
    files, out = sorted(tiny.iterdir()), tmp_path / "out.csv"
    with pytest.raises(Stopped):
        predict_into(predictor, iter(files), out, part_rows=64, on_progress=stop_after(64))  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="not those of the unfinished job"):
        predict_into(predictor, iter(files[1:]), out, part_rows=64)
    assert predict_into(predictor, iter(files), out, part_rows=64).rows == 200


def test_nothing_and_a_wrong_top_are_told(predictor: Predictor, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no pictures"):
        predict_into(predictor, iter(()), tmp_path / "a.csv")
    with pytest.raises(UsageError, match="most probable"):
        predict_into(predictor, tiny, tmp_path / "b.csv", top=0)


def test_two_processes_do_not_work_on_one_table(predictor: Predictor, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"

    def second(done: int, total: int) -> None:
        with pytest.raises(OutputError, match="in use by process"):
            predict_into(predictor, tiny, out, part_rows=64)

    predict_into(predictor, tiny, out, part_rows=64, on_progress=second)
    assert len(rows_of(out)) == 200


def test_a_long_stream_takes_no_more_memory_than_a_short_one(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every picture is refused at its first byte, so that thousands of them take seconds.
    monkeypatch.setattr("headstart.deploy.predictor.CHUNK", 512)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            stream = (b"x" for _ in range(count))
            done = predict_into(predictor, stream, tmp_path / f"{count}.csv", top=1, part_rows=1024)
            assert done.rows == done.unread == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(12_000) < 1.2 * peak(4_000)


COMMAND = (
    "import sys; from headstart.deploy import jobs, load_predictor;"
    "p = load_predictor(sys.argv[1], device='cpu', engine='eager', trusted=True);"
    "jobs.predict_into(p, sys.argv[2], sys.argv[3], part_rows=64,"
    " on_progress=lambda done, total: print(done, flush=True))"
)


@pytest.mark.skipif(os.name != "posix", reason="there is no such signal")
def test_a_job_that_is_killed_loses_no_row(saved: Saved, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    command = [sys.executable, "-c", COMMAND, str(saved.folder), str(tiny), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "64"
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout.split()[0]) >= 64
    assert [Path(row["path"]).name for row in rows_of(out)] == [f"{number:04}.png" for number in range(200)]
