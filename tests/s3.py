"""
An S3 on a socket: moto's server, with an account that knows nothing of the machine's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crowdtwist_async.export.remote.objects import close_store, open_store

BUCKET = "exports"
WEIGHS = "`nox -s remote` has the S3 server and its client: 90 MB, most of it botocore's and moto's tables"


def needs_s3() -> None:
    """Skip a module whose tests have nobody to ask."""
    for module in ("s3fs", "moto.server"):
        pytest.importorskip(module, reason=WEIGHS)


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server."""
    server = importlib.import_module("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def account(endpoint: str, folder: Path) -> dict[str, str]:
    """What boto takes from the environment, instead of from the machine."""
    return {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "NO_PROXY": "*",
    }


@contextmanager
def bucket() -> Iterator[Any]:
    """A client, and an empty bucket that goes afterwards."""
    found, _ = open_store(f"s3://{BUCKET}")
    found.mkdir(BUCKET)
    yield found
    found.rm(BUCKET, recursive=True)
    close_store(found)
