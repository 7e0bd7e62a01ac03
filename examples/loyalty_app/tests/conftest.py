"""
The fixtures of crowdtwist_async are asked for here, and one of the app's own is built on them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from loyalty_app.web import App

from crowdtwist_async import CrowdTwistClient

pytest_plugins = ["crowdtwist_async.pytest_plugin"]


@pytest.fixture
def visit(crowdtwist_client: CrowdTwistClient) -> Callable[[str], Awaitable[httpx.Response]]:
    """Get a page of the web app, whose client asks the emulator in process."""
    app: Any = App(crowdtwist_client)

    async def visit(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as browser:
            return await browser.get(path)

    return visit
