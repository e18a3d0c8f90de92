"""Heat maps: where in the picture a classifier finds what it says.

Two methods. Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) weighs the channels of the last feature map
by the gradient of a class's logit: it is about that class, for any body whose last activations have places.
Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928) multiplies the attentions of all blocks, each with
a half of identity for the residual branch: it says where a vision transformer looks, whatever the class.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn import functional

from headstart.errors import UsageError
from headstart.models.backbones import evaluating
from headstart.models.classifier import Classifier
from headstart.types import Size

Method = Callable[[Classifier, torch.Tensor, torch.Tensor], torch.Tensor]
"""From a classifier, pixels (batch, 3, height, width) and classes (batch,) to heat (batch, rows, columns)."""


def heat_maps(
    classifier: Classifier, pixels: NDArray[np.uint8], classes: ArrayLike, *, method: str = "auto"
) -> NDArray[np.float32]:
    """Return how much each place of each picture speaks for a class, float32 (batch, height, width), 0 … 1.

    `pixels`: uint8 (batch, height, width, 3), as the network takes them. `classes`: int (batch,), the class
    to explain of each. The hottest place of a picture is 1; a picture in which nothing speaks for the class
    is 0 all over. `method`: a name of `HEAT_METHODS`, or `auto`: see `method_for`. Weights, gradients and
    modes are left as they are. Raises `UsageError` for another method, for a class that Grad-CAM does not
    find, and for a body that the method does not fit.
    """
    chosen = HEAT_METHODS.get(method_for(classifier) if method == "auto" else method)
    if chosen is None:
        raise UsageError(f"there is no method {method!r}", f"methods are auto, {', '.join(HEAT_METHODS)}")
    device = classifier.pixel_mean.device
    inputs = torch.as_tensor(pixels).permute(0, 3, 1, 2).to(device)
    numbers = torch.as_tensor(np.asarray(classes, np.int64)).to(device)
    if numbers.shape != (len(inputs),):
        raise UsageError(f"{len(inputs)} pictures need as many classes, not {tuple(numbers.shape)}")
    with evaluating(classifier), torch.no_grad():
        heat = chosen(classifier, inputs, numbers)
        heat = functional.interpolate(heat[:, None], inputs.shape[2:], mode="bilinear", align_corners=False)
        heat = heat[:, 0] / heat.amax((2, 3)).clamp(min=torch.finfo(heat.dtype).tiny)[:, :, None]
    found: NDArray[np.float32] = heat.cpu().numpy().astype(np.float32, copy=False)
    return found


def method_for(classifier: Classifier) -> str:
    """Return the method that fits a body: attention rollout for vision transformers, else Grad-CAM."""
    blank = torch.zeros(1, 3, *classifier.image_size, device=classifier.pixel_mean.device)
    try:
        with evaluating(classifier), torch.no_grad():
            attention_rollout(classifier, blank, torch.zeros(1, dtype=torch.int64))
    except UsageError:
        return "gradcam"
    return "rollout"


def grad_cam(classifier: Classifier, pixels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return Grad-CAM at the last activations that have places: (batch, rows, columns), from 0 up.

    These are what enters the pool, or where the body pools by itself what enters its last stage: a
    transformer's class token alone leaves its last block. Raises `UsageError` where there are no such places.
    """
    line = _last_map(classifier)
    entering = classifier.run_stages(classifier.standardise(pixels), 0, line).detach().requires_grad_()
    with torch.enable_grad():
        # A copy, since a stage may begin with a step that works in place.
        logits = classifier.run_stages(entering.clone(), line, len(classifier.stages))
        if int(classes.min()) < 0 or int(classes.max()) >= logits.shape[1]:
            raise UsageError(f"classes are 0 … {logits.shape[1] - 1}, not {classes.tolist()[:5]}")
        score = logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, entering)
    activations, slopes = (_with_places(classifier, values) for values in (entering.detach(), gradient))
    weights = slopes.mean((1, 2), keepdim=True)
    return (weights * activations).sum(3).clamp(min=0)


def _last_map(classifier: Classifier) -> int:
    """Return the last line whose activations have places."""
    before_head = classifier.head_stage - 1
    if before_head < 1:
        raise UsageError(
            f"the body {classifier.arch} gives features without places, in one piece",
            "heat maps need a body that gives a feature map (batch, channels, height, width)",
        )
    return before_head


