"""What tests share: the test pictures beside the repository, and little folders of made pictures."""

from __future__ import annotations

import csv
import io
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import Samples
from headstart.types import Task

# A shell that starts the tests in the background has told them to ignore Ctrl-C, and what they start
# would inherit that: here it means what it means in a terminal.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test pictures and weights: HEADSTART_SHARED, else `../shared` beside the repository.

    Where it is not there, the test is skipped and says so; in continuous integration (CI=true) it fails,
    so that no green run can have left these tests out.
    """
    path = Path(os.environ.get("HEADSTART_SHARED") or REPOSITORY.parent / "shared").absolute()
    if (path / "data").is_dir():
        return path
    reason = f"no test pictures in {path}: set HEADSTART_SHARED to the folder that holds data/ and weights/"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _picture(number: int, *, height: int = 24, width: int = 32) -> Image.Image:
    """Return a picture that no other number has: a gradient whose colours the number decides."""
    random = np.random.default_rng(number)
    corners = random.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def _encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """Return the bytes of a picture file."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """A function that makes a folder of class folders: `make_folder({"cat": 3, "dog": 3})`.

    Keys are folders ("train/cat" too) and values how many pictures, all different, they get;
    `name` is the folder's name, `format` that of the files, `height` and `width` the pictures' sizes.
    """
    made = 0

    def make(
        counts: Mapping[str, int],
        *,
        name: str = "pictures",
        format: str = "PNG",
        height: int = 24,
        width: int = 32,
    ) -> Path:
        nonlocal made
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                made += 1
                data = _encoded(_picture(made, height=height, width=width), format)
                (root / folder / f"{number}.{format.lower()}").write_bytes(data)
        return root

    return make


@pytest.fixture
def helmets(shared: Path) -> Callable[[int], Samples]:
    """A function that gives the first pictures of building sites with their tags: head, helmet, both."""
    root = shared / "data" / "helmets"
    with open(root / "labels.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    classes = ("head", "helmet")

    def first(count: int) -> Samples:
        some = rows[:count]
        return Samples(
            root=root,
            paths=tuple(f"images/{row['image']}.jpg" for row in some),
            labels=np.array([[name in row["tags"].split() for name in classes] for row in some], np.uint8),
            classes=classes,
            split=np.full(len(some), "", "<U5"),
            task=Task.MULTI_LABEL,
        )

    return first
