"""
The web app: `GET /members/{id}`, as an ASGI app that needs no framework.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from crowdtwist_async import CrowdTwistClient, CrowdTwistError, InvalidArgumentError, UserNotFoundError
from loyalty_app.account import account_of

Send = Callable[[dict[str, Any]], Awaitable[None]]


class App:
    """Answers over one client, which lives as long as the app."""

    def __init__(self, client: CrowdTwistClient) -> None:
        # A visitor waits two seconds, not thirty.
        self._client = client.with_options(timeout=1, deadline=2)

    async def __call__(self, scope: dict[str, Any], receive: object, send: Send) -> None:
        """Answer one request."""
        status, body = await self._answer(scope["path"].removeprefix("/members/"))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    async def _answer(self, user_id: str) -> tuple[int, dict[str, Any]]:
        try:
            return 200, asdict(await account_of(self._client, user_id))
        except (UserNotFoundError, InvalidArgumentError):
            return 404, {"error": "no such member"}
        except CrowdTwistError:
            return 503, {"error": "try again later"}
