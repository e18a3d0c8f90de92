"""Files become batches: samples, splits, decoding, the audit and the loader. Knows no model."""

from headstart.data.audit import Audit, audit
from headstart.data.cache import PixelCache, default_budget
from headstart.data.children import DecodingChildren
from headstart.data.images import Colours, Decoded, decode, decode_with_size, size
from headstart.data.limits import Limits
from headstart.data.loader import Loader
from headstart.data.ordering import batch_bounds, order
from headstart.data.samples import Samples, shown
from headstart.data.scan import from_paths, scan_folder
from headstart.data.splits import split_samples

__all__ = [
    "Audit",
    "Colours",
    "Decoded",
    "DecodingChildren",
    "Limits",
    "Loader",
    "PixelCache",
    "Samples",
    "audit",
    "batch_bounds",
    "decode",
    "decode_with_size",
    "default_budget",
    "from_paths",
    "order",
    "scan_folder",
    "shown",
    "size",
    "split_samples",
]
