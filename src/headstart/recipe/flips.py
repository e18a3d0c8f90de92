"""Whether pictures may be mirrored or turned: what the probe says of them, plain and changed."""

from __future__ import annotations

from dataclasses import replace

from headstart.augment import EvalPrepare
from headstart.errors import UsageError
from headstart.evaluation import MirrorFindings, Predictions, mirror_check
from headstart.imagedata import ImageData, OnProgress
from headstart.inference import predictions_of
from headstart.models import Engine, Probe, fit_probe, weights_identity
from headstart.recipe.body import Body
from headstart.recipe.narrator import Narrator
from headstart.types import Task


def check_flips(
    data: ImageData,
    engine: Engine,
    identity: str,
    probe: Probe,
    *,
    on_progress: OnProgress | None = None,
) -> list[MirrorFindings]:
    """Ask a probe that was fitted on plain pictures about changed validation pictures.

    Mirrored ones, and those turned by a quarter and upside down where the augmentation turns. One pass
    over the validation pictures for each; features are kept on disk as all others are (`identity` names
    the weights). Returns a finding for each change; see `evaluation.mirror_check`.
    """

    def seen(view: EvalPrepare) -> Predictions:
        known = data.activations("valid", engine, identity, prepare=view, on_progress=on_progress)
        return predictions_of(
            data.samples,
            known.index,
            probe.logits(known.features),
            among=data.rows("valid"),
            lost=data.lost_codes,
        )

    plain = seen(data.evaluation)
    return [mirror_check(plain, seen(view), view=name) for name, view in changed_views(data).items()]


def changed_views(data: ImageData) -> dict[str, EvalPrepare]:
    """Return the views to try, by what was done to the pictures in words."""
    views = {"mirrored": replace(data.evaluation, flip=True)}
    if data.augmentation.dihedral:
        views["turned by a quarter"] = replace(data.evaluation, turns=1)
        views["turned upside down"] = replace(data.evaluation, turns=2)
    return views


def probe_flips(
    data: ImageData, body: Body, narrator: Narrator, *, device: str = "auto"
) -> list[MirrorFindings]:
    """Fit a probe on the frozen features of the training pictures and run `check_flips`.

    Raises `UsageError` for tags, and for a body without pretrained weights.
    """
    from headstart.learner import Learner

    if data.task is not Task.SINGLE_LABEL:
        raise UsageError("flips are checked for pictures of one class each, not for tags")
    if body.from_scratch:
        raise UsageError("flips are checked with pretrained weights", "leave --from-scratch out")
    learner = Learner(data, body.arch, weights=body.weights, device=device, callbacks=())
    data, engine = learner.data, learner.engine()
    identity = weights_identity(body.arch, body.weights)
    with narrator.progress("looking at train pictures") as on_progress:
        train = data.activations("train", engine, identity, on_progress=on_progress)
    probe = fit_probe(train.features, train.targets, len(data.classes), seed=data.seed)
    with narrator.progress("looking at valid pictures, plain and changed") as on_progress:
        return check_flips(data, engine, identity, probe, on_progress=on_progress)
