"""`headstart models`: bodies to choose from, what they cost here, and a quick probe of several of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import InputMissingError, OutputError, UsageError

if TYPE_CHECKING:
    from headstart.models import BodyCost, BodyFacts
    from headstart.recipe import Narrator
    from headstart.recipe.bodies import BodyScore

HEAD = ("body", "parameters", "size", "frozen", "training", "memory", "weights", "licence", "next")
SCORE_HEAD = ("body", "{metric}", "log loss", "nearest", "frozen", "training", "memory")
# The batch that memory is told for.
TOLD_BATCH = 32
MEBI = 2**20

OTHERS = (
    "Any other timm name works, too. Weights that are not here are fetched from the hub when first used;\n"
    "without a network, copy model.safetensors of huggingface.co/timm/<name> to FOLDER/<name>.safetensors,\n"
    "and give --weights FOLDER, or set HEADSTART_WEIGHTS."
)


@dataclass(frozen=True)
class ModelsOptions:
    """What `headstart models` was asked for."""

    archs: tuple[str, ...] = ()
    probe: Path | None = None
    weights: str | None = None
    image_size: str = "224"
    measure: bool = True
    limit: int | None = None
    plot: Path = Path("models.png")
    force: bool = False
    as_json: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int | None = None


def run_models(options: ModelsOptions, narrator: Narrator) -> int:
    """List bodies, or probe some of them on a folder of pictures; return the exit code.

    Raises `UsageError` for an unknown name, `InputMissingError` where no body to probe has weights at hand.
    """
    if options.probe is not None:
        return _run_probe(options.probe, options, narrator)
    from headstart.models import describe_body, suitable_bodies

    names = options.archs or suitable_bodies(options.weights)
    facts = [describe_body(name, options.weights) for name in names]
    costs = _costs(names, options, narrator, None)
    if options.as_json:
        print(json.dumps([_as_plain(fact, costs[fact.arch]) for fact in facts]))
        return 0
    print(_table(HEAD, [_row(fact, costs[fact.arch]) for fact in facts]))
    if any(costs.values()):
        print(
            "\nfrozen, training: pictures a second, measured here; "
            f"memory: to train everything in batches of {TOLD_BATCH}"
        )
    print(OTHERS)
    return 0


def _costs(
    names: Sequence[str],
    options: ModelsOptions,
    narrator: Narrator,
    size: tuple[int, int] | None,
) -> dict[str, BodyCost | None]:
    from headstart.inference import choose_device
    from headstart.models import known_cost, measure_body

    device = str(choose_device(options.device))
    found = {name: known_cost(name, size=size, device=device) for name in names}
    missing = [name for name, cost in found.items() if cost is None]
    if not options.measure or not missing:
        return found
    with narrator.progress("measuring bodies, once for this machine") as on_progress:
        for number, name in enumerate(missing):
            on_progress(number, len(missing))
            found[name] = measure_body(name, size=size, device=device)
        on_progress(len(missing), len(missing))
    return found


def _as_plain(fact: BodyFacts, cost: BodyCost | None) -> dict[str, Any]:
    told = None if cost is None else asdict(cost) | {"training_bytes": cost.training_bytes(TOLD_BATCH)}
    return asdict(fact) | {"cost": told}


def _row(fact: BodyFacts, cost: BodyCost | None) -> list[str]:
    height, width = fact.native_size
    here = "here" if fact.weights else "hub"
    measured = ["", "", ""]
    if cost is not None:
        memory = f"{cost.training_bytes(TOLD_BATCH) / MEBI:,.0f} MB"
        measured = [f"{cost.frozen_rate:.3g}/s", f"{cost.training_rate:.3g}/s", memory]
    size = f"{height}" if height == width else f"{height}x{width}"
    millions = f"{fact.parameters / 1e6:.1f} M"
    return [fact.arch, millions, size, *measured, here, fact.licence or "?", fact.next_up or "-"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns; one that no row fills is left out."""
    filled = [column for column in range(len(head)) if any(row[column] for row in rows)]
    head, rows = [head[column] for column in filled], [[row[column] for column in filled] for row in rows]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in [head, *rows]]  # fmt: skip
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])


