"""The options that several commands take, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Arch = Annotated[str, typer.Option(help="The body: the name of any timm model.")]
Weights = Annotated[
    str | None,
    typer.Option(help="A safetensors file, or a folder of <timm name>.safetensors. Default: the hub."),
]
FromScratch = Annotated[bool, typer.Option("--from-scratch", help="Start from random weights.")]
ImageSize = Annotated[str, typer.Option(help="224, or height x width such as 224x320.")]
Augment = Annotated[
    str,
    typer.Option(help="side-on, top-down, none, trivial, or as the course: course-0.7, course-1, course-2."),
]
Mixing = Annotated[str, typer.Option(help="none, mixup or cutmix: two pictures and labels become one.")]
MaxZoom = Annotated[float, typer.Option(help="How far augmentation zooms in, from 1 up.")]
BatchSize = Annotated[str, typer.Option(help="A number, or auto.")]
MicroBatch = Annotated[
    int | None,
    typer.Option(help="Pictures at once at most; gradients add up to the batch. Default: all that fit."),
]
Precision = Annotated[
    str | None, typer.Option(help="auto, float32, bfloat16 or (CUDA only) float16. Default: auto.")
]
Compiling = Annotated[
    str | None, typer.Option("--compile", help="on, off, or auto: where a long phase pays for it.")
]
Valid = Annotated[float, typer.Option(help="The share to validate with, where no folder says.")]
Test = Annotated[float, typer.Option(help="The share to keep aside for an honest figure.")]
Resize = Annotated[
    str, typer.Option(help="What becomes of other shapes: crop, squish, pad, or auto by a look at them.")
]
Background = Annotated[
    str, typer.Option(help="What transparent pictures are laid on: white, black or #rrggbb.")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same run.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")]
Threads = Annotated[int | None, typer.Option(help="Threads that read pictures. Default: one a core.")]
Balanced = Annotated[
    str,
    typer.Option("--balance", help="For rare classes: none, sampler (more copies), loss (they count more)."),
]
Loss = Annotated[str, typer.Option(help="auto, focal, class_balanced or logit_adjusted.")]
Ema = Annotated[
    float | None, typer.Option(help="Keep a moving average of the weights, of this decay: 0.99, say.")
]
Folds = Annotated[
    int | None,
    typer.Option(help="Train a model for each of so many folds: an ensemble, scored on what each never saw."),
]
Snapshots = Annotated[
    str, typer.Option(help="What becomes of the weights at cycle ends: none, soup or ensemble.")
]
Cached = Annotated[
    str, typer.Option("--cache", help="Where decoded pictures are kept: auto, memory, disk or none.")
]
OnLoss = Annotated[
    str,
    typer.Option(
        "--on-error",
        help="A picture that goes or changes while it is used: stop, or skip to leave it out and count it.",
    ),
]
Corrections = Annotated[
    list[Path] | None,
    typer.Option(help="Relabel and leave out pictures as this table of clean says; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working.")]
