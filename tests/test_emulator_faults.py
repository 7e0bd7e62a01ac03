"""
Faults: what each does to a reply, and which request it happens to.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from crowdtwist_async._secrets import Secret
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.errors import ConnectionFailedError, CrowdTwistError
from crowdtwist_async.transports import Reply, Request

FIRST, SECOND = "10000000", "10000001"
POINTS = "points_awaiting_fulfillment"
PATHS = {
    POINTS: "/fulfillment/users/{}",
    "user_rewards": "/v2.1/users/{}/rewards",
    "user_purchases": "/users/{}/purchases",
}


def send(
    emulator: Emulator, endpoint: str = "user_purchases", user: str = SECOND, query: str = ""
) -> Reply | CrowdTwistError:
    """Send one request in process, with the key in both places."""
    request = Request(
        endpoint=endpoint,
        origin="http://localhost",
        path=PATHS[endpoint].format(user).rstrip("/"),
        query=query,
        secret_query=Secret("api_key=emulator-key"),
        secret_header=Secret("CTApiKey emulator-key"),
    )
    return anyio.run(emulator.transport().send, request)


def reply(emulator: Emulator, endpoint: str = "user_purchases", user: str = SECOND, query: str = "") -> Reply:
    """Send one request that gets a reply."""
    got = send(emulator, endpoint, user, query)
    assert isinstance(got, Reply)
    return got


def ids(emulator: Emulator, endpoint: str, key: str, pages: int) -> list[list[str]]:
    """The ids of the rows of the second member's first pages."""
    rows = {"user_rewards": "rewards", "user_purchases": "purchases"}[endpoint]
    bodies = [
        json.loads(reply(emulator, endpoint, query=f"page={number}").body) for number in range(1, pages + 1)
    ]
    return [[row[key] for row in body[rows]] for body in bodies]


@pytest.mark.parametrize("made", [partial(Fault.status, 503), Fault.not_json])
def test_a_body_is_bytes(made: Callable[..., Fault]) -> None:
    """A text would fail later, and far from here."""
    body: Any = "maintenance"
    with pytest.raises(TypeError, match="^body must be bytes, not str$"):
        made(body=body)


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        pytest.param((503, "internal_error", None), Fault.status(503), id="503"),
        pytest.param(
            (503, "internal_error", "2"), Fault.status(503, retry_after=2), id="503 with Retry-After"
        ),
        pytest.param(
            (429, "rate_limit_exceeded", "soon"), Fault.status(429, retry_after="soon"), id="unreadable"
        ),
        pytest.param((500, "not_configured", None), Fault.status(500, reason="not_configured"), id="reason"),
        pytest.param((403, "invalid_auth", None), Fault.status(403), id="403"),
        pytest.param((418, "invalid", None), Fault.status(418), id="other 4xx"),
        pytest.param((999, "internal_error", None), Fault.status(999), id="no HTTP status"),
    ],
)
@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        (POINTS, lambda body: body["reason"]),
        ("user_rewards", lambda body: body["error"]),
        ("user_purchases", lambda body: body["error"]["errors"][0]["reason"]),
    ],
    ids=list(PATHS),
)
def test_status_without_a_body_speaks_as_the_endpoint(
    endpoint: str, reason: Callable[[Any], str], expected: tuple[int, str, str | None], fault: Fault
) -> None:
    """The error body is the endpoint's own, with a reason that fits the status."""
    got = reply(Emulator(faults=[fault]), endpoint)

    assert expected == (got.status, reason(json.loads(got.body)), got.headers.get("retry-after"))


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        pytest.param((502, "text/html", b"<h1>"), Fault.status(502, body=b"<h1>"), id="html"),
        pytest.param((200, "application/json", b" {}"), Fault.status(200, body=b" {}"), id="json"),
        pytest.param((200, "text/html", b""), Fault.status(200, body=b""), id="empty"),
        pytest.param(
            (999, "text/plain", b"{"),
            Fault.status(999, body=b"{", headers={"Content-Type": "text/plain"}),
            id="given type",
        ),
        pytest.param((200, "text/html", b"<p>"), Fault.not_json(b"<p>"), id="not JSON"),
    ],
)
def test_a_given_body_is_sent_as_it_is(expected: tuple[int, str, bytes], fault: Fault) -> None:
    """The content type is told from the body, unless it is given."""
    got = reply(Emulator(faults=[fault]))

    assert expected == (got.status, got.headers["content-type"], got.body)


