"""
`CrowdTwistClient`: three endpoint coroutines and two iterators over one transport and one budget.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import date
from enum import Enum
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, Unpack, cast, overload

import anyio.lowlevel

from crowdtwist_async._arguments import OnDrift, checked_flag, checked_integer, checked_on_drift
from crowdtwist_async._budget import Budget, RateBudget
from crowdtwist_async._client_options import (
    ClientOptions,
    checked_budget,
    checked_options,
    chosen_transport,
)
from crowdtwist_async._config import (
    checked_positive,
    make_settings,
    named_by_variable,
    settings_from_env,
)
from crowdtwist_async._cursor import Position, read_cursor
from crowdtwist_async._fanout import FanOut, fanning_out
from crowdtwist_async._page_walk import Route, fingerprint
from crowdtwist_async._pager import Pager
from crowdtwist_async._progress import Stats
from crowdtwist_async._protocol import Call, points_call, purchases_call, rewards_call
from crowdtwist_async._retry import RetryPolicy
from crowdtwist_async._secrets import Secret
from crowdtwist_async._session import Session
from crowdtwist_async._signing import HmacKey
from crowdtwist_async._tasks import Block
from crowdtwist_async.errors import ClientClosedError, ConfigurationError, InvalidArgumentError
from crowdtwist_async.models import (
    CommonIdTypeText,
    IdType,
    IdTypeText,
    Page,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
)
from crowdtwist_async.transports import Transport

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Unchanged(Enum):
    """The mark of an option that stays as it is."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


