"""
Exports to a server that speaks S3: moto's, on a socket, through s3fs.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from blocks import ROOT as PROJECT
from conftest import KEY
from outputs import commit, expected, mark_of, opened
from s3 import BUCKET, account, bucket, needs_s3, serving
from stores import MEMBERS, expire, export_all, manifests, rows

from crowdtwist_async import OutputLockedError, OutputMismatchError, StorageError
from crowdtwist_async.cli import main
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import export
from crowdtwist_async.export.remote import objects

needs_s3()

ROOT = f"{BUCKET}/night/out.parquet"
URL = f"s3://{ROOT}"
LEASE = f"{ROOT}/_ledger/lease.json"
DAY = "2026-09-30"
KILLS = 2
"""Of a run that begins, and of one that goes on."""
PATIENCE = 60.0
CHILD = """
import sys
from crowdtwist_async.cli import main
from crowdtwist_async.export.formats.parquet import PartWriter
PartWriter.limits = PartWriter.limits._replace(members=4)
sys.exit(main(sys.argv[1:]))
"""
ARGUMENTS = [
    "export",
    "purchases",
    "--emulator",
    "--members",
    "45",
    "--date-end",
    DAY,
    "--per-minute",
    "1500",
]


@pytest.fixture(name="endpoint", scope="module")
def _server() -> Iterator[str]:
    with serving() as endpoint:
        yield endpoint


@pytest.fixture(scope="module", autouse=True)
def _tables() -> Iterator[None]:
    """Have botocore read its tables once, and not for each store that is opened."""
    session = importlib.import_module("botocore.session")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "create_loader", cache(session.create_loader))
        yield


@pytest.fixture(name="_account", autouse=True)
def _of_nobody(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in account(endpoint, tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def _client_that_logs_less() -> Iterator[None]:
    """Have no DEBUG of S3's own packages, which write pages for each request."""
    logs = [logging.getLogger(name) for name in ("aiobotocore", "botocore", "s3fs", "urllib3", "werkzeug")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.INFO)
    yield
    for log, level in zip(logs, levels, strict=True):
        log.setLevel(level)


@pytest.fixture(name="store")
def _bucket(_account: None) -> Iterator[Any]:
    with bucket() as found:
        yield found


def test_it_is_resumed_and_read(store: Any) -> None:
    """With its own calls: listing, creating what is not there, reading, removing."""
    with closing(opened(URL)) as target:
        commit(target, "a")
        with pytest.raises(
            OutputLockedError, match=f"^another export is writing {URL}: wait until it ends, or"
        ):
            opened(URL)
    export_all(URL)

    assert expected(*MEMBERS) == rows(ROOT, store)
    assert not store.exists(LEASE)
    export_all(URL, fresh=True)
    assert expected(*MEMBERS) == rows(ROOT, store)
    assert manifests(f"{ROOT}/_ledger", store)[0]["begins"]
    assert 5 == len(manifests(f"{ROOT}/_ledger", store))


def test_somebody_who_has_taken_over_keeps_its_rows(store: Any) -> None:
    """The server itself refuses the second manifest of a number, though the lease seems to be held."""
    with closing(opened(URL)) as target:
        commit(target, "a")
        lease = store.cat_file(LEASE)
        expire(LEASE, store)
        export_all(URL)
        store.pipe_file(LEASE, lease)
        with pytest.raises(OutputLockedError, match="another export has taken"):
            commit(target, "b")
    assert expected(*MEMBERS) == rows(ROOT, store)


def test_failures_stand_beside_it(store: Any) -> None:
    """As an object of its own."""
    with closing(opened(URL)) as target:
        target.writer.commit([mark_of("a", "failed")])
        assert f"{URL}.errors.jsonl" == target.write_errors("id")
    assert b'{"requested_id":"a",' in store.cat_file(f"{ROOT}.errors.jsonl")

    with closing(opened(URL)) as target:
        target.writer.commit([mark_of("a")])
        assert None is target.write_errors("id")
    assert not store.exists(f"{ROOT}.errors.jsonl")


