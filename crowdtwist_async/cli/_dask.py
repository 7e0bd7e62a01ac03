"""
`crowdtwist export --dask`: the same export in shards on a cluster.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio

from crowdtwist_async.budgets import BUDGET
from crowdtwist_async.cli._connect import Connection
from crowdtwist_async.cli._progress import ProgressDisplay
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export import ExportReport
from crowdtwist_async.export.plan import EXPORT_RATE

if TYPE_CHECKING:
    from crowdtwist_async.cli._export import ExportOptions


async def export_shards(
    connection: Connection, options: ExportOptions, display: ProgressDisplay, stop: anyio.Event
) -> ExportReport:
    """
    Export all shards.

    Raises:
        ConfigurationError: The workers can't be given what the flags name.
    """
    # Only here: it is a second extra's.
    from crowdtwist_async.export.dask import export_on_dask

    if connection.emulated:
        raise ConfigurationError(
            "--emulator is in this process, where no worker reaches it: run crowdtwist emulator, and name it"
            " in CROWDTWIST_API_URL and CROWDTWIST_POS_URL"
        )
    if options.ids is None:
        raise ConfigurationError("give --ids FILE with one member id a line, which all workers see")
    if connection.shared.url is not None:
        raise ConfigurationError(
            f"workers take the URL of a shared budget from {BUDGET} in their environment: set it there and"
            " here, and leave out --budget"
        )
    if not os.environ.get(BUDGET):
        connection.shared.check_named()
    return await export_on_dask(
        options.dask or "",
        options.endpoint,
        options.ids,
        options.output,
        shards=options.shards,
        per_minute=connection.rate(EXPORT_RATE) or EXPORT_RATE,
        budget_name=connection.shared.key if os.environ.get(BUDGET) else None,
        transport=connection.transport or "httpx",
        column=options.column,
        **options.arguments(),
        progress=display.show,
        announce=display.say,
        stop=stop,
    )
