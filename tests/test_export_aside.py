"""
Lines that can be read once, kept in a temporary file: for whoever reads them, and as often.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from traceback import clear_frames

import pytest

from crowdtwist_async import ConfigurationError, StorageError
from crowdtwist_async.export.aside import AT_ONCE, Kept, chunked

PATIENCE = 30.0
MANY = [f"{number} ä\n\0\u2028" for number in range(3_000)]
"""More than are read together, with all that could be taken for the end of a line."""


@pytest.mark.parametrize("number", [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3_000])
def test_lines_come_back_as_they_were(number: int) -> None:
    """All of them, each time."""
    kept = Kept(iter(MANY[:number]))

    assert MANY[:number] == list(kept())
    assert MANY[:number] == list(kept())
    assert MANY[:number] == [line for some in chunked(MANY[:number]) for line in some]


def test_two_may_read_at_once() -> None:
    """Each gets all lines."""
    kept = Kept(iter(MANY))

    assert list(zip(MANY, MANY, strict=True)) == list(zip(kept(), kept(), strict=True))


def test_the_second_thread_waits_for_the_first() -> None:
    """It takes none of the lines that the first still puts aside."""
    begun, more = Event(), Event()
    found: list[list[str]] = []

    def lines() -> Iterator[str]:
        begun.set()
        assert more.wait(PATIENCE)
        yield from MANY

    kept = Kept(lines())
    first, second = (Thread(target=lambda: found.append(list(kept()))) for _ in range(2))
    first.start()
    assert begun.wait(PATIENCE)
    second.start()
    second.join(0.05)
    more.set()
    first.join(PATIENCE)
    second.join(PATIENCE)

    assert [MANY, MANY] == found


def test_lines_that_failed_are_not_taken_up() -> None:
    """The rest of them would pass for the whole."""

    class Failing:
        """Goes on after a failure, as standard input does."""

        def __init__(self) -> None:
            self._numbers = iter(range(3))

        def __iter__(self) -> Failing:
            return self

        def __next__(self) -> str:
            number = next(self._numbers)
            if number == 1:
                raise LookupError("broken")
            return str(number)

    kept = Kept(Failing())
    with pytest.raises(LookupError, match="^broken$"):
        kept()

    with pytest.raises(
        ConfigurationError, match="^the ids can be read once, and that failed: give them anew$"
    ):
        kept()


@pytest.mark.parametrize("number", [1, 3_000])
def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Once, and before anything is read: no write is left for when the file is closed."""
    with Path("/dev/full").open("w+b") as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: full)

        with pytest.raises(
            StorageError, match="^the temporary file of the ids can't be written: No space left on device. "
        ) as caught:
            Kept(iter(MANY[:number]))()
        clear_frames(caught.tb)
        gc.collect()

        assert full.raw.closed


def test_a_missing_temporary_folder_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable that names it may be wrong."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    with pytest.raises(
        StorageError, match="^the temporary file of the ids can't be written: No such file or directory. "
    ):
        Kept(iter(MANY))()


def test_the_temporary_file_goes_with_what_it_keeps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has no name while it is there, and nobody is warned of it when it is not."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Kept(iter(MANY))
    lines = kept()
    next(lines)

    assert [] == list(tmp_path.iterdir())
    del kept
    assert MANY[1:] == list(lines)
    gc.collect()