def test_an_object_in_the_place_of_the_folder_is_refused(store: Any) -> None:
    """A store has no folders: both could be there."""
    store.pipe_file(ROOT, b"PAR1")

    with pytest.raises(OutputMismatchError, match="is an object, and no folder of an export"):
        opened(URL)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        pytest.param(
            "AWS_ENDPOINT_URL", "http://127.0.0.1:9", "Could not connect to the endpoint URL", id="down"
        ),
        pytest.param("AWS_ACCESS_KEY_ID", None, "Unable to locate credentials", id="no-credentials"),
    ],
)
def test_a_store_that_can_not_be_used_is_told(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str | None, said: str
) -> None:
    """Before the first request to the API."""
    monkeypatch.setattr(objects, "_PAUSES", ())
    if value is None:
        monkeypatch.delenv(setting)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    else:
        monkeypatch.setenv(setting, value)

    with pytest.raises(
        StorageError, match=f"^{URL} can't be read or written: {said}.*Put that right and"
    ) as told:
        opened(URL)
    assert "hush" not in str(told.value)


def test_a_bucket_that_is_not_there_is_told() -> None:
    """It is not made: whoever misspells it wants to know."""
    with pytest.raises(
        StorageError, match=r"it is not there \(The specified bucket does not exist\)\. Put that"
    ):
        opened("s3://nowhere/out.parquet")


@pytest.mark.anyio
async def test_a_program_exports_to_it(store: Any, tmp_path: Path) -> None:
    """On both event loops: s3fs has a thread and a loop of its own."""
    emulator = Emulator(members=8, api_key=KEY)
    async with emulator.client() as client:
        reports = [
            await export(client, "purchases", list(emulator.member_ids()), output, date_end=DAY)
            for output in (URL, tmp_path / "out.parquet")
        ]

    assert ["complete", "complete"] == [report.status for report in reports]
    assert rows(ROOT, store) == sorted(
        (row["requested_id"], row["purchase_id"])
        for row in pq.read_table(tmp_path / "out.parquet").to_pylist()
    )


@pytest.mark.anyio
async def test_an_export_leaves_no_connection(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither open, which aiohttp would warn of, nor to be closed by a task of the program's event loop."""
    closed_when_collected: list[object] = []
    close = staticmethod(lambda *session: closed_when_collected.append(session))
    monkeypatch.setattr(type(store), "close_session", close)
    taken = f"{BUCKET}/taken.parquet"
    store.pipe_file(taken, b"PAR1")
    emulator = Emulator(members=3, api_key=KEY)
    async with emulator.client() as client:
        await export(client, "purchases", list(emulator.member_ids()), URL, date_end=DAY)
        with pytest.raises(OutputMismatchError, match="is an object"):
            await export(client, "purchases", ["1"], f"s3://{taken}", date_end=DAY)
    gc.collect()

    assert [] == closed_when_collected


def test_a_process_that_is_killed_again_and_again(store: Any, tmp_path: Path) -> None:
    """Once its lease is gone the next goes on; at the end every row is there once, and nothing besides."""
    arguments = [sys.executable, "-c", CHILD, *ARGUMENTS, "-o", URL]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    for _ in range(KILLS):
        before = len(store.find(f"{ROOT}/_ledger"))
        with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + PATIENCE
            while len(store.find(f"{ROOT}/_ledger")) < before + 3 and process.poll() is None:
                assert time.monotonic() < end
                time.sleep(0.1)
            process.send_signal(signal.SIGKILL)
        assert -signal.SIGKILL == process.returncode
        expire(LEASE, store)
    assert (
        0
        == subprocess.run(arguments, env=environment, timeout=PATIENCE, stderr=subprocess.DEVNULL).returncode
    )

    local = tmp_path / "out.parquet"
    assert 0 == main([*ARGUMENTS[:-1], "600000", "-o", str(local)])
    assert sorted(map(str, pq.read_table(local).to_pylist())) == sorted(
        map(str, ds.dataset(ROOT, filesystem=store, format="parquet").to_table().to_pylist())
    )
    named = [manifest["part"]["name"] for manifest in manifests(f"{ROOT}/_ledger", store) if manifest["part"]]
    assert sorted(named) == [
        path.rpartition("/")[2] for path in sorted(store.find(ROOT)) if path.endswith(".parquet")
    ]
    done = [
        member["requested_id"]
        for manifest in manifests(f"{ROOT}/_ledger", store)
        for member in manifest["members"]
    ]
    assert (45, 45) == (len(done), len(set(done)))
