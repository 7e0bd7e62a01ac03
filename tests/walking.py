"""
A walk over an emulator that goes wrong, as a state machine: whatever happens, its rows are the member's rows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from conftest import KEY
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from jumping import JumpingLoop

from crowdtwist_async import CrowdTwistClient, CrowdTwistError, Page, RateBudget, RetryPolicy
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.errors import ClientClosedError, PaginationDriftError

SLOTS = 3
_RETRY = RetryPolicy(max_attempts=3, initial=0.5)
_FAULTS: dict[str, Callable[[], Fault]] = {
    "503": lambda: Fault.status(503),
    "500 that is no JSON": lambda: Fault.status(500, body=b"<html>"),
    "503 that asks for a pause": lambda: Fault.status(503, retry_after=3),
    "429": lambda: Fault.status(429),
    "429 that asks for an hour": lambda: Fault.status(429, retry_after=3600),
    "cut": lambda: Fault.truncate(),
    "reset": lambda: Fault.reset(),
    "no JSON": lambda: Fault.not_json(),
    "delay": lambda: Fault.delay(2),
    "delay beyond the timeout": lambda: Fault.delay(11),
    "stall": lambda: Fault.stall(25),
}
_LONGEST_PAUSE = 200.0
_MEMBERS = 3
"""With one page of purchases, with 14, and with none."""


class WalkMachine(RuleBasedStateMachine):
    """One member's rows, however they are fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        asyncio.set_event_loop(None)
        self.emulator = Emulator(members=_MEMBERS, rewards=23, api_key=KEY)
        self.client = self._opened()
        self.model: list[str] = []
        self.taken: list[str] = []
        self.pager: Any = None
        self.held: _Held | None = None
        self.rows: Any = None
        self.open: dict[str, Any] = {}
        self.over = False
        self.faulty = False

    def _opened(self) -> CrowdTwistClient:
        budget = RateBudget(math.inf, clock=self.loop.time)
        client = self.emulator.client(retry=_RETRY, max_in_flight=SLOTS, budget=budget)
        self.loop.run(client.__aenter__())
        return client

    @initialize(
        rewards=st.booleans(),
        member=st.integers(0, _MEMBERS - 1),
        reverse=st.booleans(),
        size=st.integers(1, 10),
        ahead=st.integers(0, 4),
    )
    def begin(self, rewards: bool, member: int, reverse: bool, size: int, ahead: int) -> None:
        """Walk somebody's rewards or purchases, fetched ahead or not."""
        user = str(Emulator.first_id + member)
        self.begun = (rewards, user, reverse, size if rewards else 10, ahead)
        self._read_model()
        self._walk(None)

    def _read_model(self) -> None:
        """What the member has now, page by page and without a walk."""
        rewards, user, _, size, _ = self.begun

        async def pages() -> list[str]:
            found: list[str] = []
            async with self.emulator.client() as client:
                for number in range(1, 1_000):
                    if rewards:
                        page: Any = await client.user_rewards(user, page=number, page_size=size)
                    else:
                        page = await client.user_purchases(user, page=number)
                    found += map(_name, page)
                    if not page:
                        return found
            raise AssertionError("there is no end")

        self.model = self.loop.run(pages())

    def _walk(self, cursor: str | None) -> None:
        rewards, user, reverse, size, ahead = self.begun
        options: Any = {"reverse": reverse, "cursor": cursor, "on_drift": "raise"}
        if rewards:
            self.pager = self.client.iter_user_rewards(user, page_size=size, **options)
        else:
            self.pager = self.client.iter_user_purchases(user, **options)
        self.held = _Held(self.loop, self.pager, ahead) if ahead else None
        self.walk = self.held.items if self.held else self.pager
        self.rows = None
        self.over = False
        self.fetched = False

    @property
    def expected(self) -> list[str]:
        """The rows in the order of the walk."""
        return self.model[::-1] if self.begun[2] else self.model

    @rule(count=st.integers(1, 12))
    def take(self, count: int) -> None:
        """Take some rows one by one."""
        self._run(lambda: self._take(count))

    @rule()
    def take_page(self) -> None:
        """Take what is left of a page, or the page that holds the next row."""
        self._run(self._take_page)

    @rule(count=st.integers(1, 25), turns=st.integers(0, 30))
    def cancel(self, count: int, turns: int) -> None:
        """Cancel somewhere in the middle of taking rows."""

        async def cancelled() -> None:
            task = self.loop.create_task(self._taking(lambda: self._take(count)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self.loop.run(cancelled())

    @rule(kinds=st.lists(st.sampled_from(sorted(_FAULTS)), min_size=1, max_size=5))
    def go_wrong(self, kinds: list[str]) -> None:
        """Let the next requests go wrong."""
        self.emulator.script(*(_FAULTS[kind]() for kind in kinds))
        self.faulty = True

    @rule(new_client=st.booleans())
    def resume(self, new_client: bool) -> None:
        """Go on where the walk stands, in another walk, perhaps of another client."""
        cursor = self.walk.cursor
        self._close_walk()
        if new_client:
            self._close_client()
            self.client = self._opened()
        self._walk(cursor)

    @rule()
    def begin_anew(self) -> None:
        """Walk from the beginning."""
        self._close_walk()
        self.taken = []
        self._walk(None)

    @precondition(lambda self: self.fetched and not self.over)
    @rule(added=st.sampled_from([-2, -1, 1, 3]))
    def drift(self, added: int) -> None:
        """Let rows come or go at the front: the walk tells, unless it has fetched all that there were."""
        user = self.begun[1]
        # A page that was fetched ahead may have failed already.
        late = self.faulty and self.held is not None
        self._calm()
        self.emulator.script(Fault.drift(added, user=user))
        told = False
        try:
            while not self.over:
                self.loop.run(self._take(10))
        except PaginationDriftError:
            told = True
        except CrowdTwistError:
            assert late
            told = True
        assert self.expected[: len(self.taken)] == self.taken
        assert told or self.expected == self.taken
        self._close_walk()
        self._calm()
        self._read_model()
        self.taken = []
        self._walk(None)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        """What was taken so far is the beginning of what there is."""
        assert self.expected[: len(self.taken)] == self.taken
        if self.over:
            assert self.expected == self.taken

    @invariant()
    def nothing_is_held(self) -> None:
        """Without pages on their way there is no task, and every slot is free."""
        if self.held is None:
            self._check_free()

    def teardown(self) -> None:
        """Take all that is left with nothing going wrong, and look for what was left behind."""
        if hasattr(self, "begun"):
            self._calm()
            if not self.over:
                self.resume(new_client=True)
                while not self.over:
                    self.loop.run(self._take(10))
            self.nothing_is_lost_or_doubled()
            self._close_walk()
        self._close_client()
        self.loop.end()

    def _calm(self) -> None:
        """Nothing goes wrong any more, and the pauses that were asked for are over."""
        self.emulator._faults._script.clear()
        self.loop.run(asyncio.sleep(_LONGEST_PAUSE))
        self.faulty = False

    def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        self.loop.run(self._taking(work))

    async def _taking(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something that a fault may end; the walk can be asked again."""
        failure = None
        try:
            await work()
        except CrowdTwistError as error:
            failure = error
        if failure is not None:
            assert self.faulty, repr(failure)
            assert self.walk.cursor == failure.cursor

    async def _take(self, count: int) -> None:
        if self.rows is None:
            self.rows = aiter(self.walk)
        for _ in range(count):
            try:
                row = await anext(self.rows)
            except StopAsyncIteration:
                self.over = True
                return
            self.fetched = True
            self.taken.append(_name(row))

    async def _take_page(self) -> None:
        if self.held is None:
            # The pages of a pager are a walk of their own; a new one begins at the same row.
            self.pager = self._again()
            self.walk, self.rows, self.fetched = self.pager, None, False
        pages = self.walk.pages()
        try:
            page = await anext(pages)
        except StopAsyncIteration:
            self.over = True
            return
        self.fetched = True
        self._add(page)
        if self.held is None:
            self.pager = self._again()
            self.walk, self.rows, self.fetched = self.pager, None, False

    def _again(self) -> Any:
        rewards, user, reverse, size, _ = self.begun
        options: Any = {"reverse": reverse, "cursor": self.walk.cursor, "on_drift": "raise"}
        if rewards:
            return self.client.iter_user_rewards(user, page_size=size, **options)
        return self.client.iter_user_purchases(user, **options)

    def _add(self, page: Page[Any]) -> None:
        """Take a whole page, which may begin with rows that were taken one by one."""
        size, rows = self.begun[3], list(map(_name, page))
        if not rows:
            return
        if self.begun[2]:
            rows.reverse()
            first = len(self.model) - min(len(self.model), page.number * size)
        else:
            first = (page.number - 1) * size
        assert first <= len(self.taken) < first + len(rows)
        self.taken[first:] = rows

    def _close_walk(self) -> None:
        if self.held is None:
            return
        rows = aiter(self.held.items)
        self.held.leave()
        self.held = None

        async def refused() -> None:
            with suppress(ClientClosedError):
                await anext(rows)
                raise AssertionError("a walk goes on after its block")

        self.loop.run(refused())
        self._check_free()

    def _close_client(self) -> None:
        self.loop.run(self.client.aclose())
        self._check_free()

    def _check_free(self) -> None:
        assert [] == self.loop.left()
        sender = self.client._session._sender
        assert sender is not None
        assert sender._line.slots.value == SLOTS


class _Held:
    """The block of a prefetch, in a task of its own."""

    def __init__(self, loop: JumpingLoop, pager: Any, ahead: int) -> None:
        self._loop = loop
        self._left = asyncio.Event()
        entered: asyncio.Future[Any] = loop.create_future()

        async def hold() -> None:
            async with pager.prefetch(ahead) as items:
                entered.set_result(items)
                await self._left.wait()

        self._task = loop.create_task(hold())
        self.items: Any = loop.run(_result(entered))

    def leave(self) -> None:
        """Leave it."""
        self._left.set()
        self._loop.run(_result(self._task))


async def _result(future: Awaitable[Any]) -> Any:
    return await future


def _name(row: Any) -> str:
    name: str = getattr(row, "purchase_id", None) or row.id
    return name
