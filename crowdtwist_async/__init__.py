"""
The async client of the Oracle CrowdTwist loyalty API.
"""

from crowdtwist_async._budget import Budget, RateBudget
from crowdtwist_async._fanout import FanOut, Outcome
from crowdtwist_async._pager import Pager, Prefetched
from crowdtwist_async._progress import Stats
from crowdtwist_async._retry import RetryPolicy
from crowdtwist_async._signing import HmacKey
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistError,
    DeadlineExceededError,
    DecodeError,
    ExportError,
    InvalidArgumentError,
    OutputLockedError,
    OutputMismatchError,
    PaginationDriftError,
    PaginationDriftWarning,
    PaginationError,
    PaginationLoopError,
    RateLimitError,
    RequestTimeoutError,
    ResponseTooLargeError,
    ServerError,
    StorageError,
    TransportError,
    UnexpectedRedirectError,
    UserNotFoundError,
)
from crowdtwist_async.models import (
    ExtraData,
    IdType,
    Page,
    Paging,
    Partner,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
    Segment,
    as_dict,
)
from crowdtwist_async.transports import Reply, Request, Transport
from crowdtwist_async.transports.httpx import HttpxTransport

__all__ = [
    "APIStatusError",
    "AuthenticationError",
    "BadRequestError",
    "Budget",
    "ClientClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "CrowdTwistClient",
    "CrowdTwistError",
    "DeadlineExceededError",
    "DecodeError",
    "ExportError",
    "ExtraData",
    "FanOut",
    "HmacKey",
    "HttpxTransport",
    "IdType",
    "InvalidArgumentError",
    "Outcome",
    "OutputLockedError",
    "OutputMismatchError",
    "Page",
    "Pager",
    "PaginationDriftError",
    "PaginationDriftWarning",
    "PaginationError",
    "PaginationLoopError",
    "Paging",
    "Partner",
    "PointsAwaitingFulfillment",
    "Prefetched",
    "Purchase",
    "RateBudget",
    "RateLimitError",
    "Reply",
    "Request",
    "RequestTimeoutError",
    "ResponseTooLargeError",
    "RetryPolicy",
    "Reward",
    "Segment",
    "ServerError",
    "Stats",
    "StorageError",
    "Transport",
    "TransportError",
    "UnexpectedRedirectError",
    "UserNotFoundError",
    "as_dict",
]