def test_extra_headers_are_sent() -> None:
    """A redirect, for one, is a status and a header."""
    got = reply(Emulator(faults=[Fault.status(302, body=b"", headers={"Location": "http://127.0.0.2/"})]))

    assert (302, "http://127.0.0.2/") == (got.status, got.headers["location"])


def test_delay_waits_before_the_answer() -> None:
    """The pause is the injected one, and the answer is the right one."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    emulator = Emulator(faults=[Fault.delay(30.0)], sleep=sleep)

    assert (200, [30.0]) == (reply(emulator).status, pauses)


def test_stall_waits_within_the_body() -> None:
    """The body arrives whole in the end, and the rows count."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    emulator = Emulator(faults=[Fault.stall(30.0), None], sleep=sleep)

    assert reply(emulator).body == reply(emulator).body
    assert ([30.0], 20) == (pauses, emulator.stats.rows)


def test_reset_gives_no_reply() -> None:
    """The attempt fails, as a value."""
    got = send(Emulator(faults=[Fault.reset()]))

    assert isinstance(got, ConnectionFailedError)
    assert "the connection was reset before a reply" == got.reason


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_truncate_sends_a_part_of_the_announced_length(fraction: float) -> None:
    """However large the fraction, at least one byte is missing."""
    whole = len(reply(Emulator()).body)
    part = min(int(whole * fraction), whole - 1)

    got = send(Emulator(faults=[Fault.truncate(fraction)]))

    assert isinstance(got, ConnectionFailedError)
    assert f"received {part} of {whole} bytes" in got.reason


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_is_from_0_to_1(fraction: float) -> None:
    """Anything else is refused when the fault is made."""
    with pytest.raises(ValueError, match="fraction must be from 0 to 1"):
        Fault.truncate(fraction)


@pytest.mark.parametrize(("endpoint", "key"), [("user_purchases", "purchase_id"), ("user_rewards", "id")])
def test_drift_inserts_rows_at_the_front(endpoint: str, key: str) -> None:
    """A walk that it overtakes sees rows of the page before again; the total has grown for good."""
    before = ids(Emulator(), endpoint, key, pages=2)
    emulator = Emulator(faults=[None, Fault.drift(added=3, endpoint=endpoint)])

    (first, second) = ids(emulator, endpoint, key, pages=2)

    assert before[0] == first
    assert before[0][-3:] + before[1][:-3] == second
    newcomers = ids(emulator, endpoint, key, pages=1)[0][:3]
    assert not set(newcomers) & set(before[0] + before[1])
    assert emulator.rewards_of(SECOND) - Emulator().rewards_of(SECOND) == 3 * (endpoint == "user_rewards")
    assert emulator.purchases_of(SECOND) - Emulator().purchases_of(SECOND) == 3 * (endpoint != "user_rewards")
    assert emulator.purchases_of(FIRST) == Emulator().purchases_of(FIRST)


@pytest.mark.parametrize(("endpoint", "key"), [("user_purchases", "purchase_id"), ("user_rewards", "id")])
def test_negative_drift_removes_rows_from_the_front(endpoint: str, key: str) -> None:
    """Rows that a walk has not reached yet move up to a page that it has read."""
    before = ids(Emulator(), endpoint, key, pages=2)

    (first,) = ids(Emulator(faults=[Fault.drift(-3)]), endpoint, key, pages=1)

    assert before[0][3:] + before[1][:3] == first


@pytest.mark.parametrize("endpoint", ["user_purchases", "user_rewards"])
def test_drift_can_empty_a_list(endpoint: str) -> None:
    """Removing more rows than there are leaves none."""
    paging = json.loads(reply(Emulator(faults=[Fault.drift(-1000)]), endpoint).body)["paging"]

    assert (0, 0) == (paging["total"], paging["pages"])


def test_drift_waits_for_a_request_with_rows() -> None:
    """A points request has none to shift, and a user whom nobody knows is left at that."""
    emulator = Emulator(faults=[Fault.drift(1)])

    assert 200 == reply(emulator, POINTS).status
    assert [Fault.drift(1)] == list(emulator.pending_faults)
    assert 404 == reply(emulator, user="nobody").status
    assert () == emulator.pending_faults


