"""A checkpoint of each release: what was written then is read now, and training goes on from it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tests.fixtures.make_checkpoint import (
    AT,
    FOLDER,
    OPTIONS,
    Rows,
    make_callbacks,
    make_run,
    validation,
)

from headstart.environment import versions
from headstart.errors import ConfigError
from headstart.training import find_checkpoint, fit, load_checkpoint
from headstart.training.checkpoint_folder import checkpoints, fault_of

RELEASES = sorted(entry.name for entry in FOLDER.iterdir() if entry.is_dir())


def test_this_release_has_one() -> None:
    assert versions()["headstart"] in RELEASES, "python -m tests.fixtures.make_checkpoint"


@pytest.mark.parametrize("release", RELEASES)
def test_it_is_whole_and_training_goes_on_from_it(release) -> None:
    (place,) = checkpoints(FOLDER / release)
    assert fault_of(place) == ""
    whole, resumed = make_run(), make_run()
    for parameter in resumed.model.parameters():
        torch.nn.init.zeros_(parameter)
    callbacks = make_callbacks()
    found = find_checkpoint(FOLDER / release)
    assert found.extra["note"] == "kept"
    load_checkpoint(found, resumed, callbacks=callbacks)
    assert (resumed.step, resumed.epoch, len(resumed.history)) == (AT, 1, 1)
    fit(whole, Rows(), **OPTIONS, validate=validation(whole), callbacks=make_callbacks())
    fit(resumed, Rows(), **OPTIONS, validate=validation(resumed), callbacks=callbacks, resume=True)
    # Another processor or another torch gives other last bits than those that lie in the fixture.
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert resumed.history["valid_loss"] == pytest.approx(whole.history["valid_loss"], rel=1e-3)


def test_one_of_a_version_to_come_is_refused(tmp_path) -> None:
    (place,) = checkpoints(FOLDER / RELEASES[0])
    copy = shutil.copytree(place, tmp_path / place.name)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["schema"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    with pytest.raises(ConfigError, match="manifest is of another version"):
        find_checkpoint(tmp_path)
