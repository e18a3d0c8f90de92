"""What may be predicted: files, folders, tables, bytes, arrays, PIL images, web addresses: as bytes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.data import Samples, from_paths
from headstart.deploy.fetching import Url, is_url
from headstart.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas

Picture: TypeAlias = str | Path | bytes | NDArray[Any] | Image.Image | Url
"""A file, a folder, a file's bytes, uint8 pixels (height, width[, channels]), a PIL image, a `Url`."""

Pictures: TypeAlias = "Picture | Iterable[Picture] | pandas.DataFrame"
"""One picture or folder, several, or a table with a column of paths."""

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image")
"""The column of a table that names its pictures: the first of these that it has, or its only one."""

_ORIENTATION_TAG = 274

Origin: TypeAlias = Literal["file", "bytes", "pixels"]
"""What a picture was given as: a file, a file's bytes, or pixels."""


@dataclass(frozen=True)
class Item:
    """One picture to come: its name ("" for one in memory), and how its bytes are read.

    `read` raises `DataError`. Of `origin` "pixels", they are what was given, wrapped.
    """

    name: str
    read: Callable[[], bytes]
    origin: Origin


def items_of(pictures: Pictures) -> Iterator[Item]:
    """Return the pictures one by one, folders being replaced by the pictures in them.

    An iterator is read as it is needed. Of anything else, `InputMissingError` is raised at once for a
    path that is not there. Raises `UsageError` for what is no picture.
    """
    if isinstance(pictures, Iterator):
        return chain.from_iterable(map(_of_stream, pictures))
    given = _given(pictures)
    listed = _listed(given)
    if listed is not None:
        return _of_files(listed)
    return chain.from_iterable([list(_of_list(picture)) for picture in given])


def listing_of(pictures: Pictures) -> Samples | None:
    """Return the files that pictures are, folders being replaced by those in them; None where not all are.

    Raises as `items_of` does.
    """
    return None if isinstance(pictures, Iterator) else _listed(_given(pictures))


def _given(pictures: Pictures) -> list[Picture]:
    table = _table(pictures)
    if table is not None:
        return _paths_of(table)
    several = isinstance(pictures, Iterable) and not _is_one(pictures)
    return list(cast(Iterable[Picture], pictures)) if several else [cast(Picture, pictures)]


def _listed(given: list[Picture]) -> Samples | None:
    paths = [picture for picture in given if isinstance(picture, str | Path)]
    for path in paths:
        _check_path(path)
    return from_paths(paths) if paths and len(paths) == len(given) else None


def _table(pictures: object) -> pandas.DataFrame | None:
    # Who has a DataFrame has imported pandas: nobody else need wait for it.
    if "pandas" not in sys.modules:
        return None
    import pandas

    return pictures if isinstance(pictures, pandas.DataFrame) else None


def _paths_of(table: pandas.DataFrame) -> list[Picture]:
    names = list(table.columns)
    column = next((name for name in PATH_COLUMNS if name in names), names[0] if len(names) == 1 else None)
    if column is None:
        raise UsageError(
            f"the table has no column of paths: it has {', '.join(map(str, names[:8]))}",
            f"call one {PATH_COLUMNS[0]!r}, or give the column alone",
        )
    found = table[column].tolist()
    for row, path in enumerate(found):
        if not isinstance(path, str | Path | Url):
            raise UsageError(f"row {row} of the table has {str(path)[:40]!r} for a path")
    return found


def _check_path(path: str | Path) -> None:
    if isinstance(path, str) and is_url(path):
        raise UsageError(
            f"{path[:200]} is a web address, and a text is a path",
            "give headstart.Url(address) in Python, or --allow-urls on the command line",
        )


def items_of_samples(samples: Samples) -> Iterator[Item]:
    """Return the pictures of a table one by one, named by their places; members of archives, too."""
    return (Item(samples.place(row), partial(samples.read, row), "file") for row in range(len(samples)))


def _is_one(pictures: object) -> bool:
    if isinstance(pictures, np.ndarray):
        return pictures.dtype.kind in "biuf" and pictures.ndim < 4
    return isinstance(pictures, str | Path | bytes | Image.Image | Url)


def _of_list(picture: Picture) -> Iterable[Item]:
    if isinstance(picture, str | Path):
        return _of_files(from_paths([picture]))
    if isinstance(picture, Url):
        return [Item(picture.address, picture.read, "file")]
    return [_in_memory(picture)]


def _of_stream(picture: Picture) -> Iterable[Item]:
    if isinstance(picture, str | Path):
        _check_path(picture)
    if isinstance(picture, str | Path) and not Path(picture).expanduser().is_dir():
        return _of_files(_unseen(Path(picture).expanduser()))
    return _of_list(picture)


def _of_files(samples: Samples) -> Iterator[Item]:
    # One by one: of a million files they would take 400 MB.
    return (Item(name, partial(samples.read, row), "file") for row, name in enumerate(samples.paths))


def _unseen(path: Path) -> Samples:
    """One file that is looked at only when its turn comes."""
    return Samples(
        root=Path.cwd(),
        paths=(path.as_posix(),),
        labels=np.full(1, -1, np.int64),
        classes=(),
        split=np.full(1, "", "<U5"),
    )


def _in_memory(picture: Picture) -> Item:
    if isinstance(picture, bytes):
        return Item("", partial(bytes, picture), "bytes")
    if isinstance(picture, np.ndarray):
        picture = _image_of(picture)
    if isinstance(picture, Image.Image):
        return Item("", partial(_wrapped, picture), "pixels")
    raise UsageError(
        f"a {type(picture).__name__} is no picture", "give paths, bytes, uint8 arrays, PIL images or a Url"
    )


def _image_of(pixels: NDArray[Any]) -> Image.Image:
    shape = pixels.shape
    whole = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    if pixels.dtype != np.uint8 or not whole or 0 in shape:
        raise UsageError(
            f"an array of {pixels.dtype} and shape {shape} is no picture",
            "give uint8 values 0 … 255 as (height, width), or (height, width, 1, 3 or 4)",
        )
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if shape[2:] == (1,) else pixels))


def _wrapped(image: Image.Image) -> bytes:
    """Return a PIL image as its file would be, losslessly, for the one decoder."""
    wrapped = io.BytesIO()
    # TIFF takes every mode and costs a copy; transparency beside a palette is known to PNG alone.
    kind = "PNG" if image.has_transparency_data or image.mode == "P" else "TIFF"
    turned = image.getexif().get(_ORIENTATION_TAG, 1)
    exif = Image.Exif()
    if isinstance(turned, int) and 2 <= turned <= 8:
        exif[_ORIENTATION_TAG] = turned
    try:
        image.save(wrapped, kind, exif=exif)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"the picture cannot be read: {error}", code="CORRUPT") from error
    return wrapped.getvalue()
