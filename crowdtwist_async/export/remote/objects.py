"""
Objects of a store: written whole and read whole, with faults that pass tried again, and others told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

from crowdtwist_async.errors import ConfigurationError, StorageError
from crowdtwist_async.export.storage import NEEDS_MORE

T = TypeVar("T")

_URL = re.compile(r"(?:(?:s3a?|gs|gcs)://[^/@:]+/|memory://)[^?#]*[^/?#]")
_PACKAGES = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Our extra for each kind of store."""
_PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each further try; the stores' packages have tries of their own within one of these."""
_LASTING = (FileNotFoundError, PermissionError, NotImplementedError, TypeError, ValueError)
_AT_ONCE = 16
_MOST_SAID = 200
_LONGEST_CLOSE = 5.0
"""Seconds."""
_FINALIZER = "close_session"
"""What stores with connections call when they are collected: it takes whatever event loop runs there."""


class Objects:
    """
    The objects below a folder; names are relative to it.

    Raises:
        StorageError: The store refuses, or can't be reached. This holds for every method.
    """

    def __init__(self, store: Any, root: str, place: str, output: str = "") -> None:
        self._store: Any = store
        self._root = root
        self._output = output or place
        self.place = place
        """Its URL."""

    @classmethod
    def at(cls, url: str) -> Objects:
        """
        Those below a URL.

        Raises:
            ConfigurationError: It is none of a store that is known, or a package is missing.
        """
        place = url.rstrip("/")
        if "::" in place or not _URL.fullmatch(place):
            # Not printed: what should not be in it may be a secret.
            raise ConfigurationError(
                "an object store is named as s3://bucket/folder/OUT.parquet, gs:// or memory://, without user"
                " or query, as credentials come from where the store's own tools take them; a local output is"
                " named by its path"
            )
        return cls(*open_store(place), place)

    def close(self) -> None:
        """Close the connections of the store, once."""
        store, self._store = self._store, None
        close_store(store)

    def split(self) -> tuple[Objects, str]:
        """The folder that this one is in, and its name there."""
        root, _, name = self._root.rpartition("/")
        return Objects(self._store, root, self.place.removesuffix(f"/{name}"), self.place), name

    def url(self, name: str) -> str:
        """The whole address of an object."""
        return f"{self.place}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def sizes(self) -> dict[str, int]:
        """The names of all objects, and their bytes."""
        found = self._ask(lambda: self._store.find(self._root, detail=True))
        begin = f"{self._root}/"
        return {
            path.removeprefix(begin): about["size"]
            for path, about in sorted(found.items())
            if path.startswith(begin) and not path.endswith("/")
        }

    def is_object(self) -> bool:
        """Whether the folder's own name is that of an object."""
        return bool(self._ask(lambda: self._store.isfile(self._root)))

    def read(self, name: str) -> bytes | None:
        """All of an object; `None`: it is not there."""
        return self._ask(lambda: self._found(name))

    def _found(self, name: str) -> bytes | None:
        try:
            content: bytes = self._store.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        return content

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Many objects, in their order, some at a time."""
        left = iter(names)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            while some := list(islice(left, 2 * _AT_ONCE)):
                yield from zip(some, threads.map(self.read, some), strict=True)

    def put(self, name: str, content: bytes) -> None:
        """Write an object, whatever is in its place."""
        self._ask(lambda: self._store.pipe_file(self._path(name), content))

    def create(self, name: str, content: bytes) -> bytes | None:
        """Write an object unless another is in its place, and return that other."""

        def create() -> bytes | None:
            try:
                self._store.pipe_file(self._path(name), content, mode="create")
            except Exception:
                # Stores say in many ways that it is there; it may also be ours, of a try that seemed to fail.
                there = self._found(name)
                if there is None:
                    raise
                return None if there == content else there
            return None

        return self._ask(create)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there need not be."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for _ in threads.map(self._remove, names):
                pass

    def _remove(self, name: str) -> None:
        def remove() -> None:
            with suppress(FileNotFoundError):
                self._store.rm_file(self._path(name))

        self._ask(remove)

    def _ask(self, call: Callable[[], T]) -> T:
        reason = ""
        for pause in (*_PAUSES, None):
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - each store has errors of its own
                reason, lasts = _reason(error), _lasts(error)
            if lasts or pause is None:
                break
            time.sleep(pause)
        raise StorageError(
            f"{self._output} can't be read or written: {reason}. Put that right and export again: it goes on"
            " from what was committed"
        )


def open_store(place: str) -> tuple[Any, str]:
    """
    The store of a URL, shared with nobody and without a memory of what it listed, and the path in it.

    Raises:
        ConfigurationError: A package is missing.
        StorageError: It can't be opened.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ConfigurationError(NEEDS_MORE) from None
    protocol = place.partition("://")[0]
    try:
        store, root = url_to_fs(place, skip_instance_cache=True, use_listings_cache=False)
    except ImportError:
        package = _PACKAGES.get(protocol, "remote")
        raise ConfigurationError(
            f"{protocol}:// needs one more package: pip install 'crowdtwist-async[{package}]'"
        ) from None
    except Exception as error:  # noqa: BLE001 - each store has errors of its own
        reason = _reason(error)
    else:
        if hasattr(store, _FINALIZER):
            setattr(store, _FINALIZER, _left_open)
        return store, root
    raise StorageError(f"{place} can't be opened: {reason}. Put that right and export again")


def _left_open(*_: Any) -> None:
    """Close nothing: `close_store` does."""


def close_store(store: Any) -> None:
    """Close a store's connections, in the event loop that they belong to: fsspec's, in a thread."""
    if not hasattr(store, _FINALIZER):
        return
    from fsspec.asyn import sync

    with suppress(Exception):  # of a store that can't be used, as was told before
        # What s3fs and gcsfs document as that which is to be closed.
        if hasattr(store, "set_session"):
            session = sync(store.loop, store.set_session, timeout=_LONGEST_CLOSE)
        else:
            session = store.session
        if session is not None:
            sync(store.loop, session.close, timeout=_LONGEST_CLOSE)


def _lasts(error: Exception) -> bool:
    """Whether another try would meet it as well."""
    return isinstance(error, _LASTING) or "Credentials" in type(error).__name__


def _reason(error: Exception) -> str:
    """What a store says, without what signs an address."""
    said = getattr(error, "strerror", None) or str(error)
    first = (said.strip().splitlines() or [""])[0]
    clean = re.sub(r"://[^/\s@]*@", "://", re.sub(r"[?#][^\s\"']*", "", first)).rstrip(". ")[:_MOST_SAID]
    if isinstance(error, PermissionError):
        return f"it is not allowed ({clean})" if clean else "it is not allowed"
    if isinstance(error, FileNotFoundError):
        return f"it is not there ({clean})" if clean else "it is not there"
    return clean or type(error).__name__
