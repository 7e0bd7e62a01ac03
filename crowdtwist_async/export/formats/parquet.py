"""
Parquet: a folder of part files, which readers take as one table.

A part has no footer, and can't be read, until it is whole: so it is written under a name that readers
pass over, then renamed, then noted in the ledger. What the ledger does not name is removed on resuming.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.formats import Format, Limits
from crowdtwist_async.export.ledger import COMPLETED_AT, Ledger, Mark
from crowdtwist_async.export.locks import holding, locking
from crowdtwist_async.export.rows import SCHEMA_VERSION, Kind, Row, columns, flatten
from crowdtwist_async.export.shard import Shard
from crowdtwist_async.export.storage import changed, create, foreign, make_folder, storing, sync_folder

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise ConfigurationError(
        "Parquet needs one more package: pip install 'crowdtwist-async[parquet]'"
    ) from None

_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.JSON: pa.string(),
    Kind.INTEGER: pa.int64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.INSTANT: pa.timestamp("us", tz="UTC"),
}
_OURS = b"crowdtwist_async.schema"
_UNFINISHED = ".unfinished"
_LOCK_OF_SHARD = r"\.part-[0-9]{1,5}-of-[0-9]{1,5}\.lock"
"""What a kill leaves of a shard's lock."""
_GROUP = 10_000
"""Rows of a row group; so many are held in memory."""


class Names:
    """How the parts of an output are called, or those of one of its shards."""

    def __init__(self, shard: Shard | None) -> None:
        self._begin = "part-" if shard is None else f"part-{shard.tag}-"
        self._own = rf"{self._begin}([0-9]{{6,}})\.parquet"
        others = "" if shard is None else rf"part-[0-9]{{1,5}}-of-{shard.count}-[0-9]{{6,}}\.parquet"
        self._others = others

    def part(self, number: int) -> str:
        """The name of a part."""
        return f"{self._begin}{number:06}.parquet"

    def next_number(self, known: Iterable[str]) -> int:
        """The first that no part has."""
        return 1 + max(map(self.number, known), default=0)

    def number(self, name: str) -> int:
        """The number of a part; 0: it has no such name."""
        match = re.fullmatch(self._own, name)
        return int(match[1]) if match else 0

    def are_own(self, name: str) -> bool:
        """Whether it is the name of a part."""
        return re.fullmatch(self._own, name) is not None

    def are_others(self, name: str) -> bool:
        """Whether it is the name of another shard's part."""
        return re.fullmatch(self._others, name) is not None

    def are_taken_by(self, name: str) -> bool:
        """Whether a file is in the way: to an export that has the folder for itself, all are."""
        if self._others:
            return self.are_own(name)
        return re.fullmatch(_LOCK_OF_SHARD, name) is None

    @contextmanager
    def held(self, folder: Path) -> Iterator[None]:
        """
        Lock a folder, for its shards together, and for each shard once.

        A ledger's lock is by its name, and a folder may have several.
        """
        with ExitStack() as locks:
            locks.enter_context(holding(os.open(folder, os.O_RDONLY), folder, alone=not self._others))
            if self._others:
                locks.enter_context(locking(folder / self._begin.rstrip("-"), f"this shard of {folder}"))
            yield

    def parts(self, folder: Path, known: Container[str] = ()) -> list[Path]:
        """The parts that an export wrote, unfinished ones included; in the folder no others may be."""
        parts = []
        for path in sorted(folder.iterdir()):
            unfinished = re.fullmatch(rf"\.{self._own}{_UNFINISHED}", path.name)
            if unfinished or path.name in known or (self.are_own(path.name) and is_ours(path)):
                parts.append(path)
            elif path.suffix == ".parquet" and not self.are_others(path.name):
                raise foreign(path, "is a part that no export wrote, and would be read as one")
        return parts


