"""`headstart train`, `resume` and `demo`: the eight steps, and what they gave."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.options import (
    Arch,
    Augment,
    Background,
    Balanced,
    BatchSize,
    Cached,
    Compiling,
    Corrections,
    Debug,
    Device,
    Ema,
    Folds,
    FromScratch,
    ImageSize,
    Json,
    Loss,
    MaxZoom,
    MicroBatch,
    Mixing,
    OnLoss,
    Precision,
    Quiet,
    Resize,
    Seed,
    Snapshots,
    Test,
    Threads,
    Valid,
    Weights,
)
from headstart.cli.reading import limit_threads, narrator_for, read_data
from headstart.cli.sources import Source, takes_source
from headstart.errors import UsageError
from headstart.processes import current

if TYPE_CHECKING:
    from headstart.recipe import Result
    from headstart.training import Callback, Plan


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
        typer.Option(help="Step 8 in so many cosine cycles, each twice as long. Default: one cycle."),
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
    corrections: Corrections = None,
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
    limit_threads(threads)
    narrator, ratio = narrator_for(quiet), _ratio(rate_ratio)
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
        "corrections": tuple(corrections or ()),
        "background": background,
        "on_error": on_error,
    }
    data = read_data(source, narrator, **options)
    chosen_plan = planned(len(data.rows("train")))
    body = recipe.Body(arch, weights, from_scratch)
    if run_folder is None:
        forecast = recipe.forecast(data, chosen_plan, body, device=device, budget=budget)
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
    elif result.model.exists():  # not yet where the folds of an ensemble were stopped
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

    narrator = narrator_for(quiet)
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

    limit_threads(threads)
    result = run_demo(out, narrator_for(quiet), seed=seed, threads=threads, force=force)
    if as_json:
        print(json.dumps(result.summary, allow_nan=False))
    else:
        _print_result(result)
    return 0
