"""The bundle: the folder that leaves the building. It holds numbers and words, and no code.

    model/
        manifest.json        everything but the weights, with the hash and the size of every file
        model.safetensors    the weights
        README.md            the model card: words for people, which may be edited

Loading it runs nothing that came with it. A folder with anything else in it, with a link, with one
byte changed, or with weights that do not fit what the manifest says is refused. Only the card is not sealed,
as nothing is computed from it: it may be changed or missing, and must be UTF-8 text of at most 1 MiB. What
the hub's own tools leave beside it (`LEFT_BY_TOOLS`) is not looked at. `model.headstart` is the same as one
file: see `packing`.
"""

from __future__ import annotations

import math
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.deploy.card import CARD, check_card, model_card
from headstart.deploy.manifest import (
    NOVELTY_FILE,
    FileRecord,
    Head,
    Manifest,
    Member,
    NoveltyRule,
    Preprocessing,
    Provenance,
    manifest_from,
)
from headstart.deploy.packing import ONE_FILE, is_packed, pack_folder, pieces_of
from headstart.errors import ConfigError, InputMissingError, OutputError, UsageError
from headstart.evaluation import Novelty
from headstart.storage import (
    NO_PICKLE,
    Piece,
    Place,
    check_safetensors,
    folder_written_whole,
    json_bytes,
    load_arrays,
    load_tensors,
    parse_json,
    read_capped,
    save_arrays,
    save_tensors,
    sha256_bytes,
    sha256_file,
    write_atomic,
)

if TYPE_CHECKING:
    import torch

    from headstart.augment import EvalPrepare
    from headstart.data import Background
    from headstart.models import Backbone, Classifier

MANIFEST = "manifest.json"
LEFT_BY_TOOLS = frozenset({".gitattributes", ".git", ".cache"})
"""What `git clone` and `hf download` put into a folder beside the files of a model."""
MAX_MANIFEST_BYTES = 16 * 2**20
NAMED = 5
"""Of the differences between weights and what they should be, so many are named."""

