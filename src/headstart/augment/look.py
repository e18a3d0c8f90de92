"""One picture, many draws: what an augmentation does, to look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.augment.augmentation import Augmentation
from headstart.augment.prepare import EvalPrepare, TrainPrepare
from headstart.augment.words import describe
from headstart.errors import UsageError
from headstart.types import Pixels, Size, parse_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(
    picture: Any,
    augmentation: Augmentation,
    count: int = 12,
    *,
    image_size: int | str | Size = 224,
    seed: int = 0,
) -> Figure:
    """Return a figure of one picture as evaluation sees it, and of `count` draws as training does.

    `picture`: uint8 (height, width, 3), such as `data.picture(row)`, or a Pillow image. The draws are those
    of epochs 0 … count - 1 for the sample 0. Raises `UsageError` for anything else.

        >>> import numpy as np
        >>> from headstart import augment
        >>> figure = augment.show(np.zeros((90, 120, 3), np.uint8), augment.side_on(), 3, image_size=64)
        >>> len(figure.axes)
        4
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not 1 <= count <= 200:
        raise UsageError(f"{count} draws cannot be shown", "give a number from 1 to 200")
    pixels, size = _pixels(picture), parse_size(image_size)
    prepare = TrainPrepare(augmentation, size, seed)
    views = [EvalPrepare(size)(pixels), *(prepare(pixels, 0, epoch) for epoch in range(count))]
    columns = min(len(views), max(3, math.ceil(math.sqrt(1.5 * len(views)))))
    rows = math.ceil(len(views) / columns)
    side = 1.9 * size[0] / size[1]
    figure = Figure(figsize=(1.9 * columns, (side + 0.25) * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for number, view in enumerate(views):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_axis_off()
        axes.imshow(view)
        axes.set_title("evaluation" if number == 0 else f"epoch {number - 1}", fontsize=8)
    figure.suptitle(describe(augmentation), fontsize=9, wrap=True)
    return figure


def _pixels(picture: Any) -> Pixels:
    from PIL import Image

    if isinstance(picture, Image.Image):
        picture = np.array(picture.convert("RGB"))
    if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3):
        raise UsageError(
            f"a {type(picture).__name__} is not a picture",
            "give uint8 (height, width, 3), such as data.picture(row), or a Pillow image",
        )
    if picture.shape[2] != 3 or picture.size == 0:
        raise UsageError(f"a picture of the shape {picture.shape}", "give (height, width, 3)")
    return picture