def test_rewrite_changes_the_right_answer() -> None:
    """What the function returns is sent as JSON, with the status of the right answer."""
    emulator = Emulator(faults=[Fault.rewrite(lambda body: {"paging": body["paging"]["total"]})])

    got = reply(emulator)

    assert (200, {"paging": emulator.purchases_of(SECOND)}) == (got.status, json.loads(got.body))


def test_script_is_played_in_order() -> None:
    """`None` lets a request pass, and what is left shows."""
    emulator = Emulator(faults=[Fault.status(500), None])
    emulator.script(Fault.status(503), Fault.status(504))

    assert [500, 200, 503] == [reply(emulator).status for _ in range(3)]
    assert (Fault.status(504),) == emulator.pending_faults


def test_a_fault_waits_for_its_request() -> None:
    """One that is meant for another endpoint or user holds up nothing behind it."""
    emulator = Emulator()
    emulator.script(
        Fault.status(500, endpoint="user_rewards"), Fault.status(502, user=FIRST), Fault.status(503)
    )

    assert [503, 200] == [reply(emulator).status for _ in range(2)]
    assert 502 == reply(emulator, user=FIRST).status
    assert 500 == reply(emulator, "user_rewards").status
    assert () == emulator.pending_faults


def test_a_fault_fits_the_user_as_asked_for() -> None:
    """The id counts as the caller gave it, decoded, and wherever it stands."""
    email = "member10000001@example.com"
    emulator = Emulator(faults=[Fault.status(500, user=email), Fault.status(502, user=email)])

    got = [
        reply(emulator, user="member10000001%40example.com", query="id_type=email"),
        reply(emulator, POINTS, user="", query="email_address=member10000001%40example.com"),
    ]

    assert [500, 502] == [one.status for one in got]


def test_random_faults_come_at_their_rate_and_from_the_seed() -> None:
    """All six kinds occur, as often as told, and the same seed plays them again."""

    def play(seed: int) -> list[str]:
        emulator = Emulator(seed=seed, fault_rate=0.3)
        return [outcome(send(emulator, POINTS)) for _ in range(400)]

    def outcome(got: Reply | CrowdTwistError) -> str:
        if isinstance(got, CrowdTwistError):
            return got.reason[:22]
        return "html" if got.headers["content-type"] == "text/html" else str(got.status)

    first = play(1)

    assert first == play(1)
    assert first != play(2)
    lost = {"the connection was res", "the connection was cut"}
    assert {"200", "500", "503", "429", "html"} | lost == set(first)
    assert 0.2 < 1 - first.count("200") / len(first) < 0.4


def test_fault_shows_neither_user_nor_body() -> None:
    """Both may be a real member's."""
    fault = Fault.status(500, body=b"canary", user="canary", headers={"x": "canary"})

    assert "canary" not in repr(fault)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fault("stauts"),  # type: ignore[arg-type]  # the mistake
        lambda: Fault.status(9),
        lambda: Fault.status("503"),  # type: ignore[arg-type]  # the mistake
        lambda: Fault.delay(-1),
        lambda: Fault.reset(endpoint="rewards"),
    ],
    ids=["kind", "code", "text", "negative delay", "endpoint"],
)
def test_faults_that_could_never_happen_are_refused(make: Callable[[], Fault]) -> None:
    """A misspelt fault must not make a test pass because nothing goes wrong."""
    with pytest.raises(ValueError, match="must be|can't be"):
        make()


@pytest.mark.parametrize("fault", [503, [Fault.reset()], "reset"], ids=["number", "list", "text"])
def test_what_is_no_fault_is_not_queued(fault: Any) -> None:
    """A script takes faults one by one."""
    with pytest.raises(TypeError, match="script takes faults"):
        Emulator().script(fault)


def test_a_fault_for_one_user_takes_an_int() -> None:
    """As the client does; the other members' requests pass."""
    emulator = Emulator(faults=[Fault.status(503, user=int(SECOND))])

    assert 200 == reply(emulator, user=FIRST).status
    assert 503 == reply(emulator, user=SECOND).status


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        pytest.param("Fault(kind='status', code=503)", Fault.status(503), id="plain"),
        pytest.param("Fault(kind='reset', user=***)", Fault.reset(user=SECOND), id="user"),
        pytest.param(
            "Fault(kind='truncate', endpoint='user_rewards', fraction=0.0, user=***)",
            Fault.truncate(0.0, endpoint="user_rewards", user=int(SECOND)),
            id="several",
        ),
    ],
)
def test_a_fault_shows_what_was_given(expected: str, fault: Fault) -> None:
    """No unused default, and no member's id."""
    assert expected == repr(fault)


