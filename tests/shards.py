"""
Shards of an export of the emulator's purchases, and what their files hold.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from conftest import KEY
from detours import rows_in

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import ExportReport, Shard, export

COUNT = 7
LAST_DAY = "2026-09-30"
MEMBERS = 24
"""Each shard has two of them or more; those of 3/7 have many pages."""


def emulator_of(members: int = MEMBERS) -> Emulator:
    """An API with the key of all tests."""
    return Emulator(members=members, api_key=KEY)


async def export_shard(
    emulator: Emulator, output: Path, shard: Shard | str | None, ids: Any = None, **options: Any
) -> ExportReport:
    """Export the purchases of one shard's members; `None`: of all."""
    async with emulator.client() as client:
        ids = list(emulator.member_ids()) if ids is None else ids
        return await export(
            client, "purchases", ids, output, **{"date_end": LAST_DAY, "shard": shard, **options}
        )


async def export_shards(
    emulator: Emulator, output: Path, count: int = COUNT, times: int = 1, **options: Any
) -> list[ExportReport]:
    """Export all shards, each so many times, in any order."""
    order = [Shard(index, count) for index in range(count)] * times
    random.shuffle(order)
    return [await export_shard(emulator, output, shard, **options) for shard in order]


def shard_made(emulator: Emulator, *arguments: Any, **options: Any) -> ExportReport:
    """The same as `export_shard`, from where no event loop runs."""
    return anyio.run(partial(export_shard, emulator, *arguments, **options))


def shards_made(emulator: Emulator, *arguments: Any, **options: Any) -> list[ExportReport]:
    """The same as `export_shards`, from where no event loop runs."""
    return anyio.run(partial(export_shards, emulator, *arguments, **options))


def copy_shards(output: Path, of: Collection[int] = range(COUNT)) -> None:
    """Put shards, complete, where an export would have made them; they are made once for each format."""
    for name, content in _made(output.name).items():
        if any(f".{index}-of-{COUNT}." in name or f"part-{index}-of-{COUNT}-" in name for index in of):
            path = output.parent / name
            path.parent.mkdir(exist_ok=True)
            path.touch(0o600)
            path.write_bytes(content)


@cache
def _made(name: str) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        shards_made(emulator_of(), Path(folder, name))
        return {file: content for file, (content, _) in contents(Path(folder)).items()}


def own(output: Path, index: int = 2, count: int = COUNT) -> Path:
    """The name of a shard's file."""
    return output.with_name(f"{output.stem}.{index}-of-{count}{output.suffix}")


def ledger_of_shard(output: Path, index: int = 2, count: int = COUNT) -> Path:
    """Where a shard's ledger is."""
    path = own(output, index, count)
    return path if path.suffix == ".sqlite" else path.with_name(f"{path.name}.ledger.sqlite")


def rows_of(output: Path) -> list[Any]:
    """All rows, sorted; doubled ones stand twice."""
    return sorted(rows_in(output), key=str)


def rows_of_shards(output: Path) -> list[Any]:
    """All rows of all shards, sorted; doubled ones stand twice."""
    places = [output] if output.suffix == ".parquet" else [own(output, index) for index in range(COUNT)]
    return sorted((row for place in places for row in rows_in(place)), key=str)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files below a folder, and when they were changed."""
    return {
        f"{file.relative_to(folder)}": (file.read_bytes(), file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file()
    }
