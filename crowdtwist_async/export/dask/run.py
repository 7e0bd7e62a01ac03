"""
The run of an export on Dask: shards on their way through the workers, until none is left or one fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any
from uuid import uuid4

import anyio
from attrs import define, field

from crowdtwist_async import errors
from crowdtwist_async.export.dask import worker
from crowdtwist_async.export.dask.cluster import Spread
from crowdtwist_async.export.dask.total import Total, report_of
from crowdtwist_async.export.report import ExportReport
from crowdtwist_async.export.shard import Shard

_AGAIN_SECONDS = 1.0
_RETRIES = 3
"""Of what Dask itself fails at; a shard's own errors come as values."""


@define
class Run:
    """Shards on their way through the workers, so many at once that together they keep to the rate."""

    _client: Any
    _spread: Spread
    _order: dict[str, Any]
    _total: Total
    _progress: Callable[[ExportReport], None] | None
    _stop: anyio.Event
    _name: str = field(factory=lambda: uuid4().hex[:12])
    _left: deque[Shard] = field(factory=deque)
    _ending: anyio.Event = field(factory=anyio.Event)
    """No shard is begun any more."""
    _failure: Exception | None = None
    _begun: float = field(factory=monotonic)

    async def finish(self) -> ExportReport:
        """Run all shards; raise the first error."""
        self._left.extend(Shard(index, self._spread.shards) for index in range(self._spread.shards))
        self._client.subscribe_topic(worker.TOPIC, self._take)
        self._tell()
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._heed)
            async with anyio.create_task_group() as places:
                beside.start_soon(self._end_early, places.cancel_scope)
                for _ in range(self._spread.at_once):
                    places.start_soon(self._run_shards)
            beside.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        self._total.conclude()
        self._tell()
        return self._total.report

    async def _run_shards(self) -> None:
        while self._left and not self._ending.is_set():
            shard = self._left.popleft()
            future = self._client.submit(
                worker.export_shard,
                str(shard),
                self._name,
                self._order,
                key=f"crowdtwist-shard-{shard.tag}-{self._name}",
                pure=False,
                retries=_RETRIES,
            )
            try:
                ended = await future
            except Exception as error:  # noqa: BLE001 - Dask's own: ours come as values
                self._give_up(f"Dask gave shard {shard} up ({type(error).__name__})")
                return
            self._end(shard, ended)

    def _end(self, shard: Shard, ended: dict[str, Any]) -> None:
        if "error" in ended:
            self._failure = self._failure or getattr(errors, ended["kind"])(ended["error"])
            self._ending.set()
            return
        report = report_of(ended)
        self._total.end(str(shard), report)
        if report.status == "stopped":
            # An API that does not answer one shard answers none.
            self._ending.set()
        self._tell()

    def _give_up(self, reason: str) -> None:
        """What comes first tells more."""
        self._total.report.reason = self._total.report.reason or reason
        self._ending.set()

    async def _heed(self) -> None:
        await self._stop.wait()
        self._ending.set()

    async def _end_early(self, places: anyio.CancelScope) -> None:
        """Ask the workers again and again: one may come when a shard was moved to it."""
        await self._ending.wait()
        while True:
            with suppress(OSError):  # the scheduler is gone; the shards' futures say so
                await self._client.run(worker.end_early, self._name, on_error="ignore")
                if not await self._client.nthreads():
                    self._give_up("no worker is left")
                    places.cancel()
            await anyio.sleep(_AGAIN_SECONDS)

    async def _take(self, event: tuple[float, dict[str, Any]]) -> None:
        told = event[1]
        if told["run"] == self._name:
            self._total.take(told["shard"], told)
            self._tell()

    def _tell(self) -> None:
        self._total.report.seconds = monotonic() - self._begun
        if self._progress is not None and self._failure is None:
            self._progress(self._total.report)