def test_an_unknown_limit_is_refused() -> None:
    """A slip of the pen would hit everybody."""
    with pytest.raises(TypeError, match="users"):
        Fault.status(503, users=SECOND)  # type: ignore[call-arg]  # the mistake


def test_faults_stand_in_a_list() -> None:
    """One alone is told so."""
    with pytest.raises(TypeError, match=r"^faults must be a list, such as \[Fault.status\(503\)\]$"):
        Emulator(faults=Fault.status(503))  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: body["purchasse"].clear(), "KeyError('purchasse')"),
        (lambda body: body["purchases"].clear(), "TypeError('it returned None, and not the body')"),
        (lambda body: {"purchases": set(body)}, "TypeError("),
    ],
    ids=["raises", "returns nothing", "no JSON"],
)
def test_a_rewrite_that_fails_is_told(change: Callable[[Any], Any], told: str) -> None:
    """A dead connection would be tried again, and the test that it is a mistake in would pass."""
    got = reply(Emulator(faults=[Fault.rewrite(change)]))
    assert 400 == got.status
    [error] = json.loads(got.body)["error"]["errors"]
    assert error["message"].startswith(f"the function of Fault.rewrite failed: {told}")


@pytest.mark.parametrize("code", [204, 304])
def test_what_has_no_body_is_sent_without_one(code: int) -> None:
    """A server that sends one breaks the connection."""
    got = reply(Emulator(faults=[Fault.status(code)]))
    assert (code, b"") == (got.status, got.body)
    with pytest.raises(ValueError, match=f"^a {code} has no body: leave body out$"):
        Fault.status(code, body=b"{}")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Fault.drift(1.5), "added must be an int, not float"),  # type: ignore[arg-type]
        (lambda: Fault.drift(True), "added must be an int, not bool"),
        (lambda: Fault.rewrite(None), "change must be a function"),  # type: ignore[arg-type]
        (lambda: Fault.rewrite(5), "change must be a function"),  # type: ignore[arg-type]
        (lambda: Fault.status(503, reason=5), "reason must be a str, not int"),  # type: ignore[arg-type]
        (lambda: Fault.status(503, user=["1"]), "user must be a str or an int, not list"),  # type: ignore[arg-type]
        (lambda: Fault.status(503, headers={"a": 1}), "headers must be texts"),  # type: ignore[dict-item]
        (lambda: Fault.status(503, headers={"a": "b\nc"}), "a header's name, or its value, has"),
        (lambda: Fault.status(503, headers={"a b": "c"}), "a header's name, or its value, has"),
        (lambda: Fault.delay("1"), "seconds must be a number"),  # type: ignore[arg-type]
        (lambda: Fault.stall(1, "a"), "fraction must be from 0 to 1"),  # type: ignore[arg-type]
        (lambda: Fault.status(503, headers=[1]), "headers must be texts by their names, not list"),  # type: ignore[arg-type]
        (lambda: Fault.status(503, retry_after=[1]), "retry_after must be a number or a str, not list"),  # type: ignore[arg-type]
        (lambda: Fault.status(503, retry_after="1\n2"), "a header's name, or its value, has"),
        (lambda: Fault.not_json(None), "body must be bytes, not NoneType"),  # type: ignore[arg-type]
        (lambda: Fault("status", change=lambda body: body), "change must be a function of a rewrite"),
        (lambda: Fault("status", headers=((1, 2),)), "headers must be pairs of bytes"),  # type: ignore[arg-type]
        (lambda: Fault("status", headers=[(b"a", b"b")]), "headers must be pairs of bytes"),  # type: ignore[arg-type]
        (lambda: Emulator(clock=1), "clock must be a function, not int"),  # type: ignore[arg-type]
        (lambda: Emulator(wall_clock=1), "wall_clock must be a function, not int"),  # type: ignore[arg-type]
        (lambda: Emulator(sleep=1), "sleep must be a function, not int"),  # type: ignore[arg-type]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_fault_can_be_made_of_is_refused(make: Callable[[], object], told: str) -> None:
    """Where it is typed, and not in the middle of a reply."""
    with pytest.raises((TypeError, ValueError), match=f"^{told}"):
        make()
