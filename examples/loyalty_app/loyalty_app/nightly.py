"""
The nightly job: all purchases of all members into one CSV file. It is configured by the environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from crowdtwist_async import CrowdTwistClient
from crowdtwist_async.export import ExportReport, export


async def run(members: Iterable[str], output: Path) -> ExportReport:
    """Export, or go on where the night before was interrupted."""
    async with CrowdTwistClient.from_env() as client:
        return await export(client, "purchases", members, output)
