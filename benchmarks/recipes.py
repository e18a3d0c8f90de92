"""Claim: the default recipe is the one that this ablation supports.

    python benchmarks/recipes.py fit    --into DIR [--parts frozen unfrozen] [--datasets …] [--seeds …]
    python benchmarks/recipes.py report --into DIR
    python benchmarks/recipes.py fit    --into DIR --parts frozen --datasets ants_bees --seeds 0   # to try it

Every arm is judged on pictures that chose nothing: the held-out fold of a stratified 5-fold split, drawn anew
for each seed. Arms are paired picture by picture, pooled over seeds, with percentile bootstraps that draw
pictures, each with all its seeds.

`frozen` (four sets, all five folds): what to put on a frozen body, at 224. A bank holds the features of each
picture as it is, mirrored, and as four draws of the augmentation. The reference is the probe on plain views.

`unfrozen` (`flowers` and `aerial`, one fold a seed): how to train the whole network, at 128, in at most four
epochs. The reference starts from the probe (LP-FT) and takes one cycle at 1e-3, a third of the rate for each
earlier group. What can be had from its weights without training again (a mean with the probe's weights, a
uniform soup, an average over views) stands beside it.

Each row of fits is a file, `DIR/<part>/<dataset>_seed<s>_<what>.json`; those that exist are skipped, so a
killed run goes on where it was. No times are compared: fits may run beside other work.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from augmentation import samples_of
from folds import shared_folder
from harness import RESULTS, machine, spread, versions, write_json, write_row
from numpy.typing import NDArray
from outer_folds import TOP_DOWN, clustered_interval

from headstart import ImageData, Learner
from headstart.augment import none, side_on, top_down, trivial
from headstart.models import ActivationSource, TensorSource, fit_probe, knn_logits
from headstart.recipe.interpolation import interpolated
from headstart.training import Phase, Run, Schedule, Settings, constant, fit, loss_for, one_cycle, sgdr
from headstart.types import Task

CLAIM = (
    "the default recipe is the one that the ablation supports: no arm is better than the default's choice "
    "with an interval of its log loss and its accuracy clear of zero"
)
ARCHITECTURE = "mobilenetv2_100"
DATASETS = {"frozen": ("flowers", "aerial", "ants_bees", "catsdogs"), "unfrozen": ("flowers", "aerial")}
REFERENCE = {"frozen": "probe", "unfrozen": "from the probe, one cycle"}
SEEDS = (0, 1, 2)
FOLDS = 5
DRAWS = 4
SIZES = {"frozen": 224, "unfrozen": 128}
EPOCHS = 4
# The reference of the unfrozen arms; a third and three times of it are arms.
RATE, RATIO = 1e-3, 3.0
# A head on activations starts at nothing, and each step costs next to nothing.
HEAD_EPOCHS, HEAD_RATE = 12, 1e-2

Table = dict[str, list[float]]
"""The log loss and the rightness (0 or 1) of each picture, by its path."""


def scored(data: ImageData, rows: NDArray[np.int64], logits: NDArray[np.floating[Any]]) -> Table:
    """Judge logits (rows, classes), or the logarithms of probabilities."""
    values = np.asarray(logits, np.float64)
    values = values - values.max(1, keepdims=True)
    chances = values - np.log(np.exp(values).sum(1, keepdims=True))
    labels = data.samples.labels[rows]
    losses = -chances[np.arange(len(rows)), labels]
    right = chances.argmax(1) == labels
    return {
        data.samples.paths[row]: [round(float(loss), 5), float(hit)]
        for row, loss, hit in zip(rows.tolist(), losses, right, strict=True)
    }


def mean_of(tables: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.float64]:
    """The logarithm of the mean of the probabilities of several views' or networks' logits."""
    total = np.zeros(tables[0].shape)
    for logits in tables:
        powers = np.exp(logits - logits.max(1, keepdims=True), dtype=np.float64)
        total += powers / powers.sum(1, keepdims=True)
    return np.log(np.maximum(total / len(tables), 1e-12))


def augmentation_of(dataset: str) -> Any:
    """The preset that suits the pictures."""
    return top_down() if dataset in TOP_DOWN else side_on()


# ---- the frozen body --------------------------------------------------------------------------


def bank_of(data: ImageData, learner: Learner) -> dict[str, NDArray[np.float32]]:
    """Features (pictures, features) of all pictures by view: plain, mirrored, and each draw."""
    engine = learner.engine()
    plain, mirrored = learner.data.views[:2]
    views: dict[str, Callable[[str], Any]] = {
        "plain": lambda split: learner.data.source(split, prepare=plain),
        "mirrored": lambda split: learner.data.source(split, prepare=mirrored),
    }
    bank = {name: np.zeros((len(data.samples), learner.model.feature_count), np.float32) for name in views}
    for split in ("train", "valid"):
        for name, source_of in views.items():
            for batch in ActivationSource(source_of(split), engine).epoch(0):
                bank[name][batch.index] = np.asarray(batch.inputs)
    for draw in range(DRAWS):
        values = np.zeros_like(bank["plain"])
        for split in ("train", "valid"):
            source = ActivationSource(learner.data.source(split, augment=True), engine)
            for batch in source.epoch(draw):
                values[batch.index] = np.asarray(batch.inputs)
        bank[f"draw {draw}"] = values
    return bank


class Draws:
    """The features of one view after another: epoch `e` has view `e` modulo their number."""

    def __init__(self, sources: Sequence[TensorSource]) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return len(self.sources[0])

    @property
    def sample_count(self) -> int:
        """The number of pictures in an epoch."""
        return self.sources[0].sample_count

    def epoch(self, epoch: int, *, start: int = 0) -> Any:
        """The batches of an epoch, from batch number `start` on."""
        return self.sources[epoch % len(self.sources)].epoch(epoch, start=start)


def trained_head(
    bank: Mapping[str, NDArray[np.float32]],
    views: Sequence[str],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    classes: int,
    schedule: Schedule,
    *,
    seed: int,
    start: tuple[NDArray[Any], NDArray[Any]] | None = None,
    rate: float = HEAD_RATE,
    epochs: int = HEAD_EPOCHS,
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Train a linear head by AdamW on the views in turn, and return it as a function of features."""
    import torch

    from headstart.training import make_optimizer

    torch.manual_seed(seed)
    head = torch.nn.Linear(bank["plain"].shape[1], classes)
    if start is None:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    else:
        with torch.no_grad():
            head.weight.copy_(torch.as_tensor(start[0]))
            head.bias.copy_(torch.as_tensor(start[1]))
    sources = [
        TensorSource(bank[view][rows], labels[rows], rows, batch_size=32, shuffle=True, seed=seed)
        for view in views
    ]
    run = Run(model=head, seed=seed, precision="float32")
    run.optimizer = make_optimizer([list(head.parameters())], [rate])
    loss = loss_for(Task.SINGLE_LABEL)
    fit(run, Draws(sources), rates=[rate], schedule=schedule, epochs=epochs, loss=loss)

    def logits(features: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(head(torch.as_tensor(features)).numpy())

    return logits


def frozen_row(dataset: str, seed: int, weights: Path) -> dict[str, Any]:
    """All arms on the frozen body, all five folds."""
    data = ImageData.from_samples(
        samples_of(dataset, seed, 0), image_size=SIZES["frozen"], augment=augmentation_of(dataset), seed=seed
    )
    learner = Learner(data, ARCHITECTURE, weights=weights, settings=Settings(seed=seed), callbacks=())
    bank = bank_of(data, learner)
    labels, classes = data.samples.labels, len(data.classes)
    draws = [f"draw {draw}" for draw in range(DRAWS)]
    arms: dict[str, Table] = {}
    for fold in range(FOLDS):
        split = samples_of(dataset, seed, fold).split
        train, held = (np.flatnonzero(split == part) for part in ("train", "valid"))

        def probe_on(views: Sequence[str], train: NDArray[np.int64] = train) -> Any:
            rows = np.concatenate([bank[view][train] for view in views])
            # Views of one picture must not be held out from each other, or the penalty comes out too small.
            groups = np.tile(train, len(views))
            return fit_probe(rows, np.tile(labels[train], len(views)), classes, seed=seed, groups=groups)

        def head_on(
            views: Sequence[str], schedule: Schedule, train: NDArray[np.int64] = train, **options: Any
        ) -> Any:
            return trained_head(bank, views, labels, train, classes, schedule, seed=seed, **options)

        plain, both, many = (
            probe_on(views) for views in (["plain"], ["plain", "mirrored"], ["plain", *draws])
        )
        optimum = (plain.weight, plain.bias)
        seen = {view: bank[view][held] for view in ("plain", "mirrored")}
        heads: dict[str, Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]] = {
            "probe": plain.logits,
            "probe on plain and mirrored": both.logits,
            "probe on plain and four draws": many.logits,
            "nearest neighbours": lambda features, train=train: knn_logits(  # type: ignore[misc]
                bank["plain"][train], labels[train], classes, features
            ),
            "head, constant rate": head_on(["plain"], constant()),
            "head, one cycle": head_on(["plain"], one_cycle()),
            "head, one cycle, four draws": head_on(draws, one_cycle()),
            "head, SGDR": head_on(["plain"], sgdr(cycles=2, cycle_len=4, cycle_mult=2)),
            "head, SGDR, four draws": head_on(draws, sgdr(cycles=2, cycle_len=4, cycle_mult=2)),
            "head from the probe, one cycle, four draws": head_on(
                draws, one_cycle(), start=optimum, rate=HEAD_RATE / 10
            ),
        }
        for name, head in heads.items():
            logits = {view: np.asarray(head(features)) for view, features in seen.items()}
            arms.setdefault(name, {}).update(scored(data, held, logits["plain"]))
            averaged = mean_of([logits["plain"], logits["mirrored"]])
            arms.setdefault(f"{name} + mirrored view", {}).update(scored(data, held, averaged))
    return {"arms": arms, "image_size": SIZES["frozen"]}