class PartWriter:
    """Makes a part for every commit that has rows."""

    limits = Limits(seconds=60.0, members=100_000, rows=100_000)

    def __init__(self, place: object, ledger: Ledger, name: str) -> None:
        self._place = place
        self._ledger = ledger
        fields = [pa.field(column, _TYPES[kind]) for column, kind in columns(name).items()]
        self._schema = pa.schema(fields, metadata={_OURS: str(SCHEMA_VERSION)})
        self._group: list[list[Any]] = []
        self._part: Any = None
        self._file: Any = None
        self._rows = 0

    def write(self, rows: Sequence[Row]) -> None:
        """Take a member's rows; whole row groups go into the part's file."""
        self._group += [flatten(row) for row in rows]
        while len(self._group) >= _GROUP:
            self._write_group()

    def _write_group(self) -> None:
        group, self._group = self._group[:_GROUP], self._group[_GROUP:]
        by_column = zip(*group, strict=True) if group else [()] * len(self._schema)
        arrays = [
            pa.array(values, type=field.type) for values, field in zip(by_column, self._schema, strict=True)
        ]
        with storing(self._place):
            if self._part is None:
                self._file = self._begun()
                self._part = pq.ParquetWriter(self._file, self._schema, compression="zstd")
            self._part.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows += len(group)

    def commit(self, marks: Sequence[Mark]) -> None:
        """Complete the part, give it its name, and note it with the marks."""
        if self._group:
            self._write_group()
        self._ledger.commit(marks, part=self._completed() if self._part is not None else None)

    def _completed(self) -> tuple[str, int, int]:
        with storing(self._place):
            self._part.close()
            name, size = self._kept()
        noted = name, self._rows, size
        self._part, self._file, self._rows = None, None, 0
        return noted

    def _begun(self) -> Any:
        """A private file for a part."""
        raise NotImplementedError

    def _kept(self) -> tuple[str, int]:
        """Close the part's file, make it last under its name, and return that and its bytes."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write a part without rows if there is none, so that the folder has a schema."""
        if not self._ledger.parts():
            self._write_group()
            self.commit(())

    def close(self) -> None:
        """Drop a part that is not complete."""
        if self._file is None:
            return
        # Closing writes what is left, which a full disk refuses.
        with suppress(OSError):
            if self._part is not None:
                self._part.close()
        with suppress(OSError):
            self._file.close()


class ParquetWriter(PartWriter):
    """Keeps parts in a folder."""

    def __init__(self, names: Names, path: Path, ledger: Ledger, name: str) -> None:
        super().__init__(path, ledger, name)
        self._names = names
        self._path = path
        self._next = 1
        self._held = ExitStack()

    def recover(self) -> None:
        """Make the folder, remove parts that the ledger does not name, and check those that it names."""
        known = self._ledger.parts()
        if known and not self._path.is_dir():
            raise changed(self._path, "is not there any more")
        with storing(self._path):
            make_folder(self._path)
            sync_folder(self._path.parent)
            self._held.enter_context(self._names.held(self._path))
            found = self._names.parts(self._path, known)
            for part in found:
                if part.name not in known:
                    self._remove(part)
            sync_folder(self._path)
            sizes = {part.name: part.stat().st_size for part in found if part.exists()}
        if sizes != known:
            raise changed(self._path, "lacks a part that its ledger names, or has it in another size")
        self._next = self._names.next_number(known)

    def _remove(self, part: Path) -> None:
        """Remove what was not committed; with a complete output it is somebody's."""
        if not part.name.startswith(".") and self._ledger.get(COMPLETED_AT) is not None:
            raise changed(part, "is a part that its ledger does not name, though it was complete")
        part.unlink()

    @property
    def _unfinished(self) -> Path:
        return self._path / f".{self._names.part(self._next)}{_UNFINISHED}"

    def _begun(self) -> Any:
        self._unfinished.unlink(missing_ok=True)
        return os.fdopen(create(self._unfinished), "wb")

    def _kept(self) -> tuple[str, int]:
        name = self._names.part(self._next)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.rename(self._path / name)
        sync_folder(self._path)
        self._next += 1
        return name, (self._path / name).stat().st_size

    def close(self) -> None:
        """Drop a part that is not complete; what a crash leaves of one is removed on resuming."""
        if self._file is not None:
            super().close()
            with suppress(OSError):
                self._unfinished.unlink()
        self._held.close()


def is_ours(part: Path | BinaryIO) -> bool:
    """Whether an export wrote a part."""
    try:
        return _OURS in (pq.read_schema(part).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _discard(names: Names, path: Path) -> None:
    """Remove the parts; the folder, and what else is in it, stays."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise foreign(path, "is no folder of an export")
    with names.held(path):
        for part in names.parts(path):
            part.unlink()


def _is_taken(names: Names, path: Path) -> bool:
    if path.is_dir():
        return any(names.are_taken_by(file.name) for file in path.iterdir())
    return path.exists() or path.is_symlink()


def make_format(shard: Shard | None = None) -> Format:
    """Make the format; a shard has parts of its own, and touches no others."""
    names = Names(shard)
    return Format(
        writer=partial(ParquetWriter, names),
        discard=partial(_discard, names),
        is_taken=partial(_is_taken, names),
        is_folder=True,
    )
