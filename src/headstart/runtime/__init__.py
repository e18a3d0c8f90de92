"""The small runtime: an exported model predicts with NumPy, Pillow and ONNX Runtime alone.

>>> from headstart.runtime import load_export
>>> load_export("export/").predict(["a.jpg", "b.jpg"])  # doctest: +SKIP

JPEG is decoded by simplejpeg where that is installed, as in training, and else by Pillow, which holds the
same libjpeg-turbo; Pillow takes some cut files for whole ones.
"""

from headstart.runtime.export import Export, load_export

__all__ = ["Export", "load_export"]
