"""
Shards: a run split by a hash of the ids, so that any scheduler can run its parts side by side.

An id belongs to the shard `hash % count`; the hash is the first 4 bytes of the SHA-256 of its UTF-8 text,
as a big-endian number. Any language can tell, on any machine, in any order.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from attrs import frozen

from crowdtwist_async.errors import ConfigurationError, OutputMismatchError
from crowdtwist_async.export.storage import PRIVATE, storing, sync_folder

_HASH_BYTES = 4
_MOST = 99_999
_WHOLE = r"part-[0-9]{6,}\.parquet"
_TAG = "(0|[1-9][0-9]{0,4})-of-([1-9][0-9]{0,4})"
LEDGER = ".ledger.sqlite"
MERGED = "merged"
"""In the state of a SQLite file: it was merged out of shards."""


@frozen
class Shard:
    """
    One of the parts that a run is split into.

    Raises:
        ConfigurationError: There is no such shard.
    """

    index: int
    """From 0: the last is `count - 1`."""
    count: int
    """Shards in all."""

    def __attrs_post_init__(self) -> None:
        index, count = self.index, self.count
        if type(index) is not int or type(count) is not int or not 0 <= index < count <= _MOST:
            raise ConfigurationError(
                "a shard is i/n, such as 0/7 to 6/7: i counts from 0 and is less than n, the number of"
                f" shards, {_MOST:,} at most"
            )

    @classmethod
    def of(cls, text: Any) -> Shard:
        """
        Read `i/n`; a shard stays what it is.

        Raises:
            ConfigurationError: It is none.
        """
        if isinstance(text, Shard):
            return text
        match = re.fullmatch("([0-9]{1,5})/([0-9]{1,5})", text) if isinstance(text, str) else None
        # What is not i/n has no shard.
        return cls(int(match[1]), int(match[2])) if match else cls(0, 0)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def tag(self) -> str:
        """What the names of its files have."""
        return f"{self.index}-of-{self.count}"

    def holds(self, user_id: str) -> bool:
        """Whether an id belongs to it."""
        return int.from_bytes(sha256(user_id.encode()).digest()[:_HASH_BYTES]) % self.count == self.index

    def held(self, user_ids: Iterable[str]) -> list[str]:
        """Those of some ids that belong to it."""
        return [user_id for user_id in user_ids if self.holds(user_id)]

    def beside(self, output: Path) -> Path:
        """The name that its files have in common: `OUT.2-of-7.jsonl` for `OUT.jsonl`."""
        return output.with_name(f"{output.stem}.{self.tag}{output.suffix}")


def shards_at(output: Path) -> dict[Shard, str]:
    """The shards of an output of which something is there, and the name of one of its files."""
    found: dict[Shard, str] = {}
    for name, match in _tagged(output):
        index, count = int(match[1]), int(match[2])
        if index < count:
            found.setdefault(Shard(index, count), name)
    return dict(sorted(found.items(), key=lambda item: (item[0].count, item[0].index)))


def is_of_a_shard(output: Path, name: str) -> bool:
    """Whether a name beside an output is one that a shard of it gives to a file."""
    return re.fullmatch(rf"{_beside(output)}(\..*)?", name) is not None


def _beside(output: Path) -> str:
    return rf"{re.escape(output.stem)}\.{_TAG}{re.escape(output.suffix)}"


def _tagged(output: Path) -> Iterator[tuple[str, re.Match[str]]]:
    places = [(output.parent, rf"{_beside(output)}({re.escape(LEDGER)})?")]
    if output.is_dir():
        places.append((output, rf"part-{_TAG}-[0-9]{{6,}}\.parquet"))
    for folder, pattern in places:
        for path in sorted(folder.iterdir()):
            if match := re.fullmatch(pattern, path.name):
                yield path.name, match


def check_split(output: Path, shard: Shard | None) -> None:
    """
    Refuse to mix shards of several numbers, or shards and an export without any.

    Args:
        output: The output that the shards make together.
        shard: What is about to be exported; `None`: all.

    Raises:
        OutputMismatchError: Something else lies there.
    """
    counts = {found.count: name for found, name in shards_at(output).items()}
    whole = _whole_at(output) if shard is not None else None
    check_mixture(output, counts, None if whole is None else whole.name, shard)


def check_mixture(output: object, counts: Mapping[int, str], whole: str | None, shard: Shard | None) -> None:
    """
    Refuse to mix shards of several numbers, or shards and an export without any.

    Args:
        output: What they make together.
        counts: The numbers of shards that are there, each with a name that shows it.
        whole: What shows that an export without shards is there.
        shard: What is about to be exported; `None`: all.

    Raises:
        OutputMismatchError: They would be mixed.
    """
    for count, name in counts.items():
        if shard is None:
            raise OutputMismatchError(
                f"{output} is made with --shard i/{count}, as {name} shows: give the shard, move them all"
                " away, or name another output"
            )
        if count != shard.count:
            raise OutputMismatchError(
                f"{output} is made with --shard i/{count}, as {name} shows: give that number of shards, move"
                " them away, or name another output"
            )
    if shard is not None and whole is not None:
        raise OutputMismatchError(
            f"{output} is made without --shard, as {whole} shows: go on without, move it away, or name"
            " another output"
        )


def _mark(output: Path) -> Path:
    return output.with_name(f".{output.name}.emptying")


def check_not_half_emptied(output: Path) -> None:
    """
    Refuse shards of which some are emptied and some are not.

    Raises:
        OutputMismatchError: They are such.
    """
    if _mark(output).exists():
        raise OutputMismatchError(
            f"{output} was to be begun anew with --dask and --fresh, which was interrupted with some shards"
            f" emptied: give that command again; or give each shard --fresh, and remove {_mark(output)}"
        )


def mark_half_emptied(output: Path) -> bool:
    """Note that shards are about to be emptied; return whether that was noted before."""
    mark = _mark(output)
    with storing(mark):
        was_marked = mark.exists()
        mark.touch(PRIVATE)
        sync_folder(output.parent)
    return was_marked


def unmark_half_emptied(output: Path) -> None:
    """Note that all of them are."""
    with storing(_mark(output)):
        _mark(output).unlink(missing_ok=True)


def _whole_at(output: Path) -> Path | None:
    """What an export without shards left there."""
    if output.suffix == ".sqlite":
        return output if output.is_file() and _is_whole(output) else None
    ledger = output.with_name(f"{output.name}{LEDGER}")
    parts = sorted(output.iterdir()) if output.is_dir() else []
    there = [ledger] if ledger.exists() and ledger.stat().st_size else []
    return next(iter([*there, *(part for part in parts if re.fullmatch(_WHOLE, part.name))]), None)


def _is_whole(database: Path) -> bool:
    """Whether a SQLite file is an export's, and no merged one."""
    with (
        suppress(sqlite3.DatabaseError),
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as connection,
    ):
        state = dict(connection.execute("SELECT key, value FROM export_state"))
        return bool(state) and MERGED not in state
    return False
