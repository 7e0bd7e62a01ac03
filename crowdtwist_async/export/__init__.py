"""
Exports: every page of many members to a file, every row exactly once, however often it is stopped.
"""

from crowdtwist_async.export.api import export
from crowdtwist_async.export.ids import IdSource, read_ids
from crowdtwist_async.export.plan import Plan
from crowdtwist_async.export.report import ExportReport

__all__ = ["ExportReport", "IdSource", "Plan", "export", "read_ids"]
