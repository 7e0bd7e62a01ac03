"""
The run: members through a few workers into one output, one member's rows at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import anyio.to_thread
from attrs import define, field

from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.errors import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    CrowdTwistError,
    UserNotFoundError,
)
from crowdtwist_async.export.files import Output
from crowdtwist_async.export.ids import IdReader
from crowdtwist_async.export.rows import Row
from crowdtwist_async.export.source import Source

_FATAL = (AuthenticationError, ClientClosedError, ConfigurationError)
"""Errors that every other member would meet as well."""


@define
class Report:
    """What an export has done so far."""

    members: int = 0
    """Members whose rows are written; those without rows are members too."""
    not_found: int = 0
    """Ids that the API does not know: a result, not a failure."""
    failed: int = 0
    """Members whose rows could not be had."""
    rows: int = 0
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(factory=Counter)
    """The failures by sentence; none names a member."""


class Run:
    """One export."""

    def __init__(self, client: CrowdTwistClient, source: Source, output: Output) -> None:
        self.report = Report()
        # A member may wait for its turn, and for a server that asks for a pause, as long as it takes.
        self._client = client.with_options(deadline=None)
        self._source = source
        self._output = output
        self._writing = anyio.Lock()
        self._reading = anyio.Lock()
        self._fatal: Exception | None = None
        self._started = anyio.current_time()

    async def finish(
        self, ids: Iterable[str], concurrency: int, progress: Callable[[Report], None] | None = None
    ) -> Report:
        """
        Export all members.

        Args:
            ids: The members, read as they are needed.
            concurrency: Members at once.
            progress: Called after every member.

        Raises:
            CrowdTwistError: One that every other member would meet as well.
            BrokenPipeError: Nobody reads standard output any more.
        """
        with IdReader(ids) as reader:
            async with anyio.create_task_group() as workers:
                for _ in range(concurrency):
                    workers.start_soon(self._work, reader, progress, workers.cancel_scope)
        self._count()
        if self._fatal is not None:
            raise self._fatal
        return self.report

    async def _work(
        self, ids: IdReader, progress: Callable[[Report], None] | None, run: anyio.CancelScope
    ) -> None:
        try:
            while (user_id := await self._next(ids)) is not None:
                await self._export(user_id)
                self._count()
                if progress is not None:
                    progress(self.report)
        except Exception as error:  # noqa: BLE001 - the task group would wrap it in a group
            self._fatal = error
            run.cancel()

    async def _next(self, ids: IdReader) -> str | None:
        async with self._reading:
            return await ids.next()

    async def _export(self, user_id: str) -> None:
        """Export one member; what would happen to every other as well is raised."""
        try:
            rows = await self._source.rows(self._client, user_id)
        except UserNotFoundError:
            self.report.not_found += 1
        except _FATAL:
            raise
        except CrowdTwistError as error:
            self.report.failed += 1
            self.report.failures[f"{type(error).__name__}: {error.reason}"] += 1
            await self._in_turn(self._output.note_failure, self._failure(user_id, error))
        else:
            await self._write(rows)

    def _failure(self, user_id: str, error: CrowdTwistError) -> Row:
        """A failed member's line in the file of failures."""
        return {
            # What can't be encoded is refused as an id, and still has to be named.
            "requested_id": user_id.encode(errors="backslashreplace").decode(),
            "requested_id_type": str(self._source.id_type),
            "error": type(error).__name__,
            "message": str(error),
        }

    async def _write(self, rows: list[Row]) -> None:
        """Write a member's rows together."""
        if rows:
            await self._in_turn(self._output.write, rows)
        self.report.members += 1
        self.report.rows += len(rows)

    async def _in_turn(self, write: Callable[[Any], None], what: Any) -> None:
        """Write off the event loop, whole, and one at a time."""
        with anyio.CancelScope(shield=True):
            async with self._writing:
                await anyio.to_thread.run_sync(write, what)

    def _count(self) -> None:
        self.report.requests = self._client.stats.requests
        self.report.retries = self._client.stats.retries
        self.report.seconds = anyio.current_time() - self._started
