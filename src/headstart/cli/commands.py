"""The commands. Each reads its flags, calls one function, and prints what that returns."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.plans import add_plan_commands
from headstart.cli.sources import Source, takes_source
from headstart.errors import UsageError
from headstart.processes import current

if TYPE_CHECKING:
    from headstart.augment import Augmentation
    from headstart.imagedata import ImageData
    from headstart.recipe import Narrator, Result
    from headstart.training import Callback, Plan
    from headstart.types import Size

app = typer.Typer(
    name="headstart",
    help="Train an image classifier from a folder of your own pictures, and take it all the way.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while working.")]


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"headstart {version('headstart')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def _augmentation(name: str, max_zoom: float) -> Augmentation:
    from headstart.augment import PRESETS, preset

    if name not in PRESETS:
        raise UsageError(f"--augment {name!r} is unknown", f"choose from {', '.join(PRESETS)}")
    return preset(name, max_zoom=max_zoom)


def _with_mixing(plan: Plan, mixing: str) -> Plan:
    """Return the plan with the mixing of `--mixing`; `none` leaves what a plan of one's own says."""
    from headstart.training.plan import MIXINGS

    if mixing not in MIXINGS:
        raise UsageError(f"--mixing {mixing!r} is unknown", f"choose from {', '.join(MIXINGS)}")
    if mixing == "none":
        return plan
    return replace(plan, settings=replace(plan.settings, mixing=mixing, mixing_alpha=None))


def _with_averages(plan: Plan, loss: str, ema: float | None, snapshots: str) -> Plan:
    """Return the plan with `--loss`, `--ema` and `--snapshots`, where they are not left at their defaults."""
    settings = plan.settings
    settings = settings if loss == "auto" else replace(settings, loss=loss)
    settings = settings if ema is None else replace(settings, ema=ema)
    settings = settings if snapshots == "none" else replace(settings, snapshots=snapshots)
    return replace(plan, settings=settings)


def _with_machine(
    plan: Plan, *, micro_batch: int | None, precision: str | None, compiling: str | None
) -> Plan:
    """Return the plan with what was asked for of the machine; None leaves what the plan says."""
    given = {"micro_batch": micro_batch, "precision": precision, "compile": compiling}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(plan, settings=replace(plan.settings, **asked))


def _batch_size(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--batch-size {text!r} is neither a number nor auto") from None


def _limit_threads(threads: int | None) -> None:
    """Hold torch to the same number of threads; it reads this when it is first imported."""
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads} is below 1")
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _narrator(quiet: bool) -> Narrator:
    from headstart.recipe import Narrator, TerminalNarrator

    return Narrator() if quiet or not current().first else TerminalNarrator()


def read_data(
    source: Source,
    narrator: Narrator,
    *,
    image_size: str,
    augment: str,
    max_zoom: float,
    batch_size: str,
    valid: float,
    test: float,
    seed: int,
    threads: int | None,
    largest_size: Size | None = None,
    balance: str = "none",
    cache: str = "auto",
    max_bad: int | None = None,
    resize: str = "auto",
    quarantine: Path | None = None,
    background: str = "white",
    on_error: str = "stop",
) -> ImageData:
    """Read the pictures, look at each of them, and say what a person should know."""
    from headstart.imagedata import ImageData

    samples = source.read(seed=seed)
    with current().first_before_others(), narrator.progress("looking at every picture") as on_progress:
        data = ImageData.from_samples(
            samples,
            image_size=image_size,
            augment=_augmentation(augment, max_zoom),
            batch_size=_batch_size(batch_size),
            valid=valid,
            test=test,
            seed=seed,
            threads=threads,
            largest_size=largest_size,
            balance=balance,  # type: ignore[arg-type]  # an unknown one is refused with the choices
            cache=cache,  # type: ignore[arg-type]
            max_bad=max_bad,
            resize=resize,
            quarantine=quarantine,
            background=background,
            on_error=on_error,  # type: ignore[arg-type]
            on_progress=on_progress,
        )
    for line in data.report_lines():
        narrator.say(line)
    return data


