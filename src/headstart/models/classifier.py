"""The classifier: an ordered list of stages and one line, below which everything is frozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.errors import UsageError
from headstart.models.backbones import (
    Backbone,
    create_backbone,
    evaluating,
    example_features,
    example_picture,
    memory_format_of,
    resized,
    seeded,
)
from headstart.models.heads import concat_pool, make_head
from headstart.models.parts import Part
from headstart.models.stages import Stage, cut
from headstart.types import Size, parse_size

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

GroupSpec = int | Literal["stage"]


class Classifier(nn.Module):
    """Pictures → one number (logit) per class, through stages of which the lower ones may be frozen.

    Takes pixels (batch, 3, height, width), uint8 or float in 0 … 255; scaling and standardising are
    part of it. Stages run from the stem to the last block, then the pool where the body gives a
    feature map, then the head. `state_dict` holds `backbone.<timm name>` and `head.<...>`.

    Everything below `frozen_line` (a stage number) is constant: its parameters take no gradient and
    its modules stay in evaluation mode. Groups are contiguous runs of stages; rates and `freeze_to`
    count groups. `memory_format` is the one that its body is fastest in and can take, for
    `.to(memory_format=…)`.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, backbone: Backbone, head: nn.Module, *, groups: GroupSpec = 3) -> None:
        super().__init__()
        self.info = replace(backbone, module=nn.Identity())
        self.backbone = backbone.module
        self.head = head
        # Known from the architecture, so not part of the state.
        for name, values in (("pixel_mean", backbone.mean), ("pixel_std", backbone.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        # What the architecture holds fixed (sine positions, say); a user's own body may come frozen.
        self._constants = frozenset(
            f"backbone.{name}"
            for name, parameter in self.backbone.named_parameters()
            if not parameter.requires_grad and backbone.weights.kind != "module"
        )
        self.frozen_line = 0
        self._frozen_batch_norm = "eval"
        self._fixed_batch_norm = False
        self._groups = groups
        self._cut()

    def _cut(self) -> None:
        """Trace the body and lay out stages and groups; needed again when its size changes."""
        body = replace(self.info, module=self.backbone)
        features = example_features(body)
        self.stages = cut(self.backbone, example_picture(body), features)
        self._body_stages = len(self.stages)
        if features.ndim == 4:
            pool = partial(_pool, channels_last=self.info.channels_last)
            features = pool(self.backbone, features)
            self.stages.append(Stage("pool", pool, (), output=tuple(features.shape[1:])))
        self.memory_format = memory_format_of(body)
        self.feature_count = features.shape[1]
        self.head_stage = len(self.stages)
        self.stages.append(Stage("head", _run_head, ("",)))
        self.group_starts = _group_starts(self._body_stages, self.head_stage, self._groups)
        self._shapes = {self.image_size: [(3, *self.image_size), *(s.output for s in self.stages[:-1])]}

    # ---- what it is ------------------------------------------------------------------------

    @property
    def arch(self) -> str:
        """The timm name of the body, or the class name of a user's own."""
        return self.info.arch

    @property
    def image_size(self) -> Size:
        """The (height, width) that the body is set to take."""
        return self.info.image_size

    @property
    def interpolation(self) -> str:
        """How the weights' authors resized pictures for evaluation."""
        return self.info.interpolation

    @property
    def crop_fraction(self) -> float:
        """The share of the short side that the weights' authors kept for evaluation."""
        return self.info.crop_fraction

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups in words: `stem … layer2`, `layer3 … pool`, `head`."""
        names = []
        for first, last in self._spans():
            start, end = self.stages[first].name, self.stages[last - 1].name
            names.append(start if start == end else f"{start} … {end}")
        return tuple(names)

    def _spans(self) -> list[tuple[int, int]]:
        return list(zip(self.group_starts, [*self.group_starts[1:], len(self.stages)], strict=True))

    def _owner(self, stage: int) -> nn.Module:
        return self.head if stage == self.head_stage else self.backbone

    def stage_modules(self, first: int, last: int) -> dict[str, nn.Module]:
        """Return the modules that the stages `first` … `last` - 1 call, by their names."""
        found = {}
        for number in range(first, last):
            prefix = "head" if number == self.head_stage else "backbone"
            for name in self.stages[number].modules:
                found[f"{prefix}.{name}".rstrip(".")] = self._owner(number).get_submodule(name)
        return found

    def stage_parameters(self, first: int, last: int) -> dict[str, nn.Parameter]:
        """Return the parameters of the stages `first` … `last` - 1, by their names."""
        found = {}
        for number in range(first, last):
            prefix = "head" if number == self.head_stage else "backbone"
            for name, parameter in self.stages[number].parameters(self._owner(number)).items():
                found[f"{prefix}.{name}"] = parameter
        return found

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters that train, per group; a frozen group's list is empty."""
        return [
            [p for p in self.stage_parameters(first, last).values() if p.requires_grad]
            for first, last in self._spans()
        ]

    def activation_shape(self, line: int | None = None, size: Size | None = None) -> tuple[int, ...]:
        """Return the shape, without the batch, of what enters stage `line` (default: the frozen line).

        Raises `UsageError` when the body does not take pictures of `size`.
        """
        size = size or self.image_size
        if size not in self._shapes:
            try:
                self._shapes[size] = self._measure(size)
            except (AssertionError, RuntimeError, ValueError, IndexError) as error:
                raise UsageError(
                    f"{self.arch} is set to pictures of {self.image_size} and does not take {size}",
                    "call set_image_size first",
                ) from error
        return self._shapes[size][self.frozen_line if line is None else line]

    def _measure(self, size: Size) -> list[tuple[int, ...]]:
        values = torch.zeros(1, 3, *size, device=self.pixel_mean.device, dtype=self.pixel_mean.dtype)
        shapes = []
        with evaluating(self), torch.no_grad():
            for number in range(self.head_stage):
                shapes.append(tuple(values.shape[1:]))
                values = self.stages[number].run(self.backbone, values)
        return [*shapes, tuple(values.shape[1:])]

    def activation_bytes(self, size: Size | None = None) -> int:
        """Return the bytes that the activations of one picture take at the frozen line, as float32."""
        return 4 * int(np.prod(self.activation_shape(None, size)))

    # ---- running ---------------------------------------------------------------------------

    def standardise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels of 0 … 255 as the body expects them."""
        values = (pixels.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        return values.contiguous(memory_format=self.memory_format)

    def run_stages(self, values: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Run the stages `first` … `last` - 1; those from stage 0 on take standardised pixels."""
        for number in range(first, last):
            values = self.stages[number].run(self._owner(number), values)
        return values

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of pixels (batch, 3, height, width) in 0 … 255."""
        return self.run_stages(self.standardise(pixels), 0, len(self.stages))

    def lower(self, line: int | None = None) -> Part:
        """Return the part below `line` (default: the frozen line), from pixels to activations.

        It shares parameters with the classifier. Raises `UsageError` when nothing lies below.
        """
        line = self.frozen_line if line is None else line
        if not 0 < line <= self.head_stage:
            raise UsageError("nothing lies below the frozen line", "call freeze() first")
        return Part(self, 0, line)

    def upper(self, line: int | None = None) -> nn.Module:
        """Return the part from `line` on (default: the frozen line), from activations to logits.

        It shares parameters with the classifier; above line 0 that is the classifier itself.
        """
        line = self.frozen_line if line is None else line
        if not 0 <= line <= self.head_stage:
            raise UsageError(f"there is no stage {line}", f"stages are 0 … {self.head_stage}")
        return Part(self, line, len(self.stages)) if line else self

    # ---- the frozen line -------------------------------------------------------------------

    def freeze_at(self, line: int) -> None:
        """Freeze all stages before stage `line`, and let the others train."""
        if not 0 <= line <= self.head_stage:
            raise UsageError(f"there is no stage {line}", f"stages are 0 … {self.head_stage}")
        self.frozen_line = line
        for parameter in self.stage_parameters(0, line).values():
            parameter.requires_grad_(False)
        for name, parameter in self.stage_parameters(line, len(self.stages)).items():
            parameter.requires_grad_(name not in self._constants)
        if self._frozen_batch_norm == "train":
            for module in self._batch_norms(0, line):
                module.requires_grad_(True)
        self.train(self.training)

    def freeze_to(self, group: int) -> None:
        """Freeze all groups before `group`; negative numbers count from the head."""
        count = len(self.group_starts)
        if not -count <= group < count:
            raise UsageError(f"there is no group {group}", f"groups are 0 … {count - 1}, or -{count} … -1")
        self.freeze_at(self.group_starts[group])

    def freeze(self) -> None:
        """Freeze everything but the head."""
        self.freeze_at(self.head_stage)

    def unfreeze(self) -> None:
        """Let everything train."""
        self.freeze_at(0)

    def set_groups(self, groups: GroupSpec) -> None:
        """Divide the stages anew into so many groups, or into one per stage; the line stays where it is.

        Raises `UsageError` for another value.
        """
        self.group_starts = _group_starts(self._body_stages, self.head_stage, groups)
        self._groups = groups

    @property
    def frozen_batch_norm(self) -> str:
        """What batch norm does below the line.

        `eval`: it keeps its statistics, as in fastai 0.7. `train`: it goes on collecting them and
        its scales and shifts train, as in fastai 1 and 2.
        """
        return self._frozen_batch_norm

    @frozen_batch_norm.setter
    def frozen_batch_norm(self, policy: str) -> None:
        if policy not in ("eval", "train"):
            raise UsageError(f"frozen batch norm cannot be {policy!r}", "it is 'eval' or 'train'")
        self._frozen_batch_norm = policy
        self.freeze_at(self.frozen_line)

    @property
    def fixed_batch_norm(self) -> bool:
        """Whether the body's batch norm keeps its statistics above the line, too (`bn_freeze`)."""
        return self._fixed_batch_norm

    @fixed_batch_norm.setter
    def fixed_batch_norm(self, fixed: bool) -> None:
        self._fixed_batch_norm = fixed
        self.train(self.training)

    def _batch_norms(self, first: int, last: int) -> list[nn.Module]:
        modules = self.stage_modules(first, last).values()
        return [part for module in modules for part in module.modules() if isinstance(part, _BatchNorm)]

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; what lies below the line stays in evaluation."""
        super().train(mode)
        if mode:
            self.hold_modes()
        return self

    def hold_modes(self) -> None:
        """Put back in evaluation mode what must stay in it while the rest trains."""
        for module in self.stage_modules(0, self.frozen_line).values():
            module.eval()
        if self._fixed_batch_norm:
            for module in self._batch_norms(0, self.head_stage):
                module.eval()
        elif self._frozen_batch_norm == "train":
            for module in self._batch_norms(0, self.frozen_line):
                module.train()

    # ---- changing it -----------------------------------------------------------------------

    def set_image_size(self, size: int | str | Size) -> Size:
        """Set the body to pictures of another size and return the size that it now takes.

        Bodies of fixed positions get new position parameters, rounded to whole patches, so make
        parts and optimisers anew. Raises `UsageError` when the pictures are too small.
        """
        wanted = parse_size(size)
        if wanted != self.image_size:
            line = self.frozen_line
            # On a copy first, so that a size that cannot be taken leaves everything as it was.
            example_features(resized(replace(self.info, module=copy.deepcopy(self.backbone)), wanted))
            body = resized(replace(self.info, module=self.backbone), wanted)
            self.info = replace(body, module=nn.Identity())
            self._cut()
            self.freeze_at(line)
        return self.image_size

    def init_head_from(self, weight: ArrayLike, bias: ArrayLike) -> None:
        """Set a linear head to `weight` (classes, features) and `bias` (classes,).

        Raises `UsageError` for another head or other shapes.
        """
        if not isinstance(self.head, nn.Linear):
            raise UsageError("only a linear head can be set", "create the classifier with head='linear'")
        given = (torch.as_tensor(np.asarray(weight)), torch.as_tensor(np.asarray(bias)))
        for parameter, values in zip((self.head.weight, self.head.bias), given, strict=True):
            if parameter.shape != values.shape:
                raise UsageError(f"the head takes {tuple(parameter.shape)} and got {tuple(values.shape)}")
        with torch.no_grad():
            self.head.weight.copy_(given[0])
            self.head.bias.copy_(given[1])

    def summary(self) -> str:
        """Return a table of the stages: group, output shape, parameters, and whether they train."""
        rows = [("stage", "group", "output", "parameters", "")]
        class_count = self._class_count()
        for group, (first, last) in enumerate(self._spans()):
            for number in range(first, last):
                shape = self.activation_shape(number + 1) if number < self.head_stage else (class_count,)
                count = sum(p.numel() for p in self.stage_parameters(number, number + 1).values())
                state = "frozen" if number < self.frozen_line else "trains"
                name = self.stages[number].name
                rows.append((name, str(group), " x ".join(map(str, shape)), f"{count:,}", state))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            f"{name:<{widths[0]}}  {group:<{widths[1]}}  {shape:<{widths[2]}}  {count:>{widths[3]}}  {state}"
            for name, group, shape, count, state in rows
        ]
        everything = list(self.parameters())
        training = sum(p.numel() for p in everything if p.requires_grad)
        total = sum(p.numel() for p in everything)
        height, width = self.image_size
        lines.append(f"{self.arch} at {height}x{width}: {total:,} parameters, {training:,} of them train")
        return "\n".join(line.rstrip() for line in lines)

    def _class_count(self) -> int:
        features = torch.zeros(1, *self.activation_shape(self.head_stage), device=self.pixel_mean.device)
        with evaluating(self.head), torch.no_grad():
            return int(self.head(features).shape[1])


def _pool(body: nn.Module, features: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    del body
    return concat_pool(features, channels_last=channels_last)


def _run_head(head: nn.Module, features: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, head(features))


def _group_starts(body_stages: int, head_stage: int, groups: GroupSpec) -> tuple[int, ...]:
    """Where groups start: nearly equal runs of the body's stages, the longer first, then the head.

    With three groups a ResNet falls into stem–layer2 | layer3–layer4 | head, as in the course. A
    body of fewer stages gives fewer groups.
    """
    if groups != "stage" and not (isinstance(groups, int) and groups >= 2):
        raise UsageError(f"groups cannot be {groups!r}", "give a number from 2 on, or 'stage'")
    count = body_stages if groups == "stage" else min(groups - 1, body_stages)
    runs = np.array_split(np.arange(body_stages), count)
    return (*(int(run[0]) for run in runs), head_stage)


def create_classifier(
    body: str | Backbone | nn.Module,
    class_count: int,
    *,
    weights: str | Path | None = None,
    from_scratch: bool = False,
    image_size: int | str | Size | None = None,
    head: str | nn.Module = "linear",
    hidden: Sequence[int] = (512,),
    ps: float = 0.5,
    groups: GroupSpec = 3,
    seed: int = 0,
) -> Classifier:
    """Create a classifier of `class_count` classes over a body.

    `body` is a timm name, a `Backbone`, or any module that takes standardised pictures and gives a
    feature map or features (it makes two groups: body and head). `head` is `linear`, `course`
    (with `hidden` widths and dropout `ps`), or any module that takes features. `groups` is their
    number, or `stage` for one per stage. For `weights`, `from_scratch`, `image_size` and what is
    raised, see `create_backbone`. Nothing is frozen at first.
    """
    if class_count < 1:
        raise UsageError(f"a classifier of {class_count} classes cannot be made", "give at least two classes")
    if isinstance(body, str):
        body = create_backbone(
            body, weights=weights, from_scratch=from_scratch, image_size=image_size, seed=seed
        )
    elif isinstance(body, nn.Module):
        size = (224, 224) if image_size is None else parse_size(image_size)
        body = Backbone(type(body).__name__, body, image_size=size, native_size=size)
    elif image_size is not None:
        body = resized(body, parse_size(image_size))
    classifier = Classifier(body, nn.Identity(), groups=groups)
    with seeded(seed):
        classifier.head = make_head(head, classifier.feature_count, class_count, hidden=hidden, ps=ps)
    return classifier
