"""Files become batches: samples, splits, decoding, the audit and the loader. Knows no model."""

from headstart.data.audit import Audit, audit
from headstart.data.cache import PixelCache, default_budget
from headstart.data.duplicates import Duplicates, find_duplicates
from headstart.data.findings import Finding, Findings, findings
from headstart.data.grouping import merge_groups
from headstart.data.images import Decoded, decode, decode_with_size, size
from headstart.data.limits import Limits
from headstart.data.loader import Loader
from headstart.data.ordering import batch_bounds, order
from headstart.data.quarantine import Entry, without_quarantined, write_quarantine
from headstart.data.samples import Samples, shown
from headstart.data.scan import from_paths, scan_folder
from headstart.data.shapes import Shapes, choose_policy
from headstart.data.splits import folds, split_samples

__all__ = [
    "Audit",
    "Decoded",
    "Duplicates",
    "Entry",
    "Finding",
    "Findings",
    "Limits",
    "Loader",
    "PixelCache",
    "Samples",
    "Shapes",
    "audit",
    "batch_bounds",
    "choose_policy",
    "decode",
    "decode_with_size",
    "default_budget",
    "find_duplicates",
    "findings",
    "folds",
    "from_paths",
    "merge_groups",
    "order",
    "scan_folder",
    "shown",
    "size",
    "split_samples",
    "without_quarantined",
    "write_quarantine",
]
