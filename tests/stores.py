"""
Outputs in fsspec's store in memory, read back as their readers do, and a store that breaks where a test says.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from threading import Lock, local
from typing import Any

import fsspec
import msgspec
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from outputs import commit, opened

ROOT = "/bucket/out.parquet"
URL = f"memory:/{ROOT}"
LEASE = f"{ROOT}/_ledger/lease.json"
CALLS = ("pipe_file", "cat_file", "rm_file", "find", "isfile")
"""What the exporter calls."""
MEMBERS = ("a", "b", "c")

STORE = fsspec.filesystem("memory")
_COLUMNS = ["requested_id", "purchase_id"]


@contextmanager
def empty_store() -> Iterator[None]:
    """The one store in memory that a process has, empty before and afterwards; it logs none of its calls."""
    log = logging.getLogger("fsspec.memoryfs")
    level = log.level
    log.setLevel(logging.INFO)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    log.setLevel(level)


def stored() -> dict[str, bytes]:
    """Everything in the store."""
    return {path: file.getvalue() for path, file in STORE.store.items()}


def restore(content: dict[str, bytes]) -> None:
    """Have this in the store, and nothing besides."""
    STORE.store.clear()
    for path, some in content.items():
        STORE.store[path] = MemoryFile(STORE, path, some)


def names(root: str = ROOT) -> list[str]:
    """What is below a folder, without the lease."""
    found = [path.removeprefix(f"{root}/") for path in STORE.find(root)]
    return sorted(name for name in found if not name.endswith("/lease.json"))


def parts(root: str = ROOT) -> list[str]:
    """The parts, named by a manifest or not."""
    return [name for name in names(root) if name.endswith(".parquet")]


def rows(root: str = ROOT, store: Any = STORE) -> list[tuple[str, str]]:
    """Whose purchases a reader of the folder finds, sorted; doubled ones stand twice."""
    return _pairs(ds.dataset(root, filesystem=store, format="parquet").to_table(columns=_COLUMNS))


def rows_of_parts(root: str = ROOT) -> list[tuple[str, str]]:
    """The same, of the parts one by one, which takes a fraction of the time."""
    tables = [
        pq.ParquetFile(BytesIO(STORE.cat_file(f"{root}/{part}"))).read(_COLUMNS, use_threads=False)
        for part in parts(root)
    ]
    return sorted(pair for table in tables for pair in _pairs(table))


def _pairs(table: Any) -> list[tuple[str, str]]:
    return sorted((row["requested_id"], row["purchase_id"]) for row in table.to_pylist())


def manifests(folder: str = f"{ROOT}/_ledger", store: Any = STORE) -> list[Any]:
    """What the manifests hold, in their order."""
    found = sorted(path for path in store.find(folder) if path.endswith(".json.gz"))
    return [msgspec.json.decode(gzip.decompress(store.cat_file(path))) for path in found]


def expire(lease: str = LEASE, store: Any = STORE) -> None:
    """Let a minute pass in which nobody renews the lease."""
    if store.exists(lease):
        store.pipe_file(lease, b'{"owner":"gone","expires":"2026-01-31T00:00:00Z"}')


def export_all(url: str = URL, *, fresh: bool = False) -> None:
    """Export those members who are not done, a commit for each."""
    with closing(opened(url, fresh=fresh)) as target:
        if target.completed_at is None:
            for user_id in MEMBERS:
                if target.ledger.status_of(user_id) is None:
                    commit(target, user_id)
            target.complete()
        target.write_errors("id")


class Killed(BaseException):
    """The process is no more."""


class Breaking:
    """
    Counts the calls of the store in memory, and has something happen before or after one of them.

    What the store calls of itself, before it does anything, is a part of the call.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._at = 0
        self._after = False
        self._happens: Callable[[], None] = lambda: None
        self._counting = Lock()
        self._within = local()
        for name in CALLS:
            monkeypatch.setattr(MemoryFileSystem, name, self._around(getattr(MemoryFileSystem, name)))

    def arm(self, at: int, happens: Callable[[], None], *, after: bool = False) -> None:
        """Count from 1 again, and have it happen around this call."""
        self.count, self._at, self._after, self._happens = 0, at, after, happens

    def forever(self, error: BaseException) -> Callable[[], None]:
        """What lets nothing through any more, from the call on at which it happens."""

        def happens() -> None:
            self._at, self._after = self.count + 1, False
            raise error

        return happens

    def disarm(self) -> None:
        """Let nothing happen any more."""
        self._at = 0

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if getattr(self._within, "a_call", False):
                return call(*arguments, **options)
            with self._counting:
                self.count += 1
                is_it = self.count == self._at
            if is_it and not self._after:
                self._happens()
            self._within.a_call = True
            try:
                return call(*arguments, **options)
            finally:  # also after a call that fails, as removing what is not there
                self._within.a_call = False
                if is_it and self._after:
                    self._happens()

        return counted
