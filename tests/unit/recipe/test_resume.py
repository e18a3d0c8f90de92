"""What a run was begun with and where it stands; one process at a time; what has changed since."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.environment import process_started
from headstart.errors import ConfigError, DataError, InputMissingError, OutputError, UsageError
from headstart.imagedata import ImageData
from headstart.lock import NAME, Lock, refuse_used
from headstart.recipe import Body, Journal, Narrator, RunFolder, Saving, go_on, resume, run_steps
from headstart.recipe.changes import compare, data_key, table_of
from headstart.recipe.result import StepResult, Verdict
from headstart.training import Phase, Plan, Settings, constant
from headstart.training.checkpoint_folder import checkpoints

OPTIONS = {"image_size": 32, "batch_size": 8, "seed": 1, "threads": 1}


class Listening(Narrator):
    """Keeps what it is told; with `stop`, Ctrl-C comes when that step has been told."""

    def __init__(self, stop: int | None = None) -> None:
        self.said: list[str] = []
        self.stop = stop

    def say(self, text: str) -> None:
        self.said.append(text)

    def outcome(self, result: StepResult) -> None:
        if result.number == self.stop:
            raise MemoryError("the machine fell over")


def plan() -> Plan:
    phases = [
        Phase(name, 1, constant(), learning_rate=1e-3, frozen_to=0, step=step)
        for step, name in ((4, "first"), (8, "second"))
    ]
    return Plan(tuple(phases), Settings(seed=1))


def broken_run(pictures: Path, out: Path, stop: int | None = 8) -> Listening:
    """Run two phases over pictures; fall over after the phase with this number."""
    told = Listening(stop)
    data = ImageData.from_folder(pictures, **OPTIONS)
    body = Body("test_resnet", from_scratch=True)
    arguments = (data, plan(), body, RunFolder(out), told)
    if stop is None:
        run_steps(*arguments, saving=Saving(steps=1))
    else:
        with pytest.raises(MemoryError):
            run_steps(*arguments, saving=Saving(steps=1))
    return told


@pytest.fixture(scope="module")
def broken_once(tmp_path_factory):
    """Pictures, and a run over them that fell over in its second phase."""
    root = tmp_path_factory.mktemp("broken")
    drawn = np.random.default_rng(0)
    for number in range(24):
        path = root / "pictures" / "ab"[number % 2] / f"{number // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (24, 32, 3), np.uint8)).save(path)
    broken_run(root / "pictures", root / "run")
    return root


@pytest.fixture
def broken(broken_once, tmp_path):
    """The pictures and the run of `broken_once`, to be changed."""
    for name in ("pictures", "run"):
        shutil.copytree(broken_once / name, tmp_path / name)
    return tmp_path / "pictures", tmp_path / "run"


def test_a_run_goes_on_where_it_was_and_is_then_complete(broken, tmp_path) -> None:
    pictures, out = broken
    told = Listening()
    data = ImageData.from_folder(pictures, **OPTIONS)
    result = resume(out, data, narrator=told)
    assert result is not None
    assert any("goes on with second" in text for text in told.said)
    whole = tmp_path / "whole"
    broken_run(pictures, whole, stop=None)
    for name in ("predictions.csv", "model/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    names = [step.name for step in result.steps]
    assert names.count("first") == names.count("second") == 1
    assert json.loads((out / "run.json").read_text())["complete"]
    assert not (out / "progress").exists()
    assert not (out / NAME).exists()
    assert resume(out, data, narrator=told) is None


def test_a_run_that_fell_over_at_its_very_end_gives_the_same_figures(broken, tmp_path) -> None:
    pictures, _ = broken
    summaries = []
    for name, stop in (("late", 10), ("whole", None)):
        out = tmp_path / name
        broken_run(pictures, out, stop=stop)
        if stop:
            resume(out, ImageData.from_folder(pictures, **OPTIONS), narrator=Narrator())
        summaries.append(json.loads((out / "summary.json").read_text()))
    late, whole = ([{**step, "seconds": 0} for step in summary["steps"]] for summary in summaries)
    assert late == whole
    assert summaries[0]["final"] == summaries[1]["final"]


def test_where_no_run_was_begun_there_is_nothing_to_resume(tmp_path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputMissingError, match="nothing to resume"):
            resume(path, narrator=Narrator())
    (tmp_path / "run.json").write_text('{"schema": 1}')
    with pytest.raises(ConfigError, match="not what a run of this version writes"):
        resume(tmp_path, narrator=Narrator())


def test_data_of_one_s_own_must_be_handed_in(broken) -> None:
    with pytest.raises(UsageError, match="how its pictures are found again"):
        resume(broken[1], narrator=Narrator())


def test_no_checkpoint_that_is_whole_never_begins_again_in_silence(broken) -> None:
    pictures, out = broken
    for checkpoint in checkpoints(out / "progress" / "checkpoints"):
        (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no checkpoint in .* is whole"):
        resume(out, ImageData.from_folder(pictures, **OPTIONS), narrator=Narrator())


def changed(pictures: Path, how: str) -> None:
    match how:
        case "added":
            (pictures / "a" / "new.png").write_bytes((pictures / "a" / "1.png").read_bytes() + b"\0")
        case "removed":
            (pictures / "a" / "1.png").unlink()
        case "edited":
            (pictures / "a" / "1.png").write_bytes((pictures / "a" / "1.png").read_bytes() + b"\0")
        case "relabelled":
            (pictures / "a" / "1.png").rename(pictures / "b" / "moved.png")
        case "renamed":
            (pictures / "a").rename(pictures / "c")


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("added", DataError, "a/new.png is new"),
        ("removed", DataError, "a/1.png is not there any more"),
        ("edited", DataError, "a/1.png has other contents"),
        ("relabelled", DataError, r"a/1.png \(a\) is now b/moved.png \(b\)"),
        ("renamed", ConfigError, "the class 'a' is not there any more; the class 'c' is new"),
    ],
)
def test_pictures_that_have_changed_are_named_and_nothing_is_done(broken, how, error, words) -> None:
    pictures, out = broken
    changed(pictures, how)
    data = ImageData.from_folder(pictures, **OPTIONS)
    with pytest.raises(error, match=words) as caught:
        resume(out, data, narrator=Narrator())
    assert caught.value.exit_code == (65 if error is DataError else 78)
    assert caught.value.message.count(";") <= 10
    if how == "removed":
        told = Listening()
        result = resume(out, data, accept_changes=True, narrator=told)
        assert result is not None
        assert len(result.valid) == len(data.rows("valid"))
        assert any("no longer bit-identical" in text for text in told.said)


def test_other_settings_are_named(broken) -> None:
    pictures, out = broken
    data = ImageData.from_folder(pictures, **{**OPTIONS, "batch_size": 4})
    with pytest.raises(ConfigError, match="batch_size was 8 and is 4"):
        resume(out, data, narrator=Narrator())


def test_a_long_list_of_changes_is_cut(make_folder, tmp_path) -> None:
    before = ImageData.from_folder(make_folder({"a": 20, "b": 20}, name="before"), **OPTIONS)
    after = ImageData.from_folder(make_folder({"a": 20, "b": 20}, name="after"), **OPTIONS)
    changes = compare(table_of(before), before.classes, after)
    assert changes.told().count(";") == 9
    assert changes.told().endswith("and 31 more")
    assert not compare(table_of(before), before.classes, before)
    assert data_key(before) != data_key(after)


def test_versions_that_differ_are_named(broken) -> None:
    pictures, out = broken
    said = json.loads((out / "run.json").read_text())
    said["versions"]["timm"] = "0.0.1"
    (out / "run.json").write_text(json.dumps(said))
    told = Listening()
    resume(out, ImageData.from_folder(pictures, **OPTIONS), narrator=told)
    assert any("because timm is" in text and "was 0.0.1" in text for text in told.said)


def test_the_frozen_line_comes_back(broken) -> None:
    found = Journal.read(broken[1]).find()
    assert found is not None
    assert found.extra["frozen_line"] == 0


def test_what_is_left_of_a_budget_is_what_it_goes_on_with(broken) -> None:
    from headstart.recipe.clock import Clock

    journal = Journal.read(broken[1])
    found = journal.find()
    assert found is not None
    assert found.extra["elapsed"] > 0
    clock = Clock(100.0, spent=found.extra["elapsed"])
    assert clock.left() < 100.0 - found.extra["elapsed"] + 0.01


def test_what_a_killed_writer_left_is_gone_after_the_next_start(broken) -> None:
    pictures, out = broken
    torn = [out / ".summary.json.1-2.tmp", out / "progress" / "checkpoints" / ".step-000000001.1-2.old"]
    torn[0].write_text("{")
    torn[1].mkdir()
    (out / ".hidden").write_text("somebody's")
    resume(out, ImageData.from_folder(pictures, **OPTIONS), narrator=Narrator())
    assert not any(path.exists() for path in torn)
    assert (out / ".hidden").exists()


# ---- the lock ------------------------------------------------------------------------------

HOLD = (
    "import sys; from pathlib import Path; from headstart.lock import Lock\n"
    "with Lock(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
)


def test_a_second_process_is_refused_and_the_first_is_named(tmp_path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"in use by process {holder.pid}") as caught, Lock(tmp_path):
            pytest.fail("it is held")
        assert caught.value.exit_code == 73
        with pytest.raises(OutputError, match=f"process {holder.pid}"):
            refuse_used(tmp_path)
        with pytest.raises(OutputError, match=f"process {holder.pid}"):
            RunFolder(tmp_path, replace=True)
        holder.kill()
    assert (tmp_path / NAME).exists(), "a kill leaves the file"
    refuse_used(tmp_path)
    with Lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / NAME).exists()


def test_a_number_that_is_in_use_again_does_not_hold_the_folder(tmp_path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"pid": os.getppid(), "started": -1.0}))
    refuse_used(tmp_path)
    with Lock(tmp_path):
        pass


def test_two_locks_of_one_process_exclude_each_other(tmp_path) -> None:
    with Lock(tmp_path), pytest.raises(OutputError, match="in use"), Lock(tmp_path):
        pytest.fail("it is held")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to_is_said_before_anything_is_done(
    tmp_path, monkeypatch, number
) -> None:
    opened = os.open

    def refuses(path, *arguments):
        if str(path).endswith(NAME):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments)

    monkeypatch.setattr("headstart.lock.os.open", refuses)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught, Lock(tmp_path):
        pytest.fail("it cannot be held")
    assert caught.value.exit_code == 73
    assert not list(tmp_path.iterdir())


def test_where_a_file_system_has_no_locks_number_and_start_of_the_process_decide(
    tmp_path, monkeypatch
) -> None:
    def unsupported(*arguments):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        started = process_started(other.pid)
        for said, held in ((started, True), (started - 1, False), (None, False)):
            (tmp_path / NAME).write_text(json.dumps({"pid": other.pid, "started": said}))
            if held:
                with pytest.raises(OutputError, match=f"process {other.pid}"), Lock(tmp_path):
                    pytest.fail("it is held")
            else:
                with Lock(tmp_path):
                    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
        other.kill()
    (tmp_path / NAME).write_text(json.dumps({"pid": other.pid, "started": started}))
    with Lock(tmp_path):
        pass


# ---- the pieces ------------------------------------------------------------------------------


def test_a_step_comes_back_from_its_dictionary() -> None:
    from headstart.evaluation import Gain, Interval

    step = StepResult(
        8, "all", "why", True, "better", 1.5, 3,
        {"log_loss": Interval(0.1, 0.05, 0.2)}, Gain(0.3, 0.1, 0.4, 0.99), None, Verdict("neither", "so"),
    )  # fmt: skip
    assert StepResult.from_dict(json.loads(json.dumps(step.to_dict()))) == step


def test_the_history_makes_up_for_a_full_disk(tmp_path, monkeypatch) -> None:
    folder, said = RunFolder(tmp_path / "run"), []
    folder.begin()
    folder.warn = said.append
    folder.history(name="probe")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("headstart.recipe.folder.os.fsync", full)
        folder.epoch({"epoch": 1})
        folder.epoch({"epoch": 2})
    assert len(said) == 1
    folder.settle()
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row.get("epoch", row.get("name")) for row in rows] == ["probe", 1, 2]
    again = RunFolder(tmp_path / "run", goes_on=True)
    again.take_back(folder.own_rows(), [{"epoch": 1}])
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2


def test_going_on_needs_the_same_body(broken) -> None:
    pictures, out = broken
    journal = Journal.read(out)
    said = {**journal.said, "body": {**journal.said["body"], "arch": "test_vit"}}
    with pytest.raises(ConfigError, match="is of test_resnet, not of test_vit"):
        go_on(Journal(out, said), ImageData.from_folder(pictures, **OPTIONS), Narrator())
