"""
`python -m benchmarks.dask_export [--members 20000]`: exports on Dask against one without, and what they lose.

Purchases to Parquet from the emulator on a socket, as commands: without Dask; with `--dask local`; the same
with a SIGKILL for a worker when three quarters of the requests are made; the same with a SIGKILL for the
command and all workers, and run again. Rows must be those of the first. Then a scheduler and two workers of
their own, and everything that Dask keeps and shows of a run is searched for the key and for ids. Ends with
1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pyarrow.parquet as pq

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.emulator.server import EmulatorServer

_KEY = "canary-K3y-of-the-benchmark"
_DAY = "2026-09-30"
_PATIENCE = 300.0
_PAGES = (
    "json/counts.json",
    "json/identity.json",
    "metrics",
    "info/main/workers.html",
    "info/main/logs.html",
    "info/main/exceptions.html",
    "sitemap.json",
)


class _Bench:
    """An emulator, a folder, and the command."""

    def __init__(self, emulator: Emulator, url: str, folder: Path) -> None:
        self.emulator = emulator
        self.folder = folder
        self.ids = folder / "ids.txt"
        self.ids.write_text("\n".join(emulator.member_ids()))
        self.environment = {
            **os.environ,
            "CROWDTWIST_API_KEY": _KEY,
            "CROWDTWIST_API_URL": url,
            "CROWDTWIST_POS_URL": url,
            "NO_PROXY": "*",
        }
        self.problems: list[str] = []
        self.rows: list[Any] = []
        self.pages = {user: max(1, math.ceil(emulator.purchases_of(user) / 10)) for user in _ids(emulator)}

    def begin(self, name: str, *flags: str) -> subprocess.Popen[str]:
        """Begin an export."""
        command = [sys.executable, "-W", "error", "-m", "crowdtwist_async", "export", "purchases"]
        where = ["--ids", f"{self.ids}", "-o", f"{self.folder / name}.parquet", "--date-end", _DAY]
        rate = ["--per-minute", "1000000"]
        return subprocess.Popen(
            [*command, *where, *rate, *flags], env=self.environment, stderr=subprocess.PIPE, text=True
        )

    def finish(self, name: str, command: subprocess.Popen[str], begun: float) -> None:
        """Wait for its end, and compare its rows."""
        _, said = command.communicate(timeout=_PATIENCE)
        self.check(command.returncode == 0, f"{name} ended with {command.returncode}: {said}")
        rows = _rows(self.folder / f"{name}.parquet")
        self.rows = self.rows or rows
        requests = self.emulator.stats.requests
        print(
            f"{name:<22} {time.perf_counter() - begun:6.1f} s  {len(rows):>9,} rows  {requests:>7,} requests"
            f"  exit code {command.returncode}",
            flush=True,
        )
        self.check(rows == self.rows, f"{name} has other rows")
        self.check(not re.search("Traceback|never retrieved", said), f"{name} says {said}")

    def check(self, holds: bool, problem: str) -> None:  # noqa: FBT001 - a condition
        """Note a problem."""
        if not holds:
            self.problems.append(problem)
            print(f"WRONG: {problem}", flush=True)


def _ids(emulator: Emulator) -> Iterator[str]:
    return emulator.member_ids()


def _rows(folder: Path) -> list[Any]:
    table = pq.read_table(folder)
    columns = table.select(["requested_id", "purchase_id"]).to_pydict()
    return sorted(zip(columns["requested_id"], columns["purchase_id"], strict=True))


def _until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("it never came")
        time.sleep(0.02)


def _workers_of(command: subprocess.Popen[str]) -> list[int]:
    """The processes of a local cluster's workers."""
    threads = Path(f"/proc/{command.pid}/task").iterdir()
    children = [pid for thread in threads for pid in (thread / "children").read_text().split()]
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _plain(bench: _Bench, name: str, *flags: str) -> None:
    bench.emulator.reset_stats()
    begun = time.perf_counter()
    bench.finish(name, bench.begin(name, *flags), begun)


def _worker_killed(bench: _Bench) -> None:
    bench.emulator.reset_stats()
    begun = time.perf_counter()
    command = bench.begin("worker-killed", "--dask", "local")
    _until(lambda: bench.emulator.stats.requests > 0.75 * sum(bench.pages.values()))
    os.kill(_workers_of(command)[0], signal.SIGKILL)
    bench.finish("worker-killed", command, begun)