class CrowdTwistClient:
    """
    A client of one CrowdTwist program: `async with CrowdTwistClient(...) as client`.

    It belongs to the event loop that it is entered on, asyncio's or trio's. Make one and keep it:
    connections, TLS and the request budget are shared by all that it sends.

    Args:
        api_key: The program's key for this environment.
        client_id: The digits that CrowdTwist issued, such as 201; some programs have none.
        environment: The prefix of the hosts: empty (US), `sb-` (sandbox), `sb2-`, `de-`, `us2-`.
        api_url: The loyalty host, instead of `https://{environment}api{client_id}.crowdtwist.com`.
        pos_url: The commerce host, instead of `https://{environment}pos{client_id}.crowdtwist.com`.
        timeout: Seconds for one attempt, from connecting to the last byte.
        deadline: Seconds for one request with everything: waiting for a slot and a permit, all
            attempts, all pauses; `None`: no bound. In a walk it applies to each page.
        max_in_flight: Requests at once at most; further ones wait in line.
        retry: How often and how patiently failed requests are sent again.
        budget: The request-rate budget, which clients may share; by default 9,700 requests a
            minute of the 10,000 that the contract allows a program.
        http_client: An `httpx.AsyncClient` or `httpx2.AsyncClient` of your own to send over; never closed.
        transport: Another way to move bytes; closed with the client.
        signing: The key pair that signs the requests to the loyalty host, for programs that have one:
            no URL holds the key then. The commerce host takes `api_key` all the same.

    Raises:
        ConfigurationError: A setting can't work. The key is never in the text.
    """

    def __init__(
        self,
        *,
        api_key: str,
        client_id: int | str | None = None,
        environment: str = "",
        api_url: str | None = None,
        pos_url: str | None = None,
        timeout: float = 10.0,
        deadline: float | None = 30.0,
        max_in_flight: int = 64,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        budget: Budget | None = None,
        http_client: Any = None,
        transport: Transport | None = None,
        signing: HmacKey | None = None,
    ) -> None:
        key, pair = Secret.of(api_key), Secret.of(signing)
        del api_key, signing  # so that no traceback through this frame shows them
        self._options = checked_options(timeout, deadline, retry)
        self._is_view = False
        self._session = Session(
            settings=make_settings(
                api_key=key,
                client_id=client_id,
                environment=environment,
                api_url=api_url,
                pos_url=pos_url,
                signing=pair,
            ),
            transport=chosen_transport(http_client, transport),
            budget=checked_budget(budget),
            max_in_flight=checked_positive(max_in_flight, "max_in_flight"),
        )

    @classmethod
    def from_env(cls, **overrides: Unpack[ClientOptions]) -> Self:
        """
        Make a client from the environment.

        Reads `CROWDTWIST_API_KEY` or `CROWDTWIST_API_KEY_FILE`, `CROWDTWIST_CLIENT_ID`,
        `CROWDTWIST_ENVIRONMENT`, `CROWDTWIST_API_URL`, `CROWDTWIST_POS_URL` and
        `CROWDTWIST_PER_MINUTE`; for signing `CROWDTWIST_HMAC_PUBLIC_KEY` with
        `CROWDTWIST_HMAC_PRIVATE_KEY` or `CROWDTWIST_HMAC_PRIVATE_KEY_FILE`, and the switches
        `CROWDTWIST_HMAC_TIMESTAMP` and `CROWDTWIST_HMAC_DIGEST`. An empty variable counts as unset.

        Args:
            overrides: Arguments of the class, which win over the environment.

        Raises:
            ConfigurationError: There is no key, or a setting can't work.
        """
        given = cast("dict[str, Any]", overrides)  # the same, so that no traceback through here shows a key
        for name in {"api_key", "signing"} & given.keys():
            given[name] = Secret.of(given[name])
        arguments = settings_from_env(with_key="api_key" not in given, with_signing="signing" not in given)
        of_environment = arguments.keys() - given.keys()
        per_minute = arguments.pop("per_minute", None)
        try:
            if per_minute is not None and given.get("budget") is None:
                given["budget"] = RateBudget(per_minute)
            return cls(**{"api_key": Secret(None), **arguments, **given})
        except ConfigurationError as error:
            problem = named_by_variable(error.reason, of_environment)
        raise ConfigurationError(problem)

    def with_options(
        self,
        *,
        timeout: float | Unchanged = UNCHANGED,
        deadline: float | Unchanged | None = UNCHANGED,
        retry: RetryPolicy | Unchanged = UNCHANGED,
    ) -> Self:
        """
        Return a view of this client with other options, on the same connections and budget.

        The view lives as long as its client; it is neither entered nor closed.

        Args:
            timeout: Seconds for one attempt.
            deadline: Seconds for one request with everything; `None`: no bound.
            retry: How often and how patiently failed requests are sent again.
        """
        view = object.__new__(type(self))
        vars(view).update(vars(self), _is_view=True)
        view._options = checked_options(
            self._options.timeout if isinstance(timeout, Unchanged) else timeout,
            self._options.deadline if isinstance(deadline, Unchanged) else deadline,
            self._options.retry if isinstance(retry, Unchanged) else retry,
        )
        return view

    async def points_awaiting_fulfillment(
        self, user_id: str | int, *, id_type: IdType | CommonIdTypeText = "id"
    ) -> PointsAwaitingFulfillment:
        """
        Fetch the points of a member's purchases that await fulfillment: one request.

        Reference page: Points Awaiting Fulfillment.

        Args:
            user_id: The member.
            id_type: What the id is: `id`, `email`, `third_party_id` or `mobile_phone_number`.

        Raises:
            UserNotFoundError: There is no such member.
            CrowdTwistError: Any other of the tree in `crowdtwist_async.errors`.
        """
        user = Secret.of(user_id)
        del user_id  # so that no traceback through this frame shows it
        return await self._ask(lambda: points_call(self._session.settings, user, id_type))

    async def user_rewards(
        self,
        user_id: str | int,
        *,
        id_type: IdType | IdTypeText = "id",
        page: int | None = None,
        page_size: int | None = None,
        include_soldout: bool | None = None,
    ) -> Page[Reward]:
        """
        Fetch one page of the rewards that are available to a member: one request.

        Reference page: User Rewards, v2.1.

        Args:
            user_id: The member.
            id_type: What the id is: any `IdType`.
            page: The page, from 1; `None` is the first. Out of range the server sends an empty
                page with a link back.
            page_size: Rewards per page, 1 to 10; larger values count as 10, the default.
            include_soldout: Whether to include rewards of which none are left.

        Raises:
            UserNotFoundError: There is no such member.
            CrowdTwistError: Any other of the tree in `crowdtwist_async.errors`.
        """
        user = Secret.of(user_id)
        del user_id  # as above
        return await self._ask(
            lambda: rewards_call(
                self._session.settings,
                user,
                id_type=id_type,
                page=page,
                page_size=page_size,
                include_soldout=include_soldout,
            )
        )

    async def user_purchases(
        self,
        user_id: str | int,
        *,
        id_type: IdType | CommonIdTypeText = "id",
        page: int | None = None,
        date_start: date | str | None = None,
        date_end: date | str | None = None,
    ) -> Page[Purchase]:
        """
        Fetch one page of a member's purchases, 10 at most: one request.

        Reference page: User Purchase History.

        Args:
            user_id: The member.
            id_type: What the id is: `id`, `email`, `third_party_id` or `mobile_phone_number`.
            page: The page, from 1; `None` is the first. Out of range the server sends an empty
                page with a link back.
            date_start: The first day, in UTC, as a `date` or `YYYY-MM-DD`.
            date_end: The last day, included.

        Raises:
            UserNotFoundError: There is no such member.
            CrowdTwistError: Any other of the tree in `crowdtwist_async.errors`.
        """
        user = Secret.of(user_id)
        del user_id  # as above
        return await self._ask(
            lambda: purchases_call(
                self._session.settings,
                user,
                id_type=id_type,
                page=page,
                date_start=date_start,
                date_end=date_end,
            )
        )

    def iter_user_rewards(
        self,
        user_id: str | int,
        *,
        id_type: IdType | IdTypeText = "id",
        page_size: int | None = None,
        include_soldout: bool | None = None,
        start_page: int | None = None,
        reverse: bool = False,
        max_items: int | None = None,
        cursor: str | None = None,
        on_drift: OnDrift = "warn",
    ) -> Pager[Reward]:
        """
        Walk all rewards of a member: one request a page, none before the first item is wanted.

        Args:
            user_id: The member.
            id_type: What the id is: any `IdType`.
            page_size: Rewards per page, 1 to 10; larger values count as 10, the default.
            include_soldout: Whether to include rewards of which none are left.
            start_page: The page to begin with: by default 1, or the last one with `reverse`.
            reverse: Walk from the last item to the first.
            max_items: Stop after so many items.
            cursor: Go on where another walk stood: `Pager.cursor`, or `.cursor` of an error.
            on_drift: What to do when the counts change during the walk: `warn`
                (`PaginationDriftWarning`, once a walk), `raise` or `ignore`.

        Raises:
            InvalidArgumentError: An argument can't work; from the call itself. The errors of
                `user_rewards`, and `PaginationError`, come out of the iteration.
        """
        user = Secret.of(user_id)
        del user_id  # as above
        call = rewards_call(
            self._session.settings,
            user,
            id_type=id_type,
            page_size=page_size,
            include_soldout=include_soldout,
        )
        return Pager(
            self._route(
                call,
                start_page=start_page,
                reverse=reverse,
                max_items=max_items,
                cursor=cursor,
                on_drift=on_drift,
            )
        )

    def iter_user_purchases(
        self,
        user_id: str | int,
        *,
        id_type: IdType | CommonIdTypeText = "id",
        date_start: date | str | None = None,
        date_end: date | str | None = None,
        start_page: int | None = None,
        reverse: bool = False,
        max_items: int | None = None,
        cursor: str | None = None,
        on_drift: OnDrift = "warn",
    ) -> Pager[Purchase]:
        """
        Walk all purchases of a member: one request a page, none before the first item is wanted.

        Args:
            user_id: The member.
            id_type: What the id is: `id`, `email`, `third_party_id` or `mobile_phone_number`.
            date_start: The first day, in UTC, as a `date` or `YYYY-MM-DD`.
            date_end: The last day, included.
            start_page: The page to begin with: by default 1, or the last one with `reverse`.
            reverse: Walk from the last item to the first.
            max_items: Stop after so many items.
            cursor: Go on where another walk stood: `Pager.cursor`, or `.cursor` of an error.
            on_drift: What to do when the counts change during the walk: `warn`
                (`PaginationDriftWarning`, once a walk), `raise` or `ignore`.

        Raises:
            InvalidArgumentError: An argument can't work; from the call itself. The errors of
                `user_purchases`, and `PaginationError`, come out of the iteration.
        """
        user = Secret.of(user_id)
        del user_id  # as above
        call = purchases_call(
            self._session.settings,
            user,
            id_type=id_type,
            date_start=date_start,
            date_end=date_end,
        )
        return Pager(
            self._route(
                call,
                start_page=start_page,
                reverse=reverse,
                max_items=max_items,
                cursor=cursor,
                on_drift=on_drift,
            )
        )

    @overload
    def fan_out(
        self,
        call: Callable[[K], Pager[V]],
        keys: Iterable[K] | AsyncIterable[K],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
    ) -> AbstractAsyncContextManager[FanOut[K, list[V]]]: ...

    @overload
    def fan_out(
        self,
        call: Callable[[K], Awaitable[V]],
        keys: Iterable[K] | AsyncIterable[K],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
    ) -> AbstractAsyncContextManager[FanOut[K, V]]: ...

    def fan_out(
        self,
        call: Callable[[Any], Any],
        keys: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
    ) -> AbstractAsyncContextManager[FanOut[Any, Any]]:
        """
        Call something for each of many keys: `async with client.fan_out(call, keys) as outcomes`.

        The keys are read as they are worked on, so memory does not grow with their number. Each
        ends in an `Outcome` with its value or its error; one bad key does not end the run.

        Args:
            call: Takes a key; returns an awaitable, such as an endpoint coroutine's, or a
                `Pager`, which is collected.
            keys: Any iterable or async iterable. One task reads an async one, so an async generator may
                hold a fan-out of its own, or a prefetch; it is closed with the block.
            concurrency: Keys at once, at most; by default the client's `max_in_flight`. No key is
                begun while a call of the run waits for a slot or the budget.
            ordered: Give the outcomes in the order of the keys. One slow key holds up at most
                four times `concurrency` others.

        Returns:
            A context manager that gives an async iterator of outcomes, with the counters `done`,
            `failed`, `in_flight`, `requests`, `retries` and `permit_seconds`. Leaving the block
            cancels what is under way.

        Raises:
            InvalidArgumentError: An argument can't work; from the call itself. Out of the
                iteration come `AuthenticationError`, `ConfigurationError` and
                `ClientClosedError`, which every other key would meet as well, and errors that
                are not the client's.
        """
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable | AsyncIterable):
            given: Any = keys
            wrong = "a function: call it" if callable(given) else "one key"
            raise InvalidArgumentError(f"keys must be an iterable of keys, not {wrong}")
        if not callable(call):
            raise InvalidArgumentError("call must take a key, and return an awaitable or a Pager")
        checked_flag(ordered, "ordered")
        most = self._session.max_in_flight if concurrency is None else concurrency
        most = checked_integer(most, "concurrency", least=1)
        run = fanning_out(call, keys, most, ordered=ordered, sit_out_pause=self._session.sit_out_pause)
        return Block(run, "async with client.fan_out(call, keys) as outcomes")

    @property
    def stats(self) -> Stats:
        """The requests and retries so far, also after closing."""
        return self._session.stats

    async def aclose(self) -> None:
        """Close all connections; calls that still wait in line end with `ClientClosedError`."""
        self._refuse_view("closed")
        await self._session.aclose()

    async def __aenter__(self) -> Self:
        self._refuse_view("entered")
        self._session.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        if not hasattr(self, "_session"):
            # Crash reporters print the half-made client whose settings were refused.
            return "<CrowdTwistClient refused>"
        settings = self._session.settings
        signs = "" if settings.signing is None else " signing"
        where = f"api={settings.api.origin} pos={settings.pos.origin}"
        return f"<CrowdTwistClient {where}{signs} {self._session.state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client can't be pickled or copied: make one in each process")

    async def _ask(self, make: Callable[[], Call[T]]) -> T:
        try:
            call = make()
        except InvalidArgumentError:
            await _let_others_run()
            raise
        return await self._send(call)

    async def _send(self, call: Call[T]) -> T:
        try:
            sender = self._session.sender
        except ClientClosedError:
            await _let_others_run()
            raise
        return await sender.send(call, self._options)

    def _refuse_view(self, done: str) -> None:
        if self._is_view:
            raise ClientClosedError(f"a view from with_options is not {done}: its client is")

    def _route(
        self,
        call: Call[Page[T]],
        *,
        start_page: int | None,
        reverse: bool,
        max_items: int | None,
        cursor: str | None,
        on_drift: OnDrift,
    ) -> Route[T]:
        checked_flag(reverse, "reverse")
        if cursor is not None and start_page is not None:
            raise InvalidArgumentError("give start_page or cursor, not both: a cursor holds its page")
        if cursor is not None:
            start = read_cursor(cursor, fingerprint(call, reverse=reverse))
        elif start_page is not None:
            start = Position(checked_integer(start_page, "start_page"))
        else:
            start = Position(None if reverse else 1)
        return Route(
            call=call,
            fetch=self._send,
            reverse=reverse,
            start=start,
            max_items=None if max_items is None else checked_integer(max_items, "max_items", least=0),
            on_drift=checked_on_drift(on_drift),
            telemetry=lambda: self._session.telemetry,
        )


async def _let_others_run() -> None:
    """A task that goes on calling would let no other run, not even who cancels it."""
    with suppress(RuntimeError):  # a forked child has no event loop any more
        await anyio.lowlevel.checkpoint()