_UNSEALED = "0" * 64
_ALTERED = "fetch or export the bundle again: it is not what was saved"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: what it says of itself, and its networks (on the CPU, in evaluation mode).

    `novelty` tells pictures of none of the classes by what enters the first network's head.
    """

    manifest: Manifest
    models: tuple[Classifier, ...]
    novelty: Novelty | None = None


def member_of(model: Classifier, plain: EvalPrepare, *, short_side: int, background: Background) -> Member:
    """Describe a classifier and the pictures it takes, for the manifest.

    `plain`: how a picture is prepared for evaluation; `short_side`: what decoding reduces it towards;
    `background`: what it lays transparency on.
    Raises `UsageError` when the network cannot be made again from a name and numbers, as with a
    user's own module: a bundle holds no code.
    """
    info = model.info
    if info.weights.kind == "module":
        raise UsageError(
            f"the body {model.arch} cannot be bundled: a bundle holds no code, and only timm's architectures "
            "can be made again by name",
            "save its weights with save(), and make the body again in your own code",
        )
    location = info.weights.location
    source = Path(location).name if info.weights.kind == "file" else location
    return Member(
        arch=model.arch,
        preprocessing=Preprocessing(
            size=plain.size,
            short_side=short_side,
            policy=plain.policy,
            crop_fraction=plain.crop_fraction,
            interpolation=plain.interpolation,
            mean=info.mean,
            std=info.std,
            background=background,
        ),
        head=_head_of(model),
        groups=len(model.group_starts),
        weights=Provenance(
            f"{info.weights.kind} {source}".strip(), info.weights.sha256, info.weights.licence
        ),
    )


def _head_of(model: Classifier) -> Head:
    from torch import nn

    from headstart.models import course_head, linear_head

    layers = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise _own_head(model)
    widths = [layer.out_features for layer in layers]
    dropouts = [layer.p for layer in model.head.modules() if isinstance(layer, nn.Dropout)]
    head = Head("course", tuple(widths[:-1]), dropouts[-1]) if dropouts else Head()
    made: nn.Module = (
        course_head(layers[0].in_features, widths[-1], hidden=head.hidden, ps=head.ps)
        if dropouts
        else linear_head(layers[0].in_features, widths[-1])
    )
    if repr(made) != repr(model.head):
        raise _own_head(model)
    return head


def _own_head(model: Classifier) -> UsageError:
    return UsageError(
        f"the head {type(model.head).__name__} cannot be bundled: a bundle holds no code, and only the heads "
        "'linear' and 'course' can be made again by name",
        "save its weights with save(), and make the head again in your own code",
    )


def save_bundle(
    folder: Path,
    models: Sequence[Classifier],
    manifest: Manifest,
    *,
    novelty: Novelty | None = None,
    replace_old: bool = False,
) -> Manifest:
    """Write networks, manifest and card as a bundle, read it back, and only then put it in its place.

    `models` belong to `manifest.members`, one each. File names, hashes, sizes and the version are
    filled in; the manifest as it was written is returned. Raises `OutputError` when `folder` exists
    and is not to be replaced, and `ConfigError` when weights are not finite, or what was read back
    does not give the same numbers. `novelty` belongs to the first network.
    """
    if len(models) != len(manifest.members):
        raise UsageError(f"{len(models)} networks do not fit {len(manifest.members)} members")
    if folder.suffix == ONE_FILE:
        refuse_existing_file(folder, replace_old=replace_old)
        with tempfile.TemporaryDirectory(prefix="headstart-") as temporary:
            inside = Path(temporary) / "model"
            written = save_bundle(inside, models, manifest, novelty=novelty)
            pack_folder(inside, folder, [MANIFEST, CARD, *written.files])
        return written
    with folder_written_whole(folder, replace=replace_old) as temporary:
        members, files = [], {}
        for number, (member, model) in enumerate(zip(manifest.members, models, strict=True), 1):
            name = "model.safetensors" if len(models) == 1 else f"model-{number}.safetensors"
            state = model.state_dict()
            _check_finite(state, name)
            save_tensors(temporary / name, state)
            path = temporary / name
            files[name] = FileRecord(sha256_file(path), path.stat().st_size)
            members.append(replace(member, file=name))
        rule = None
        if novelty is not None:
            path = temporary / NOVELTY_FILE
            save_arrays(path, novelty.to_arrays())
            files[NOVELTY_FILE] = FileRecord(sha256_file(path), path.stat().st_size)
            rule = NoveltyRule(novelty.limit, novelty.rate)
        written = replace(manifest, members=tuple(members), files=files, headstart=_version(), novelty=rule)
        write_atomic(temporary / MANIFEST, seal(written.to_dict()))
        write_atomic(temporary / CARD, model_card(written).encode())
        for model, again in zip(models, load_bundle(temporary).models, strict=True):
            _check_same(model, again)
    return written


def refuse_existing_file(path: Path, *, replace_old: bool) -> None:
    """Raise `OutputError` where a bundle of one file cannot take this place."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "choose another name")
    if path.exists() and not replace_old:
        raise OutputError(f"{path} exists already", "choose another file, or replace it with --force")


def pack(model: str | Path, out: str | Path, *, replace_old: bool = False) -> Manifest:
    """Write a bundle again: as one file where `out` ends in `.headstart`, else as a folder.

    Every byte is checked first. Raises `OutputError` where `out` exists and is not to be replaced, or is
    too large for one file (2 GiB), and as `load_bundle` does for what is not as it must be.
    """
    source, out = Path(model), Path(out)
    manifest, places = _read(source)
    for name, record in manifest.files.items():
        check_file(places[name], record)
    if out.suffix == ONE_FILE:
        refuse_existing_file(out, replace_old=replace_old)
        with tempfile.TemporaryDirectory(prefix="headstart-") as temporary:
            _copy(places, Path(temporary))
            pack_folder(Path(temporary), out, list(places))
    else:
        with folder_written_whole(out, replace=replace_old) as folder:
            _copy(places, folder)
    return read_manifest(out)


def check_file(place: Place, record: FileRecord) -> None:
    """Raise `ConfigError` unless a file of a bundle has the size and the hash that its manifest says."""
    check_safetensors(place)
    if sha256_bytes(read_capped(place, record.bytes)) != record.sha256:
        raise ConfigError(f"{place} was altered: its SHA-256 is not the recorded one", _ALTERED)


def _copy(places: Mapping[str, Place], folder: Path) -> None:
    for name, place in places.items():
        size = place.length if isinstance(place, Piece) else place.stat().st_size
        write_atomic(folder / name, read_capped(place, size))


def _version() -> str:
    try:
        return metadata.version("headstart")
    except metadata.PackageNotFoundError:  # run from its sources, not installed
        return ""