@app.command("train")
@takes_source
def train(
    source: Source,
    arch: Arch = "resnet34",
    weights: Weights = None,
    from_scratch: FromScratch = False,
    image_size: ImageSize = "224",
    sizes: Annotated[
        str | None, typer.Option(help="Progressive resizing, smallest first: 64,128,224.")
    ] = None,
    augment: Augment = "side-on",
    max_zoom: MaxZoom = 1.1,
    mixing: Mixing = "none",
    loss: Loss = "auto",
    ema: Ema = None,
    snapshots: Snapshots = "none",
    folds: Folds = None,
    batch_size: BatchSize = "auto",
    micro_batch: MicroBatch = None,
    precision: Precision = None,
    compiling: Compiling = None,
    cycles: Annotated[
        int | None,
        typer.Option(help="Cycles of step 8, each twice as long. Default: by the number of pictures."),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Scales the epochs of all steps.")] = 1.0,
    rate_ratio: Annotated[
        str, typer.Option(help="How much lower earlier groups' rates are: 3 to 10, or auto.")
    ] = "auto",
    plan: Annotated[
        Path | None, typer.Option(help="A plan (YAML) to follow instead, or that of a run's folder.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and a forecast.")] = False,
    valid: Valid = 0.2,
    test: Test = 0.0,
    time: Annotated[str | None, typer.Option(help="A budget such as 10m: the plan is cut to fit.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="What is shown beside the log loss. Default: accuracy; for tags f2.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    balance: Balanced = "none",
    cache: Cached = "auto",
    on_error: OnLoss = "stop",
    max_bad: Annotated[
        int | None, typer.Option(help="How many unreadable pictures to bear. Default: max(10, 1 %).")
    ] = None,
    resize: Resize = "auto",
    background: Background = "white",
    quarantine: Annotated[
        Path | None,
        typer.Option(help="Leave out the pictures in this list, as check --quarantine writes it."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder. Default: runs/<name of the pictures' folder>.")
    ] = None,
    log: Annotated[
        str,
        typer.Option(help="Also log to csv, tensorboard, wandb, mlflow, in the run folder: csv,tensorboard."),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Train a classifier on a folder of pictures by the eight steps."""
    from headstart import recipe
    from headstart.cli.resuming import origin_of
    from headstart.evaluation import metric as known_metric
    from headstart.types import parse_size

    # What is wrong with a flag is said before any picture is looked at.
    _limit_threads(threads)
    narrator, ratio = _narrator(quiet), _ratio(rate_ratio)
    budget = recipe.parse_duration(time) if time else None
    known_metric(metric or "accuracy")
    size_list = tuple(parse_size(part) for part in sizes.split(",")) if sizes else ()

    def planned(pictures: int | None = None) -> Plan:
        made = recipe.make_plan(
            plan,
            cycles=cycles,
            epochs=epochs,
            sizes=size_list,
            from_scratch=from_scratch,
            seed=seed,
            pictures=pictures,
        )
        made = _with_averages(_with_mixing(made, mixing), loss, ema, snapshots)
        return _with_machine(made, micro_batch=micro_batch, precision=precision, compiling=compiling)

    chosen_plan = planned()
    if plan is not None and (cycles is not None or sizes):
        narrator.say("the plan has its own cycles and sizes: those of the options are left aside")
    run_folder = None if dry_run else recipe.prepare_folder(out, source.run_path, force=force, folds=folds)
    loggers = _loggers(log, Path() if run_folder is None else run_folder.path)
    options: dict[str, Any] = {
        "image_size": sizes.split(",")[0] if sizes else image_size,
        "augment": augment,
        "max_zoom": max_zoom,
        "batch_size": batch_size,
        "valid": valid,
        "test": test,
        "seed": seed,
        "threads": threads,
        "largest_size": recipe.largest_size(chosen_plan),
        "balance": balance,
        "cache": cache,
        "max_bad": max_bad,
        "resize": resize,
        "quarantine": quarantine,
        "background": background,
        "on_error": on_error,
    }
    data = read_data(source, narrator, **options)
    chosen_plan = planned(len(data.rows("train")))
    body = recipe.Body(arch, weights, from_scratch)
    if run_folder is None:
        forecast = recipe.forecast(data, chosen_plan, body, device=device)
        print(json.dumps(forecast.to_dict()) if as_json else str(forecast))
        return 0
    with _closing(loggers):
        result = recipe.run_steps(
            data,
            chosen_plan,
            body,
            run_folder,
            narrator,
            budget=budget,
            rate_ratio=ratio,
            metric=metric,
            device=device,
            folds=folds,
            callbacks=loggers,
            origin=origin_of(source, log=log, **{**options, "batch_size": data.batch_size}),
        )
    return _tell(result, as_json)


def _tell(result: Result, as_json: bool) -> int:
    """Print what a run gave, and return the exit code."""
    if as_json:
        print(json.dumps(result.summary, allow_nan=False))
    else:
        _print_result(result)
    if result.stop_signal is not None:
        print(
            f"stopped early; what was trained is in {result.folder}; "
            f"go on with: headstart resume {result.folder}",
            file=sys.stderr,
        )
        return 128 + result.stop_signal
    return 0


def _loggers(names: str, folder: Path) -> Sequence[Callback]:
    """Return the callbacks of `--log`; without it torch is not imported for them."""
    if not names or not current().first:
        return ()
    from headstart.training import make_loggers

    return make_loggers(names, folder)


def _closing(loggers: Sequence[Callback]) -> contextlib.AbstractContextManager[None]:
    if not loggers:
        return contextlib.nullcontext()
    from headstart.training import closing_loggers

    return closing_loggers(loggers)


@app.command("resume")
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run that ended before its time.")],
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on though pictures were added, removed or changed.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Threads that read pictures. Default: as the run began; never matters.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Go on with a run that was stopped or killed, to the result that it would have had."""
    from headstart import recipe
    from headstart.cli.resuming import data_again

    narrator = _narrator(quiet)
    journal = recipe.Journal.read(run)
    if journal.complete:
        journal.sweep()
        if as_json:
            print((run / "summary.json").read_text("utf-8"), end="")
        else:
            print(f"{run} is complete: there is nothing left to do")
        return 0
    data = data_again(journal, narrator, threads=threads)
    loggers = _loggers(str(journal.origin.options.get("log", "")), run)
    with _closing(loggers):
        result = recipe.go_on(journal, data, narrator, accept_changes=accept_changes, callbacks=loggers)
    return _tell(result, as_json)


def _ratio(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--rate-ratio {text!r} is neither a number nor auto") from None


def _print_result(result: Result) -> None:
    print(result.headline())
    print(f"report  {result.report}")
    print(f"model   {result.model}")
    print(f"next    headstart predict {result.model} PICTURES")


@app.command("check")
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

    _limit_threads(threads)
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
        _narrator(quiet),
        augmentation=_augmentation(augment, max_zoom),
        flips=body,
        device=device,
    )


@app.command("predict")
def predict(
    model: Annotated[Path, typer.Argument(help="A model folder, as train writes it.")],
    pictures: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.")],
    top: Annotated[int, typer.Option(help="How many classes to print for each picture.")] = 1,
    tta: Annotated[bool | None, typer.Option("--tta/--no-tta", help="Average over several views.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table to this CSV file.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Decode in this process: one that crashes would end it.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Predict the classes or tags of pictures; prints CSV, or JSON with --json."""
    from headstart.cli.tables import print_predictions
    from headstart.deploy import load_predictor
    from headstart.errors import OutputError

    if out is not None and out.exists() and not force:
        raise OutputError(f"{out} exists already", "choose another file, or replace it with --force")
    _limit_threads(threads)
    with load_predictor(
        model, device=device, threads=threads, batch_size=batch_size, trusted=trusted
    ) as predictor:
        predictions = predictor.predict([Path(picture) for picture in pictures], tta=tta)
    if out is not None:
        predictions.to_csv(out)
    else:
        print_predictions(predictions, top=top, as_json=as_json)
    unread = int((~predictions.predicted_rows).sum())
    if unread:
        print(f"{unread} of {len(predictions)} pictures could not be read; see `status`", file=sys.stderr)
    return 65 if unread == len(predictions) else 0


@app.command("lr-find")
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
    _limit_threads(threads)
    narrator = _narrator(quiet)
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


@app.command("shard")
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

    samples, narrator = source.read(seed=seed), _narrator(quiet)
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


@app.command("models")
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

    _limit_threads(threads)
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
    return run_models(options, _narrator(quiet))


@app.command("doctor")
def doctor(as_json: Json = False, debug: Debug = False) -> int:
    """Say what is installed, which device and engine would be used, which weights can be reached."""
    from headstart.cli.doctor import examine, print_examination

    print_examination(examine(), as_json=as_json)
    return 0


@app.command("demo")
def demo(
    out: Annotated[Path | None, typer.Option(help="The folder to work in. Default: runs/demo.")] = None,
    seed: Seed = 0,
    threads: Threads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier demo left there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show the eight steps on handwritten digits: no download, under two minutes on two cores."""
    from headstart.recipe.demo import run_demo

    _limit_threads(threads)
    result = run_demo(out, _narrator(quiet), seed=seed, threads=threads, force=force)
    if as_json:
        print(json.dumps(result.summary, allow_nan=False))
    else:
        _print_result(result)
    return 0


@app.command("report")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Debug = False,
) -> int:
    """Write the report of a run anew, from what lies in its folder."""
    from headstart.evaluation import write_report

    print(write_report(run))
    return 0


add_plan_commands(app, train)
