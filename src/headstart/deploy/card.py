"""The model card: what a bundle is, in words, for people and for the Hugging Face hub.

It is a function of the manifest alone: the same manifest gives the same bytes. It names no picture and no
folder of anybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from headstart.deploy.about import About, TrainingStep
from headstart.deploy.card_header import (
    figures_by_part,
    front_matter,
    hub_models,
    is_out_of_fold,
    licences,
    model_name,
)
from headstart.deploy.manifest import Manifest, Member
from headstart.deploy.markdown import code, plain, table
from headstart.errors import ConfigError
from headstart.storage import Place, read_capped
from headstart.types import Task

CARD = "README.md"
MAX_CARD_BYTES = 2**20

MOST_CLASSES = 100
MOST_FIGURES = 40
MOST_NAMED = 12
LONGEST_SENTENCE = 1000
FEW = 10
"""Of a class with fewer pictures to judge by, figures say little."""

_PARTS = {"train": "training", "valid": "validation", "test": "test", "folds": "in the folds", "": ""}
# These are not shares of anything, and stand as numbers.
_NUMBERS = frozenset({"log_loss", "brier", "cohen_kappa", "matthews"})

_TITLES = {"macro_f1": "macro F1", "micro_f1": "micro F1", "roc_auc": "ROC AUC", "brier": "Brier score"}

Figure = Mapping[str, float | None]


def model_card(manifest: Manifest) -> str:
    """Return the card of a bundle: YAML and then Markdown, as the hub has it, with a line break at the end.

    At most 100 classes and 40 figures are listed, and names are cut at 80 characters: the card stays far
    below `MAX_CARD_BYTES`. Whatever names hold, it is shown and means nothing.
    """
    about = manifest.about or About()
    tags = manifest.task is Task.MULTI_LABEL
    sections: tuple[tuple[str, Callable[[Manifest, About], Iterator[str]]], ...] = (
        ("What it is for, and what not", _uses),
        ("Tags" if tags else "Classes", _classes),
        ("How good it is", _figures),
        ("How it decides", _decisions),
        ("Pictures it learned from", _data),
        ("How it was trained", _training),
        ("How to use it", _usage),
        ("Weights and licence", _weights),
        ("Versions", _versions),
    )
    blocks = [f"# {plain(model_name(manifest), longest=300)}", *_opening(manifest, about)]
    for title, section in sections:
        blocks += [f"## {title}", *section(manifest, about)]
    return front_matter(manifest) + "\n" + "\n\n".join(blocks) + "\n"


def _opening(manifest: Manifest, about: About) -> Iterator[str]:
    tags, count = manifest.task is Task.MULTI_LABEL, len(manifest.classes)
    task = f"which of {count:,} tags a picture has" if tags else f"which of {count:,} classes a picture shows"
    yield f"This model says {task}. It was trained with headstart, on pictures of its owner's."
    for part, figures in figures_by_part(manifest).items():
        name, figure = next(iter(figures.items()))
        said = f"{plain(_title(name))} {_value(name, figure)}{_of_part(part, about)}{_ends(name, figure)}."
        yield f"{said} {plain(about.note, longest=LONGEST_SENTENCE)}".rstrip()
        break


def _of_part(part: str, about: About) -> str:
    """Words for the pictures that a figure is of, with how many they are, where that is known."""
    if not part:
        return ""
    of_folds = is_out_of_fold(part, about)
    count = about.pictures.get("folds" if of_folds else part)
    words = "out-of-fold" if of_folds else _PARTS[part]
    return f" on {words} pictures" if count is None else f" on {count:,} {words} pictures"


def _uses(manifest: Manifest, about: About) -> Iterator[str]:
    tags = manifest.task is Task.MULTI_LABEL
    does = "It says which of these tags they have." if tags else "It sorts them into these classes."
    points = [
        f"It is for pictures like those it learned from: of the same things, taken in the same way. {does}",
        "It was judged on pictures of the same collection. Nothing was measured of other cameras, places, "
        "seasons or sources, where it may do worse.",
        "Nothing was measured of how it treats groups of people. It should decide about nobody by itself.",
    ]
    if manifest.novelty is not None:
        points.append(
            "A picture that is unlike all it learned from is called none of these. How many strange pictures "
            "that catches was not measured."
        )
    elif not tags:
        points.append("Every picture gets a class, whatever it shows: this model cannot say none of these.")
    if manifest.metrics and "test" not in figures_by_part(manifest):
        points.append("No pictures were kept aside from all choices, so validation figures flatter a little.")
    judged = next((about.counts[part] for part in ("test", "valid", "folds") if part in about.counts), ())
    few = [name for name, count in zip(manifest.classes, judged, strict=False) if count < FEW]
    if few:
        points.append(
            f"{_some(few)} had fewer than {FEW} pictures to judge by: how well those are told is uncertain."
        )
    yield _listed(points)


def _classes(manifest: Manifest, about: About) -> Iterator[str]:
    columns = {
        _PARTS[part]: [f"{n:,}" for n in about.counts[part]] for part in _PARTS if part in about.counts
    }
    if manifest.thresholds is not None:
        columns["said from"] = [f"{threshold:.2f}" for threshold in manifest.thresholds]
    head = ["tag" if manifest.task is Task.MULTI_LABEL else "class", *columns]
    named = manifest.classes[:MOST_CLASSES]
    rows = ([code(name), *(cells[number] for cells in columns.values())] for number, name in enumerate(named))
    yield table(head, rows)
    if len(manifest.classes) > MOST_CLASSES:
        left = len(manifest.classes) - MOST_CLASSES
        yield f"And {left:,} more: `manifest.json` names all of them."


def _figures(manifest: Manifest, about: About) -> Iterator[str]:
    by_part = figures_by_part(manifest)
    if not by_part:
        yield (
            "No figures came with this model. Before you trust it, measure it on labelled pictures that it "
            "did not learn from, with `headstart evaluate model PICTURES`."
        )
    left = MOST_FIGURES
    for part, figures in by_part.items():
        shown = list(figures.items())[:left]
        left -= len(shown)
        head = [_of_part(part, about).removeprefix(" on ") or "figure", "value", "95% interval"]
        rows = [[plain(_title(name)), _value(name, figure), _range(name, figure)] for name, figure in shown]
        if rows:
            yield table(head, rows)


def _decisions(manifest: Manifest, about: About) -> Iterator[str]:
    points = [_calibration(manifest, about)]
    if manifest.scaling is not None:
        points.append("Each class's logit then has a factor and an offset of its own.")
    if manifest.thresholds is not None:
        points.append("A tag is said from its own threshold on; the table above has them.")
    if manifest.sets is not None:
        size = about.decided.get("set_size", {}).get("value")
        points.append(
            f"Sets of classes are made to hold the right one for {manifest.sets.level:.0%} of pictures"
            + _told(about, "coverage", "; of pictures that did not set their limit, they hold it for {}")
            + ("." if size is None else f". A set has {size:.2f} classes on average.")
        )
    if manifest.novelty is not None:
        points.append(
            f"None of these is said from a limit on that {manifest.novelty.rate:.0%} of known pictures exceed"
            + _told(about, "turned_away", "; of known pictures that did not set it, {} do")
            + "."
        )
    if manifest.tta:
        points.append(
            f"Each prediction is the average over several views of a picture (`{manifest.tta_policy}`), "
            "unless asked otherwise."
        )
    yield _listed(points)


def _calibration(manifest: Manifest, about: About) -> str:
    before, after, error = (
        about.decided.get(name, {}).get("value")
        for name in ("log_loss_before", "log_loss_after", "ece_after")
    )
    if manifest.temperature != 1.0:
        said = [f"Logits are divided by a temperature of {manifest.temperature:.3g}."]
    elif "folds" in about.pictures:
        said = ["Each network's temperature is part of its last layer."]
    elif before is not None:
        said = ["Probabilities stay as they are: no temperature lowered the cross-fitted log loss."]
    else:
        said = ["Probabilities stay as the network gives them."]
    if before is not None and after is not None and before != after:
        said.append(
            f"On pictures that did not choose it, the log loss falls from {before:.3f} to {after:.3f}."
        )
    if error is not None:
        said.append(f"The expected calibration error is {error:.1%} on pictures that it was not fitted to.")
    return " ".join(said)


def _told(about: About, name: str, words: str) -> str:
    figure = about.decided.get(name, {})
    known = figure.get("value") is not None
    return words.format(f"{_value(name, figure)}{_ends(name, figure)}") if known else ""


def _data(manifest: Manifest, about: About) -> Iterator[str]:
    known = {part: count for part, count in about.pictures.items() if count}
    if known:
        counted = ", ".join(f"{count:,} {_PARTS[part]}" for part, count in known.items())
        yield f"{sum(known.values()):,} pictures: {counted}."
    else:
        yield "How many pictures there were is not recorded."
    yield "They are no part of this model, and nothing in it says what they were called or where they lay."
    if manifest.data:
        yield (
            f"Fingerprint of their table (names, labels and parts): {code(manifest.data)}. The same "
            "pictures, labelled and split the same way, give the same one."
        )


def _training(manifest: Manifest, about: About) -> Iterator[str]:
    if about.steps:
        measured = any(step.gain for step in about.steps)
        yield "A step that did not pay was undone." + (
            " A gain is a fall of the validation log loss, with its 95% interval." if measured else ""
        )
        yield table(["step", "outcome", "epochs", "gain"], map(_step, about.steps), left=2)
    else:
        yield "The steps of its training are not recorded."
    if about.settings:
        settings = about.settings.items()
        rows = ([plain(name.replace("_", " ")), plain(text, longest=300)] for name, text in settings)
        yield table(["setting", "value"], rows, left=2)


def _step(step: TrainingStep) -> list[str]:
    gain = step.gain.get("value")
    return [
        plain(_title(step.name)),
        {True: "kept", False: "undone", None: ""}[step.kept],
        str(step.epochs or ""),
        "" if gain is None else f"{gain:+.3f}{_ends('log_loss', step.gain)}",
    ]


def _usage(manifest: Manifest, about: About) -> Iterator[str]:
    files = sorted({"manifest.json", *manifest.files})
    yield (
        f"Put {_and([code(file) for file in files])} into a folder, here `model`, with nothing else but this "
        "page; where they lie on the hub, `hf download OWNER/NAME --local-dir model` does so."
    )
    yield "```sh\npip install headstart\nheadstart predict model pictures/\n```"
    yield (
        '```python\nimport headstart as hs\n\npredictor = hs.load("model")\n'
        'predictor.predict(["a.jpg", "b.jpg"]).to_frame()\n```'
    )
    yield (
        "Loading it runs no code: it is numbers and words. Pictures are given as they are, of any size; the "
        f"model prepares them itself ({_prepared(manifest.members[0])})."
    )


def _prepared(member: Member) -> str:
    given = member.preprocessing
    height, width = given.size
    middle = (
        f"the middle {given.crop_fraction:.1%} cut out" if given.crop_fraction < 1 else "the middle cut out"
    )
    how = {"crop": middle, "squish": "both sides scaled to fit", "pad": "padded to fit"}[given.policy]
    return f"{width} x {height} pixels, {how}, {given.interpolation} filter"


def _weights(manifest: Manifest, about: About) -> Iterator[str]:
    head = ["network", "architecture", "weights it began with", "SHA-256 begins", "their licence"]
    yield table(head, (_network(number, each) for number, each in enumerate(manifest.members, 1)), left=5)
    known = licences(manifest)
    if known:
        yield (
            "What is trained further keeps the terms of what it began with: "
            f"{_and([plain(licence) for licence in known])}. Whether the pictures allow that the model "
            "is passed on, only their owner knows."
        )
    elif all(member.weights.source == "scratch" for member in manifest.members):
        yield "It began with nobody's weights. Its licence is for its owner to choose."
    else:
        yield (
            "The licence of the weights it began with is not recorded, so this card names none. Find it out "
            "before you pass the model on."
        )
    links = [f"[{plain(name)}](https://huggingface.co/{name})" for name in hub_models(manifest)[:MOST_NAMED]]
    if links:
        yield f"Where they come from: {', '.join(links)}."


def _network(number: int, member: Member) -> list[str]:
    weights = member.weights
    kind, _, name = weights.source.partition(" ")
    begun = {"hub": f"{code(name)} of the hub", "file": f"the file {code(name)}", "scratch": "none"}
    return [
        str(number),
        code(member.arch),
        begun.get(kind, code(weights.source) if weights.source else "not recorded"),
        code(weights.sha256[:16]) if weights.sha256 else "",
        plain(weights.licence) or ("" if kind == "scratch" else "not recorded"),
    ]


def _versions(manifest: Manifest, about: About) -> Iterator[str]:
    found = {**about.versions, "headstart": manifest.headstart or "not recorded"}
    yield ", ".join(f"{plain(name)} {plain(version)}" for name, version in sorted(found.items())) + "."


def check_card(path: Place) -> None:
    """Raise `ConfigError` unless a card is text; what it says is its reader's concern."""
    try:
        text = read_capped(path, MAX_CARD_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", "save it as UTF-8, or remove it") from error
    if "\0" in text:
        raise ConfigError(f"{path} is not text", "remove it: the model works without")


def _listed(points: Iterable[str]) -> str:
    return "\n".join(f"- {point}" for point in points)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(code(name) for name in names[:MOST_NAMED]) + more


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _title(name: str) -> str:
    words = _TITLES.get(name) or name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _number(name: str, value: float) -> str:
    share = name not in _NUMBERS and abs(value) <= 1
    return f"{value:.1%}" if share else f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _value(name: str, figure: Figure) -> str:
    value = figure.get("value")
    return "" if value is None else _number(name, value)


def _range(name: str, figure: Figure) -> str:
    low, high = figure.get("low"), figure.get("high")
    return "" if low is None or high is None else f"{_number(name, low)} … {_number(name, high)}"


def _ends(name: str, figure: Figure) -> str:
    ends = _range(name, figure)
    return f" ({ends})" if ends else ""