def _check_same(model: Classifier, again: Classifier) -> None:
    """Raise `ConfigError` unless both networks give the same numbers for one picture."""
    import torch

    height, width = again.image_size
    ramp = torch.linspace(0, 255, 3 * height * width).view(1, 3, height, width)
    training, device = model.training, model.pixel_mean.device
    model.eval()
    try:
        with torch.inference_mode():
            before, after = model(ramp.to(device)).float().cpu(), again(ramp)
    finally:
        model.train(training)
    difference = float((before - after).abs().max()) / max(1.0, float(before.abs().max()))
    # On another device sums run in another order; a part that was exchanged shows in the first digits.
    if not difference <= (1e-4 if device.type == "cpu" else 1e-2):
        raise ConfigError(
            f"the bundle does not give the model's own numbers: they differ by {difference:.1e}",
            "a part of the network was exchanged that a bundle cannot describe: save it with save()",
        )


def seal(fields: Mapping[str, Any]) -> bytes:
    """Return a manifest's fields as JSON that carries its own SHA-256 under `checksum`."""
    data = json_bytes({**fields, "checksum": _UNSEALED})
    return data.replace(_UNSEALED.encode(), sha256_bytes(data).encode())


def _unseal(data: bytes, path: Place) -> object:
    fields = parse_json(data, path)
    checksum = fields.pop("checksum", None) if isinstance(fields, dict) else None
    known = isinstance(checksum, str) and len(checksum) == 64
    if not known or sha256_bytes(data.replace(str(checksum).encode(), _UNSEALED.encode())) != checksum:
        raise ConfigError(f"{path} was altered: its checksum does not fit", _ALTERED)
    return fields


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest, and that the folder holds its files and nothing else.

    Needs no torch; hashes are checked when the files are loaded. Raises `InputMissingError` when there
    is no such folder and `ConfigError` for anything that is not as it must be.
    """
    return _read(folder)[0]


def bundle_files(folder: Path) -> dict[str, Place]:
    """Return where each file of a bundle lies, manifest and card too; raises as `read_manifest` does."""
    return _read(folder)[1]


def manifest_in(path: Place) -> Manifest:
    """Read and check a manifest alone; raises `ConfigError` for anything that is not as it must be."""
    return manifest_from(_unseal(read_capped(path, MAX_MANIFEST_BYTES), path))


def _read(folder: Path) -> tuple[Manifest, dict[str, Place]]:
    """Return the manifest and where each file lies, in a folder or in the one file of it."""
    sizes, places = _contents(folder)
    if MANIFEST not in sizes:
        raise ConfigError(f"{folder} is no bundle: it has no {MANIFEST}", "give the folder that was exported")
    manifest = manifest_in(places[MANIFEST])
    del sizes[MANIFEST]
    if sizes.pop(CARD, None) is not None:
        check_card(places[CARD])
    if unknown := sorted(set(sizes) - set(manifest.files)):
        hint = (
            NO_PICKLE if any(_is_pickle(folder / name) for name in unknown) else "remove what is not its own"
        )
        raise ConfigError(f"{folder} holds what is no part of a bundle: {_some(unknown)}", hint)
    for name, record in manifest.files.items():
        if name not in sizes:
            raise ConfigError(f"{folder} lacks {name}", _ALTERED)
        if sizes[name] != record.bytes:
            raise ConfigError(f"{folder / name} has {sizes[name]} bytes and not {record.bytes}", _ALTERED)
    return manifest, places


def _contents(folder: Path) -> tuple[dict[str, int], dict[str, Place]]:
    """The size and the place of every file but what tools leave; links, folders and devices are refused."""
    try:
        if folder.is_file():
            if not is_packed(folder):
                hint = NO_PICKLE if _is_pickle(folder) else "give the folder that was exported"
                raise ConfigError(f"{folder} is no bundle", hint)
            pieces = pieces_of(folder)
            return {name: piece.length for name, piece in pieces.items()}, dict(pieces)
        found = {path.name: path.lstat() for path in folder.iterdir() if path.name not in LEFT_BY_TOOLS}
    except OSError as error:
        raise InputMissingError(f"the bundle {folder} cannot be read: {error.strerror}") from error
    if strange := sorted(name for name, status in found.items() if not stat.S_ISREG(status.st_mode)):
        raise ConfigError(
            f"{folder} holds what is not a plain file: {_some(strange)}",
            "a bundle has neither links nor folders",
        )
    return {name: status.st_size for name, status in found.items()}, {name: folder / name for name in found}


def _is_pickle(path: Path) -> bool:
    """Tell by name or first bytes whether a file may be a pickle, or an archive that holds one."""
    if path.suffix.lower() in {".pt", ".pth", ".pkl", ".pickle", ".joblib", ".bin", ".ckpt", ".npy"}:
        return True
    try:
        with open(path, "rb") as stream:
            return stream.read(2) in {b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}
    except OSError:
        return False


def load_bundle(folder: Path, *, allow_nonfinite: bool = False) -> Bundle:
    """Load a bundle: check everything, make the networks, and give them their weights.

    Raises `InputMissingError` when there is no such folder, and `ConfigError` for whatever is not as it
    must be: an unknown file, an altered byte, an unknown architecture, weights that do not fit (the
    first five differences are named) or are not finite (unless `allow_nonfinite`).
    """
    manifest, places = _read(folder)
    models = tuple(
        _load_member(places[member.file], manifest, member, allow_nonfinite) for member in manifest.members
    )
    return Bundle(manifest, models, _load_novelty(places, manifest, models[0]))


def _load_novelty(places: Mapping[str, Place], manifest: Manifest, model: Classifier) -> Novelty | None:
    if manifest.novelty is None:
        return None
    path = places[NOVELTY_FILE]
    arrays = load_arrays(path, sha256=manifest.files[NOVELTY_FILE].sha256)
    try:
        novelty = Novelty.from_arrays(arrays, limit=manifest.novelty.limit, rate=manifest.novelty.rate)
    except UsageError as error:
        raise ConfigError(f"{path} is not what it must be: {error.message}", _ALTERED) from error
    if novelty.feature_count != int(np.prod(model.activation_shape(model.head_stage))):
        raise ConfigError(
            f"{path} is about {novelty.feature_count} features, not those of its network", _ALTERED
        )
    return novelty


def _load_member(path: Place, manifest: Manifest, member: Member, allow_nonfinite: bool) -> Classifier:
    header = check_safetensors(path)
    model = _make(member, len(manifest.classes))
    state = model.state_dict()
    _check_fits(header, state, path)
    tensors = load_tensors(path, sha256=manifest.files[member.file].sha256)
    if not allow_nonfinite:
        _check_finite(tensors, member.file)
    model.load_state_dict(tensors)
    return model.eval()


def _make(member: Member, class_count: int) -> Classifier:
    """Make the network of a member, with weights still to come."""
    from headstart.models import create_classifier

    try:
        return create_classifier(
            _backbone(member),
            class_count,
            head=member.head.kind,
            hidden=member.head.hidden,
            ps=member.head.ps,
            groups=member.groups,
        )
    except UsageError as error:
        raise ConfigError(f"the bundle's network cannot be made: {error.message}", error.hint) from error


def _backbone(member: Member) -> Backbone:
    from headstart.models import create_backbone

    asked = member.preprocessing
    backbone = create_backbone(member.arch, from_scratch=True, image_size=asked.size)
    if backbone.image_size != asked.size:
        raise ConfigError(f"the bundle's network {member.arch} does not take pictures of {asked.size}")
    return replace(
        backbone,
        mean=asked.mean,
        std=asked.std,
        interpolation=asked.interpolation,
        crop_fraction=asked.crop_fraction,
    )


_ELEMENT_TYPES = {
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


def _check_fits(
    header: Mapping[str, tuple[str, tuple[int, ...]]], state: Mapping[str, torch.Tensor], path: Place
) -> None:
    # safetensors keeps a number without dimensions as it is; both sides are compared as they stand.
    wanted = {name: (_ELEMENT_TYPES[str(t.dtype)], tuple(t.shape)) for name, t in state.items()}
    faults = [f"{name} is missing" for name in wanted if name not in header]
    faults += [f"{name} is not expected" for name in header if name not in wanted]
    faults += [
        f"{name} is {_spelled(header[name])}, not {_spelled(entry)}"
        for name, entry in wanted.items()
        if name in header and header[name] != entry
    ]
    if faults:
        raise ConfigError(
            f"{path} does not fit its manifest: {'; '.join(faults[:NAMED])}"
            + (f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""),
            _ALTERED,
        )


def _spelled(entry: tuple[str, tuple[int, ...]]) -> str:
    return f"{entry[0]} {'x'.join(map(str, entry[1])) or 'number'}"


def _check_finite(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    bad = [key for key, t in tensors.items() if t.is_floating_point() and not math.isfinite(float(t.sum()))]
    # A sum may overflow where every number is finite: look again, at those only.
    bad = [key for key in bad if not bool(tensors[key].isfinite().all())]
    if bad:
        raise ConfigError(
            f"{name} holds numbers that are not finite, in {_some(bad)}", "train again with a lower rate"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(name[:80] for name in names[:NAMED]) + more
