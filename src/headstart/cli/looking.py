"""`headstart check`, `lr-find`, `shard` and `models`: what one does before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.options import (
    Arch,
    Augment,
    Background,
    BatchSize,
    Debug,
    Device,
    FromScratch,
    ImageSize,
    Json,
    MaxZoom,
    Quiet,
    Resize,
    Seed,
    Threads,
    Weights,
)
from headstart.cli.reading import augmentation_named, limit_threads, narrator_for, read_data
from headstart.cli.sources import Source, takes_source


@takes_source
def check(
    source: Source,
    image_size: ImageSize = "224",
    resize: Resize = "auto",
    background: Background = "white",
    out: Annotated[Path | None, typer.Option(help="Write a page with thumbnails to this HTML file.")] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(help="Write the pictures to look at to this CSV file, to edit and train by."),
    ] = None,
    show_augment: Annotated[
        Path | None, typer.Option(help="Write a picture of what training sees to this JPEG or PNG file.")
    ] = None,
    augment: Augment = "side-on",
    max_zoom: MaxZoom = 1.1,
    flips: Annotated[
        bool,
        typer.Option("--flips", help="Find out, with a pretrained body, whether mirroring changes labels."),
    ] = False,
    arch: Arch = "resnet34",
    weights: Weights = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 65 where there is a fault.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files to be written.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Look at every picture: unreadable, blank, there twice, under two labels, sizes and what is cut away."""
    from headstart.cli.check import CheckOptions, run_check

    limit_threads(threads)
    options = CheckOptions(
        image_size, resize, out, quarantine, show_augment, strict, as_json, force, seed, threads, background
    )
    body = None
    if flips:
        from headstart.recipe import Body

        body = Body(arch, weights)
    return run_check(
        source,
        options,
        narrator_for(quiet),
        augmentation=augmentation_named(augment, max_zoom),
        flips=body,
        device=device,
    )


@takes_source
def lr_find(
    source: Source,
    arch: Arch = "resnet34",
    weights: Weights = None,
    from_scratch: FromScratch = False,
    unfrozen: Annotated[bool, typer.Option("--unfrozen", help="With every layer training.")] = False,
    frozen_to: Annotated[
        int | None, typer.Option(help="Freeze the groups below this one; negative: count from the head.")
    ] = None,
    trials: Annotated[
        bool,
        typer.Option(
            "--trials", help="From a fitted head, try several steps at each of some rates: shows what wrecks."
        ),
    ] = False,
    image_size: ImageSize = "224",
    augment: Augment = "side-on",
    max_zoom: MaxZoom = 1.1,
    batch_size: BatchSize = "auto",
    iterations: Annotated[int, typer.Option(help="How many batches.")] = 100,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    plot: Annotated[Path, typer.Option(help="Where to write the curve as PNG.")] = Path("lr-find.png"),
    force: Annotated[bool, typer.Option("--force", help="Replace --plot.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Find a learning rate: a table of suggestions, and the curve as a picture."""
    from headstart.cli.tables import print_finder, print_trials
    from headstart.errors import OutputError, UsageError

    if plot.exists() and not force:
        raise OutputError(f"{plot} exists already", "choose another file with --plot, or use --force")
    if unfrozen and frozen_to is not None:
        raise UsageError("--unfrozen and --frozen-to say different things", "give one of them")
    limit_threads(threads)
    narrator = narrator_for(quiet)
    data = read_data(
        source,
        narrator,
        image_size=image_size,
        augment=augment,
        max_zoom=max_zoom,
        batch_size=batch_size,
        valid=0.2,
        test=0.0,
        seed=seed,
        threads=threads,
    )
    from headstart.learner import Learner

    learner = Learner(data, arch, weights=weights, from_scratch=from_scratch, device=device, callbacks=())
    if trials and not from_scratch:
        learner.fit_probe()
    if unfrozen or frozen_to is not None:
        learner.freeze_to(frozen_to or 0)
    proportions = slice(1e-2, 1.0) if learner.model.frozen_line < learner.model.head_stage else 1.0
    if trials:
        tried = learner.try_rates(proportions)
        tried.plot().savefig(plot, dpi=110)
        print_trials(tried, plot, as_json=as_json)
        return 0
    found = learner.lr_find(proportions, iterations=iterations)
    found.plot().savefig(plot, dpi=110)
    print_finder(found, plot, as_json=as_json)
    return 0


@takes_source
def shard(
    source: Source,
    out: Annotated[Path, typer.Option(help="The folder to write, such as shards.")],
    pictures_per_shard: Annotated[int, typer.Option(min=1, help="How many pictures in a file.")] = 1000,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Pack pictures and labels into tar shards: quick to copy and to read, the same to train on."""
    from headstart.data import write_shards

    samples, narrator = source.read(seed=seed), narrator_for(quiet)
    for line in (samples.describe(), *samples.notes):
        narrator.say(line)
    with narrator.progress("packing") as on_progress:
        shards = write_shards(
            samples, out, pictures_per_shard=pictures_per_shard, replace=force, on_progress=on_progress
        )
    if as_json:
        print(json.dumps({"pictures": len(samples), "shards": [str(path) for path in shards]}))
    else:
        print("\n".join(map(str, shards)))
    return 0


def models(
    arch: Annotated[str | None, typer.Option(help="These bodies, with commas between them.")] = None,
    probe: Annotated[Path | None, typer.Option(help="Probe the bodies on this folder of pictures.")] = None,
    weights: Weights = None,
    image_size: ImageSize = "224",
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure time and memory, once for a machine.")
    ] = True,
    limit: Annotated[int | None, typer.Option(help="Probe with so many of the pictures.")] = None,
    plot: Annotated[Path, typer.Option(help="Where --probe draws accuracy over cost.")] = Path("models.png"),
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --plot.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """List bodies: size, licence, time and memory here, the next step up; or probe several on pictures."""
    from headstart.cli.models import ModelsOptions, archs_of, run_models

    limit_threads(threads)
    options = ModelsOptions(
        archs_of(arch),
        probe,
        weights,
        image_size,
        measure,
        limit,
        plot,
        force,
        as_json,
        seed,
        device,
        threads,
    )
    return run_models(options, narrator_for(quiet))
