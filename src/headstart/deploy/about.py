"""What a bundle tells people and no prediction depends on: its pictures, its training, what it was judged by.

It holds counts and words, and neither paths nor names of pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headstart.deploy import reading as read
from headstart.deploy.reading import wrong

PARTS = ("train", "valid", "test", "folds")
MOST_STEPS = 100
MOST_WORDS = 100
MOST_PICTURES = 10**12

# What was measured of decisions, on pictures that they were not fitted to.
DECIDED = (
    "log_loss_before",
    "log_loss_after",
    "ece_before",
    "ece_after",
    "coverage",
    "set_size",
    "turned_away",
)


@dataclass(frozen=True)
class TrainingStep:
    """One step of the training: its name, whether it was kept (None: it changes no prediction), its epochs.

    `gain`: the fall of the log loss with the ends of its 95 % interval; empty where it was not measured.
    """

    name: str
    kept: bool | None = None
    epochs: int = 0
    gain: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """What a model card says beyond what predictions need.

    `pictures`: how many there are by part (`PARTS`; `folds`: those that trained and judged in turn), and
    `counts` those of each class, in the order of the classes. `out_of_fold`: figures called those of a test
    part are of pictures that each took no part in the network that judged them. `note`: what the figures are
    worth. `decided`: figures of decisions (`DECIDED`), cross-fitted. `steps`, `settings`, `versions`: how and
    with what it was trained.
    """

    pictures: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    out_of_fold: bool = False
    note: str = ""
    decided: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    steps: tuple[TrainingStep, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def about_from(value: object, class_count: int) -> About | None:
    """Read it from parsed JSON; raises `ConfigError` that names what is not as it must be."""
    if value is None:
        return None
    fields = read.fields(value, "about", About)
    return About(
        pictures={
            part: read.whole(count, "about.pictures", 0, MOST_PICTURES)
            for part, count in _table(fields["pictures"], "about.pictures", PARTS).items()
        },
        counts={
            part: tuple(
                read.whole(count, "about.counts", 0, MOST_PICTURES)
                for count in read.several(counts, "about.counts", class_count, class_count)
            )
            for part, counts in _table(fields["counts"], "about.counts", PARTS).items()
        },
        out_of_fold=read.boolean(fields["out_of_fold"], "about.out_of_fold"),
        note=read.text(fields["note"], "about.note"),
        decided=read.figures(_table(fields["decided"], "about.decided", DECIDED), "about.decided"),
        steps=tuple(
            _step(step, f"about.steps[{number}]")
            for number, step in enumerate(read.several(fields["steps"], "about.steps", 0, MOST_STEPS))
        ),
        settings=_words(fields["settings"], "about.settings"),
        versions=_words(fields["versions"], "about.versions"),
    )


def _step(value: object, name: str) -> TrainingStep:
    fields = read.fields(value, name, TrainingStep)
    gain = read.figures({} if fields["gain"] == {} else {"gain": fields["gain"]}, f"{name}.gain")
    return TrainingStep(
        name=read.text(fields["name"], f"{name}.name", 1),
        kept=None if fields["kept"] is None else read.boolean(fields["kept"], f"{name}.kept"),
        epochs=read.whole(fields["epochs"], f"{name}.epochs", 0, 10**9),
        gain=gain.get("gain", {}),
    )


def _table(value: object, name: str, keys: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise wrong(name, "is not an object")
    if unknown := sorted(set(value) - set(keys)):
        raise wrong(name, f"has unknown fields: {', '.join(key[:40] for key in unknown[:5])}")
    return value


def _words(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MOST_WORDS:
        raise wrong(name, f"is not a table of up to {MOST_WORDS}")
    return {read.text(key, name, 1): read.text(text, name) for key, text in value.items()}
