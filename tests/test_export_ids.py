"""
The members to export: lines of a file or of standard input, read one at a time.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from crowdtwist_async import ConfigurationError
from crowdtwist_async.export.ids import IdReader, read_ids

TEXTS = [
    pytest.param(b"1\n2\n3\n", ["1", "2", "3"], id="lines"),
    pytest.param(b"1\n2", ["1", "2"], id="no-final-newline"),
    pytest.param(b"1\r\n2\r\n", ["1", "2"], id="crlf"),
    pytest.param(b"\xef\xbb\xbf1\n2\n", ["1", "2"], id="byte-order-mark"),
    pytest.param(b"\xef\xbb\xbf \n1\n", ["1"], id="byte-order-mark-alone"),
    pytest.param(b"\n1\n\n \t\n\r\n2\n\n", ["1", "2"], id="blank-lines"),
    pytest.param(b"  1 \n\t2\t\n", ["1", "2"], id="white-space"),
    pytest.param(b"1\n2\n1 \n", ["1", "2"], id="duplicates"),
    pytest.param("ünï@example.com\nÀ b\n".encode(), ["ünï@example.com", "À b"], id="unicode"),
    pytest.param("a\u2028b\n".encode(), ["a\u2028b"], id="line-separator-is-no-newline"),
    pytest.param(b"a\x01b\n", ["a\x01b"], id="control-character-is-the-members-problem"),
    pytest.param(b"", [], id="empty"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test writes its ids."""
    return tmp_path / "ids.txt"


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_a_file_has_one_id_a_line(file: Path, text: bytes, expected: list[str]) -> None:
    """Whatever editor wrote it, the ids come out clean and in order."""
    file.write_bytes(text)

    assert expected == list(read_ids(str(file)))


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_standard_input_reads_like_a_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, expected: list[str]
) -> None:
    """`-` is the same text, whatever the encoding of the locale, and stays open."""
    file.write_bytes(text)
    with file.open(encoding="ascii") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)

        assert expected == list(read_ids("-"))
        assert os.fstat(stdin.fileno()).st_size == len(text)


def test_ids_are_read_as_they_are_wanted(tmp_path: Path) -> None:
    """The first id of a pipe is there before the second is written."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    both = os.open(fifo, os.O_RDWR)
    try:
        os.write(both, b"1\n")
        ids = read_ids(str(fifo))

        assert "1" == next(ids)
        os.write(both, b"2\n")
        assert "2" == next(ids)
    finally:
        os.close(both)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("missing.txt", "No such file or directory", id="missing"),
        pytest.param(".", "Is a directory", id="folder"),
    ],
)
def test_a_file_that_can_not_be_read_is_a_setting_to_correct(tmp_path: Path, name: str, reason: str) -> None:
    """The error names the file and the reason."""
    with pytest.raises(ConfigurationError) as caught:
        list(read_ids(str(tmp_path / name)))

    assert f"the ids in {tmp_path / name} can't be read: {reason}" == str(caught.value)


def test_a_file_that_is_not_utf_8_is_refused(file: Path) -> None:
    """Guessing the encoding would ask for the wrong members; the text is not repeated."""
    file.write_bytes("alice\nrené@example.com\n".encode("latin-1"))

    with pytest.raises(ConfigurationError, match=r"can't be read: they are no UTF-8 text$") as caught:
        list(read_ids(str(file)))
    assert "ren" not in str(caught.value)


def test_standard_input_that_is_not_utf_8_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a file, and not only where the locale's encoding is UTF-8."""
    file.write_bytes(b"1\n\xff\n")
    with file.open(encoding="latin-1") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)

        with pytest.raises(ConfigurationError, match="^the ids on standard input can't be read: they are no"):
            list(read_ids("-"))


def test_a_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter then has none."""
    monkeypatch.setattr(sys, "stdin", None)

    with pytest.raises(ConfigurationError, match="^standard input is closed: give --ids FILE$"):
        list(read_ids("-"))


@pytest.mark.anyio
async def test_ids_come_from_another_thread() -> None:
    """One for each call, in order, then `None` again and again."""
    with IdReader(["1", "2"]) as reader:
        assert ["1", "2", None, None] == [await reader.next() for _ in range(4)]


@pytest.mark.anyio
async def test_an_error_of_the_ids_is_raised_as_it_is(tmp_path: Path) -> None:
    """It crosses the threads."""
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    with IdReader(read_ids(str(tmp_path / "latin"))) as reader:
        with pytest.raises(ConfigurationError, match="can't be read: they are no UTF-8 text$"):
            await reader.next()


@pytest.mark.anyio
async def test_a_read_that_hangs_is_left_behind() -> None:
    """Leaving does not wait for an answer that may never come."""
    typed = threading.Event()

    def ids() -> Iterator[str]:
        typed.wait(10)
        yield "1"

    with anyio.fail_after(5), anyio.move_on_after(0.02) as waiting, IdReader(ids()) as reader:
        await reader.next()
    typed.set()

    assert waiting.cancelled_caught


def test_no_thread_is_left() -> None:
    """Neither after the last id, nor where the event loop ended before an answer."""
    typed = threading.Event()
    threads = threading.active_count()

    def ids() -> Iterator[str]:
        yield "1"
        typed.wait(10)
        yield "2"

    async def read() -> str | None:
        with IdReader(ids()) as reader:
            first = await reader.next()
            with anyio.move_on_after(0.02):
                await reader.next()
            return first

    assert "1" == anyio.run(read)
    typed.set()
    for thread in threading.enumerate()[threads:]:
        thread.join(5)
    assert threads == threading.active_count()
