"""`headstart evaluate` and `compare`: what a model is worth on labelled pictures, and which is better."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.options import Debug, Device, Json, Quiet, Seed, Threads
from headstart.cli.reading import limit_threads, narrator_for
from headstart.cli.sources import Source, takes_source

if TYPE_CHECKING:
    from headstart.deploy import Evaluated
    from headstart.evaluation import Compared, Gain, Interval, Slice

MOST_SLICES = 8

Policy = Annotated[
    str | None,
    typer.Option(
        "--tta",
        metavar="POLICY",
        help="Average several views: flip, multi-scale, course-2017, course-2018, course-2020; none for one "
        "view. Default: as the model was validated.",
    ),
]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="A figure, or the option once for each. Default: all.")
]


@takes_source
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder, or the run folder that holds it.")],
    source: Source,
    part: Annotated[
        str,
        typer.Option(help="Which part: all, train, valid, test; auto: test, else valid, else all."),
    ] = "auto",
    metric: Metrics = None,
    tta: Policy = None,
    slices_by: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            metavar="COLUMN",
            help="Say which values of a column fare worse: one of the table, or short_side, shape, format, "
            "brightness, contrast; or the option once for each. Default: all.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write predictions.csv, the figures and a report into this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier evaluation in --out.")] = False,
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 32,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Decode in this process: one that crashes would end it.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Say what a model is worth on labelled pictures: every figure with its interval, by class, too.

    Classes are matched by name. Figures of pictures that the model was trained on flatter it.
    """
    limit_threads(threads)
    from headstart.deploy import evaluate as evaluate_model
    from headstart.deploy import load_predictor
    from headstart.evaluation import metric as metric_named
    from headstart.recipe.judged import check_columns, prepare_folder, slices_of_evaluation, write_evaluation

    names = tuple(metric or ())
    for name in names:
        metric_named(name)
    folder = None if out is None else prepare_folder(out, replace_old=force)
    samples = source.read(seed=seed)
    check_columns(samples, slices_by or ())
    narrator = narrator_for(quiet)
    with load_predictor(
        model_in(model), device=device, threads=threads, batch_size=batch_size, trusted=trusted
    ) as predictor:
        with narrator.progress("looking at the pictures") as on_progress:
            found = evaluate_model(
                predictor,
                samples,
                part=part,
                metrics=names or None,
                tta=policy_of(tta),
                on_progress=lambda done: on_progress(done, len(samples)),
            )
        slices = slices_of_evaluation(found, samples, slices_by or ())
        if folder is not None:
            write_evaluation(folder, found, samples, predictor, names, slices, narrator)
    print_evaluation(found, slices, as_json=as_json)
    if folder is not None:
        narrator.say(f"report: {folder / 'report.html'}")
    return 0


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of evaluate --out.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The one that may be better.")],
    metric: Metrics = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Say which of two runs is better on the pictures that both kept aside, or that these cannot tell."""
    from headstart.evaluation import compare as compare_runs
    from headstart.evaluation import read_held_out

    found = compare_runs(read_held_out(first), read_held_out(second), metric)
    print_comparison(found, as_json=as_json)
    return 0


def model_in(path: Path) -> Path:
    """Return the model of a run folder, that of a hub once it is fetched, else the path as it is."""
    from headstart.deploy.hub import located

    path = located(path)
    inside = path / "model"
    return inside if not (path / "manifest.json").is_file() and (inside / "manifest.json").is_file() else path


def policy_of(text: str | None) -> bool | str | None:
    """Return what `--tta` asks for: a policy's name, False for `none`, None where it was not given."""
    return False if text == "none" else text


