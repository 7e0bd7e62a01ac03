"""
The members to export: a file, standard input or any iterable, read twice, in constant memory.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from fcntl import ioctl
from itertools import count
from pathlib import Path
from struct import unpack
from termios import FIONREAD
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import anyio
import pytest

from crowdtwist_async import ConfigurationError, InvalidArgumentError
from crowdtwist_async._threads import in_daemon_thread
from crowdtwist_async.export import IdSource, ids, read_ids
from crowdtwist_async.export.ids import IdCount, collect_ids

PATIENCE = 30.0
MANY = [str(number) for number in range(10_000_000, 10_003_000)]
"""More than are read together."""
WAYS = ["file", "gzip", "fifo", "substitution", "stdin", "gzip-stdin"]
Given = Callable[..., IdSource]


class Text(str):
    """A text that is no `str` itself, as numpy's are not."""

    __slots__ = ()


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Given]:
    """Give bytes in one of the ways that a command has."""
    opened: list[int] = []
    writers: list[Thread] = []

    def give(way: str, content: bytes, column: str | None = None) -> IdSource:
        path = tmp_path / "ids"
        content = gzip.compress(content) if way.startswith("gzip") else content
        if way in ("file", "gzip"):
            path.write_bytes(content)
            return read_ids(path, column)
        if way == "fifo":
            os.mkfifo(path)
            writers.append(Thread(target=path.write_bytes, args=[content]))
            writers[-1].start()
            return read_ids(str(path), column)
        reader, writer = os.pipe()
        opened.append(reader)
        writers.append(Thread(target=write_and_close, args=[writer, content]))
        writers[-1].start()
        if way == "substitution":
            return read_ids(f"/dev/fd/{reader}", column)
        monkeypatch.setattr(sys, "stdin", os.fdopen(reader, encoding="ascii", closefd=False))
        return read_ids("-", column)

    yield give
    for writer in writers:
        writer.join(PATIENCE)
    for descriptor in opened:
        os.close(descriptor)


def write_and_close(descriptor: int, content: bytes) -> None:
    """Write all of it to a pipe."""
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(content)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end
        sleep(0.001)


def all_of(source: IdSource) -> tuple[list[str], int]:
    """The ids and the number of blank lines, which are the same at each reading."""
    counted = source.count()
    ids = list(source.read())
    assert counted == source.count()
    assert ids == list(source.read())
    assert counted.ids == len(ids)
    return ids, counted.blank


async def asynchronously(user_ids: Iterable[Any]) -> AsyncIterator[Any]:
    """The same ids from an asynchronous generator."""
    for user_id in user_ids:
        yield user_id


async def count_of(user_ids: Any) -> IdCount:
    """What an export does with them first."""
    source = await collect_ids(user_ids)
    return await in_daemon_thread(source.count)


