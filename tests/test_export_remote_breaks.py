"""
An export to a store that breaks at any call: resumed, it has every row once, and nothing besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from outputs import expected, exported
from stores import (
    MEMBERS,
    STORE,
    URL,
    Breaking,
    Killed,
    empty_store,
    expire,
    export_all,
    manifests,
    names,
    parts,
    restore,
    rows,
    rows_of_parts,
    stored,
)

from crowdtwist_async import OutputLockedError, StorageError
from crowdtwist_async.export.remote import objects

WHOLE = expected(*MEMBERS)
on_both_sides = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    with empty_store():
        yield


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Breaking:
    """A store that breaks, and that nobody waits for."""
    monkeypatch.setattr(objects, "_PAUSES", (0.0, 0.0))
    return Breaking(monkeypatch)


def check_whole() -> None:
    """Every row is there once, and nothing that no manifest names."""
    assert WHOLE == rows_of_parts()
    found = manifests()
    first = max(number for number, manifest in enumerate(found) if manifest["begins"])
    assert not first
    assert sorted(manifest["part"]["name"] for manifest in found if manifest["part"]) == parts()
    assert list(MEMBERS) == [member["requested_id"] for manifest in found for member in manifest["members"]]
    assert any("completed_at" in manifest["state"] for manifest in found)
    assert len(names()) == len(parts()) + len(found)


def calls_of(breaking: Breaking, *, fresh: bool) -> int:
    """How many calls a whole export makes."""
    if fresh:
        export_all()
    breaking.arm(0, lambda: None)
    export_all(fresh=fresh)
    count = breaking.count
    assert WHOLE == rows()
    check_whole()
    STORE.store.clear()
    return count


@on_both_sides
@pytest.mark.parametrize("fresh", [False, True], ids=["new", "fresh"])
def test_a_kill_at_any_call_is_recovered_from(breaking: Breaking, *, after: bool, fresh: bool) -> None:
    """The next run, once the lease has expired, goes on; also where `--fresh` had just begun."""
    calls = calls_of(breaking, fresh=fresh)
    if fresh:
        export_all()
    before = stored()
    for at in range(1, calls + 1):
        restore(before)
        breaking.arm(at, breaking.forever(Killed()), after=after)
        with pytest.raises(Killed):
            export_all(fresh=fresh)
        breaking.disarm()
        expire()
        export_all()
        check_whole()


@on_both_sides
def test_a_second_kill_while_it_recovers_is_recovered_from(breaking: Breaking, *, after: bool) -> None:
    """Wherever the first run was killed, and the second."""
    calls = calls_of(breaking, fresh=False)
    for first in range(1, calls + 1, 6):
        for second in range(1, calls + 1, 2):
            breaking.arm(first, breaking.forever(Killed()), after=True)
            with pytest.raises(Killed):
                export_all()
            breaking.disarm()
            expire()
            breaking.arm(second, breaking.forever(Killed()), after=after)
            try:
                export_all()
            except Killed:
                breaking.disarm()
                expire()
            breaking.disarm()
            export_all()
            check_whole()
            STORE.store.clear()


@on_both_sides
def test_a_network_that_goes_at_any_call_is_told(breaking: Breaking, *, after: bool) -> None:
    """Whether or not the store had done what it was asked; the next run goes on."""
    said = set()
    for at in range(1, calls_of(breaking, fresh=False) + 1):
        breaking.arm(at, breaking.forever(OSError(113, "No route to host")), after=after)
        try:
            export_all()
        except StorageError as error:
            said.add(str(error))
        breaking.disarm()
        expire()
        export_all()
        check_whole()
        STORE.store.clear()
    words = f"{URL} can't be read or written: No route to host. Put that right and export again: it goes on"
    assert {f"{words} from what was committed"} == said


@on_both_sides
def test_a_fault_that_passes_is_not_noticed(breaking: Breaking, *, after: bool) -> None:
    """Each call is tried again, also one whose effect had come about."""

    def fails() -> None:
        breaking.disarm()
        raise TimeoutError

    for at in range(1, calls_of(breaking, fresh=False) + 1):
        breaking.arm(at, fails, after=after)
        export_all()
        check_whole()
        STORE.store.clear()


@on_both_sides
@pytest.mark.parametrize("fresh", [False, True], ids=["goes-on", "fresh"])
def test_somebody_who_takes_over_at_any_call_keeps_its_rows(
    breaking: Breaking, *, after: bool, fresh: bool
) -> None:
    """The exporter that was thought dead wakes up after it, and stops; it neither adds nor removes a row."""

    def taken_over() -> None:
        breaking.disarm()
        expire()
        export_all(fresh=fresh)

    told = 0
    for at in range(1, calls_of(breaking, fresh=False) + 1):
        breaking.arm(at, taken_over, after=after)
        try:
            export_all()
        except OutputLockedError:
            told += 1
        assert WHOLE == rows_of_parts()
        expire()
        export_all()
        check_whole()
        STORE.store.clear()
    assert told


def test_it_is_what_a_local_export_is(tmp_path: Path) -> None:
    """The same rows, read in the same way."""
    local = tmp_path / "out.parquet"
    exported(local, *MEMBERS)
    export_all()

    remote = [
        row
        for name in parts()
        for row in pq.read_table(f"/bucket/out.parquet/{name}", filesystem=STORE).to_pylist()
    ]
    assert pq.read_table(local).to_pylist() == remote