def _cluster_killed(bench: _Bench) -> None:
    bench.emulator.reset_stats()
    name = "cluster-killed"
    command = bench.begin(name, "--dask", "local")
    _until(lambda: bench.emulator.stats.requests > 0.75 * sum(bench.pages.values()))
    workers = _workers_of(command)
    for pid in (command.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    command.communicate(timeout=_PATIENCE)
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    done = {ledger: _done(ledger) for ledger in sorted(bench.folder.glob(f"{name}.*.ledger.sqlite"))}
    complete = {ledger: ledger.read_bytes() for ledger, (is_complete, _) in done.items() if is_complete}
    members = {user for _, users in done.values() for user in users}
    left = sum(pages for user, pages in bench.pages.items() if user not in members)
    print(
        f"  killed: {len(complete)} of {len(done)} shards complete, {len(members):,} members done", flush=True
    )
    bench.emulator.reset_stats()
    begun = time.perf_counter()
    bench.finish(name, bench.begin(name, "--dask", "local"), begun)
    made = bench.emulator.stats.requests
    bench.check(made == left, f"{made:,} requests were made for what was left, and {left:,} were to make")
    bench.check(bool(complete), "no shard was complete when the cluster was killed")
    bench.check(
        all(ledger.read_bytes() == content for ledger, content in complete.items()),
        "a complete shard was begun again",
    )


def _done(ledger: Path) -> tuple[bool, list[str]]:
    """Whether a shard is complete, and its members that are done."""
    with closing(sqlite3.connect(ledger)) as connection:
        state = dict(connection.execute("SELECT key, value FROM export_state"))
        return "completed_at" in state, [
            row[0] for row in connection.execute("SELECT requested_id FROM members")
        ]


@contextmanager
def _own_cluster(bench: _Bench) -> Iterator[tuple[str, str, list[Path]]]:
    """A scheduler and two workers as commands; the scheduler has no key. Their logs are files."""
    public = {name: text for name, text in bench.environment.items() if not name.startswith("CROWDTWIST_")}
    file = bench.folder / "scheduler.json"
    logs = [bench.folder / f"{name}.log" for name in ("scheduler", "worker-0", "worker-1")]
    flags = ["--scheduler-file", f"{file}"]
    kinds = [
        ["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"],
        *[["worker", "--nthreads", "1", "--no-nanny", "--local-directory", f"{bench.folder}"]] * 2,
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for kind, log in zip(kinds, logs, strict=True):
            with log.open("wb") as output:
                environment = public if kind[0] == "scheduler" else bench.environment
                command = [sys.executable, "-m", "dask", *kind, *flags]
                running.append(
                    subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                )
            _until(lambda: "dashboard at:" in logs[0].read_text())
        said = logs[0].read_text()
        scheduler, dashboard = re.search(r"tcp://[\d.:]+", said), re.search(r"http://[\d.:]+", said)
        if scheduler is None or dashboard is None:
            raise RuntimeError(f"the scheduler says {said}")
        yield scheduler[0], dashboard[0], logs
    finally:
        # The workers first: they take their leave of the scheduler.
        for process in reversed(running):
            process.terminate()
            process.wait(60)


def _page(url: str) -> str:
    with build_opener(ProxyHandler({})).open(url, timeout=30) as reply:
        return str(reply.read(), "utf-8", "replace")


async def _kept(address: str, folder: Path) -> str:
    """All that the scheduler and the workers keep: their state, tasks, logs and events."""
    from distributed import Client

    async with Client(address, asynchronous=True) as client:
        await client.dump_cluster_state(str(folder / "state"), format="yaml")
        texts = [(folder / "state.yaml").read_text()]
        texts += [repr(await client.get_scheduler_logs()), repr(await client.get_worker_logs())]
        texts += [repr(await client.get_events()), repr(await client.get_task_stream())]
        texts.append(repr(await client.run_on_scheduler(_run_specs)))
    return "\n".join(texts)


def _run_specs(dask_scheduler: Any) -> list[str]:
    import pickle

    return [f"{key} {pickle.dumps(task.run_spec)!r}" for key, task in dask_scheduler.tasks.items()]


def _search(bench: _Bench) -> None:
    bench.emulator.reset_stats()
    with _own_cluster(bench) as (address, dashboard, logs):
        begun = time.perf_counter()
        command = bench.begin("own-cluster", "--dask", address)
        _until(lambda: bench.emulator.stats.requests > 0.4 * sum(bench.pages.values()))
        during = asyncio.run(_kept(address, bench.folder))
        keys = sorted(set(re.findall(r"crowdtwist-shard-\d+-of-\d+-[0-9a-f]{12}", during)))
        pages = [*_PAGES, *(f"info/task/{key}.html" for key in keys)]
        shown: list[str] = []
        for page in pages:
            try:
                shown.append(_page(f"{dashboard}/{page}"))
            except OSError as error:
                print(f"  no page {page}: {error}", flush=True)
        bench.finish("own-cluster", command, begun)
        after = asyncio.run(_kept(address, bench.folder))
    texts = {"state": during, "state after": after, "pages": "\n".join(shown)}
    texts |= {log.name: log.read_text() for log in logs}
    bench.check(bool(keys) and str(bench.ids) in during, "the state shows no task")
    ids = set(_ids(bench.emulator))
    for name, text in texts.items():
        found = ids.intersection(re.findall(r"\b\d{8}\b", text))
        bench.check(_KEY not in text, f"the key is in: {name}")
        bench.check(not found, f"{len(found)} ids are in: {name}")
    print(
        f"  searched: {sum(map(len, texts.values())):,} characters of {len(keys)} tasks, {len(shown)} pages,"
        f" {len(logs)} logs",
        flush=True,
    )


def main() -> int:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--members", type=int, default=20_000)
    members = parser.parse_args().members
    emulator = Emulator(members=members, api_key=_KEY)
    with tempfile.TemporaryDirectory() as folder, EmulatorServer(emulator) as server:
        bench = _Bench(emulator, server.url, Path(folder))
        _plain(bench, "one-process")
        _plain(bench, "dask-local", "--dask", "local")
        _worker_killed(bench)
        _cluster_killed(bench)
        _search(bench)
    print("wrong" if bench.problems else "all right")
    return 1 if bench.problems else 0


if __name__ == "__main__":
    sys.exit(main())