def _with_places(classifier: Classifier, values: torch.Tensor) -> torch.Tensor:
    """Return activations as (batch, rows, columns, channels)."""
    if values.ndim == 4:
        return values if classifier.info.channels_last else values.permute(0, 2, 3, 1)
    rows, columns, others = _grid(classifier, values.shape[1] if values.ndim == 3 else 0)
    return values[:, others:].reshape(len(values), rows, columns, -1)


class _Grid(NamedTuple):
    rows: int
    columns: int
    others: int
    """How many tokens come before those of the patches: of the class, registers."""


def _grid(classifier: Classifier, tokens: int) -> _Grid:
    """Return how the tokens of a body lie in the picture; raises `UsageError` where that is not known."""
    body = classifier.backbone
    size: Size | None = getattr(getattr(body, "patch_embed", None), "grid_size", None)
    others = int(getattr(body, "num_prefix_tokens", 0))
    if size is not None and tokens - others == size[0] * size[1]:
        return _Grid(*size, others)
    if size is not None and tokens == size[0] * size[1]:
        return _Grid(*size, 0)  # tokens of the class that join later
    side = math.isqrt(max(tokens, 0))
    if size is None and tokens and side * side == tokens:
        return _Grid(side, side, 0)
    raise UsageError(f"the places of the activations of {classifier.arch} are not known")


def attention_rollout(classifier: Classifier, pixels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return attention rollout, (batch, rows, columns): how much of each patch arrives where the body pools.

    That is the class token, or the mean of the patches in bodies that average these. Heads are averaged; the
    classes make no difference. Raises `UsageError` unless all blocks attend from every token to every token.
    """
    del classes
    rolled: torch.Tensor | None = None
    for attention in _attentions(classifier, pixels):
        mixed = (attention + torch.eye(attention.shape[1], device=attention.device)) / 2
        rolled = mixed if rolled is None else mixed @ rolled
    assert rolled is not None  # `_attentions` gives one or raises
    rows, columns, others = _grid(classifier, rolled.shape[1])
    pools_class = others > 0 and getattr(classifier.backbone, "global_pool", "token") == "token"
    arriving = rolled[:, 0] if pools_class else rolled[:, others:].mean(1)
    return arriving[:, others:].reshape(-1, rows, columns)


def _attentions(classifier: Classifier, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Return the attentions of all blocks, the mean over their heads, each (batch, tokens, tokens)."""
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        del module, inputs
        found.append(output.mean(1) if output.ndim == 4 else output)

    blocks = [module for module in classifier.backbone.modules() if _attends(module)]
    with _spelled_out(blocks), contextlib.ExitStack() as hooks:
        for block in blocks:
            dropout: Any = block.get_submodule("attn_drop")
            hooks.enter_context(contextlib.closing(_Hook(dropout.register_forward_hook(keep))))
        classifier.backbone(classifier.standardise(pixels))
    # Of windows, of channels or of pooled keys, attention is not one square over all tokens.
    shapes = {tuple(each.shape) for each in found}
    square = all(len(shape) == 3 and shape[0] == len(pixels) and shape[1] == shape[2] for shape in shapes)
    if len(shapes) != 1 or len(found) != len(blocks) or not square:
        raise UsageError(
            f"the blocks of {classifier.arch} do not attend over the whole picture, as rollout needs",
            "take gradcam, which fits any body",
        )
    return found


class _Hook:
    """A hook that goes when it is closed."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def close(self) -> None:
        """Take the hook off."""
        self._handle.remove()


def _attends(module: nn.Module) -> bool:
    """Whether a module is a block's attention, as timm writes it: its weights go through `attn_drop`."""
    return isinstance(getattr(module, "attn_drop", None), nn.Module)


@contextlib.contextmanager
def _spelled_out(blocks: list[nn.Module]) -> Iterator[None]:
    """Have blocks compute their attention step by step for a while: fused, its weights are never there."""
    fused: list[tuple[Any, bool]] = [(block, getattr(block, "fused_attn", False)) for block in blocks]
    try:
        for block, was in fused:
            if was:
                block.fused_attn = False
        yield
    finally:
        for block, was in fused:
            if was:
                block.fused_attn = was


HEAT_METHODS: dict[str, Method] = {"gradcam": grad_cam, "rollout": attention_rollout}
"""The methods by name."""
