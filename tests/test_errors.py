"""
The error tree: what derives from what, what the text says, and that everything survives pickling.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable

import pytest

from crowdtwist_async import errors
from crowdtwist_async.errors import (
    APIStatusError,
    ConnectionFailedError,
    CrowdTwistError,
    DeadlineExceededError,
    DecodeError,
    RateLimitError,
    ServerError,
)

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, CrowdTwistError)]
COPIES = [
    *(
        pytest.param(lambda error, n=protocol: pickle.loads(pickle.dumps(error, n)), id=f"pickle-{protocol}")
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
    pytest.param(copy.copy, id="copy"),
    pytest.param(copy.deepcopy, id="deepcopy"),
]
PARENTS = {
    "ConfigurationError": (CrowdTwistError, ValueError),
    "InvalidArgumentError": (CrowdTwistError, ValueError),
    "ClientClosedError": (CrowdTwistError,),
    "TransportError": (CrowdTwistError,),
    "ConnectionFailedError": (errors.TransportError,),
    "RequestTimeoutError": (errors.TransportError,),
    "ResponseTooLargeError": (errors.TransportError,),
    "UnexpectedRedirectError": (errors.TransportError,),
    "DeadlineExceededError": (CrowdTwistError,),
    "APIStatusError": (CrowdTwistError,),
    "BadRequestError": (APIStatusError,),
    "AuthenticationError": (APIStatusError,),
    "UserNotFoundError": (APIStatusError,),
    "RateLimitError": (APIStatusError,),
    "ServerError": (APIStatusError,),
    "DecodeError": (CrowdTwistError,),
    "PaginationError": (CrowdTwistError,),
    "PaginationLoopError": (errors.PaginationError,),
    "PaginationDriftError": (errors.PaginationError,),
    "ExportError": (CrowdTwistError,),
    "OutputLockedError": (errors.ExportError,),
    "OutputMismatchError": (errors.ExportError,),
    "StorageError": (errors.ExportError,),
}


def attribute_names(cls: type[CrowdTwistError]) -> list[str]:
    """Every attribute that a class and its bases declare."""
    return [name for base in cls.__mro__ for name in vars(base).get("__annotations__", ())]


def value_of(name: str) -> object:
    """A value that no other attribute has; the seconds are formatted, so they are a number."""
    return 1.5 if name == "elapsed" else f"the {name}"


@pytest.mark.parametrize(("name", "parents"), PARENTS.items(), ids=PARENTS)
def test_the_tree_is_the_documented_one(name: str, parents: tuple[type, ...]) -> None:
    """Programs catch by these classes, so their places are fixed."""
    assert parents == getattr(errors, name).__bases__


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_docstring_draws_every_error(cls: type[CrowdTwistError]) -> None:
    """The drawing stays complete when a class is added."""
    assert re.search(rf"(^|─ |    ){cls.__name__}\b", errors.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling_and_copying(
    cls: type[CrowdTwistError], copied: Callable[[CrowdTwistError], CrowdTwistError]
) -> None:
    """Class, text, and every declared attribute are the same on the other side."""
    error = cls("the sentence")
    for name in attribute_names(cls):
        setattr(error, name, value_of(name))

    twin = copied(error)

    assert error is not twin
    assert cls is type(twin)
    assert ("the sentence",) == twin.args
    assert "the sentence" == twin.reason
    assert {name: value_of(name) for name in attribute_names(cls)} == vars(twin)


@pytest.mark.parametrize("copied", COPIES)
def test_an_error_inside_an_error_survives_too(copied: Callable[[CrowdTwistError], CrowdTwistError]) -> None:
    """The last real error of a passed deadline comes along with its own attributes."""
    inner = RateLimitError("429")
    inner.status, inner.retry_after, inner.details = 429, 7.5, ({"reason": "quota"},)
    error = DeadlineExceededError("the deadline of 30 s passed")
    error.last_error, error.endpoint, error.host = inner, "user_rewards", "api201.crowdtwist.com"
    error.attempts, error.elapsed, error.cursor = 3, 29.75, "a cursor"

    twin = copied(error)

    assert str(error) == str(twin)
    assert isinstance(twin, DeadlineExceededError)
    assert isinstance(twin.last_error, RateLimitError)
    assert vars(inner) == vars(twin.last_error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_fresh_error_has_every_attribute(cls: type[CrowdTwistError]) -> None:
    """A handler can read any attribute of any error, whatever set it or did not."""
    error = cls()

    assert "" == error.reason
    assert "endpoint" in attribute_names(cls)
    assert all(hasattr(error, name) for name in attribute_names(cls))
    assert (None, None, None, None, None) == (
        error.endpoint,
        error.host,
        error.attempts,
        error.elapsed,
        error.cursor,
    )


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_only_what_may_pass_is_retryable_by_itself(cls: type[CrowdTwistError]) -> None:
    """A server's error and a broken body become retryable where they are read."""
    may_pass = {
        "ConnectionFailedError",
        "DeadlineExceededError",
        "RateLimitError",
        "RequestTimeoutError",
    }
    assert (cls.__name__ in may_pass) is cls().retryable


def test_the_text_is_the_sentence_before_any_request() -> None:
    """Nothing was asked, so there is nothing to add."""
    assert "api_key is empty" == str(errors.ConfigurationError("api_key is empty"))


@pytest.mark.parametrize(
    ("attempts", "elapsed", "expected"),
    [
        pytest.param(
            3, 1.5, "refused (user_rewards at api201.crowdtwist.com, 3 attempts, 1.50 s)", id="many"
        ),
        pytest.param(1, 0.0, "refused (user_rewards at api201.crowdtwist.com, 1 attempt, 0.00 s)", id="one"),
        pytest.param(0, None, "refused (user_rewards at api201.crowdtwist.com, 0 attempts)", id="none"),
        pytest.param(None, None, "refused (user_rewards at api201.crowdtwist.com)", id="unknown"),
    ],
)
def test_the_text_says_where_and_how_often(
    attempts: int | None, elapsed: float | None, expected: str
) -> None:
    """An operator needs the endpoint, the host, the attempts and the seconds."""
    error = ConnectionFailedError("refused")
    error.endpoint, error.host = "user_rewards", "api201.crowdtwist.com"
    error.attempts, error.elapsed = attempts, elapsed

    assert expected == str(error)
    assert "refused" == error.reason


def test_an_error_without_arguments_has_no_reason() -> None:
    """Unpickling by hand or a subclass may leave none."""
    error = ServerError("500")
    error.args = ()

    assert "" == error.reason
    assert "" == str(error)


def test_a_decode_error_names_the_place() -> None:
    """The path stands right behind the reason, before where and how often."""
    error = DecodeError("expected an integer, got null")
    error.path = "rewards[3].num_points"
    assert "expected an integer, got null @ rewards[3].num_points" == str(error)

    error.endpoint, error.host, error.attempts = "user_rewards", "api.crowdtwist.com", 1
    assert (
        "expected an integer, got null @ rewards[3].num_points"
        " (user_rewards at api.crowdtwist.com, 1 attempt)" == str(error)
    )


def test_the_drift_warning_is_a_users_warning() -> None:
    """It is shown by default, once a place, and can be filtered by its own class."""
    assert issubclass(errors.PaginationDriftWarning, UserWarning)
    assert not issubclass(errors.PaginationDriftWarning, CrowdTwistError)
