"""Files become batches: samples, splits, decoding, the audit and the loader. Knows no model.

Each name is imported when it is first used: a child that decodes needs little of this room, and each that an
audit starts had to import the whole of it (0.18 of 0.27 s of processor time).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.data.archives import from_zip
    from headstart.data.auditing import Audit, audit
    from headstart.data.cache import PixelCache, default_budget
    from headstart.data.children import DecodingChildren
    from headstart.data.colours import Background, Colours, parse_background, spelled_background
    from headstart.data.corrections import Suggestion, with_corrections, write_suggestions
    from headstart.data.duplicates import Duplicates, find_duplicates
    from headstart.data.finding import Finding, Findings, findings
    from headstart.data.grouping import merge_groups
    from headstart.data.images import Decoded, decode, decode_with_size, size
    from headstart.data.limits import Limits
    from headstart.data.listed import from_function, from_lists, from_regex
    from headstart.data.loader import Loader
    from headstart.data.lost import Lost
    from headstart.data.quarantine import Entry, without_quarantined, write_quarantine
    from headstart.data.rows import Rules
    from headstart.data.samples import Samples, shown
    from headstart.data.scan import from_paths, scan_folder
    from headstart.data.shapes import Shapes, choose_policy
    from headstart.data.sharding import write_shards
    from headstart.data.shards import from_shards
    from headstart.data.splits import folds, split_apart, split_samples
    from headstart.data.subset import limit_samples
    from headstart.data.tables import Table, from_frame, read_table
    from headstart.data.testset import read_test_set, with_test_set
    from headstart.data.thumbnails import thumbnail

_HOMES: dict[str, tuple[str, ...]] = {
    "archives": ("from_zip",),
    "auditing": ("Audit", "audit"),
    "cache": ("PixelCache", "default_budget"),
    "children": ("DecodingChildren",),
    "colours": ("Background", "Colours", "parse_background", "spelled_background"),
    "corrections": ("Suggestion", "with_corrections", "write_suggestions"),
    "duplicates": ("Duplicates", "find_duplicates"),
    "finding": ("Finding", "Findings", "findings"),
    "grouping": ("merge_groups",),
    "images": ("Decoded", "decode", "decode_with_size", "size"),
    "limits": ("Limits",),
    "listed": ("from_function", "from_lists", "from_regex"),
    "loader": ("Loader",),
    "lost": ("Lost",),
    "quarantine": ("Entry", "without_quarantined", "write_quarantine"),
    "rows": ("Rules",),
    "samples": ("Samples", "shown"),
    "scan": ("from_paths", "scan_folder"),
    "shapes": ("Shapes", "choose_policy"),
    "sharding": ("write_shards",),
    "shards": ("from_shards",),
    "splits": ("folds", "split_apart", "split_samples"),
    "subset": ("limit_samples",),
    "tables": ("Table", "from_frame", "read_table"),
    "testset": ("read_test_set", "with_test_set"),
    "thumbnails": ("thumbnail",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Audit",
    "Background",
    "Colours",
    "Decoded",
    "DecodingChildren",
    "Duplicates",
    "Entry",
    "Finding",
    "Findings",
    "Limits",
    "Loader",
    "Lost",
    "PixelCache",
    "Rules",
    "Samples",
    "Shapes",
    "Suggestion",
    "Table",
    "audit",
    "choose_policy",
    "decode",
    "decode_with_size",
    "default_budget",
    "find_duplicates",
    "findings",
    "folds",
    "from_frame",
    "from_function",
    "from_lists",
    "from_paths",
    "from_regex",
    "from_shards",
    "from_zip",
    "limit_samples",
    "merge_groups",
    "parse_background",
    "read_table",
    "read_test_set",
    "scan_folder",
    "shown",
    "size",
    "spelled_background",
    "split_apart",
    "split_samples",
    "thumbnail",
    "with_corrections",
    "with_test_set",
    "without_quarantined",
    "write_quarantine",
    "write_shards",
    "write_suggestions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
