"""The head of a model card: the YAML that the Hugging Face hub reads.

Source: the hub's documentation of model card metadata, https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from headstart.deploy.about import About
from headstart.deploy.manifest import Manifest
from headstart.deploy.markdown import one_line
from headstart.types import Task

# The hub refuses any other licence by name: what is not here is `other`, with its own name beside.
LICENCES = frozenset(
    {
        "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bsd",
        "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "cc", "cc-by-2.0", "cc-by-2.5",
        "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
        "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1",
        "fair-noncommercial-research-license", "gemma", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl",
        "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "ms-pl", "ncsa", "openrail", "osl-3.0", "unknown",
        "unlicense", "wtfpl", "zlib",
    }
)  # fmt: skip

# Ours and the hub's names of the same metrics; others keep their names.
_METRICS = {
    "macro_f1": "f1",
    "macro_precision": "precision",
    "macro_recall": "recall",
    "matthews": "matthews_correlation",
    "brier": "brier_score",
}
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_HUB_MODEL = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
MOST_RESULTS = 40

# In the order in which they are told: of a bundle's own parts, and of figures of no part.
TOLD_PARTS = ("test", "valid", "train", "")


def front_matter(manifest: Manifest) -> str:
    """Return the card's YAML between its two lines of dashes, with a line break at the end.

    `model-index` and `metrics` are left out where no figure is known; `license` and `base_model`, where the
    weights that training began with do not say.
    """
    results = list(_results(manifest))
    head: dict[str, Any] = {
        "library_name": "headstart",
        "pipeline_tag": "image-classification",
        **_licence(manifest),
        **_base_models(manifest),
        "tags": ["headstart", "timm"]
        + (["multi-label-image-classification"] if manifest.task is Task.MULTI_LABEL else []),
    }
    if results:
        kinds = [figure["type"] for result in results for figure in result["metrics"]]
        head["metrics"] = list(dict.fromkeys(kinds))
        head["model-index"] = [{"name": model_name(manifest), "results": results}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100)}---\n"


def model_name(manifest: Manifest) -> str:
    """Return what the model is called: its architecture and how much it tells apart."""
    count = len(manifest.members)
    kinds = list(dict.fromkeys(member.arch for member in manifest.members))
    bodies = " and ".join(kinds[:3]) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "")
    several = f"{count} networks of {bodies}" if count > 1 else bodies
    noun = "tag" if manifest.task is Task.MULTI_LABEL else "class"
    plural = {"tag": "tags", "class": "classes"}[noun] if len(manifest.classes) != 1 else noun
    return f"{several} for {len(manifest.classes):,} {plural}"


def figures_by_part(manifest: Manifest) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the known figures by part and name; a name that begins with no part is of the part ""."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, interval in manifest.metrics.items():
        part, _, rest = name.partition(" ")
        if part not in _SPLITS or not rest:
            part, rest = "", name
        if interval.get("value") is not None:
            found.setdefault(part, {})[rest] = dict(interval)
    return {part: found[part] for part in TOLD_PARTS if part in found}


def is_out_of_fold(part: str, about: About | None) -> bool:
    """Tell whether figures that are called those of a part are of folds, each by what never saw it."""
    if about is None or "folds" not in about.pictures:
        return False
    return part == ("test" if about.out_of_fold else "valid")


def hub_models(manifest: Manifest) -> list[str]:
    """Return the hub's names of the models whose weights training began with, each once."""
    sources = [member.weights.source for member in manifest.members]
    names = [source.removeprefix("hub ").partition("@")[0] for source in sources if source[:4] == "hub "]
    return list(dict.fromkeys(name for name in names if _HUB_MODEL.fullmatch(name)))


def licences(manifest: Manifest) -> list[str]:
    """Return the licences of the weights that training began with, each once, as they were given."""
    return list(
        dict.fromkeys(member.weights.licence for member in manifest.members if member.weights.licence)
    )


def _licence(manifest: Manifest) -> dict[str, str]:
    known = licences(manifest)
    if not known:
        return {}
    given = known[0].strip().lower()
    if len(known) == 1 and given in LICENCES:
        return {"license": given}
    name = "several" if len(known) > 1 else re.sub(r"[^a-z0-9.]+", "-", given).strip("-")[:80] or "unnamed"
    links = hub_models(manifest)
    return {
        "license": "other",
        "license_name": name,
        **({"license_link": f"https://huggingface.co/{links[0]}"} if len(links) == 1 else {}),
    }


def _base_models(manifest: Manifest) -> dict[str, Any]:
    models = hub_models(manifest)
    if not models:
        return {}
    return {
        "base_model": models[0] if len(models) == 1 else models,
        # Of several models the hub would take it for a merge of them.
        "base_model_relation": "finetune",
    }


def _results(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield an entry of the model index for each part that has figures."""
    left = MOST_RESULTS
    for part, figures in figures_by_part(manifest).items():
        shown = list(figures.items())[:left]
        left -= len(shown)
        if shown:
            yield {
                "task": {"type": "image-classification", "name": "Image Classification"},
                "dataset": _dataset(manifest, part),
                "metrics": [_metric(name, interval) for name, interval in shown],
            }


def _dataset(manifest: Manifest, part: str) -> dict[str, str]:
    split = "out-of-fold" if is_out_of_fold(part, manifest.about) else _SPLITS.get(part, "")
    return {
        "type": "imagefolder",
        "name": "own pictures",
        **({"split": split} if split else {}),
        **({"revision": one_line(manifest.data)} if manifest.data else {}),
    }


def _metric(name: str, interval: dict[str, float | None]) -> dict[str, Any]:
    kind = _METRICS.get(name) or re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_")[:60] or "metric"
    return {"type": kind, "value": interval["value"], "name": one_line(name.replace("_", " "))}
