"""
Outputs in fsspec's store in memory, read back as their readers do, and a store that breaks where a test says.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Lock
from typing import Any

import fsspec
import msgspec
import pyarrow.dataset as ds
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from outputs import commit, opened

ROOT = "/bucket/out.parquet"
URL = f"memory:/{ROOT}"
LEASE = f"{ROOT}/_ledger/lease.json"
CALLS = ("pipe_file", "cat_file", "rm_file", "find", "isfile")
"""What the exporter calls."""
MEMBERS = ("a", "b", "c")

STORE = fsspec.filesystem("memory")


@contextmanager
def empty_store() -> Iterator[None]:
    """The store in memory, which is one for the whole process, with nothing in it before and afterwards."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def names(root: str = ROOT) -> list[str]:
    """What is below a folder, without the lease."""
    found = [path.removeprefix(f"{root}/") for path in STORE.find(root)]
    return sorted(name for name in found if not name.endswith("/lease.json"))


def parts(root: str = ROOT) -> list[str]:
    """The parts, named by a manifest or not."""
    return [name for name in names(root) if name.endswith(".parquet")]


def rows(root: str = ROOT, store: Any = STORE) -> list[tuple[str, str]]:
    """Whose purchases a reader of the folder finds, sorted; doubled ones stand twice."""
    table = ds.dataset(root, filesystem=store, format="parquet").to_table()
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
    """Counts the calls of the store in memory, and has something happen before or after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._at = 0
        self._after = False
        self._happens: Callable[[], None] = lambda: None
        self._counting = Lock()
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
            with self._counting:
                self.count += 1
                is_it = self.count == self._at
            if is_it and not self._after:
                self._happens()
            try:
                return call(*arguments, **options)
            finally:  # also after a call that fails, as removing what is not there
                if is_it and self._after:
                    self._happens()

        return counted
