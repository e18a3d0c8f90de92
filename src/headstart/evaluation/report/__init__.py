"""The report: one HTML file that tells a run to people, made from its folder alone.

It holds everything it shows: no script, no request to any network, and a content security policy
that would forbid both. All text from outside (class names, paths, settings) is escaped.
"""

from headstart.evaluation.report.folder import RunFolder, read_run
from headstart.evaluation.report.page import render, write_report
from headstart.evaluation.report.selection import rows_to_explain, rows_to_picture

__all__ = ["RunFolder", "read_run", "render", "rows_to_explain", "rows_to_picture", "write_report"]
