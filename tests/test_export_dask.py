"""
`--dask`: shards on a cluster of two processes, which lose workers, are stopped, and never hold a key or an id.

The cluster asks an emulator of this process over a socket. What a worker does is tested without one, in this
process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.request import urlopen
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
import redis
from blocks import ROOT, blocks_of, emulated, run, shell
from command import (  # noqa: F401 - fixtures
    Command,
    Ended,
    asked_on_a_socket,
    in_this_process,
    no_account,
    process,
    python_m,
)
from conftest import KEY, leaks
from redis_server import RedisServer, one_for_all  # noqa: F401 - a fixture
from shards import LAST_DAY, contents, ledger_of_shard, rows_of, shard_made

from crowdtwist_async import CrowdTwistError, Reply, Request
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.errors import (
    ConfigurationError,
    OutputLockedError,
    OutputMismatchError,
    StorageError,
)
from crowdtwist_async.export import ExportReport, Shard, merge
from crowdtwist_async.export import dask as export_dask
from crowdtwist_async.export.dask import cluster as dask_cluster
from crowdtwist_async.export.dask import export_on_dask
from crowdtwist_async.export.dask import worker as dask_worker
from crowdtwist_async.export.dask.cluster import Spread
from crowdtwist_async.export.dask.owned import is_told
from crowdtwist_async.export.dask.run import Run
from crowdtwist_async.export.dask.total import Total
from crowdtwist_async.export.ledger import Ledger
from crowdtwist_async.export.shard import mark_half_emptied
from crowdtwist_async.transports.aiohttp import AiohttpTransport

PATIENCE = 60.0
ALL = 120
FAST = 1_000_000
WORKERS = 2
ALONE = {"budget_name": None, "transport": "httpx"}
ACCOUNT = ("CROWDTWIST_API_KEY", "CROWDTWIST_API_URL", "CROWDTWIST_POS_URL")

IDLE = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "1s"}
"""What Dask does a hundred times a second to watch itself, it does not do."""

pytest.importorskip("distributed", reason="the extra [dask] is not installed")


class Api(Emulator):
    """An API that answers so many requests, and then holds all others until it is released."""

    def __init__(self) -> None:
        super().__init__(members=ALL, api_key=KEY)
        self.most: float = float("inf")
        self.held = threading.Event()
        self.released = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.stats.requests >= self.most:
            self.held.set()
            while not self.released.is_set():  # noqa: ASYNC110 - set by another thread
                await anyio.sleep(0.02)
        await super().__call__(scope, receive, send)


class Shared(NamedTuple):
    """What all tests here have in common, as a cluster takes seconds to begin."""

    api: Api
    cluster: Any
    environment: dict[str, str]
    """Of the workers, those that the nanny starts in the place of lost ones included."""


@pytest.fixture(scope="module", name="shared")
def api_and_cluster() -> Iterator[Shared]:
    """An API, and two workers with the key in their environment."""
    from dask import config
    from distributed import LocalCluster

    api = Api()
    with pytest.MonkeyPatch.context() as patch, asked_on_a_socket(api, patch), config.set(IDLE):
        patch.setenv("NO_PROXY", "*")
        environment = {name: os.environ[name] for name in ACCOUNT}
        options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(n_workers=WORKERS, **options) as cluster:
            yield Shared(api, cluster, environment)


@pytest.fixture(name="api")
def fresh_api(shared: Shared) -> Api:
    """The API, which has answered nothing."""
    api = shared.api
    api.reset_stats()
    api.most, api.held, api.released = float("inf"), threading.Event(), threading.Event()
    api.api_key = KEY
    return api


@pytest.fixture(name="cluster")
def cluster_of_two(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The cluster with both workers up, before and after."""
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)
    yield shared.cluster
    until(lambda: len(shared.cluster.scheduler_info["workers"]) == WORKERS)


@pytest.fixture(name="ids")
def ids_of_all(tmp_path: Path) -> Path:
    """A file with the ids of all members."""
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(Emulator(members=ALL).member_ids()))
    return path


def until(holds: Callable[[], object]) -> None:
    """Wait for a condition."""
    end = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < end, "it never came"
        sleep(0.02)


