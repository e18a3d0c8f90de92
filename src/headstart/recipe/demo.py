"""The demo: real transfer learning on real pictures, without a download.

scikit-learn carries 1,797 handwritten digits. A small network learns the digits 0 to 4 from scratch;
what it has learnt is saved as a body like any other and carried over to the digits 5 to 9, of which
twenty pictures each may be used. All others are held out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from headstart.augment import Augmentation
from headstart.errors import OutputError
from headstart.imagedata import ImageData
from headstart.recipe.body import Body
from headstart.recipe.clock import spoken
from headstart.recipe.folder import is_run, next_free
from headstart.recipe.narrator import Narrator
from headstart.recipe.plans import eight_steps
from headstart.recipe.result import Result
from headstart.recipe.run import prepare_folder, run_steps
from headstart.storage import save_tensors, write_atomic
from headstart.training import Phase, Plan, Settings, one_cycle

ARCH = "test_resnet"
SIZE = 96
SHOTS = 20
# Digits must not be mirrored: a turned 6 is a 9.
AUGMENTATION = Augmentation(max_rotate=15.0, max_zoom=1.25, max_warp=0.2, max_lighting=0.2, p_affine=0.9)


def write_digits(folder: Path, digits: range, *, shots: int | None, seed: int) -> Path:
    """Write digits as PNG class folders; with `shots` of each as train/, twice as many as valid/,
    and all others, held out, as test/.

    The pictures are scikit-learn's (8 x 8, UCI optical recognition of handwritten digits), enlarged
    four times.
    """
    import cv2
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    seen: dict[int, int] = {}
    for number in order.tolist():
        digit = int(bunch.target[number])
        if digit not in digits:
            continue
        seen[digit] = seen.get(digit, 0) + 1
        part = "" if shots is None else _part(seen[digit], shots)
        small = np.clip(bunch.images[number] * 255 / 16, 0, 255).astype(np.uint8)
        picture = cv2.resize(small, (32, 32), interpolation=cv2.INTER_CUBIC)
        data = cv2.imencode(".png", picture)[1].tobytes()
        write_atomic(folder / part / str(digit) / f"{number:04d}.png", data)
    return folder


def _part(number: int, shots: int) -> str:
    """Say where the picture of this number (from 1) goes; twice as many validate as train."""
    if number <= shots:
        return "train"
    return "valid" if number <= 3 * shots else "test"


def run_demo(
    out: Path | None,
    narrator: Narrator,
    *,
    seed: int = 0,
    threads: int | None = None,
    force: bool = False,
) -> Result:
    """Teach a small network the digits 0 to 4 and carry it over to 5 to 9 by the eight steps.

    Writes pictures, the body and the run below `out` (default runs/demo). Raises `OutputError` when
    a demo is there already and `force` is not set.
    """
    home = next_free(Path("runs") / "demo") if out is None else out
    folder = prepare_folder(home / "run", home, force=force)
    if (home / "digits").exists() and not is_run(home / "run"):
        raise OutputError(f"{home} has digits in it that no demo wrote", "choose another folder with --out")
    try:
        # What an earlier demo wrote: with another seed other pictures go to other parts.
        shutil.rmtree(home / "digits", ignore_errors=True)
        (home / "digits").mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{home} cannot be made: {error.strerror}", "choose another --out") from error
    narrator.say("A small network learns the digits 0 to 4 from scratch; nothing is downloaded.")
    weights = _teach(home, narrator, seed=seed, threads=threads)
    narrator.say(
        f"\nIts body is now {weights}, like any other pretrained one.\n"
        f"It is carried over to the digits 5 to 9, with {SHOTS} pictures of each:"
    )
    pictures = write_digits(home / "digits" / "5-9", range(5, 10), shots=SHOTS, seed=seed)
    data = ImageData.from_folder(
        pictures, image_size=SIZE, augment=AUGMENTATION, batch_size=10, seed=seed, threads=threads
    )
    for line in data.report_lines():
        narrator.say(line)
    plan = eight_steps(cycles=2, epochs=12, settings=Settings(seed=seed))
    result = run_steps(data, plan, Body(ARCH, weights), folder, narrator, rate_ratio=2.0)
    probe = next(step for step in result.steps if step.number == 0)
    narrator.say(
        f"\nThe frozen network alone reached {probe.metrics['accuracy'].value:.1%} of the validation "
        f"pictures; {result.headline()}\nIt took {spoken(result.summary['seconds'])}. "
        "So easy a set would be learnt from scratch as well: the point is the way, not the figure."
    )
    return result


def _teach(home: Path, narrator: Narrator, *, seed: int, threads: int | None) -> Path:
    """Train the body on the digits 0 to 4 and save it in timm's naming."""
    from headstart.learner import Learner

    pictures = write_digits(home / "digits" / "0-4", range(5), shots=None, seed=seed)
    data = ImageData.from_folder(
        pictures, image_size=SIZE, augment=AUGMENTATION, valid=0.2, seed=seed, threads=threads
    )
    learner = Learner(
        data,
        ARCH,
        from_scratch=True,
        settings=Settings(seed=seed),
        callbacks=narrator.callbacks("accuracy"),
    )
    phase = Phase("digits 0 to 4", 2, one_cycle(), learning_rate=4e-3, frozen_to=0)
    Plan((phase,))
    learner.run_phase(phase)
    path = home / "body" / f"{ARCH}.safetensors"
    save_tensors(path, learner.model.backbone.state_dict(), {"source": "headstart demo: digits 0 to 4"})
    return path
