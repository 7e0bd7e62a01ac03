"""
Exports: every page of many members to a file, every row exactly once, however often it is stopped.
"""

from crowdtwist_async.export.api import export
from crowdtwist_async.export.ids import IdSource, read_ids
from crowdtwist_async.export.merging import MergeReport, merge
from crowdtwist_async.export.plan import Plan
from crowdtwist_async.export.report import ExportReport
from crowdtwist_async.export.shard import Shard
from crowdtwist_async.export.source import EndpointName

__all__ = [
    "EndpointName",
    "ExportReport",
    "IdSource",
    "MergeReport",
    "Plan",
    "Shard",
    "export",
    "merge",
    "read_ids",
]
