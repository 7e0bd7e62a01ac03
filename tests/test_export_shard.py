"""
Shards: who belongs to which, how their files are called, and that none touches what is another's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from outputs import ASKED, SUFFIXES, ledger_of, opened, query
from shards import (
    COUNT,
    LAST_DAY,
    MEMBERS,
    contents,
    copy_shards,
    emulator_of,
    export_shard,
    export_shards,
    ledger_of_shard,
    own,
    rows_of,
    rows_of_shards,
    shard_made,
)

from crowdtwist_async import ConfigurationError, InvalidArgumentError, OutputLockedError, OutputMismatchError
from crowdtwist_async.export import ExportReport, Shard, export, read_ids
from crowdtwist_async.export.shard import mark_half_emptied
from crowdtwist_async.export.target import Target

on_both_loops = pytest.mark.anyio
SHARDS = [Shard(index, COUNT) for index in range(COUNT)]
NO_SHARD = "^a shard is i/n, such as 0/7 to 6/7: i counts from 0 and is less than n, the number of shards"


@pytest.fixture(params=SUFFIXES)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for an export of each format."""
    return tmp_path / f"out.{request.param}"


@pytest.fixture
def complete(output: Path) -> None:
    """All shards, as an export leaves them."""
    copy_shards(output)


@pytest.fixture
def complete_but_3(output: Path) -> None:
    """The same, without one of them."""
    copy_shards(output, {*range(COUNT)} - {3})


# Who belongs to which


@pytest.mark.parametrize("text", ["0/1", "0/7", "6/7", "99998/99999"])
def test_a_shard_reads_as_it_is_written(text: str) -> None:
    """`i/n`, with i from 0; a shard is taken as well."""
    assert text == str(Shard.of(text)) == str(Shard.of(Shard.of(text)))


@pytest.mark.parametrize(
    "text",
    [
        "7/7",
        "8/7",
        "0/0",
        "-1/7",
        "1",
        "1/",
        "/7",
        "1/7/2",
        "1 / 7",
        "a/b",
        "1/1.5",
        "1/100000",
        "\u0661/\u0667",
        "",
        3,
    ],
)
def test_what_is_no_shard_is_refused(text: Any) -> None:
    """In one sentence; `7/7` is how somebody writes it who counts from 1."""
    with pytest.raises(ConfigurationError, match=NO_SHARD):
        Shard.of(text)


@pytest.mark.parametrize(("index", "count"), [(7, 7), (-1, 7), (True, 7), (0, 0), (0.0, 7), ("0", 7)])
def test_numbers_that_are_no_shard_are_refused(index: Any, count: Any) -> None:
    """By the same sentence."""
    with pytest.raises(ConfigurationError, match=NO_SHARD):
        Shard(index, count)


@pytest.mark.parametrize("user_id", ["10000001", "332170040", "alice@example.com", "Zoë", "𝄞", " "])
def test_the_hash_is_the_documented_one(user_id: str) -> None:
    """The first 8 digits of the SHA-256 in hex, as any language has it, modulo the number of shards."""
    number = int(sha256(user_id.encode("utf-8")).hexdigest()[:8], 16)

    assert [number % COUNT == index for index in range(COUNT)] == [shard.holds(user_id) for shard in SHARDS]


def test_the_hash_stays_what_it_was() -> None:
    """Of another release, a resumed run would leave members out, and fetch others twice."""
    assert [4, 3, 4, 1, 3, 5] == [
        next(shard.index for shard in SHARDS if shard.holds(user_id))
        for user_id in ("10000000", "10000001", "10000002", "alice@example.com", "+4915112345678", "Zoë")
    ]


