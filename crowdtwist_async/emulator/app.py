"""
The emulator itself: requests in, answers or faults out.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Unpack

import anyio

from crowdtwist_async._config import KEY
from crowdtwist_async._signing import HmacKey
from crowdtwist_async.emulator.access import admits
from crowdtwist_async.emulator.answers import Answer, begin, deliver, refusal
from crowdtwist_async.emulator.asked import AskedRequest, asked_by
from crowdtwist_async.emulator.calls import Call, Receive, Scope, Send, read_call
from crowdtwist_async.emulator.ceiling import Ceiling
from crowdtwist_async.emulator.counts import check_count, is_integer
from crowdtwist_async.emulator.endpoints import answer
from crowdtwist_async.emulator.faults import Fault, FaultQueue
from crowdtwist_async.emulator.members import FIRST_ID
from crowdtwist_async.emulator.program import Program
from crowdtwist_async.emulator.stats import EmulatorStats
from crowdtwist_async.emulator.transport import EmulatorTransport

if TYPE_CHECKING:
    from crowdtwist_async._client_options import ClientOptions
    from crowdtwist_async.client import CrowdTwistClient

_OF_ITSELF = ("/openapi.json", "/docs")


def _check_keys(api_key: object, signing: object) -> None:
    """Refuse keys that no client could send."""
    if not isinstance(api_key, str) or not re.fullmatch(KEY, api_key):
        raise ValueError("api_key must be a str of printable ASCII without a space")
    if not isinstance(signing, HmacKey | None):
        raise TypeError("signing must be an HmacKey: HmacKey(public_key, private_key)")


def _check_functions(**functions: object) -> None:
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} must be a function, not {type(function).__name__}")


class Emulator:
    """
    The CrowdTwist API over seeded members, as an ASGI app that serves both hosts.

    The same arguments give the same members, purchases, rewards and random faults. Nothing is
    kept per member, so `members` may be a million. The first three are handy for tests: the first
    has one page of purchases, the second exactly 14 pages, the third none. `/docs` is a page that
    describes the API, from the OpenAPI document at `/openapi.json`; neither counts as a request.

    Args:
        members: How many; their CrowdTwist ids run from `first_id` without gaps.
        seed: Any integer.
        api_key: The key that both hosts accept.
        signing: The key pair whose signatures the loyalty host accepts too. A request with a key and a
            signature is judged by its signature.
        faults: What goes wrong with the first requests, as with `script`.
        fault_rate: The share of the other requests, 0 to 1, that end in a random fault.
        per_minute: Above this many requests in any 60 seconds, the answer is a 429 with
            `Retry-After`; 1 or more. By default there is no ceiling.
        rewards: How many rewards the program has; 0 makes the endpoint answer `no_data`.
        keep_requests: How many of the latest requests `requests` shows.
        clock: Monotonic seconds, for the ceiling.
        wall_clock: Seconds since 1970: a signature's timestamp may be 15 minutes off.
        sleep: Waits for the seconds of a delay; the default works on asyncio and trio.

    Raises:
        ValueError: One of the numbers, or a key, can't be; the text begins with the argument's name.
        TypeError: `signing` is no `HmacKey`, or one of the clocks, or `sleep`, no function.
    """

    first_id = FIRST_ID
    """The CrowdTwist id of the first member."""

    def __init__(
        self,
        *,
        members: int = 1000,
        seed: int = 0,
        api_key: str = "emulator-key",
        signing: HmacKey | None = None,
        faults: Iterable[Fault | None] = (),
        fault_rate: float = 0.0,
        per_minute: int | None = None,
        rewards: int = 140,
        keep_requests: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._members = members
        check_count(members, "members")
        check_count(rewards, "rewards")
        check_count(keep_requests, "keep_requests")
        if not is_integer(seed):
            raise ValueError("seed must be an integer")
        _check_keys(api_key, signing)
        _check_functions(clock=clock, wall_clock=wall_clock, sleep=sleep)
        self.api_key = api_key
        self.signing = signing
        self._wall_clock = wall_clock
        self.stats = EmulatorStats()
        self._requests: deque[AskedRequest] = deque(maxlen=keep_requests)
        self._program = Program(members, rewards, seed)
        self._faults = FaultQueue(fault_rate, seed)
        self._faults.extend(faults)
        self._ceiling = Ceiling(per_minute, clock)
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"Emulator(members={self._members})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one ASGI connection, `http` or `lifespan`.

        Raises:
            ConnectionResetError: A fault resets the connection; nothing has been sent.
            ConnectionAbortedError: A fault cuts the connection within the body.
        """
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["path"].startswith(_OF_ITSELF) and (found := await self._page(scope)):
            await deliver(found, send)
            return
        call = read_call(scope)
        self.stats.requests += 1
        if call.endpoint is not None:
            self.stats.by_endpoint[call.endpoint] += 1
        asked = asked_by(call)
        self._requests.append(asked)
        seconds = self._ceiling.admit()
        if seconds > 0.0:
            await self._send(_slow_down(call, seconds), asked, send)
        else:
            await self._play(self._faults.take(call), call, asked, send)

    @property
    def requests(self) -> tuple[AskedRequest, ...]:
        """The latest requests in the order in which they came, `keep_requests` at most."""
        return tuple(self._requests)

    @property
    def pending_faults(self) -> tuple[Fault | None, ...]:
        """What was scripted and has not happened yet, in order."""
        return self._faults.pending

    def script(self, *faults: Fault | None) -> None:
        """
        Let the next requests go wrong, each with the first fault that fits it.

        `None` lets one request pass. A request that exceeds `per_minute` takes no fault.
        """
        self._faults.extend(faults)

    def reset_stats(self) -> None:
        """Begin to count from zero, in a new `stats`, and with no `requests`."""
        self.stats = EmulatorStats()
        self._requests.clear()

    def member_ids(self, id_type: str = "id") -> Iterator[str]:
        """
        Write the ids of all members, one at a time.

        Args:
            id_type: One of the seven types that the rewards endpoint takes.
        """
        return self._program.members.ids(id_type)

    def purchases_of(self, user_id: str | int, id_type: str = "id") -> int:
        """
        How many purchases a walk over all pages of a member yields.

        Raises:
            LookupError: Nobody has this id.
            ValueError: There is no such type of ids.
        """
        return self._program.history(self._index(user_id, id_type)).count

    def rewards_of(
        self,
        user_id: str | int,
        include_soldout: bool = False,  # noqa: FBT001, FBT002 - the name of the API's own flag
        id_type: str = "id",
    ) -> int:
        """
        How many rewards a walk over all pages of a member yields.

        Raises:
            LookupError: Nobody has this id.
            ValueError: There is no such type of ids.
        """
        return len(self._program.rewards(self._index(user_id, id_type), include_soldout=include_soldout))

    def transport(self) -> EmulatorTransport:
        """Return a transport for a client that asks this emulator in process."""
        return EmulatorTransport(self)

    def client(self, **options: Unpack[ClientOptions]) -> CrowdTwistClient:
        """
        Return a client that asks this emulator in process, without pacing, and signs if this can verify.

        Args:
            options: Of `CrowdTwistClient`; they override what is set here, such as `signing=None`. With
                `http_client=` or `transport=None` it goes over the network, to `api_url` and `pos_url`.
        """
        # The client's module is not needed for serving, and may itself offer an emulator.
        from crowdtwist_async._budget import RateBudget
        from crowdtwist_async.client import CrowdTwistClient

        given: dict[str, Any] = {
            "api_key": self.api_key,
            "api_url": "http://localhost",
            "pos_url": "http://localhost",
            "signing": self.signing,
            "budget": RateBudget(per_minute=math.inf),
            **options,
        }
        if "http_client" not in given:
            given.setdefault("transport", self.transport())
        return CrowdTwistClient(**given)

    async def _page(self, scope: Scope) -> Answer | None:
        """What is about the emulator itself: it neither counts nor goes wrong."""

        def read() -> Answer | None:
            from crowdtwist_async.emulator.openapi.pages import page

            return page(scope["path"], scope["method"], self.api_key)

        # In a thread: files are read, the first time.
        return await anyio.to_thread.run_sync(read)

    def _index(self, user_id: str | int, id_type: str) -> int:
        self.member_ids(id_type)  # refuses a type that there is none of
        index = self._program.members.find(str(user_id), id_type)
        if index is None:
            raise LookupError("no member has this id")
        return index

    async def _play(self, fault: Fault | None, call: Call, asked: AskedRequest, send: Send) -> None:
        """Let a request go wrong, or not."""
        if fault is None:
            await self._send(self._answer(call), asked, send)
            return
        if fault.kind == "reset":
            raise ConnectionResetError("emulated reset")
        if fault.kind == "delay":
            await self._sleep(fault.seconds)
        elif fault.kind == "drift":
            self._shift(call, fault.added)
        reply = fault.reply(call) if fault.kind == "status" else self._answer(call)
        if fault.kind in ("truncate", "stall"):
            await self._send_partly(reply, fault, asked, send)
        else:
            await self._send(fault.rewritten(reply, call), asked, send)

    def _answer(self, call: Call) -> Answer:
        return answer(call, self._program, self._admits)

    def _admits(self, call: Call) -> bool:
        return admits(call, self.api_key, self.signing, self._wall_clock)

    def _shift(self, call: Call, added: int) -> None:
        """Shift the rows of the member that is asked for, if there is one."""
        id_type = call.query.get("id_type", "id")
        index = self._program.members.find(call.user or "", id_type)
        if index is not None and call.endpoint is not None:
            self._program.shift(call.endpoint, index, added)

    def _note(self, reply: Answer, asked: AskedRequest) -> None:
        self.stats.by_status[reply.status] += 1
        asked.status = reply.status

    async def _send(self, reply: Answer, asked: AskedRequest, send: Send) -> None:
        self._note(reply, asked)
        self.stats.rows += reply.rows
        await deliver(reply, send)

    async def _send_partly(self, reply: Answer, fault: Fault, asked: AskedRequest, send: Send) -> None:
        """Send a part of the body; then the rest after a pause, or nothing more."""
        self._note(reply, asked)
        cut = fault.cut(reply.body)
        await begin(reply, send)
        await send({"type": "http.response.body", "body": reply.body[:cut], "more_body": True})
        if fault.kind == "truncate":
            raise ConnectionAbortedError("emulated cut")
        await self._sleep(fault.seconds)
        self.stats.rows += reply.rows
        await send({"type": "http.response.body", "body": reply.body[cut:]})


def _slow_down(call: Call, seconds: float) -> Answer:
    """The answer above the ceiling: the reference has none, so it is in the endpoint's error body."""
    retry_after = ((b"retry-after", str(math.ceil(seconds)).encode()),)
    message = "Too many requests in a minute."
    return refusal(call.endpoint, 429, "rate_limit_exceeded", message, retry_after)


async def _live(receive: Receive, send: Send) -> None:
    """Follow a server's start and stop, for which there is nothing to do."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
