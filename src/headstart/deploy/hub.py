"""Bundles on the Hugging Face hub: nothing but a bundle's own files is sent or taken.

What is fetched is checked as any bundle is, and what the manifest does not name is never asked for.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from headstart.deploy.bundle import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    bundle_files,
    manifest_in,
    read_manifest,
)
from headstart.deploy.card import CARD, MAX_CARD_BYTES
from headstart.errors import ConfigError, HeadstartError, InputMissingError, StorageError, UsageError
from headstart.storage import Piece, cache_dir, folder_written_whole, read_capped, write_atomic

_Answer = TypeVar("_Answer")

# A path loses one of two slashes.
_ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[^@]+)(@(?P<revision>.+))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Hub(Protocol):
    """What we ask of a hub."""

    def listing(self, name: str, revision: str | None) -> tuple[str, Mapping[str, int]]:
        """Return the commit of a revision and the size of each of its files, in bytes."""

    def fetch(self, name: str, commit: str, file: str, folder: Path) -> Path:
        """Fetch a file of a commit into a folder; return where it lies."""

    def send(self, name: str, files: Mapping[str, Path | bytes], *, private: bool, message: str) -> str:
        """Make the repository where there is none, and commit the files; return the commit."""


@dataclass(frozen=True)
class HuggingFace:
    """The hub itself, through its own client; `endpoint` and `token` as that takes them (None: its own)."""

    endpoint: str | None = None
    token: str | None = None

    def listing(self, name: str, revision: str | None) -> tuple[str, Mapping[str, int]]:
        """Return the commit of a revision and the size of each of its files, in bytes."""
        from huggingface_hub import HfApi

        found = HfApi(self.endpoint, self.token).model_info(
            name, revision=revision, files_metadata=True, timeout=30
        )
        return str(found.sha), {each.rfilename: each.size or 0 for each in found.siblings or ()}

    def fetch(self, name: str, commit: str, file: str, folder: Path) -> Path:
        """Fetch a file of a commit into a folder; return where it lies."""
        from huggingface_hub import hf_hub_download

        found = hf_hub_download(
            name, file, revision=commit, local_dir=folder, endpoint=self.endpoint, token=self.token
        )
        return Path(str(found))

    def send(self, name: str, files: Mapping[str, Path | bytes], *, private: bool, message: str) -> str:
        """Make the repository where there is none, and commit the files; return the commit."""
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(self.endpoint, self.token)
        api.create_repo(name, private=private, exist_ok=True)
        added = [CommitOperationAdd(file, content) for file, content in files.items()]
        return str(api.create_commit(name, added, commit_message=message).oid)


def located(model: str | Path) -> Path:
    """Return where a model lies: a path as it is, `hf://USER/NAME[@REVISION]` once it is fetched."""
    text = str(model)
    if not text.startswith("hf:/"):
        return Path(model)
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:200]!r} names no model of the hub", "write hf://USER/NAME or …@REVISION")
    return pull(match["name"], revision=match["revision"])


def pull(
    name: str,
    out: str | Path | None = None,
    *,
    revision: str | None = None,
    replace_old: bool = False,
    hub: Hub | None = None,
) -> Path:
    """Fetch a bundle from the hub; return its folder, `out` or one in the cache.

    `name`: `USER/NAME`; `revision`: a branch, a tag or a commit (None: the newest). A commit that is in the
    cache is not fetched again, and needs no net. Raises `UsageError` for names that are none,
    `InputMissingError` where there is no such model, `StorageError` where the hub cannot be reached, and
    `ConfigError` where what lies there is no bundle.
    """
    _check_name(name)
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UsageError(f"{revision[:80]!r} is no revision", "give a branch, a tag or a commit")
    hub = hub or HuggingFace()
    kept = cache_dir() / "hub" / name.replace("/", "--")
    if out is None and revision and _COMMIT.fullmatch(revision) and (kept / revision).is_dir():
        return kept / revision
    commit, sizes = _asked(lambda: hub.listing(name, revision), name)
    if not _COMMIT.fullmatch(commit):
        raise ConfigError(f"the hub names no commit of {name}")
    folder = kept / commit if out is None else Path(out)
    if out is None and folder.is_dir():
        return folder
    with folder_written_whole(folder, replace=replace_old) as temporary:
        _fill(temporary, hub, name, commit, sizes)
        shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the client's own
        read_manifest(temporary)
    return folder


def push(
    model: str | Path,
    name: str,
    *,
    private: bool = False,
    message: str = "",
    hub: Hub | None = None,
) -> str:
    """Send a bundle to the hub as `USER/NAME`; return the commit, which can be pinned.

    Its manifest, weights and card are sent, as one commit, and nothing else. Raises `UsageError` for a name
    that is none, `StorageError` where the hub cannot be reached or refuses, and as `read_manifest` does.
    """
    _check_name(name)
    places = bundle_files(Path(model))
    files: dict[str, Path | bytes] = {
        file: read_capped(place, place.length) if isinstance(place, Piece) else place
        for file, place in places.items()
    }
    return _asked(
        lambda: (hub or HuggingFace()).send(
            name, files, private=private, message=message or "Upload by headstart"
        ),
        name,
    )


def _fill(folder: Path, hub: Hub, name: str, commit: str, sizes: Mapping[str, int]) -> None:
    """Fetch the manifest, then the files that it names, where the hub says the same sizes."""
    if MANIFEST not in sizes:
        raise ConfigError(
            f"{name} on the hub is no bundle: it has no {MANIFEST}", "look for a slip in the name"
        )
    if sizes[MANIFEST] > MAX_MANIFEST_BYTES or sizes.get(CARD, 0) > MAX_CARD_BYTES:
        raise ConfigError(f"{name} on the hub has a manifest or a card that is too large")
    _fetch(folder, hub, name, commit, [MANIFEST])
    manifest = manifest_in(folder / MANIFEST)
    for file, record in manifest.files.items():
        if sizes.get(file) != record.bytes:
            raise ConfigError(
                f"{name} on the hub has {sizes.get(file, 0)} bytes of {file} and not {record.bytes}",
                "it was not uploaded whole: fetch another revision",
            )
    _fetch(folder, hub, name, commit, [*manifest.files, *([CARD] if CARD in sizes else [])])


def _fetch(folder: Path, hub: Hub, name: str, commit: str, files: Sequence[str]) -> None:
    for file in files:
        place = folder / file

        def fetched(file: str = file) -> Path:
            return hub.fetch(name, commit, file, folder)

        found = _asked(fetched, name)
        if found != place:
            write_atomic(place, found.read_bytes())


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(f"{name[:200]!r} is no name of a model on the hub", "write USER/NAME")


def _asked(ask: Callable[[], _Answer], name: str) -> _Answer:
    """Ask the hub; what its client raises becomes one of our errors, in words."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    unreachable = StorageError(
        f"the hub cannot be reached for {name}",
        "look at the network, or give a folder; a model that was pulled needs none: pin its commit",
    )
    try:
        return ask()
    except GatedRepoError as error:
        raise InputMissingError(
            f"{name} is closed to you on the hub", "ask for access there, and log in: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputMissingError(
            f"the hub has no model {name}, or it is private", "look for a slip, or log in: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise InputMissingError(f"{name} has no such revision on the hub", "look for a slip in it") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise unreachable from error
    except EntryNotFoundError as error:
        raise InputMissingError(f"{name} lacks a file on the hub", "fetch another revision") from error
    except HfHubHTTPError as error:
        what = (str(error).splitlines() or [""])[0][:200]
        raise StorageError(f"the hub refused {name}: {what}", "log in: hf auth login") from error
    except HeadstartError:
        raise
    except Exception as error:  # the client lets the errors of its HTTP library through, whichever that is
        raise unreachable from error
