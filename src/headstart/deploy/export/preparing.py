"""The evaluation resize as tensor operations, so that a graph can hold it: the loader's pixels, bit for bit.

The loader resizes with Pillow: two passes, across and then down, whose weights are whole numbers over 2²² and
whose results are rounded to 8 bits. Here each pass is one matrix product in float64, in which those sums are
exact; so the graph's pixels are the loader's, whatever the shape of the picture. In float32 they could not
be: a sum has 30 bits. From version 13 on Pillow takes a tall picture down first and then across, and so does
a graph that was made beside it. A resize operation of ONNX's own differs by up to two grey levels, and
probabilities with it by 0.0006. The larger of the two products for a 500 x 375 picture takes 2.9 ms of a
core in float64 and 1.4 in float32; the whole took 17 ms in ONNX Runtime on a busy machine, and Pillow 3.
"""

from __future__ import annotations

import math

import PIL
import torch
from torch import nn

from headstart.augment.warp import Interpolation, Policy
from headstart.types import Size

# What Pillow keeps of a weight behind the point, for 8-bit pixels.
_PRECISION = float(2**22)
# Since then a picture is taken down first where its height shrinks by more than twice what its width does.
_TALL_FIRST_SINCE = 13
_SUPPORTS: dict[Interpolation, float] = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


class Preparing(nn.Module):
    """Decoded pictures (batch, height, width, 3), uint8, of any one size → (batch, *size, 3), uint8.

    The settings are those of `augment.EvalPrepare`, and so is every pixel.
    """

    def __init__(
        self, size: Size, policy: Policy, crop_fraction: float, interpolation: Interpolation
    ) -> None:
        super().__init__()
        self.size, self.policy = size, policy
        self.crop_fraction, self.interpolation = crop_fraction, interpolation
        self.tall_first = int(PIL.__version__.partition(".")[0]) >= _TALL_FIRST_SINCE

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the views; only the rows and columns that they show are read."""
        rows, columns = _numbers(pixels[0, :, 0, 0]), _numbers(pixels[0, 0, :, 0])
        # Kept as vectors of one number: the exporter would bring numbers without an axis to float32.
        height, width = rows[-1:] + 1.0, columns[-1:] + 1.0
        vertical, horizontal = self._spans(height, width)
        down, used_rows = self._weights(rows, *vertical)
        across, used_columns = self._weights(columns, *horizontal)
        used = pixels.index_select(1, used_rows).index_select(2, used_columns)
        if not self.tall_first:
            return _across_and_down(used, across, down)
        shorter, narrower = height - vertical[2], width - horizontal[2]
        is_tall = (shorter > 0) & (shorter > 2 * narrower)
        # All pictures of the batch go one way, and none the other: a product of none costs nothing.
        tall = torch.ones_like(pixels[:, 0, 0, 0], dtype=torch.bool) & is_tall
        wide_numbers, tall_numbers = torch.nonzero(~tall)[:, 0], torch.nonzero(tall)[:, 0]
        wide_ones = _across_and_down(used.index_select(0, wide_numbers), across, down)
        tall_ones = _down_and_across(used.index_select(0, tall_numbers), across, down)
        if not torch.compiler.is_exporting():
            return torch.cat([wide_ones, tall_ones])
        # torch.export must see that there are as many views as pictures.
        views = torch.zeros((pixels.shape[0], *self.size, 3), dtype=torch.uint8, device=pixels.device)
        return views.index_copy(0, wide_numbers, wide_ones).index_copy(0, tall_numbers, tall_ones)

    def _spans(self, height: torch.Tensor, width: torch.Tensor) -> tuple[_Span, _Span]:
        if self.policy == "squish":
            return self._whole(height, self.size[0]), self._whole(width, self.size[1])
        if self.policy == "pad":
            scale = torch.minimum(self.size[0] / height, self.size[1] / width)
            return self._padded(height, scale, self.size[0]), self._padded(width, scale, self.size[1])
        covered = [math.floor(side / self.crop_fraction) for side in self.size]
        scale = torch.maximum(covered[0] / height, covered[1] / width)
        return self._cut(height, scale, covered[0], self.size[0]), self._cut(
            width, scale, covered[1], self.size[1]
        )

    def _whole(self, length: torch.Tensor, out: int) -> _Span:
        return (
            torch.zeros_like(length, dtype=torch.float64),
            length,
            torch.full_like(length, float(out), dtype=torch.float64),
            _counted(out, length),
        )

    def _cut(self, length: torch.Tensor, scale: torch.Tensor, covered: int, out: int) -> _Span:
        enlarged = length * scale + 1e-6
        rounded = torch.floor(enlarged) if self.size[0] == self.size[1] else torch.round(enlarged)
        scaled = torch.clamp(rounded, min=float(covered))
        first = torch.round((scaled - out) / 2)
        step = length / scaled
        end = torch.minimum(length, (first + out) * step)
        return (
            first * step,
            end,
            torch.full_like(length, float(out), dtype=torch.float64),
            _counted(out, length),
        )

    def _padded(self, length: torch.Tensor, scale: torch.Tensor, out: int) -> _Span:
        inner = torch.clamp(torch.round(length * scale), min=1.0)
        before = torch.floor((out - inner) / 2)
        # Outside lies the mirror image, its edge pixel not doubled; of one pixel it is that pixel.
        period = torch.clamp(2 * (inner - 1), min=1.0)
        place = _counted(out, length) - before
        place = place - period * torch.floor(place / period)
        return (
            torch.zeros_like(length, dtype=torch.float64),
            length,
            inner,
            torch.minimum(place, period - place),
        )

    def _weights(
        self,
        numbers: torch.Tensor,
        first: torch.Tensor,
        last: torch.Tensor,
        count: torch.Tensor,
        places: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights (used, places) of the pixels that are used, and their numbers (used,).

        Pixels `first` … `last` of the row `numbers` become `count` ones, of which `places` are shown. Every
        step is that of Pillow, whose box has the precision of float32; whole numbers over 2²² are exact.
        """
        begin, end = first.float(), last.float()
        scale = (end - begin).double() / count
        widened = torch.clamp(scale, min=1.0)
        support = _SUPPORTS[self.interpolation] * widened
        centre = begin.double() + (places + 0.5) * scale
        lowest = torch.clamp(torch.floor(centre - support + 0.5), min=0.0)
        highest = torch.minimum(torch.floor(centre + support + 0.5), numbers[-1:] + 1.0)
        inside = (numbers[:, None] >= lowest) & (numbers[:, None] < highest)
        used = torch.nonzero(inside.any(1))[:, 0]
        distance = (numbers.index_select(0, used)[:, None] - centre + 0.5) * (1.0 / widened)
        weights = _FILTERS[self.interpolation](distance) * inside.index_select(0, used).double()
        weights = weights / weights.sum(0, keepdim=True) * _PRECISION
        whole = torch.where(weights < 0, -torch.floor(0.5 - weights), torch.floor(weights + 0.5))
        return whole / _PRECISION, used