# Files and standard input


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("text", "expected", "blank"),
    [
        pytest.param(b"1\n2\n3\n", ["1", "2", "3"], 0, id="lines"),
        pytest.param(b"1\n2", ["1", "2"], 0, id="no-final-newline"),
        pytest.param(b"1\r\n2\r\n", ["1", "2"], 0, id="crlf"),
        pytest.param(b"1\r2\r", ["1", "2"], 0, id="cr"),
        pytest.param(b"\xef\xbb\xbf1\n2\n", ["1", "2"], 0, id="byte-order-mark"),
        pytest.param(b"\xef\xbb\xbf \n1\n", ["1"], 1, id="byte-order-mark-alone"),
        pytest.param(b"\n1\n\n \t\n\r\n2\n\n", ["1", "2"], 5, id="blank-lines"),
        pytest.param("\u00a0 1 \n\t2\t\n".encode(), ["1", "2"], 0, id="white-space"),
        pytest.param(b"1\n2\n1 \n", ["1", "2", "1"], 0, id="duplicates"),
        pytest.param("ünï@example.com\nÀ b\n".encode(), ["ünï@example.com", "À b"], 0, id="unicode"),
        pytest.param("a\u2028b\n".encode(), ["a\u2028b"], 0, id="line-separator-is-no-newline"),
        pytest.param(b"a\x00b\n\x00\n", ["a\x00b", "\x00"], 0, id="nul-is-the-members-problem"),
        pytest.param(b'"1"\n1,2\n', ['"1"', "1,2"], 0, id="no-csv-without-a-column"),
        pytest.param("\n".join(MANY).encode(), MANY, 0, id="many"),
        pytest.param(b"\n" * 2_500 + b"1", ["1"], 2_500, id="many-blank-lines"),
        pytest.param(b"", [], 0, id="empty"),
    ],
)
def test_one_id_a_line(given: Given, way: str, text: bytes, expected: list[str], blank: int) -> None:
    """Whatever wrote it, and however it comes, the ids are clean, in order, and can be read again."""
    assert (expected, blank) == all_of(given(way, text))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("text", "expected", "blank"),
    [
        pytest.param(b"name,id\nA,1\nB,2\n", ["1", "2"], 0, id="second-column"),
        pytest.param(b"\xef\xbb\xbfid,name\r\n1,A\r\n2,B", ["1", "2"], 0, id="as-excel-writes-it"),
        pytest.param(b'"name"," id "\n"A"," 1 "\n', ["1"], 0, id="quotes-and-white-space"),
        pytest.param(b'name,id\n"A,\n""a""","1"\n"\r\n",2\n', ["1", "2"], 0, id="cells-with-newlines"),
        pytest.param(b'id\n"1\r\n2"\n', ["1\r\n2"], 0, id="an-id-with-a-newline-is-one"),
        pytest.param(b"name,id\nA\nB,2\n\nC,\n", ["2"], 3, id="short-rows"),
        pytest.param(b"id\na\x00b\n", ["a\x00b"], 0, id="nul"),
        pytest.param(b"id\n", [], 0, id="header-alone"),
    ],
)
def test_a_column_of_csv(given: Given, way: str, text: bytes, expected: list[str], blank: int) -> None:
    """The first line names the columns; a row without the cell counts as blank."""
    assert (expected, blank) == all_of(given(way, text, "id"))


@pytest.mark.parametrize("way", ["file", "stdin"])
@pytest.mark.parametrize(
    ("content", "column", "problem"),
    [
        pytest.param(
            b"alice\nren\xe9\n", None, "they are no UTF-8 text; save them as UTF-8", id="another-encoding"
        ),
        pytest.param(
            "alice\n".encode("utf-16"), None, "they are no UTF-8 text; save them as UTF-8", id="utf-16"
        ),
        pytest.param(
            b"id\n\xff\n", "id", "they are no UTF-8 text; save them as UTF-8", id="another-encoding-in-csv"
        ),
        *[
            pytest.param(
                content,
                None,
                "the gzip data is damaged or cut short; pack or copy them again",
                id=f"gzip-{what}",
            )
            for what, content in {
                "cut-short": gzip.compress(b"alice\n" * 9)[:-9],
                "checksum": gzip.compress(b"alice\n")[:-8] + bytes(8),
                "body": gzip.compress(b"alice\n")[:10] + b"\xff" * 9,
                "garbage-behind": gzip.compress(b"alice\n") + b"alice",
                "first-byte-alone": b"\x1falice\n",
            }.items()
        ],
        *[
            pytest.param(
                content,
                "id",
                "they are no CSV; look for a quote that is not closed, or that stands inside a cell, or for a cell of more than 131,072 characters",
                id=f"csv-{what}",
            )
            for what, content in {
                "open-quote": b'id\n"alice\n',
                "quote-inside": b'id\n"al"ice\n',
                "endless-cell": b"id\n" + b"alice" * 30_000,
            }.items()
        ],
    ],
)
def test_ids_that_can_not_be_read_are_refused(
    given: Given, way: str, content: bytes, column: str | None, problem: str
) -> None:
    """In one sentence that names the place and the cure, and repeats no id."""
    ids = given(way, content, column)

    with pytest.raises(
        ConfigurationError, match=r"^the ids (in .*ids|on standard input) can't be read: "
    ) as e:
        ids.count()
    assert str(e.value).endswith(f"can't be read: {problem}")
    assert "alice" not in str(e.value)