def _run_probe(folder: Path, options: ModelsOptions, narrator: Narrator) -> int:
    from headstart.evaluation import Point, plot_tradeoff
    from headstart.imagedata import ImageData
    from headstart.models import check_architecture, suitable_bodies, weights_at_hand
    from headstart.recipe.bodies import probe_bodies

    if options.plot.exists() and not options.force:
        raise OutputError(f"{options.plot} exists already", "choose another file with --plot, or use --force")
    for name in options.archs:
        check_architecture(name)
    archs = options.archs or tuple(
        name for name in suitable_bodies(options.weights) if weights_at_hand(name, options.weights)
    )
    if not archs:
        raise InputMissingError(
            "no body has weights at hand", "name some with --arch, to fetch them; or give --weights FOLDER"
        )
    with narrator.progress("looking at pictures") as on_progress:
        data = ImageData.from_folder(
            folder,
            image_size=options.image_size,
            limit=options.limit,
            seed=options.seed,
            threads=options.threads,
            on_progress=on_progress,
        )
    narrator.say(data.summary())
    scores = probe_bodies(data, archs, narrator, weights=options.weights, device=options.device)
    good = [score for score in scores if score.probe is not None]
    if not good:
        raise InputMissingError(f"no body could be probed: {scores[0].problem}", OTHERS.replace("\n", " "))
    costs: dict[str, BodyCost | None] = {}
    for score in good:
        costs |= _costs([score.arch], options, narrator, score.image_size)
    points = [
        Point(score.arch, 1000 / cost.frozen_rate, score.probe)
        for score in good
        if score.probe is not None and (cost := costs[score.arch]) is not None
    ]
    if points:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot_tradeoff(points, metric=good[0].metric).savefig(options.plot, dpi=110)
    _print_scores(scores, costs, options, plotted=bool(points))
    return 0


def _print_scores(
    scores: Sequence[BodyScore], costs: dict[str, BodyCost | None], options: ModelsOptions, *, plotted: bool
) -> None:
    if options.as_json:
        told = [score.to_dict() | {"cost": _plain_cost(costs.get(score.arch))} for score in scores]
        print(json.dumps({"bodies": told, "plot": str(options.plot) if plotted else None}))
        return
    metric = scores[0].metric.replace("_", " ")
    rows = [_score_row(score, costs.get(score.arch)) for score in scores]
    print(_table([name.format(metric=metric) for name in SCORE_HEAD], rows))
    print("\nA probe on frozen features: training the whole network changes all, the larger ones often more.")
    for score in scores:
        if score.problem:
            print(f"{score.arch}: {score.problem}")
    if plotted:
        print(f"plot: {options.plot}")


def _plain_cost(cost: BodyCost | None) -> dict[str, Any] | None:
    return None if cost is None else asdict(cost)


def _score_row(score: BodyScore, cost: BodyCost | None) -> list[str]:
    if score.probe is None or score.neighbours is None or score.log_loss is None:
        return [score.arch, "-", "-", "-", "-", "-", "-"]
    measured = ["-", "-", "-"]
    if cost is not None:
        memory = f"{cost.training_bytes(TOLD_BATCH) / MEBI:,.0f} MB"
        measured = [f"{cost.frozen_rate:.3g}/s", f"{cost.training_rate:.3g}/s", memory]
    probe = score.probe
    return [
        score.arch,
        f"{probe.value:.1%} ({probe.low:.1%} … {probe.high:.1%})",
        f"{score.log_loss.value:.3f}",
        f"{score.neighbours.value:.1%}",
        *measured,
    ]


def archs_of(text: str | None) -> tuple[str, ...]:
    """Return the names of `--arch a,b,c`; raises `UsageError` where one is empty."""
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(
            f"--arch {text!r} names no body between two commas", "write --arch resnet34,resnet50"
        )
    return tuple(dict.fromkeys(names))