def test_members_are_spread_evenly() -> None:
    """Numbers that follow each other too."""
    found = Counter(
        shard.index for number in range(14_000) for shard in SHARDS if shard.holds(f"{10_000_000 + number}")
    )

    assert 14_000 == found.total()
    assert 1_850 < min(found.values()) <= max(found.values()) < 2_150


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_no_seed_changes_it(seed: str) -> None:
    """Each machine has its own."""
    program = (
        "from crowdtwist_async.export import Shard;"
        "print([Shard(2, 7).holds(str(number)) for number in range(100)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )

    assert str([Shard(2, 7).holds(str(number)) for number in range(100)]) == ran.stdout.strip()


def test_shards_split_a_file_of_ids(tmp_path: Path) -> None:
    """Each counts its own and those of others; together they have every id, an id that stands twice twice."""
    path = tmp_path / "ids.txt"
    path.write_text("\n".join([*map(str, range(100)), "", "5", "5"]))
    sources = [read_ids(path).of(shard) for shard in SHARDS]
    counts = [source.count() for source in sources]

    assert [102] * COUNT == [count.ids + count.other_shards for count in counts]
    assert [1] * COUNT == [count.blank for count in counts]
    assert {read_ids(path).count().digest} == {count.digest for count in counts}
    assert sorted([*map(str, range(100)), "5", "5"]) == sorted(
        user_id for source in sources for user_id in source.read()
    )


# Exports


@on_both_loops
async def test_seven_shards_twice_in_any_order_have_every_row_once(output: Path) -> None:
    """And make the requests of one export without shards, once."""
    emulator = emulator_of()
    whole = output.with_name(f"whole{output.suffix}")
    await export_shard(emulator, whole, None)
    needed = emulator.stats.requests

    reports = await export_shards(emulator, output, times=2)

    assert 2 * needed == emulator.stats.requests
    assert needed == sum(report.requests for report in reports)
    assert ["already_complete"] * COUNT + ["complete"] * COUNT == sorted(report.status for report in reports)
    assert rows_of(whole) == rows_of_shards(output)


@on_both_loops
async def test_a_report_is_of_its_shard(output: Path) -> None:
    """Its ids, those of others, and each duplicate in the one shard that has its id."""
    emulator = emulator_of()
    ids = [*emulator.member_ids(), *emulator.member_ids()]

    reports = [await export_shard(emulator, output, Shard(index, 3), ids) for index in range(3)]

    assert ["0/3", "1/3", "2/3"] == [report.shard for report in reports]
    assert [2 * MEMBERS] * 3 == [report.ids + report.other_shards for report in reports]
    assert 2 * MEMBERS == sum(report.ids for report in reports)
    assert [report.ids - report.done for report in reports] == [report.duplicates for report in reports]
    assert MEMBERS == sum(report.members for report in reports)
    where = [output] * 3 if output.suffix == ".parquet" else [own(output, index, 3) for index in range(3)]
    assert [str(path) for path in where] == [report.output for report in reports]


@on_both_loops
async def test_files_lie_beside_each_other(output: Path) -> None:
    """Rows, ledger and failed members have the shard in their names; the output itself is not there."""
    await export_shard(emulator_of(), output, "2/7")
    names = {file.name for file in output.parent.iterdir()}

    ledger = ledger_of_shard(output).name
    assert ({output.name, ledger} if output.suffix == ".parquet" else {own(output).name, ledger}) == names
    if output.suffix == ".parquet":
        assert ["part-2-of-7-000001.parquet"] == list(contents(output))


@on_both_loops
async def test_progress_is_of_the_shard(tmp_path: Path) -> None:
    """What is left is left of its own members."""
    seen: list[tuple[int, int]] = []

    def note(report: ExportReport) -> None:
        seen.append((report.done, report.ids))

    report = await export_shard(emulator_of(), tmp_path / "out.jsonl", "3/7", progress=note)

    assert 0 < report.ids < MEMBERS
    assert (report.ids, report.ids) == seen[-1]
    assert {report.ids} == {ids for _, ids in seen}


@on_both_loops
async def test_a_shard_may_hold_nobody(output: Path) -> None:
    """It is complete, and its file is there; a Parquet folder has its schema."""
    emulator = emulator_of(1)

    reports = await export_shards(emulator, output, count=3)

    assert {"complete"} == {report.status for report in reports}
    assert [0, 0, 1] == sorted(report.ids for report in reports)
    if output.suffix == ".parquet":
        assert emulator.purchases_of("10000000") == len(rows_of(output))


@on_both_loops
async def test_standard_output_takes_a_shard(capsys: pytest.CaptureFixture[str]) -> None:
    """For pipes that gather them."""
    emulator = emulator_of()
    reports = [await export_shard(emulator, Path("-"), shard) for shard in SHARDS]

    assert sum(report.rows for report in reports) == len(capsys.readouterr().out.splitlines())
    assert sum(map(emulator.purchases_of, emulator.member_ids())) == sum(report.rows for report in reports)


@on_both_loops
async def test_a_shard_of_purchases_needs_its_last_day(tmp_path: Path) -> None:
    """A day of the beginning would not be the same for shards that begin on different days."""
    with pytest.raises(ConfigurationError, match=r"^a shard of purchases needs date_end"):
        await export_shard(emulator_of(), tmp_path / "out.csv", "0/7", date_end=None)
    async with emulator_of().client() as client:
        await export(client, "points", ["10000000"], tmp_path / "points.csv", shard="0/1")
        with pytest.raises(InvalidArgumentError):
            await export(client, cast("Any", "pointz"), ["10000000"], tmp_path / "points.csv", shard="0/1")


@on_both_loops
async def test_what_is_no_shard_is_refused_before_anything(tmp_path: Path) -> None:
    """Nothing is asked, nothing written."""
    emulator = emulator_of()
    with pytest.raises(ConfigurationError, match=NO_SHARD):
        await export_shard(emulator, tmp_path / "out.csv", "7/7")

    assert 0 == emulator.stats.requests
    assert {} == contents(tmp_path)


# Beside each other


async def stopped(output: Path, shard: str, **options: Any) -> ExportReport:
    """A shard that is stopped after its first commits."""
    stop = anyio.Event()

    def stop_soon(report: ExportReport) -> None:
        if report.done:
            stop.set()

    return await export_shard(
        emulator_of(), output, shard, concurrency=1, stop=stop, progress=stop_soon, **options
    )


@on_both_loops
@pytest.mark.usefixtures("complete_but_3")
async def test_a_shard_goes_on_and_leaves_the_others_as_they_are(output: Path) -> None:
    """Also what another is writing at this moment; its own torn ends go."""
    before = contents(output.parent)
    begun = await stopped(output, "3/7")
    if output.suffix == ".parquet":
        (output / ".part-4-of-7-000002.parquet.unfinished").write_bytes(b"torn")
        (output / ".part-3-of-7-000002.parquet.unfinished").write_bytes(b"torn")
        (output / "part-3-of-7-000002.parquet").write_bytes(
            (output / "part-4-of-7-000001.parquet").read_bytes()
        )
    elif output.suffix != ".sqlite":
        with own(output, 3).open("ab") as file:
            file.write(b'{"requested_id":"1')

    ended = await export_shard(emulator_of(), output, "3/7")

    assert ("stopped", "complete") == (begun.status, ended.status)
    assert begun.done == ended.resumed > 0
    after = contents(output.parent)
    assert before == {name: after[name] for name in before}
    if output.suffix == ".parquet":
        assert {".part-4-of-7-000002.parquet.unfinished"} == {
            name for name in contents(output) if name.startswith(".")
        }
    whole = output.with_name(f"whole{output.suffix}")
    await export_shard(emulator_of(), whole, None)
    assert rows_of(whole) == rows_of_shards(output)


@on_both_loops
@pytest.mark.usefixtures("complete")
async def test_fresh_removes_the_shard_alone(output: Path) -> None:
    """And exports it again."""
    before = contents(output.parent)
    emulator = emulator_of()

    report = await export_shard(emulator, output, "2/7", fresh=True)

    assert (report.members, report.requests) == (report.ids, emulator.stats.requests)
    after = contents(output.parent)
    changed = {name for name in before if before[name] != after[name]}
    assert before.keys() == after.keys()
    assert {name for name in before if "2-of-7" in name} == changed


def test_shards_lock_themselves_alone(output: Path) -> None:
    """Two may write at once; two of the same may not."""
    with closing(opened(output, shard=Shard(0, 7))), closing(opened(output, shard=Shard(1, 7))):
        with pytest.raises(
            OutputLockedError, match=r"^another export is writing shard 1/7 of .*: wait until it ends"
        ):
            opened(output, shard=Shard(1, 7))


@on_both_loops
async def test_another_number_of_shards_is_refused(output: Path) -> None:
    """Their members would overlap; also where only the ledger is left, or only the rows."""
    await export_shard(emulator_of(), output, "2/7")
    before = contents(output.parent)

    for shard in ("2/5", "2/14"):
        with pytest.raises(OutputMismatchError, match="is made with --shard i/7, as .*2-of-7.* shows"):
            await export_shard(emulator_of(), output, shard, fresh=True)

    assert before == contents(output.parent)


@pytest.mark.parametrize("left", ["rows", "ledger"])
@on_both_loops
async def test_what_is_left_of_shards_is_enough_to_refuse(output: Path, left: str) -> None:
    """Rows that belong to no known export would be read as its own."""
    await export_shard(emulator_of(), output, "2/7")
    if output.suffix != ".sqlite":
        if left == "rows":
            ledger_of_shard(output).unlink()
        else:
            for name in contents(output.parent).keys() - {ledger_of_shard(output).name}:
                (output.parent / name).unlink()

    for shard, sentence in (
        ("0/3", "give that number of shards"),
        (None, "give the shard, move them all away"),
    ):
        with pytest.raises(OutputMismatchError, match=f"is made with --shard i/7, as .* shows: {sentence}"):
            await export_shard(emulator_of(), output, shard)


@on_both_loops
async def test_an_export_without_shards_is_not_mixed_with_them(output: Path) -> None:
    """Neither before them nor after."""
    await export_shard(emulator_of(), output, None)
    before = contents(output.parent)

    with pytest.raises(
        OutputMismatchError, match=r"is made without --shard, as out\.\S+ shows: go on without"
    ):
        await export_shard(emulator_of(), output, "2/7", fresh=True)

    assert before == contents(output.parent)


@on_both_loops
async def test_parts_without_a_ledger_are_not_mixed_with_shards(tmp_path: Path) -> None:
    """What an export left without its ledger counts too."""
    output = tmp_path / "out.parquet"
    await export_shard(emulator_of(), output, None)
    ledger_of(output).unlink()

    with pytest.raises(OutputMismatchError, match=r"as part-000001\.parquet shows"):
        await export_shard(emulator_of(), output, "2/7")


@on_both_loops
async def test_a_strange_part_is_refused(tmp_path: Path) -> None:
    """It would be read as one."""
    output = tmp_path / "out.parquet"
    output.mkdir()
    (output / "strange.parquet").write_bytes(b"precious")

    with pytest.raises(OutputMismatchError, match=r"strange\.parquet is a part that no export wrote"):
        await export_shard(emulator_of(), output, "2/7")


@on_both_loops
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
async def test_a_shard_without_its_ledger_is_refused(tmp_path: Path, suffix: str) -> None:
    """As any output without its ledger; SQLite has it inside."""
    output = tmp_path / f"out.{suffix}"
    await export_shard(emulator_of(), output, "2/7")
    ledger_of_shard(output).unlink()

    with pytest.raises(OutputMismatchError, match="is there already, and no ledger .*2-of-7.* is beside it"):
        await export_shard(emulator_of(), output, "2/7")


@on_both_loops
async def test_other_ids_are_refused_in_a_shard_too(output: Path) -> None:
    """The digest is that of all ids: a shard of another list may miss members that no other has."""
    await export_shard(emulator_of(), output, "2/7")

    with pytest.raises(OutputMismatchError, match="^shard 2/7 of .* was begun otherwise: the ids are not"):
        await export_shard(emulator_of(), output, "2/7", ["10000000"])


@on_both_loops
async def test_a_shard_is_not_taken_for_a_whole_export(tmp_path: Path) -> None:
    """Its file can't be gone on with under its own name."""
    output = tmp_path / "out.jsonl"
    await export_shard(emulator_of(), output, "2/7")

    with pytest.raises(OutputMismatchError, match="shard was 2/7 and is not given"):
        await export_shard(emulator_of(), own(output), None)


@on_both_loops
async def test_names_that_only_look_like_shards_do_no_harm(tmp_path: Path) -> None:
    """No shard is called so."""
    for name in (
        "out.7-of-7.jsonl",
        "out.02-of-7.jsonl",
        "out.1-of-3.csv",
        "outer.1-of-3.jsonl",
        "out.1-of-3.jsonl.txt",
    ):
        (tmp_path / name).write_text("precious")

    assert "complete" == (await export_shard(emulator_of(), tmp_path / "out.jsonl", None)).status


def test_an_older_ledger_is_gone_on_with(output: Path) -> None:
    """One that knows of no shards was made without."""
    with closing(opened(output)):
        pass
    with closing(Target(str(output), "purchases")) as target:
        target.begin({**ASKED, "shard": ""})

    with pytest.raises(OutputMismatchError, match="is made without --shard"):
        Target(str(output), "purchases", shard=Shard(0, 7))


@on_both_loops
async def test_the_ledger_names_the_shard(output: Path) -> None:
    """With what the run was asked for."""
    await export_shard(emulator_of(), output, "2/7")

    state = dict(query(ledger_of_shard(output), "SELECT key, value FROM export_state"))
    assert ("2/7", LAST_DAY) == (state["shard"], state["date_end"])


@pytest.mark.parametrize("pair", [(None, "0/2"), ("0/2", None), ("0/2", "1/3")], ids=str)
def test_of_two_that_begin_at_the_same_moment_one_goes_on(
    output: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[str | None, str | None]
) -> None:
    """Each looked before the other had a ledger; both would be complete, and every row there twice."""
    shards = [None if text is None else Shard.of(text) for text in pair]
    with monkeypatch.context() as before, ExitStack() as opened:
        before.setattr("crowdtwist_async.export.target.check_split", lambda *_: None)
        targets = [
            opened.enter_context(closing(Target(str(output), "purchases", shard=shard))) for shard in shards
        ]
        before.undo()
        refused = []
        for target, shard in zip(targets, shards, strict=True):
            try:
                target.begin({"endpoint": "purchases"})
            except OutputMismatchError as error:
                refused.append((shard, str(error)))
    [(shard, sentence)] = refused
    assert "is made with" in sentence
    [kept] = [other for other in shards if other != shard]
    with closing(Target(str(output), "purchases", shard=kept)) as again:
        again.begin({"endpoint": "purchases"})


def test_an_export_without_shards_heeds_no_emptying_of_shards(tmp_path: Path) -> None:
    """There are none any more, or it would be refused: it is made, and gone on with."""
    output = tmp_path / "out.jsonl"
    mark_half_emptied(output)

    assert "complete" == shard_made(emulator_of(3), output, None).status
    assert "already_complete" == shard_made(emulator_of(3), output, None).status