@pytest.mark.parametrize("text", [b"alice\nbob\n", b"alice;id\nbob;1\n", b"\nid\n1\n", b""], ids=repr)
def test_a_missing_column_is_refused(given: Given, text: bytes) -> None:
    """The header is not repeated: where there is none, it is a member."""
    with pytest.raises(ConfigurationError) as caught:
        given("file", text, "id").count()

    assert (
        "the ids' first line names no column id: check --column, and that commas part the columns"
    ) == str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("missing.txt", "No such file or directory", id="missing"),
        pytest.param(".", "Is a directory", id="folder"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    """When it is read, not before: what makes it may still be under way."""
    ids = read_ids(tmp_path / name)

    with pytest.raises(ConfigurationError) as caught:
        ids.count()

    assert f"the ids in {tmp_path / name} can't be read: {reason}; give a file that can" == str(caught.value)


@pytest.mark.parametrize(
    "stdin",
    [
        pytest.param(lambda: None, id="none"),
        pytest.param(lambda: closed(io.StringIO()), id="closed"),
        pytest.param(lambda: io.StringIO("1\n"), id="no-file"),
    ],
)
def test_a_closed_standard_input_is_refused(
    monkeypatch: pytest.MonkeyPatch, stdin: Callable[[], io.StringIO | None]
) -> None:
    """So is one that is no file, as in a notebook."""
    monkeypatch.setattr(sys, "stdin", stdin())

    with pytest.raises(ConfigurationError, match="^standard input is closed: give --ids FILE$"):
        read_ids("-").count()


def closed(file: io.StringIO) -> io.StringIO:
    """The same file, closed."""
    file.close()
    return file


def test_standard_input_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if another process has set it not to block: it would seem to have no ids at all."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        counts: list[IdCount] = []
        thread = Thread(target=lambda: counts.append(read_ids("-").count()))
        thread.start()
        wait_until(lambda: os.get_blocking(reader))
        write_and_close(writer, b"1\n2\n")
        thread.join(PATIENCE)

    assert [2] == [counted.ids for counted in counts]


def test_gzip_is_known_by_a_single_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe may bring the second one later."""
    packed = gzip.compress(b"1\n2\n")
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        counts: list[IdCount] = []
        thread = Thread(target=lambda: counts.append(read_ids("-").count()))
        os.write(writer, packed[:1])
        thread.start()
        wait_until(lambda: unpack("i", ioctl(reader, FIONREAD, bytes(4))) == (0,))
        write_and_close(writer, packed[1:])
        thread.join(PATIENCE)

    assert [2] == [counted.ids for counted in counts]


def test_standard_input_stays_open(given: Given) -> None:
    """It is the program's."""
    given("stdin", b"1\n").count()

    assert not sys.stdin.closed
    assert "" == sys.stdin.read()


# Iterables


@pytest.mark.anyio
@pytest.mark.parametrize(
    "made",
    [
        pytest.param(list, id="list"),
        pytest.param(tuple, id="tuple"),
        pytest.param(iter, id="iterator"),
        pytest.param(lambda ids: (user_id for user_id in ids), id="generator"),
        pytest.param(dict.fromkeys, id="dict"),
        pytest.param(deque, id="deque"),
        pytest.param(set, id="set"),
        pytest.param(frozenset, id="frozenset"),
        pytest.param(lambda ids: range(10_000_000, 10_000_000 + len(ids)), id="range"),
        pytest.param(lambda ids: map(int, ids), id="ints"),
        pytest.param(lambda ids: map(Text, ids), id="texts-of-another-class"),
        pytest.param(asynchronously, id="async-generator"),
        pytest.param(lambda ids: IdSource(lambda: iter(ids)), id="source"),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 999, 1_000, 1_001, 3_000])
async def test_any_iterable_is_taken(made: Callable[[list[str]], Any], number: int) -> None:
    """Its ids can be read twice, as plain texts; in another process they count as the same."""
    source = await collect_ids(made(MANY[:number]))

    assert (MANY[:number], 0) == await in_daemon_thread(lambda: all_of(source))
    assert IdSource(lambda: iter(MANY[:number])).count() == await in_daemon_thread(source.count)
    assert {str} >= await in_daemon_thread(lambda: set(map(type, source.read())))


@pytest.mark.anyio
async def test_a_set_is_sorted_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would keep every other thread out, and so the event loop, for seconds a million."""
    sizes: list[int] = []

    def spied(some: list[str]) -> list[str]:
        sizes.append(len(some))
        return sorted(some)

    monkeypatch.setattr(ids, "sorted", spied, raising=False)
    source = await collect_ids(set(MANY))

    assert MANY == await in_daemon_thread(lambda: list(source.read()))
    assert [1_000] * 3 == sizes


@pytest.mark.anyio
async def test_a_path_is_a_file_of_ids(tmp_path: Path) -> None:
    """The event loop does not wait for its disk."""
    path = tmp_path / "ids"
    await in_daemon_thread(lambda: path.write_text("1\n\n2\n"))

    source = await collect_ids(path)

    assert (["1", "2"], 1) == await in_daemon_thread(lambda: all_of(source))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "user_ids",
    ["10000001", b"10000001", bytearray(b"1"), None, 10000001, io.StringIO("1\n")],
    ids=lambda user_ids: type(user_ids).__name__,
)
async def test_what_is_no_iterable_of_ids_is_refused(user_ids: Any) -> None:
    """A text or an open file is one by accident: its items are characters, or lines with their newlines."""
    with pytest.raises(InvalidArgumentError) as caught:
        await collect_ids(user_ids)

    assert (
        "user_ids must be an iterable of ids, or a file of them: a Path, or read_ids(path, column=)"
    ) == str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "made", [list, tuple, iter, asynchronously], ids=["list", "tuple", "iterator", "async-generator"]
)
@pytest.mark.parametrize(
    ("user_id", "problem"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("7\ud800", "no text that UTF-8 can encode", id="lone-surrogate"),
        pytest.param(None, "of type NoneType", id="none"),
        pytest.param(b"777", "of type bytes", id="bytes"),
        pytest.param(True, "of type bool", id="bool"),
        pytest.param(777.0, "of type float", id="float"),
        pytest.param(["777"], "of type list", id="row"),
    ],
)
async def test_an_id_that_is_none_is_refused(
    made: Callable[[list[Any]], Any], user_id: Any, problem: str
) -> None:
    """By its number, so that it can be found among millions, and not by its content."""
    with pytest.raises(InvalidArgumentError) as caught:
        await count_of(made([*MANY[:1_233], user_id]))

    assert (
        f"user_ids must hold texts, or ints, and number 1,234 is {problem}: correct it or leave it out"
    ) == str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("asynchronous", [False, True], ids=["generator", "async-generator"])
@pytest.mark.parametrize("error", [OSError(28, "the database's"), LookupError("mine")], ids=repr)
async def test_an_error_of_the_iterable_is_raised_as_it_is(asynchronous: bool, error: Exception) -> None:
    """Also one that looks as if a file here could not be written."""

    def broken() -> Iterator[str]:
        yield "1"
        raise error

    async def broken_too() -> AsyncIterator[str]:
        yield "1"
        raise error

    with pytest.raises(type(error)) as caught:
        await collect_ids(broken_too() if asynchronous else broken())

    assert error is caught.value


@pytest.mark.anyio
async def test_a_cancelled_reading_leaves_the_iterable_alone() -> None:
    """A generator without an end would fill the disk."""
    token = anyio.lowlevel.current_token()
    ended = Event()

    def endless() -> Iterator[str]:
        try:
            for number in count(1):
                if number == 1_500:
                    anyio.from_thread.run_sync(scope.cancel, token=token)
                yield str(number)
        finally:
            ended.set()

    with anyio.CancelScope() as scope:
        await collect_ids(endless())

    assert scope.cancelled_caught
    assert await anyio.to_thread.run_sync(ended.wait, PATIENCE)


@pytest.mark.anyio
@pytest.mark.parametrize("wrong", [False, True], ids=["cancelled", "refused"])
async def test_an_async_generator_of_ids_is_closed(wrong: bool) -> None:
    """At once, where its ids are not taken any further: trio warns of one that is left."""
    closed: list[bool] = []

    async def endless() -> AsyncIterator[object]:
        try:
            for number in count(1):
                if number == 1_500:
                    scope.cancel()
                yield object() if wrong and number == 1_400 else number
        finally:
            closed.append(True)

    ids = endless()
    with anyio.CancelScope() as scope:
        if wrong:
            with pytest.raises(InvalidArgumentError):
                await collect_ids(ids)
        else:
            await collect_ids(ids)

    assert [True] == closed


# Both readings


def test_the_digest_tells_ids_apart() -> None:
    """Other ids, another order, another number; blank lines do not matter."""
    digests = [
        IdSource(lambda ids=ids: iter(ids)).count().digest  # type: ignore[misc]  # bound early
        for ids in ([], ["1"], ["2"], ["1", "2"], ["2", "1"], ["1", "1"], ["12"], ["1\n2"], ['1"\n"2'])
    ]

    assert len(digests) == len(set(digests))
    assert digests[3] == IdSource(lambda: iter(["", "1", "", "2"])).count().digest


@pytest.mark.parametrize("after", [b"1\n3\n", b"1\n", b"1\n2\n3\n", b"2\n1\n", b""], ids=repr)
def test_ids_that_change_are_refused(given: Given, tmp_path: Path, after: bytes) -> None:
    """An export of some of these and some of those would be none."""
    source = given("file", b"1\n2\n")
    source.count()
    (tmp_path / "ids").write_bytes(after)

    with pytest.raises(ConfigurationError) as caught:
        list(source.read())

    assert ("the ids changed while they were exported: put them back as they were, and export again") == str(
        caught.value
    )


@pytest.mark.anyio
async def test_a_list_that_changes_is_refused() -> None:
    """It is not copied."""
    user_ids = ["1", "2"]
    source = await collect_ids(user_ids)
    source.count()
    user_ids.append("3")

    with pytest.raises(ConfigurationError, match="^the ids changed while they were exported: "):
        list(source.read())


def test_ids_can_be_read_without_being_counted(given: Given) -> None:
    """There is nothing that they could differ from."""
    assert ["1", "2"] == list(given("stdin", b"1\n2\n").read())


@pytest.mark.parametrize("way", ["file", "stdin", "generator", "async-generator"])
def test_memory_does_not_grow_with_the_ids(given: Given, way: str) -> None:
    """A list of them would take several times as much."""
    number = 25_000

    def ids() -> Iterator[str]:
        return (str(10_000_000 + user_id) for user_id in range(number))

    content = "\n".join(ids()).encode() if way in ("file", "stdin") else b""
    tracemalloc.start()
    try:
        if content:
            source = given(way, content)
        else:
            source = anyio.run(collect_ids, ids() if way == "generator" else asynchronously(ids()))
        assert number == source.count().ids
        assert number == sum(1 for _ in source.read())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 2**20 > peak


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    """One of them would be left out without a word."""
    path = tmp_path / "ids.csv"
    path.write_text("id,name, id \n1,A,2\n")
    with pytest.raises(ConfigurationError, match="names the column id twice: rename one of them$"):
        read_ids(path, "id").count()
