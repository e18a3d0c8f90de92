"""One call from pictures to a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import ConfigError, DataError, UsageError
from headstart.imagedata import ImageData
from headstart.processes import current
from headstart.recipe.body import Body
from headstart.recipe.changes import Changes
from headstart.recipe.clock import Clock, parse_duration
from headstart.recipe.folder import RunFolder, folder_apart, next_free
from headstart.recipe.folds import FoldOptions, go_on_with_folds, goes_on, refuse_several, train_folds
from headstart.recipe.journal import Journal, Origin, Saving
from headstart.recipe.narrator import Narrator, TerminalNarrator
from headstart.recipe.plans import eight_steps
from headstart.recipe.result import Result
from headstart.recipe.steps import EightSteps
from headstart.training import Plan, Settings
from headstart.types import Size

if TYPE_CHECKING:
    from headstart.training import Callback


def train(
    data: ImageData | str | Path,
    plan: Plan | None = None,
    *,
    arch: str = "resnet34",
    weights: str | Path | None = None,
    from_scratch: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    time: str | float | None = None,
    metric: str | None = None,
    device: str = "auto",
    force: bool = False,
    folds: int | None = None,
    callbacks: Sequence[Callback] = (),
    narrator: Narrator | None = None,
    saving: Saving | None = None,
) -> Result:
    """Train a classifier on a folder of pictures by the eight steps, and return the `Result`.

    `data` is a folder (class folders, or train/valid/test) or an `ImageData`, whose options decide on
    size, split and augmentation. `plan` replaces the eight steps. `time` is a budget, such as `10m`.
    `metric` is shown beside the log loss, and the thresholds of tags are fitted to it (default: the
    accuracy, for tags `f2`).
    With `folds` a model is trained for each of so many folds, and together they make an ensemble whose
    figures are of pictures that each model never saw (see `recipe.folds`); called again with the same
    `out` it goes on with the first fold that is not finished.
    `callbacks` watch every phase, such as `TensorBoardLogger`.
    `saving` says how often checkpoints are written, from which `resume` goes on.
    The run is written to `out` (default: runs/<name>). Everything is told on stderr unless another
    `narrator` is given. Of several processes (`processes.joined`) each calls it, all return the same result,
    and rank 0 writes and tells. Raises children of `HeadstartError`.
    """
    told = _told(narrator)
    origin = Origin()
    source = data.samples.root if isinstance(data, ImageData) else Path(data)
    folder = prepare_folder(None if out is None else Path(out), source, force=force, folds=folds)
    chosen = plan or make_plan(None, from_scratch=from_scratch, seed=seed)
    if not isinstance(data, ImageData):
        options = {"path": str(Path(data).absolute()), "largest_size": largest_size(chosen), "seed": seed}
        origin = Origin("folder", options)
        data = read_folder(options, told)
    for line in data.report_lines():
        told.say(line)
    if plan is None:
        pictures = len(data.rows("train"))
        chosen = make_plan(None, from_scratch=from_scratch, seed=seed, pictures=pictures)
    budget = parse_duration(time) if isinstance(time, str) else time
    return run_steps(
        data,
        chosen,
        Body(arch, weights, from_scratch),
        folder,
        told,
        budget=budget,
        metric=metric,
        device=device,
        folds=folds,
        callbacks=callbacks,
        origin=origin,
        saving=saving,
    )


def _told(narrator: Narrator | None) -> Narrator:
    """Return who tells the run: of several processes rank 0 alone."""
    if not current().first:
        return Narrator()
    return TerminalNarrator() if narrator is None else narrator


def read_folder(options: Mapping[str, Any], narrator: Narrator) -> ImageData:
    """Read the folder of a run that was begun with one; `options` as its `Origin` has them."""
    given = dict(options)
    if given["largest_size"] is not None:
        given["largest_size"] = tuple(given["largest_size"])
    # What rank 0 has found out about a picture, the others need not.
    with current().first_before_others(), narrator.progress("looking at every picture") as on_progress:
        return ImageData.from_folder(given.pop("path"), **given, on_progress=on_progress)


def resume(
    path: str | Path,
    data: ImageData | None = None,
    *,
    accept_changes: bool = False,
    narrator: Narrator | None = None,
) -> Result | None:
    """Go on with a run that ended before its time, to its end; returns None where it is complete already.

    `path` is the folder of a run, or of a fold ensemble, whose finished folds stay as they are. `data` is
    what the run was begun with, where that was not a folder.
    Everything that the run was begun with holds on: plan, seed, batch size, the rates that were found, what
    is left of the budget. On a CPU the outcome has the bits that a run without a break would have given,
    whatever the number of threads that read pictures; only what the clock says differs, and in a run with
    a budget what there is time for. Where the pictures are not what they were, nothing is done and
    `DataError` says what has changed (`ConfigError` where classes, sizes or augmentation have), unless
    `accept_changes` is set: then the phase under way begins again with the pictures as they are.

    Raises `InputMissingError` where no run was begun, `ConfigError` where its checkpoints or weights are
    not as they were, `OutputError` where another process works on it.
    """
    told = _told(narrator)
    journal = Journal.read(Path(path))
    if journal.complete:
        journal.sweep()
        return None
    if data is None:
        if journal.origin.kind != "folder":
            raise UsageError(
                f"{path} does not say how its pictures are found again",
                "hand them in: resume(path, data)"
                if journal.origin.kind == "given"
                else "use headstart resume, as it was begun by headstart train",
            )
        data = read_folder(journal.origin.options, told)
    return go_on(journal, data, told, accept_changes=accept_changes)


def go_on(
    journal: Journal,
    data: ImageData,
    narrator: Narrator,
    *,
    accept_changes: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Go on with a run, or the folds of an ensemble, over data that is ready; see `resume`."""
    changes = journal.changes(data)
    if changes:
        _refuse_changes(changes, accept_changes)
        narrator.say(f"  ! no longer bit-identical because the pictures are others: {changes.told()}")
    if journal.folds is not None:
        return go_on_with_folds(journal, data, narrator)
    found = journal.find()
    spent = 0.0
    if found is not None:
        from headstart.training import set_threads

        spent = float(found.extra["elapsed"])
        for note in set_threads(found):
            narrator.say(f"  {note}")
    steps = EightSteps(
        data,
        journal.plan,
        journal.body,
        RunFolder(journal.path, goes_on=True)
        if current().first
        else folder_apart(journal.path, goes_on=True),
        narrator,
        clock=Clock(journal.said["budget"], spent),
        rate_ratio=journal.said["rate_ratio"],
        metric=journal.said["metric"],
        device=journal.said["device"],
        callbacks=callbacks,
        origin=journal.origin,
        saving=journal.saving,
    )
    return steps.run(journal, changed=bool(changes))