# ---- the whole network ------------------------------------------------------------------------


class Unfrozen:
    """One fold of one data set, on which the whole network is trained in one way or another."""

    def __init__(self, dataset: str, seed: int, weights: Path) -> None:
        self.dataset, self.seed, self.weights = dataset, seed, weights
        self.samples = samples_of(dataset, seed, seed % FOLDS)

    def learner(self, *, size: int = SIZES["unfrozen"], augment: Any = None, **settings: Any) -> Learner:
        """A learner whose head is the probe's."""
        data = ImageData.from_samples(
            self.samples,
            image_size=size,
            largest_size=SIZES["unfrozen"],
            augment=augmentation_of(self.dataset) if augment is None else augment,
            seed=self.seed,
        )
        learner = Learner(
            data,
            ARCHITECTURE,
            weights=self.weights,
            settings=Settings(seed=self.seed, **settings),
            callbacks=(),
        )
        learner.fit_probe()
        return learner

    @staticmethod
    def train(
        learner: Learner,
        schedule: Schedule | None = None,
        *,
        epochs: int = EPOCHS,
        rate: float = RATE,
    ) -> Learner:
        """Train every layer in one phase."""
        groups = len(learner.model.group_starts)
        rates = tuple(rate * RATIO ** (number + 1 - groups) for number in range(groups))
        phase = Phase("whole network", epochs, schedule or one_cycle(), learning_rate=rates, frozen_to=0)
        learner.run_phase(phase)
        return learner

    def table(self, learner: Learner, views: int = 1) -> Table:
        """Judge the held-out fold."""
        tables = []
        for view in learner.data.views[:views]:
            predictions = learner.predictions("valid", view)
            tables.append(np.asarray(predictions.logits))
        return scored(learner.data, predictions.rows, mean_of(tables))

    # What each row of fits trains, by its name.

    def rates(self) -> dict[str, Table]:
        """The reference at three rates, and what can be had from the three networks and the probe."""
        arms: dict[str, Table] = {}
        learner = self.learner()
        probe = learner.state()
        arms["probe"] = self.table(learner)
        arms["probe + mirrored view"] = self.table(learner, views=2)
        states = {}
        for name, factor in (("a third of the rate", 1 / 3), ("", 1.0), ("three times the rate", 3.0)):
            learner = self.train(self.learner(), rate=RATE * factor)
            full = REFERENCE["unfrozen"] + (f", {name}" if name else "")
            states[full] = learner.state()
            arms[full] = self.table(learner)
            for alpha in (0.25, 0.5, 0.75):
                learner.set_state(interpolated(probe, states[full], alpha))
                arms[f"{full}, {alpha:g} of the way"] = self.table(learner)
                if alpha == 0.5:
                    arms[f"{full}, {alpha:g} of the way + mirrored view"] = self.table(learner, views=2)
        learner.set_state(states[REFERENCE["unfrozen"]])
        arms[f"{REFERENCE['unfrozen']} + mirrored view"] = self.table(learner, views=2)
        soup = {
            name: sum((state[name] for state in states.values()), start=0 * tensor) / len(states)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in probe.items()
        }
        learner.set_state(soup)
        arms["uniform soup of the three rates"] = self.table(learner)
        return arms

    def fine_tune(self) -> dict[str, Table]:
        """fastai's way: a new head for one epoch, then everything for three."""
        data = self.learner().data
        learner = Learner(
            data, ARCHITECTURE, weights=self.weights, settings=Settings(seed=self.seed), callbacks=()
        )
        learner.fine_tune(EPOCHS - 1)
        return {"new head, fine_tune(3)": self.table(learner)}

    def restarts(self) -> dict[str, Table]:
        """Cosine restarts in place of one cycle: 1 + 2 epochs."""
        learner = self.train(self.learner(), sgdr(cycles=2, cycle_mult=2), epochs=3)
        return {"from the probe, SGDR of 1 + 2 epochs": self.table(learner)}

    def batch_norm(self) -> dict[str, Table]:
        """Batch norm that learns its statistics while training, and then recomputed ones."""
        learner = self.train(self.learner(batch_norm="train"))
        arms = {"batch norm trains": self.table(learner)}
        learner.recalibrate_batch_norm()
        return {**arms, "batch norm trains, recalibrated": self.table(learner)}

    def averaged(self) -> dict[str, Table]:
        """An exponential moving average of the weights."""
        return {"EMA of 0.95": self.table(self.train(self.learner(ema=0.95)))}

    def plain(self) -> dict[str, Table]:
        """No augmentation."""
        return {"no augmentation": self.table(self.train(self.learner(augment=none())))}

    def trivial(self) -> dict[str, Table]:
        """TrivialAugment."""
        return {"TrivialAugment": self.table(self.train(self.learner(augment=trivial())))}

    def mixup(self) -> dict[str, Table]:
        """Two pictures and labels become one."""
        return {"mixup": self.table(self.train(self.learner(mixing="mixup")))}

    def smoothing(self) -> dict[str, Table]:
        """A tenth of the label spread over all classes."""
        return {"label smoothing of 0.1": self.table(self.train(self.learner(label_smoothing=0.1)))}

    def resizing(self) -> dict[str, Table]:
        """Two epochs at 96, then two at 128."""
        learner = self.train(self.learner(size=96), epochs=EPOCHS // 2)
        learner.set_data(learner.data.resize(SIZES["unfrozen"]))
        learner = self.train(learner, epochs=EPOCHS // 2)
        return {"from 96 to 128": self.table(learner)}


UNFROZEN: dict[str, Callable[[Unfrozen], dict[str, Table]]] = {
    "rates": Unfrozen.rates,
    "fine_tune": Unfrozen.fine_tune,
    "restarts": Unfrozen.restarts,
    "averaged": Unfrozen.averaged,
    "batch_norm": Unfrozen.batch_norm,
    "plain": Unfrozen.plain,
    "mixup": Unfrozen.mixup,
    "resizing": Unfrozen.resizing,
    "trivial": Unfrozen.trivial,
    "smoothing": Unfrozen.smoothing,
}


# ---- all rows ---------------------------------------------------------------------------------


def row_files(options: argparse.Namespace) -> list[tuple[Path, str, str, int, str]]:
    """Each row's file, part, data set, seed and name; one seed of everything first."""
    found = []
    for seed in options.seeds:
        for part in options.parts:
            for what in ("all",) if part == "frozen" else UNFROZEN:
                # What the rule of keeping is worth is asked of all sets.
                for dataset in DATASETS["frozen" if what == "rates" else part]:
                    if dataset in options.datasets:
                        file = options.into / part / f"{dataset}_seed{seed}_{what}.json"
                        found.append((file, part, dataset, seed, what))
    return found


def run_fits(options: argparse.Namespace) -> None:
    """Run all rows that do not exist yet."""
    for file, part, dataset, seed, what in row_files(options):
        if file.exists():
            continue
        start = time.perf_counter()
        if part == "frozen":
            row = frozen_row(dataset, seed, options.weights)
        else:
            arms = UNFROZEN[what](Unfrozen(dataset, seed, options.weights))
            row = {"arms": arms, "image_size": SIZES[part]}
        seconds = round(time.perf_counter() - start, 1)
        facts = {"dataset": dataset, "seed": seed, "seconds": seconds}
        write_json(file, {**facts, **row, "machine": machine(), "versions": versions()})
        print(f"done {part} {file.stem}: {seconds:.0f} s", flush=True)
        for name, table in row["arms"].items():
            losses, right = zip(*table.values(), strict=True)
            print(f"  {name:60} {np.mean(right):.4f} {np.mean(losses):.4f}", flush=True)


def gathered(into: Path, part: str, dataset: str) -> dict[str, dict[str, list[list[float]]]]:
    """For each arm and picture, the (log loss, right) of each seed."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for file in sorted((into / part).glob(f"{dataset}_seed*.json")):
        for name, table in json.loads(file.read_text())["arms"].items():
            pictures = found.setdefault(name, {})
            for path, score in table.items():
                pictures.setdefault(f"{dataset}/{path}", []).append(score)
    return found


def compared(found: Mapping[str, Mapping[str, list[list[float]]]], reference: str) -> dict[str, Any]:
    """Each arm's accuracy and log loss, and what it gains on the reference, with intervals."""
    rows: dict[str, Any] = {}
    for name, pictures in found.items():
        # Only what both have been judged on, in as many seeds, can be paired.
        base = found[reference]
        keys = sorted(key for key in pictures if len(pictures[key]) == len(base.get(key, ())))
        if not keys:
            continue
        own, other = (np.array([np.mean(side[key], axis=0) for key in keys]) for side in (pictures, base))
        gains = {"log loss": other[:, 0] - own[:, 0], "accuracy": own[:, 1] - other[:, 1]}
        rows[name] = {
            "pictures": len(keys),
            "log_loss": round(float(own[:, 0].mean()), 4),
            "accuracy": round(float(own[:, 1].mean()), 4),
            **{
                f"gain in {what}": dict(
                    zip(
                        ("mean", "low", "high"),
                        (round(value, 5) for value in clustered_interval(values)),
                        strict=True,
                    )
                )
                for what, values in gains.items()
            },
        }
    return rows


RULES = {"always": 0.0, "0.5": 0.5, "0.8": 0.8, "0.9": 0.9, "0.975": 0.975, "never": 2.0}
"""How sure one must be that the trained network is better, on the rows that judge, to keep it."""


def surest(gains: NDArray[np.float64]) -> int:
    """The candidate (row) whose gain on the probe is highest, less twice its standard error."""
    return int(np.argmax(gains.mean(1) - 2 * gains.std(1) / np.sqrt(gains.shape[1])))


def of_halves(
    losses: NDArray[np.float64], right: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Choose and judge on one half of the rows as the recipe does; what it gains on the other half.

    `losses`, `right`: (1 + candidates, rows), the probe first. Returns how sure the half is, and what the
    network that it chooses gains on the other half in log loss and in accuracy.
    """
    order = rng.permutation(losses.shape[1])
    judging, outer = np.array_split(order, 2)
    gains = losses[:1] - losses[1:]
    parts = np.array_split(judging, 2)
    judged = np.concatenate([gains[surest(gains[:, other]), own] for own, other in (parts, reversed(parts))])
    error = float(judged.std()) / np.sqrt(len(judged))
    sure = NormalDist().cdf(float(judged.mean()) / max(error, 1e-12))
    number = surest(gains[:, judging])
    points = right[1 + number, outer].mean() - right[0, outer].mean()
    return sure, float(gains[number, outer].mean()), float(points)


def keeping(into: Path, dataset: str, *, draws: int = 400) -> dict[str, Any]:
    """What each of `RULES` is worth on rows that it never saw, by halves of the held-out folds."""
    seen: list[tuple[float, float, float]] = []
    for file in sorted((into / "unfrozen").glob(f"{dataset}_seed*_rates.json")):
        arms, rng = json.loads(file.read_text())["arms"], np.random.default_rng(0)
        for rate in ("", ", a third of the rate"):
            name = REFERENCE["unfrozen"] + rate
            names = ["probe", *(f"{name}, {alpha:g} of the way" for alpha in (0.25, 0.5, 0.75)), name]
            table = np.array([list(arms[each].values()) for each in names])
            seen += [of_halves(table[:, :, 0], table[:, :, 1], rng) for _ in range(draws)]
    if not seen:
        return {}
    sure, loss, points = np.array(seen).T
    return {
        rule: {
            "kept": round(float((sure >= least).mean()), 3),
            "gain in log loss": round(float((loss * (sure >= least)).mean()), 4),
            "gain in accuracy": round(float((points * (sure >= least)).mean()), 4),
        }
        for rule, least in RULES.items()
    }


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """All arms as tables: log loss, accuracy, and what is gained on the reference."""
    lines: list[str] = []
    for title, arms in results.items():
        reference = REFERENCE[title.partition(",")[0]]
        lines += [
            f"**{title}** (gains on *{reference}*)",
            "",
            "| arm | pictures | accuracy | gain, points | log loss | gain |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in sorted(arms.items(), key=lambda entry: entry[1]["log_loss"]):
            points, loss = row["gain in accuracy"], row["gain in log loss"]
            lines.append(
                f"| {name} | {row['pictures']} | {100 * row['accuracy']:.1f} "
                f"| {100 * points['mean']:+.1f} [{100 * points['low']:+.1f}, {100 * points['high']:+.1f}] "
                f"| {row['log_loss']:.3f} | {loss['mean']:+.3f} [{loss['low']:+.3f}, {loss['high']:+.3f}] |"
            )
        lines.append("")
    return "\n".join(lines)


def keeping_markdown(rules: Mapping[str, Mapping[str, Any]]) -> str:
    """What each rule of keeping is worth, as a table: log loss and points."""
    lines = [
        "**keeping** (gain on the probe in log loss, and in points)",
        "",
        f"| kept if better in | {' | '.join(rules)} |",
        "|---|" + "---|" * len(rules),
    ]
    for rule in RULES:
        cells = [
            f"{row[rule]['gain in log loss']:+.3f}, {100 * row[rule]['gain in accuracy']:+.1f}"
            for row in rules.values()
        ]
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def report(options: argparse.Namespace) -> None:
    """Pool all rows that exist; write the row and the tables."""
    results: dict[str, Any] = {}
    count = 0
    spreads: dict[str, Any] = {}
    for part, datasets in DATASETS.items():
        pooled: dict[str, dict[str, list[list[float]]]] = {}
        for dataset in datasets:
            found = gathered(options.into, part, dataset)
            if REFERENCE[part] not in found:
                continue
            count += len(list((options.into / part).glob(f"{dataset}_seed*.json")))
            results[f"{part}, {dataset}"] = compared(found, REFERENCE[part])
            for name, pictures in found.items():
                pooled.setdefault(name, {}).update(pictures)
            spreads[f"{part}, {dataset}, accuracy of an arm"] = spread(
                row["accuracy"] for row in results[f"{part}, {dataset}"].values()
            )
        if pooled:
            results[f"{part}, pooled"] = compared(pooled, REFERENCE[part])
    if not results:
        raise SystemExit(f"no row in {options.into}")
    text = markdown(results)
    rules = {dataset: keeping(options.into, dataset) for dataset in DATASETS["frozen"]}
    results["keeping"] = {dataset: worth for dataset, worth in rules.items() if worth}
    text += keeping_markdown(results["keeping"])
    write_row(CLAIM, results, n=count, name="recipes", spreads=spreads, folder=options.results)
    (options.results / "recipes.md").write_text(text)
    print(text)


def main() -> None:
    """Run the fits, or report."""
    parser = argparse.ArgumentParser(description="What each part of the recipe is worth.")
    parser.add_argument("action", choices=("fit", "report"))
    parser.add_argument("--into", type=Path, required=True, help="folder of the rows")
    parser.add_argument(
        "--weights", type=Path, default=shared_folder() / "weights" / f"{ARCHITECTURE}.safetensors"
    )
    parser.add_argument("--parts", nargs="+", choices=sorted(DATASETS), default=list(DATASETS))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS["frozen"], default=list(DATASETS["frozen"]))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.into = options.into.absolute()
    if options.action == "report":
        report(options)
    else:
        run_fits(options)


if __name__ == "__main__":
    main()