@pytest.fixture(name="on_dask")
def command_on_the_cluster(api: Api, cluster: Any, ids: Path, crowdtwist: Command) -> Command:
    """Run `crowdtwist export purchases` on the cluster, in this process; it keeps no key."""

    def run(output: Path, *flags: object, per_minute: float = FAST) -> Ended:
        return crowdtwist(
            *("export", "purchases", "--ids", ids, "-o", output, "--date-end", LAST_DAY),
            *("--dask", cluster.scheduler_address, "--per-minute", per_minute, *flags),
        )

    return run


def whole(folder: Path, suffix: str) -> list[Any]:
    """All rows, as an export in this process has them."""
    output = folder / "whole" / f"out.{suffix}"
    output.parent.mkdir()
    shard_made(Emulator(members=ALL, api_key=KEY), output, None)
    return rows_of(output)


def bytes_in(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {name: content for name, (content, _) in contents(folder).items()}


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread; what fails there fails the test."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(act)
        yield
        done.result(PATIENCE)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_the_shards_have_the_rows_of_one_export(
    on_dask: Command, api: Api, tmp_path: Path, suffix: str
) -> None:
    """And the same command again makes no request, in as many shards as lie there."""
    output = tmp_path / f"out.{suffix}"

    first = on_dask(output, "--shards", 3)
    requests, before = api.stats.requests, bytes_in(tmp_path)
    again = on_dask(output)

    assert (0, 0) == (first.code, again.code)
    assert "purchases: 3 shards on 2 workers, 2 at once, each at 500,000 requests a minute.\n" in first.err
    assert "No request was made" in again.err
    assert ("makes one file of them" in first.err) == (suffix == "jsonl")
    assert (requests, before) == (api.stats.requests, bytes_in(tmp_path))
    merge(output)
    rows = whole(tmp_path, suffix)
    assert rows == rows_of(output)
    assert f"{ALL} members, {len(rows):,} rows, {requests} requests, " in first.err


def test_another_number_of_shards_is_refused(on_dask: Command, api: Api, tmp_path: Path) -> None:
    """Before any request; `--fresh` has its own day, and begins all shards anew."""
    output = tmp_path / "out.jsonl"
    assert 0 == on_dask(output, "--shards", 2).code
    requests = api.stats.requests

    refused = on_dask(output, "--shards", 3)

    assert 1 == refused.code
    assert f"{output} is made with --shard i/2, as out." in refused.err
    assert requests == api.stats.requests
    assert (0, 2 * requests) == (on_dask(output, "--fresh").code, api.stats.requests)


def test_a_shard_that_somebody_else_exports_is_named(
    on_dask: Command, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the time is over that a lost worker may hold it."""
    output = tmp_path / "out.jsonl"
    assert 0 == on_dask(output, "--shards", 2).code
    requests = api.stats.requests
    monkeypatch.setattr(dask_worker, "PATIENCE", 0.0)

    with closing(Ledger(ledger_of_shard(output, 1, 2), "it")):
        refused = on_dask(output)

    assert 1 == refused.code
    assert f"another export is writing shard 1/2 of {output}" in refused.err
    assert requests == api.stats.requests


@pytest.mark.anyio
async def test_what_a_lost_worker_holds_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is free, or the export is to stop."""
    stop = anyio.Event()
    locked = [OutputLockedError("held"), OutputLockedError("held")]

    def look() -> str:
        if locked:
            raise locked.pop()
        return "free"

    monkeypatch.setattr(export_dask, "_AGAIN_SECONDS", 0.0)
    assert "free" == await export_dask._patiently(look, stop)

    monkeypatch.setattr(export_dask, "_AGAIN_SECONDS", PATIENCE)
    locked += [OutputLockedError("held"), OutputLockedError("held")]
    async with anyio.create_task_group() as group:
        group.start_soon(set_soon, stop)
        with anyio.fail_after(PATIENCE / 2), pytest.raises(OutputLockedError):
            await export_dask._patiently(look, stop)


async def set_soon(stop: anyio.Event) -> None:
    """Set it when others wait."""
    await anyio.wait_all_tasks_blocked()
    stop.set()


def test_a_lost_worker_loses_no_row(on_dask: Command, api: Api, cluster: Any, tmp_path: Path) -> None:
    """Dask has another worker, or the one that the nanny starts, go on with the shard."""
    output = tmp_path / "out.parquet"
    api.most = 80

    def kill() -> None:
        assert api.held.wait(PATIENCE)
        os.kill(cluster.workers[0].process.pid, signal.SIGKILL)
        api.released.set()

    with meanwhile(kill):
        ended = on_dask(output)

    assert 0 == ended.code
    assert whole(tmp_path, "parquet") == rows_of(output)


def test_a_signal_stops_all_shards_in_order(on_dask: Command, api: Api, tmp_path: Path) -> None:
    """What is under way is committed, and the same command goes on."""
    output = tmp_path / "out.csv"

    def terminate() -> None:
        until(lambda: api.stats.requests > 25)
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(terminate):
        stopped = on_dask(output, "--concurrency", 2, per_minute=900)
    done = [row for path in tmp_path.glob("out.?-of-4.csv") for row in rows_of(path)]

    assert 75 == stopped.code
    assert "Stopping when the members under way are done." in stopped.err
    rows = whole(tmp_path, "csv")
    assert 0 < len(done) < len(rows)
    last = on_dask(output)
    assert 0 == last.code
    assert re.search(r"purchases: [1-9][0-9]* members done before; ", last.err)
    merge(output)
    assert rows == rows_of(output)


def test_a_refused_key_ends_all_shards(on_dask: Command, api: Api, tmp_path: Path) -> None:
    """With the exit code of one export, and without a request for each member."""
    api.api_key = "another"

    ended = on_dask(tmp_path / "out.jsonl", per_minute=1_200)

    assert 4 == ended.code
    assert api.stats.requests < ALL


def test_shards_whose_command_is_gone_end(api: Api, cluster: Any, ids: Path, tmp_path: Path) -> None:
    """Nobody would tell them to stop, and the next run would find them locked."""
    output = tmp_path / "out.jsonl"

    async def leave() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(
                partial(export_on_dask, date_end=LAST_DAY, per_minute=120, concurrency=2),
                *(cluster.scheduler_address, "purchases", ids, output),
            )
            while api.stats.requests < 20:  # noqa: ASYNC110 - counted by another thread
                await anyio.sleep(0.02)
            group.cancel_scope.cancel()

    anyio.run(leave)

    for index in range(2):
        until(partial(is_free, ledger_of_shard(output, index, 4)))
    assert api.stats.requests < ALL / 2  # in two of four shards


def is_free(path: Path) -> bool:
    """Whether no export holds a ledger."""
    try:
        Ledger(path, "it").close()
    except OutputLockedError:
        return False
    return True


def test_dask_sees_neither_ids_nor_the_key(on_dask: Command, api: Api, cluster: Any, tmp_path: Path) -> None:
    """In no argument, key, pickle, event or log of the scheduler, and on no page of its JSON."""
    api.most = 40
    tasks: list[str] = []
    seen: list[str] = []

    def look() -> None:
        assert api.held.wait(PATIENCE)
        state = cluster.scheduler
        try:
            keys = [key for key in state.tasks if key.startswith("crowdtwist-shard-")]
            tasks.extend(f"{key} {pickle.dumps(state.tasks[key].run_spec)!r}" for key in keys)
            seen.append(repr(state.identity()))
            for page in (
                "json/counts.json",
                "info/main/logs.html",
                *(f"info/task/{key}.html" for key in keys),
            ):
                with urlopen(f"http://127.0.0.1:{state.http_server.port}/{page}", timeout=PATIENCE) as reply:
                    seen.append(reply.read().decode())
        finally:
            api.released.set()

    with meanwhile(look):
        assert 0 == on_dask(tmp_path / "out.jsonl").code

    logs = repr(
        [cluster.scheduler.get_logs(), dict(cluster.scheduler._broker._topics[dask_worker.TOPIC].events)]
    )
    everything = "\n".join((*tasks, *seen, logs))
    assert WORKERS == len(tasks)
    assert f"{tmp_path}" in tasks[0]
    assert not leaks(everything)
    assert not re.search(r"\b1000\d{4}\b", everything)


def test_the_blocks_of_the_page_run(tmp_path: Path) -> None:
    """All but the installation, on local clusters, which take warnings for errors and end with the command."""
    with emulated(tmp_path) as environment:
        environment["PYTHONWARNINGS"] = "error"
        for block in blocks_of(ROOT / "docs" / "dask.md"):
            (tmp_path / "program.py").write_text(block.text)
            lines = [line for line in block.text.splitlines() if not line.startswith("pip install")]
            program = [sys.executable, "program.py"]
            command = program if block.language == "python" else shell("\n".join(lines))
            done = run(command, environment, tmp_path)
            assert 0 == done.returncode, done.stderr
            assert not leaks(done.stdout + done.stderr)
            assert "Traceback" not in done.stderr

    assert (tmp_path / "points.jsonl").exists()
    assert (tmp_path / "purchases.parquet").is_dir()


# A cluster that is not wanted any more while it starts


class SlowCluster:
    """A local cluster that starts when it is let, and can't be closed before: as Dask's."""

    def __init__(self, **_: object) -> None:
        self.steps: list[str] = []
        self.begun = anyio.Event()
        self.may_start = anyio.Event()

    def __await__(self) -> Generator[Any, None, None]:
        return self._start().__await__()

    async def _start(self) -> None:
        self.begun.set()
        await self.may_start.wait()
        self.steps.append("started")

    async def close(self) -> None:
        """End the processes that have started."""
        self.steps.append("closed")


async def cancelled_scope(call: Callable[[], Coroutine[Any, Any, None]], cancelled: anyio.Event) -> bool:
    """Make a call, and cancel it as anyio does."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await cancelled.wait()
            scope.cancel()
    return scope.cancelled_caught


async def cancelled_task(call: Callable[[], Coroutine[Any, Any, None]], cancelled: anyio.Event) -> bool:
    """Make a call, and cancel it as asyncio does, twice."""
    task = asyncio.ensure_future(call())
    await cancelled.wait()
    for _ in range(2):
        task.cancel()
        await anyio.lowlevel.checkpoint()
    await asyncio.wait([task])
    return task.cancelled()


@pytest.mark.parametrize("cancelling", [cancelled_scope, cancelled_task])
def test_a_cancelled_cluster_starts_whole_and_is_closed(
    monkeypatch: pytest.MonkeyPatch, cancelling: Callable[..., Awaitable[bool]]
) -> None:
    """Dask leaves the processes of one that started half, and an error in the cancellation's place."""

    async def main() -> tuple[bool, list[str]]:
        cluster = SlowCluster()
        monkeypatch.setattr(dask_cluster, "_classes", lambda: (None, lambda **_: cluster))

        async def use() -> None:
            async with dask_cluster.cluster_at("local"):
                raise AssertionError("it was cancelled")

        async def release() -> None:
            await cluster.begun.wait()
            await anyio.wait_all_tasks_blocked()
            cluster.may_start.set()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(release)
                was_cancelled = await cancelling(use, cluster.begun)
        return was_cancelled, cluster.steps

    assert (True, ["started", "closed"]) == anyio.run(main)


def test_a_client_that_is_still_connecting_is_closed(
    ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its scheduler accepts, and says nothing."""
    from distributed import Client, LocalCluster

    made: list[Any] = []

    def make(*arguments: object, **options: object) -> Any:
        made.append(Client(*arguments, **options))
        return made[0]

    async def leave(silent: socket.socket) -> None:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        export = partial(export_on_dask, address, "points", ids, tmp_path / "out.jsonl")
        async with anyio.create_task_group() as group:
            group.start_soon(export)
            with (await anyio.to_thread.run_sync(silent.accept))[0]:
                group.cancel_scope.cancel()

    monkeypatch.setattr(dask_cluster, "_classes", lambda: (make, LocalCluster))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        anyio.run(leave, silent)

    assert ["closed"] == [client.status for client in made]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_the_cluster_starts_ends_all(
    ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A terminal sends it to the cluster's processes too, which begin by importing."""
    monkeypatch.setenv("CROWDTWIST_API_KEY", KEY)
    command = python_m("export", "points", "--ids", ids, "-o", tmp_path / "out.jsonl", "--dask", "local")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        until(lambda: any("spawn_main" in child for child in children_of(running.pid)))
        if number == signal.SIGINT:
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        _, said = running.communicate(timeout=PATIENCE)  # of all processes: none is left

    assert (130, "crowdtwist: interrupted\n") == (running.returncode, said)


@pytest.mark.parametrize("when", ["starting", "running"])
def test_what_the_end_of_a_cluster_cuts_off_is_not_told(tmp_path: Path, when: str) -> None:
    """A worker's heartbeat, which Dask logs with a traceback, and what it only warns of."""
    program = [sys.executable, f"{ROOT / 'tests' / 'ending_cluster.py'}", when]
    done = run(program, {**os.environ, "HEARTBEAT": f"{tmp_path / 'heartbeat'}"}, tmp_path)

    assert (0, f"ended while {when}, amid heartbeats\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("Failed to communicate with scheduler", "running", True),
        ("Failed to communicate with scheduler", "closing", False),
        ("Scheduler was unaware of this worker", "running", False),
    ],
)
def test_heartbeats_that_fail_before_the_end_are_told(line: str, status: str, told: bool) -> None:
    """By the worker's status; but the scheduler may let go of a worker before it ends."""
    worker = SimpleNamespace(status=SimpleNamespace(name=status))
    record = logging.LogRecord("distributed.worker", logging.ERROR, "", 1, line, (), None, "heartbeat")
    other = logging.LogRecord("distributed.worker", logging.ERROR, "", 1, line, (), None, "execute")

    assert told == is_told(worker, record)
    assert is_told(worker, other)


def children_of(process_id: int) -> list[str]:
    """The command lines of a process's children."""
    found = []
    for listed in Path("/proc").glob(f"{process_id}/task/*/children"):
        with suppress(OSError):
            found += [Path(f"/proc/{child}/cmdline").read_text() for child in listed.read_text().split()]
    return found


# What a worker does, in this process


@pytest.fixture(name="told")
def told_in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What a shard tells that runs here, and is wanted."""
    told: list[tuple[str, Any]] = []
    host = dask_worker.Host(lambda topic, counts: told.append((topic, counts)), lambda: True)
    monkeypatch.setattr(dask_worker, "host_here", lambda: host)
    return told


def order_of(ids: Path, output: Path, **options: Any) -> dict[str, Any]:
    """What a shard is told."""
    return {
        "endpoint": "points",
        "ids": f"{ids}",
        "column": None,
        "output": f"{output}",
        "per_minute": FAST,
        "sending": ALONE,
        "options": options,
    }


@pytest.fixture(name="asked")
def asked_from_here(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of a worker."""
    with asked_on_a_socket(api, monkeypatch):
        yield


def test_a_shard_returns_and_tells_plain_values(
    asked: None, told: list[Any], ids: Path, tmp_path: Path
) -> None:
    """Counts while it runs, and the report in the end."""
    ended = dask_worker.export_shard("1/2", "run", order_of(ids, tmp_path / "out.jsonl"))

    held = sum(map(Shard(1, 2).holds, Emulator(members=ALL).member_ids()))
    assert ("complete", held, "1/2") == (ended["status"], ended["members"], ended["shard"])
    assert ended == json.loads(json.dumps(ended))
    assert {dask_worker.TOPIC} == {topic for topic, _ in told}
    counts = [{name: value for name, value in msg.items() if name not in ("run", "shard")} for _, msg in told]
    assert all(isinstance(value, int | float | None) for told in counts for value in told.values())


@pytest.mark.parametrize(
    ("failure", "kind", "sentence"),
    [
        (ConfigurationError("not so"), "ConfigurationError", "not so"),
        (OSError(28, "No space left", "here"), "StorageError", "here: No space left"),
        (ValueError("of member 10000001"), "ExportError", r"ValueError in .*\.py, line [0-9]+"),
    ],
    ids=["ours", "the system's", "unexpected"],
)
def test_a_shard_returns_its_error(
    told: list[Any],
    ids: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    kind: str,
    sentence: str,
) -> None:
    """Raised, Dask would log it; the text of one that is not ours stays where it was."""

    async def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(dask_worker, "_exported", fail)

    ended = dask_worker.export_shard("1/2", "run", order_of(ids, tmp_path / "out.jsonl"))

    assert kind == ended["kind"]
    assert re.fullmatch(sentence, ended["error"])


def test_a_shard_that_is_not_wanted_any_more_stops(
    asked: None, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one whose run is to end early."""
    host = dask_worker.Host(lambda *_: None, lambda: False)
    monkeypatch.setattr(dask_worker, "host_here", lambda: host)
    output = tmp_path / "out.jsonl"

    unwanted = dask_worker.export_shard("0/2", "run", {**order_of(ids, output), "per_minute": 1})
    wanted = dask_worker.Host(lambda *_: None, lambda: True)
    monkeypatch.setattr(dask_worker, "host_here", lambda: wanted)
    dask_worker.end_early("this")
    ended = dask_worker.export_shard("1/2", "this", {**order_of(ids, output), "per_minute": 1})

    assert ("stopped", "stopped") == (unwanted["status"], ended["status"])


def test_a_shard_waits_for_the_lock_of_a_lost_worker(
    asked: None, told: list[Any], ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is free when that process is gone; if it never is, somebody else exports there."""
    output = tmp_path / "out.jsonl"
    held = Ledger(ledger_of_shard(output, 0, 2), "it")
    monkeypatch.setattr(dask_worker, "PATIENCE", 0.0)
    refused = dask_worker.export_shard("0/2", "run", order_of(ids, output))
    monkeypatch.setattr(dask_worker, "PATIENCE", PATIENCE)

    def release() -> None:
        sleep(0.3)
        held.close()

    with meanwhile(release):
        ended = dask_worker.export_shard("0/2", "run", order_of(ids, output))

    assert "OutputLockedError" == refused["kind"]
    assert "complete" == ended["status"]


def test_a_shard_shares_the_rate_that_its_environment_names(
    asked: None,
    told: list[Any],
    ids: Path,
    tmp_path: Path,
    shared_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of the rate comes with the task, the URL does not."""
    monkeypatch.setenv("CROWDTWIST_BUDGET", shared_redis.url)
    monkeypatch.setattr("crowdtwist_async.budgets._connection._PATIENCE", 30.0)
    key = f"dask-{uuid4()}"
    order = {**order_of(ids, tmp_path / "out.jsonl"), "sending": {**ALONE, "budget_name": key}}

    ended = dask_worker.export_shard("0/2", "run", order)

    assert "complete" == ended["status"]
    with redis.Redis(port=shared_redis.port) as client:
        assert client.exists(key)


def test_a_shard_is_sent_over_the_transport_that_was_chosen(
    asked: None, told: list[Any], ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its requests."""
    sent: list[object] = []
    send = AiohttpTransport.send

    async def counted(transport: AiohttpTransport, request: Request) -> Reply | CrowdTwistError:
        sent.append(request)
        return await send(transport, request)

    monkeypatch.setattr(AiohttpTransport, "send", counted)
    order = {**order_of(ids, tmp_path / "out.jsonl"), "sending": {**ALONE, "transport": "aiohttp"}}

    ended = dask_worker.export_shard("0/2", "run", order)

    assert ("complete", len(sent)) == (ended["status"], ended["requests"])


def test_a_worker_says_what_it_lacks(ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids, the output's folder, the key, the URL of the budget."""
    (tmp_path / "marker").touch()

    def problem(ids: object, marker: str, budget_name: str | None = None) -> str | None:
        sending = {**ALONE, "budget_name": budget_name}
        return dask_worker.problem_with(f"{ids}", f"{tmp_path}/{marker}", sending)

    assert f"it can't read {tmp_path}/none" == problem(tmp_path / "none", "marker")
    assert f"its folder {tmp_path}/elsewhere is another one than here" == problem(ids, "elsewhere/marker")
    assert re.match("in its environment: .*CROWDTWIST_API_KEY", problem(ids, "marker") or "")
    monkeypatch.setenv("CROWDTWIST_API_KEY", KEY)
    monkeypatch.setenv("CROWDTWIST_CLIENT_ID", "201")
    assert problem(ids, "marker") is None
    assert re.match("its environment lacks CROWDTWIST_BUDGET", problem(ids, "marker", "ours") or "")
    monkeypatch.setenv("CROWDTWIST_BUDGET", f"redis://:{KEY}@elsewhere.example")
    refused = problem(ids, "marker", "ours") or ""
    assert re.match("in its environment: the URL of Redis must", refused)
    assert not leaks(refused)
    monkeypatch.setenv("CROWDTWIST_BUDGET", "redis://localhost")
    assert problem(ids, "marker", "ours") is None


# The sum


def counts(**counts: int) -> dict[str, Any]:
    """What a shard tells."""
    return {"requests": 0, "retries": 0, "is_waiting": False, **counts}


def test_the_sum_counts_requests_of_lost_workers_too(tmp_path: Path) -> None:
    """A shard that runs again counts from 0; what comes late changes nothing."""
    output = tmp_path / "out.jsonl"
    total = Total(ExportReport(f"{output}", "points", ids=9), output, 2, {})

    total.take("0/2", counts(requests=5, members=4))
    total.take("0/2", counts(requests=2, members=6, is_waiting=True))
    assert (7, 6, "the API does not answer") == (
        total.report.requests,
        total.report.members,
        total.report.waiting,
    )
    total.end(
        "0/2", ExportReport("", "points", status="complete", requests=3, members=7, completed_at="2026")
    )
    total.take("0/2", counts(requests=1, members=6))
    assert (8, 7, None) == (total.report.requests, total.report.members, total.report.waiting)
    total.conclude()
    assert "stopped" == total.report.status
    total.end("1/2", ExportReport("", "points", status="already_complete", members=1, completed_at="2025"))
    total.conclude()

    assert ("complete", "2026", 1) == (
        total.report.status,
        total.report.completed_at,
        total.report.duplicates,
    )


def test_the_sum_names_the_files_of_failed_members(tmp_path: Path) -> None:
    """One by its name, several by a pattern."""
    output = tmp_path / "out.parquet"
    total = Total(ExportReport(f"{output}", "points"), output, 2, {})

    total.end("0/2", ExportReport("", "points", status="complete", errors_file="this"))
    total.conclude()
    assert "this" == total.report.errors_file
    total.end("1/2", ExportReport("", "points", status="complete", errors_file="that"))
    total.conclude()

    assert f"{tmp_path}/out.*-of-2.parquet.errors.jsonl" == total.report.errors_file


# What is refused


class BrokenClient:
    """A cluster that fails at every shard, or has no worker."""

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure

    def subscribe_topic(self, *_: object) -> None:
        """Tell nothing."""

    async def submit(self, *_: object, **__: object) -> None:
        """Fail, or never end."""
        if self._failure is not None:
            raise self._failure
        await anyio.sleep_forever()

    async def run(self, *_: object, **__: object) -> None:
        """Reach nobody."""

    async def nthreads(self) -> dict[str, int]:
        """There is no worker."""
        return {}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(RuntimeError("KilledWorker"), "Dask gave shard 0/2 up (RuntimeError)"), (None, "no worker is left")],
    ids=["given up", "no worker"],
)
def test_what_dask_fails_at_can_be_gone_on_with(
    tmp_path: Path, failure: Exception | None, reason: str
) -> None:
    """As Dask gives a shard up whose workers are lost again and again."""
    output = tmp_path / "out.jsonl"
    total = Total(ExportReport(f"{output}", "points"), output, 2, {})
    stop = anyio.Event()

    async def finish() -> ExportReport:
        if failure is None:
            stop.set()
            shards._left.append(Shard(0, 2))
        return await shards.finish()

    shards = Run(BrokenClient(failure), Spread(2, 1, 1), {}, total, None, stop)
    report = anyio.run(finish)

    assert ("stopped", reason) == (report.status, report.reason)


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--shards", 2], 2, "--shards is for --dask.*"),
        (["--dask", "local", "--shard", "0/2"], 2, "--dask exports all shards: leave --shard out"),
        (["--dask", "local", "--emulator"], 2, "--emulator is in this process, where no worker reaches it.*"),
        (["--dask", "local", "--ids", "-"], 2, "Dask's workers share neither standard input nor.*"),
        (
            ["--dask", "local", "--ids", "x", "--budget", "redis://localhost"],
            2,
            "workers take the URL of a shared budget from CROWDTWIST_BUDGET in their environment.*",
        ),
        (["--dask", "local"], 2, "give --ids FILE with one member id a line, which all workers see"),
    ],
    ids=["no dask", "one shard", "emulator", "stdin", "budget", "no ids"],
)
def test_flags_that_do_not_fit_are_refused(
    crowdtwist: Command, tmp_path: Path, flags: list[object], code: int, sentence: str
) -> None:
    """Before a cluster is begun."""
    ended = crowdtwist("export", "points", "-o", tmp_path / "out.jsonl", *flags)

    assert ended.refused(code, sentence)


def test_a_scheduler_that_is_not_there_is_named(ids: Path, tmp_path: Path) -> None:
    """An address that can't be one ends at once."""
    ended = process("export", "points", "--ids", ids, "-o", tmp_path / "out.jsonl", "--dask", "none://host:1")

    assert ended.refused(1, "no Dask scheduler answers at none://host:1")


def test_without_dask_the_extra_is_named(
    crowdtwist: Command, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else needs it."""
    monkeypatch.setitem(sys.modules, "distributed", None)

    ended = crowdtwist("export", "points", "--ids", ids, "-o", tmp_path / "out.jsonl", "--dask", "local")

    assert ended.refused(2, re.escape("Dask needs more packages: pip install 'crowdtwist-async[dask]'"))


def test_emptying_that_is_interrupted_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a shard that was not emptied yet has would pass for the new rows."""
    emulator, output = two_shards(tmp_path)
    emptied = export_dask._emptied

    def interrupted(place: Path, endpoint: str, shard: Shard) -> None:
        if shard.index == 1:
            raise OutputLockedError("held")
        emptied(place, endpoint, shard)

    monkeypatch.setattr(dask_worker, "PATIENCE", 0.0)
    monkeypatch.setattr(export_dask, "_emptied", interrupted)
    with pytest.raises(OutputLockedError):
        prepared(output, fresh=True)
    assert 0 < len(rows_of(tmp_path / "out.1-of-2.jsonl"))

    with pytest.raises(OutputMismatchError, match="begun anew with --dask and --fresh.* give that command"):
        shard_made(emulator, output, Shard(1, 2))
    with pytest.raises(OutputMismatchError, match="give that command again"):
        merge(output)

    monkeypatch.setattr(export_dask, "_emptied", emptied)
    assert {} == prepared(output, fresh=True)
    assert [] == list(tmp_path.glob("out.?-of-2.jsonl"))
    assert "complete" == shard_made(emulator, output, Shard(0, 2)).status


@pytest.mark.parametrize("kind", [StorageError, ConfigurationError])
def test_emptying_that_removes_nothing_leaves_all_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[CrowdTwistError]
) -> None:
    """The first shard can't be emptied: nothing is between old and new."""
    _, output = two_shards(tmp_path)

    def refuse(*_: object) -> None:
        raise kind("the disk is full")

    monkeypatch.setattr(export_dask, "_emptied", refuse)
    with pytest.raises(kind):
        prepared(output, fresh=True)
    assert "merged" == merge(output).status


def two_shards(folder: Path) -> tuple[Emulator, Path]:
    """Two complete shards, where they are from, and the output that they are of."""
    emulator, output = Emulator(members=20, api_key=KEY), folder / "out.jsonl"
    for index in range(2):
        shard_made(emulator, output, Shard(index, 2))
    return emulator, output


def prepared(output: Path, *, fresh: bool) -> dict[Shard, Any]:
    """What is known of two shards before they are exported."""

    async def prepare() -> dict[Shard, Any]:
        before, _ = await export_dask._prepared(output, 2, "purchases", anyio.Event(), fresh=fresh)
        return before

    return anyio.run(prepare)


def test_a_command_without_fresh_does_not_go_on_with_the_emptying(
    on_dask: Command, api: Api, tmp_path: Path
) -> None:
    """Only who asks for it has rows removed."""
    output = tmp_path / "out.jsonl"
    assert 0 == on_dask(output, "--shards", 2).code
    before, requests = bytes_in(tmp_path), api.stats.requests
    mark_half_emptied(output)

    refused = on_dask(output)
    assert 1 == refused.code
    assert "was interrupted with some shards emptied: give that command again" in refused.err
    (tmp_path / ".out.jsonl.emptying").unlink()
    assert (before, requests) == (bytes_in(tmp_path), api.stats.requests)


def test_a_name_that_is_too_long_for_the_last_shard_is_refused(tmp_path: Path) -> None:
    """Before any is begun: `10-of-11` takes more than `0-of-11`."""
    longest = 255 - len(".ledger.sqlite-journal") - len(".0-of-11")
    output = tmp_path / ("x" * (longest - len(".jsonl")) + ".jsonl")
    export_dask._check_apart(str(tmp_path / "ids"), output, 10)
    with pytest.raises(ConfigurationError, match="bytes, and the files beside it take some more"):
        export_dask._check_apart(str(tmp_path / "ids"), output, 11)


@pytest.mark.parametrize("name", ["out.jsonl", "out.1-of-2.jsonl", "out.0-of-2.jsonl.ledger.sqlite"])
def test_ids_in_a_file_that_a_shard_writes_are_refused(tmp_path: Path, name: str) -> None:
    """They would be removed before they are read."""
    ids = tmp_path / name
    ids.write_text("1\n")
    with pytest.raises(ConfigurationError, match=f"the ids are in .*/{name}, which this export writes"):
        export_dask._check_apart(str(ids), tmp_path / "out.jsonl", 2)