def print_evaluation(found: Evaluated, slices: Sequence[Slice] = (), *, as_json: bool) -> None:
    """Print the figures, then those of each class, and the worst slices; or all of it as JSON."""
    from headstart.cli.tables import writable

    judged = found.evaluation
    if as_json:
        from headstart.recipe.diagnosing import as_summary
        from headstart.recipe.folder import plain

        content = {"part": found.part, **judged.to_dict(), "slices": plain(as_summary(slices))}
        print(json.dumps(content, allow_nan=False, ensure_ascii=True))
        return
    left_out = f", {judged.left_out} left out" if judged.left_out else ""
    where = "" if found.part == "all" else f" of the {found.part} part"
    print(f"{judged.pictures:,} pictures{where}{left_out}")
    for name, value in judged.figures.items():
        print(f"{name.replace('_', ' '):28} {_interval(value)}")
    width = max([5, *(len(writable(each.name)) for each in judged.classes)])
    print(f"\n{'class':{width}}  count  recall               precision            F1")
    for each in judged.classes:
        f1 = _ends(each.f1, *each.f1_ends)
        cells = f"{_ends_of(each.recall):20} {_ends_of(each.precision):20} {f1}"
        print(f"{writable(each.name):{width}} {each.count:6}  {cells}")
    if judged.sets is not None:
        sets = judged.sets
        print(
            f"\nsets for {sets.level:.0%}: the right class is in {_interval(sets.coverage)}, "
            f"{sets.mean_size:.2f} classes on average, one alone in {sets.single:.0%}"
        )
    if judged.none_of_these is not None:
        print(f"\ncalled none of these: {_interval(judged.none_of_these)}")
    if judged.views is not None:
        views = judged.views
        gains = "; ".join(f"{name.replace('_', ' ')} {_gain(gain)}" for name, gain in views.gains.items())
        print(f"\n{views.policy} ({views.views} views), gain: {gains}; takes {views.cost:.1f} times as long")
    print_slices(slices)


def print_slices(slices: Sequence[Slice]) -> None:
    """Print the slices that fare worse than the rest; where none does, that so many were looked at."""
    from headstart.cli.tables import writable

    worse = [each for each in slices if each.worse]
    if not worse:
        columns = ", ".join(dict.fromkeys(writable(each.column) for each in slices))
        if columns:
            print(f"\nby {columns}: no slice fares clearly worse than the rest")
        return
    shown = worse[:MOST_SLICES]
    more = f", the first {MOST_SLICES}" if len(worse) > MOST_SLICES else ""
    print(f"\n{len(worse)} of {len(slices)} slices fare worse than the rest (some overlap){more}")
    names = [writable(f"{each.column} {each.value}") for each in shown]
    width = max([5, *map(len, names)])
    print(f"{'slice':{width}}  count  accuracy             of the rest")
    for name, each in zip(names, shown, strict=True):
        print(f"{name:{width}} {each.count:6}  {_ends_of(each.accuracy):20} {each.rest_accuracy:.2f}")


def print_comparison(found: Compared, *, as_json: bool) -> None:
    """Print the figures of both runs side by side, and the verdict; or all of it as JSON."""
    if as_json:
        print(json.dumps(found.to_dict(), allow_nan=False, ensure_ascii=True))
        return
    print(f"1  {found.names[0]}\n2  {found.names[1]}")
    kind = "test" if found.part == "test" else "validation"
    print(f"{found.pictures:,} {kind} pictures that both kept aside\n")
    print(f"{'':28} {'1':23} {'2':23} gain of 2")
    for each in found.figures:
        name = each.metric.replace("_", " ")
        row = f"{name:28} {_interval(each.before):23} {_interval(each.after):23} {_gain(each.gain)}"
        print(row + (f", chance {each.chance:.3f}" if each.chance is not None else ""))
    first = found.figures[0]
    print(f"\n2 against 1, by {first.metric.replace('_', ' ')}: {found.verdict}")
    if first.verdict.startswith("cannot tell"):
        print(f"so many can show a difference in accuracy from {found.smallest:.1%} on")
    for note in found.notes:
        print(note)


def _interval(value: Interval) -> str:
    return _ends(value.value, value.low, value.high, digits=3)


def _ends_of(value: Interval) -> str:
    return _ends(value.value, value.low, value.high)


def _ends(value: float, low: float, high: float, *, digits: int = 2) -> str:
    if value != value:
        return "-"
    return f"{value:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


def _gain(gain: Gain) -> str:
    return f"{gain.value:+.3f} ({gain.low:+.3f} … {gain.high:+.3f})"
