"""
An export that is stopped, cancelled and met by faults and full disks, as a state machine.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
from conftest import KEY
from detours import Detour, check_counts, noted_in, rows_in
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from jumping import JumpingLoop
from scripted import status

from crowdtwist_async import (
    CrowdTwistError,
    OutputMismatchError,
    RateBudget,
    Reply,
    RetryPolicy,
    StorageError,
)
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.export import ExportReport, export

_FAULTS: dict[str, Callable[[], Fault]] = {
    "503": lambda: Fault.status(503),
    "429": lambda: Fault.status(429),
    "cut": lambda: Fault.truncate(),
    "reset": lambda: Fault.reset(),
    "delay": lambda: Fault.delay(2),
}
_MEMBERS = 5
_UNKNOWN = "29999999"
_REFUSED = status(400, b'{"error": {"errors": [{"reason": "param_error", "message": "no"}]}}')


class ExportMachine(RuleBasedStateMachine):
    """One output, however often its export is begun."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="crowdtwist-machine-"))
        self.loop = JumpingLoop()
        asyncio.set_event_loop(None)
        self.emulator = Emulator(members=_MEMBERS, api_key=KEY)
        self.ids = [*self.emulator.member_ids(), _UNKNOWN, str(Emulator.first_id)]
        self.failing: set[str] = set()
        self.done: dict[str, Any] = {}
        self.complete = False

    @initialize(suffix=st.sampled_from([".jsonl", ".csv", ".sqlite"]), concurrency=st.integers(1, 4))
    def begin(self, suffix: str, concurrency: int) -> None:
        """Choose the format."""
        self.output = self.folder / f"out{suffix}"
        self.concurrency = concurrency

    @rule(kinds=st.lists(st.sampled_from(sorted(_FAULTS)), max_size=5))
    def finish(self, kinds: list[str]) -> None:
        """Export to the end, in spite of some faults."""
        self.emulator.script(*(_FAULTS[kind]() for kind in kinds))
        self._until_complete()

    @rule(requests=st.integers(1, 30))
    def stop(self, requests: int) -> None:
        """Stop in an orderly way after some requests."""
        self._export(stop_after=requests)

    @rule(turns=st.integers(0, 200))
    def cancel(self, turns: int) -> None:
        """Cancel somewhere."""
        self._export(cancel_after=turns)

    @rule(call=st.sampled_from(["write", "fsync"]), number=st.integers(1, 6))
    def fill_disk(self, call: str, number: int) -> None:
        """Let the disk be full from some write or sync on."""
        real, calls = getattr(os, call), 0

        def full(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        def is_full(descriptor: int, *rest: Any) -> Any:
            is_ours = Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(self.folder)
            return (full if is_ours else real)(descriptor, *rest)

        with patch.object(os, call, is_full):
            self._export()

    @rule(member=st.integers(0, _MEMBERS - 1))
    def fail_member(self, member: int) -> None:
        """From now on the API refuses to answer for a member."""
        self.failing.add(self.ids[member])

    @rule()
    def mend(self) -> None:
        """From now on the API answers for everybody, and the failed are tried again."""
        self.failing.clear()
        self._until_complete(retry_failed=True)
        assert not any(mark.status == "failed" for mark in self.done.values())

    @rule()
    def mistake(self) -> None:
        """Give other ids, which is refused and changes nothing."""
        if not self.done:
            return
        before = rows_in(self.output)
        try:
            self._run(self.ids[1:])
        except OutputMismatchError:
            assert before == rows_in(self.output)
        else:
            raise AssertionError("other ids are taken for the same")

    @rule()
    def begin_anew(self) -> None:
        """Throw away what is there."""
        self.done, self.complete = {}, False
        self._export(fresh=True)

    def teardown(self) -> None:
        """Export to the end with nothing going wrong, and look for what was left behind."""
        if hasattr(self, "output"):
            self.emulator._faults._script.clear()
            self.failing.clear()
            self._until_complete(retry_failed=True)
        self.loop.end()
        shutil.rmtree(self.folder)

    def _until_complete(self, *, retry_failed: bool = False) -> None:
        """Export again until it is complete: a pause may look like an outage where time jumps."""
        for _ in range(20):
            report = self._export(retry_failed=retry_failed)
            if report is not None and report.status.endswith("complete"):
                self._check_complete(report)
                return
        raise AssertionError("it does not come to an end")

    def _check_complete(self, report: ExportReport) -> None:
        check_counts(report, self.output)
        assert set(self.ids) == set(self.done)
        for user_id, mark in self.done.items():
            assert (mark.status == "not_found") == (user_id == _UNKNOWN)
            assert mark.status != "ok" or mark.rows == self.emulator.purchases_of(user_id)
        assert set(Counter(rows_in(self.output)).values()) <= {1}
        own = {self.output.name, f"{self.output.name}.ledger.sqlite", f"{self.output.name}.errors.jsonl"}
        assert {path.name for path in self.folder.iterdir()} <= own

    def _export(
        self, *, stop_after: int | None = None, cancel_after: int | None = None, **options: Any
    ) -> ExportReport | None:
        """Export, and check that what was done before is still done."""
        report = None
        with suppress(StorageError, asyncio.CancelledError):
            report = self._run(self.ids, stop_after=stop_after, cancel_after=cancel_after, **options)
        before, self.done = self.done, self._noted()
        kept = {user_id: mark for user_id, mark in before.items() if mark.status != "failed"}
        if not options.get("fresh"):
            assert kept.items() <= self.done.items()
        assert [] == self.loop.left()
        return report

    def _noted(self) -> dict[str, Any]:
        ledger = self.output if self.output.suffix == ".sqlite" else Path(f"{self.output}.ledger.sqlite")
        if not ledger.exists() or not ledger.stat().st_size:
            return {}
        return dict(noted_in(self.output))

    def _run(
        self,
        ids: list[str],
        *,
        stop_after: int | None = None,
        cancel_after: int | None = None,
        **options: Any,
    ) -> ExportReport:
        return self.loop.run(self._exporting(ids, stop_after, cancel_after, **options))

    async def _exporting(
        self, ids: list[str], stop_after: int | None, cancel_after: int | None, **options: Any
    ) -> ExportReport:
        stop = anyio.Event()

        def instead(user_id: str) -> Reply | CrowdTwistError | None:
            if stop_after is not None and len(detour.asked) >= stop_after:
                stop.set()
            return _REFUSED if user_id in self.failing else None

        detour = Detour(self.emulator, instead)
        retry = RetryPolicy(max_attempts=3, initial=0.5)
        budget = RateBudget(math.inf, clock=self.loop.time)
        async with self.emulator.client(retry=retry, transport=detour, budget=budget) as client:
            task = self.loop.create_task(
                export(
                    client,
                    "purchases",
                    ids,
                    self.output,
                    date_end="2027-01-01",
                    concurrency=self.concurrency,
                    stop=stop,
                    **options,
                )
            )
            if cancel_after is not None:
                for _ in range(cancel_after):
                    await asyncio.sleep(0)
                task.cancel()
            return await task