_Span = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Where a side of the view lies in the picture: first, last, how many pixels it is scaled to, which of
them."""


def _numbers(line: torch.Tensor) -> torch.Tensor:
    """0, 1, 2 … for the pixels of a line: how many there are is for the graph to find out."""
    return torch.ones_like(line, dtype=torch.float64).cumsum(0) - 1.0


def _counted(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float64, device=like.device)


# ONNX Runtime multiplies no pictures at all, (0, …), only by a matrix on their right, and only where it has
# not fused the product with a scaling or with an exchange of the last two axes: hence these orders of the
# axes.


def _across_and_down(pictures: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    narrowed = _pass(pictures.permute(0, 3, 1, 2), across)
    return _pass(narrowed.permute(0, 3, 1, 2), down).permute(0, 3, 1, 2)


def _down_and_across(pictures: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    lowered = _pass(pictures.permute(0, 3, 2, 1), down)
    return _pass(lowered.permute(0, 3, 1, 2), across).permute(0, 1, 3, 2)


def _pass(pictures: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Uint8 (…, length) → (…, places): sums of weighted pixels, rounded and held to 8 bits as Pillow does."""
    sums = torch.matmul(pictures.double(), weights)
    return torch.clamp(torch.floor(sums + 0.5), 0.0, 255.0).to(torch.uint8)


def _bilinear(distance: torch.Tensor) -> torch.Tensor:
    return torch.clamp(1.0 - distance.abs(), min=0.0)


def _bicubic(distance: torch.Tensor) -> torch.Tensor:
    x = distance.abs()
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def _lanczos(distance: torch.Tensor) -> torch.Tensor:
    inside = (distance >= -3.0) & (distance < 3.0)
    return torch.where(inside, _sinc(distance) * _sinc(distance / 3.0), torch.zeros_like(distance))


def _sinc(x: torch.Tensor) -> torch.Tensor:
    at_zero = x == 0.0
    turned = torch.where(at_zero, torch.ones_like(x), x) * math.pi
    return torch.where(at_zero, torch.ones_like(x), torch.sin(turned) / turned)


_FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}