def _refuse_changes(changes: Changes, accept: bool) -> None:
    said = f"what the run was begun with has changed: {changes.told()}"
    if changes.harmful:
        raise ConfigError(said, "put it back as it was, or begin a new run: no model fits both")
    if not accept:
        raise DataError(
            said, "put it back as it was, or go on with it as it is: --accept-changes", code="DATA_CHANGED"
        )


def make_plan(
    path: Path | None,
    *,
    cycles: int | None = None,
    epochs: float = 1.0,
    sizes: tuple[Size, ...] = (),
    from_scratch: bool = False,
    seed: int = 0,
    pictures: int | None = None,
) -> Plan:
    """Return the plan in a YAML file (or a run's folder), or the eight steps where there is none.

    A plan has its own cycles and sizes: of what is given beside it only `epochs` counts, which scales it.
    """
    if path is not None:
        plan = Plan.from_yaml(path)
        return plan if epochs == 1 else plan.scaled(epochs)
    return eight_steps(
        cycles=cycles,
        pictures=pictures,
        epochs=epochs,
        sizes=sizes,
        from_scratch=from_scratch,
        settings=Settings(seed=seed),
    )


def largest_size(plan: Plan) -> Size | None:
    """Return the largest size that a phase of the plan asks for, or None where none asks for one."""
    return max((phase.image_size for phase in plan if phase.image_size), key=max, default=None)


def prepare_folder(
    out: Path | None, source: Path, *, force: bool = False, folds: int | None = None
) -> RunFolder:
    """Make the run folder: `out`, or runs/<name of the source> with a number where that is taken.

    An unfinished fold ensemble in `out` is gone on with where `folds` are asked for. Of several processes
    rank 0 makes it, and the others get folders of their own that nobody sees.
    """
    ranks = current()
    if folds is not None:
        refuse_several()
    made = _make_folder(out, source, force=force, folds=folds) if ranks.first else None
    path = ranks.said("" if made is None else str(made.path))[0]
    return folder_apart(Path(path)) if made is None else made


def _make_folder(out: Path | None, source: Path, *, force: bool, folds: int | None) -> RunFolder:
    if out is not None and folds is not None and not force and goes_on(out):
        return RunFolder(out, goes_on=True)
    if out is not None:
        return RunFolder(out, replace=force)
    name = source.resolve().name or "pictures"
    return RunFolder(next_free(Path("runs") / name))


def run_steps(
    data: ImageData,
    plan: Plan,
    body: Body,
    folder: RunFolder,
    narrator: Narrator,
    *,
    budget: float | None = None,
    rate_ratio: float | None = None,
    metric: str | None = None,
    device: str = "auto",
    folds: int | None = None,
    callbacks: Sequence[Callback] = (),
    origin: Origin | None = None,
    saving: Saving | None = None,
) -> Result:
    """Run a plan over data that is ready, into a folder that is ready; see `train`.

    `origin` says how `resume` finds the data again.
    """
    clock = Clock(budget)
    if folds is not None:
        options = FoldOptions(folds, rate_ratio, metric, device, origin or Origin(), saving or Saving())
        return train_folds(data, plan, body, folder, narrator, options, clock=clock)
    steps = EightSteps(
        data,
        plan,
        body,
        folder,
        narrator,
        clock=clock,
        rate_ratio=rate_ratio,
        metric=metric,
        device=device,
        callbacks=callbacks,
        origin=origin,
        saving=saving,
    )
    return steps.run()
