"""
Outputs in an object store: what lies there, what is left alone, and what an export of them says.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from command import Command, in_this_process, no_account  # noqa: F401 - fixtures
from conftest import KEY
from detours import ONCE, Answer, Detour
from outputs import ASKED, commit, expected, mark_of, opened
from stores import (
    LEASE,
    MEMBERS,
    ROOT,
    STORE,
    URL,
    Breaking,
    empty_store,
    export_all,
    manifests,
    names,
    parts,
    rows,
)

from crowdtwist_async import ConfigurationError, OutputMismatchError, Reply
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import ExportReport, Shard, export, merge
from crowdtwist_async.export.formats import parquet
from crowdtwist_async.export.formats.parquet import PartWriter
from crowdtwist_async.export.remote.objects import Objects
from crowdtwist_async.export.target import Target

ERRORS = f"{ROOT}.errors.jsonl"
DAY = "2026-09-30"


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    with empty_store():
        yield


def contents() -> dict[str, bytes]:
    """Everything in the store."""
    return {path: STORE.cat_file(path) for path in STORE.find("/")}


# What lies there


def test_each_commit_is_a_part_and_a_manifest() -> None:
    """A part has the number of the manifest that names it; the lease is gone at the end."""
    export_all()

    assert [f"_ledger/00000{number}.json.gz" for number in range(1, 6)] + [
        f"part-00000{number}.parquet" for number in (2, 3, 4)
    ] == names()
    assert not STORE.exists(LEASE)
    assert expected(*MEMBERS) == rows()


def test_a_manifest_says_what_was_committed() -> None:
    """What was asked for, the members with their marks, the part, and when all was complete."""
    with closing(opened(URL)) as target:
        commit(target, "a")
        target.writer.commit([mark_of("b", "failed", error="ServerError", message="no")])
        target.complete()

    begun, first, second, last = manifests()

    assert (True, {"schema_version": "1", **ASKED}, None, []) == (
        begun["begins"],
        begun["state"],
        begun["part"],
        begun["members"],
    )
    size = STORE.size(f"{ROOT}/part-000002.parquet")
    mark = {"requests": 3, "drifted": False, "fetched_at": "2026-01-31T00:00:00Z"}
    assert {"name": "part-000002.parquet", "rows": 2, "bytes": size} == first["part"]
    assert [{"requested_id": "a", "status": "ok", "rows": 2, **mark}] == first["members"]
    failed = {"requested_id": "b", "status": "failed", "rows": 0, "error": "ServerError", "message": "no"}
    assert (None, [failed | mark | {"requests": 1}]) == (second["part"], second["members"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", last["state"]["completed_at"])
    assert 1 == len({manifest["owner"] for manifest in (begun, first, second, last)})


def test_an_output_without_rows_has_its_columns() -> None:
    """One part, so that readers find a schema."""
    with closing(opened(URL)) as target:
        target.writer.commit([mark_of("a")])
        target.complete()

    table = ds.dataset(ROOT, filesystem=STORE, format="parquet").to_table()

    assert (0, 10, ["part-000003.parquet"]) == (table.num_rows, table.num_columns, parts())


def test_a_run_that_goes_on_adds_and_rewrites_nothing() -> None:
    """What an earlier run put stays byte for byte."""
    with closing(opened(URL)) as target:
        commit(target, "a")
    before = contents()
    export_all()

    assert before == {path: content for path, content in contents().items() if path in before}
    assert expected(*MEMBERS) == rows()


def test_parts_wait_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill leaves no rows on the machine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(parquet, "_GROUP", 1)
    with closing(opened(URL)) as target:
        commit(target, "a")
        target.writer.write([])
        assert [] == list(tmp_path.iterdir())


# What is there already


def put_parquet(name: str) -> None:
    """Put a part that no export wrote."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)
    STORE.pipe_file(f"{ROOT}/{name}", sink.getvalue().to_pybytes())


@pytest.mark.parametrize("name", ["theirs.parquet", "part-000009.parquet", "below/part-000001.parquet"])
@pytest.mark.parametrize("fresh", [False, True], ids=["goes-on", "fresh"])
def test_a_part_that_no_export_wrote_is_refused(name: str, *, fresh: bool) -> None:
    """Readers would take its rows as the export's."""
    export_all()
    put_parquet(name)
    before = contents()

    with pytest.raises(
        OutputMismatchError, match=f"{name} is a part that no export wrote, and would be read"
    ):
        opened(URL, fresh=fresh)

    assert before == contents()


def test_a_folder_without_a_ledger_is_refused() -> None:
    """Its parts may be an export's whose manifests were removed: `fresh` removes them."""
    export_all()
    STORE.rm(f"{ROOT}/_ledger", recursive=True)
    before = contents()

    with pytest.raises(
        OutputMismatchError, match="is there already, and no ledger is in its _ledger. It is left"
    ):
        opened(URL)
    assert before == contents()

    export_all(fresh=True)
    assert (expected(*MEMBERS), 3) == (rows(), len(parts()))


def test_an_object_in_the_place_of_the_folder_is_refused() -> None:
    """It stays as it is."""
    STORE.pipe_file(ROOT, b"PAR1")

    with pytest.raises(OutputMismatchError, match="is an object, and no folder of an export. It is left"):
        opened(URL, fresh=True)
    assert {ROOT: b"PAR1"} == contents()


def test_an_output_within_an_output_is_refused() -> None:
    """Readers take all that is below a Parquet output for its table."""
    export_all()
    before = contents()
    with pytest.raises(ConfigurationError, match="is in .*, which readers take for a Parquet output"):
        Target(f"{URL}/inner.parquet", "purchases")
    assert before == contents()


def test_a_list_of_failures_that_no_export_wrote_is_refused() -> None:
    """It stays as it is."""
    STORE.pipe_file(ERRORS, b"theirs")

    with pytest.raises(
        OutputMismatchError, match="errors.jsonl is there already, and was written by no export"
    ):
        opened(URL)
    assert {ERRORS: b"theirs"} == contents()


def test_other_objects_in_the_folder_stay() -> None:
    """Readers pass them over, or are told to."""
    export_all()
    STORE.pipe_file(f"{ROOT}/_SUCCESS", b"")
    export_all(fresh=True)

    assert "_SUCCESS" in names()


def _remove(path: str) -> None:
    STORE.rm_file(path)


def _lengthen(path: str) -> None:
    STORE.pipe_file(path, STORE.cat_file(path) + b"\0")


@pytest.mark.parametrize("change", [_remove, _lengthen], ids=["missing", "longer"])
def test_a_part_that_is_not_as_it_was_is_refused(change: Callable[[str], None]) -> None:
    """Its members are marked as done."""
    export_all()
    change(f"{ROOT}/{parts()[0]}")

    with pytest.raises(
        OutputMismatchError, match="lacks a part that its ledger names, or has it in another size"
    ):
        opened(URL)


def test_an_own_part_that_comes_after_the_ledger_is_refused() -> None:
    """Its manifest was removed: its rows would be read, and fetched again."""
    export_all()
    STORE.copy(f"{ROOT}/{parts()[0]}", f"{ROOT}/part-000099.parquet")

    with pytest.raises(
        OutputMismatchError, match="part-000099.parquet is a part that its ledger does not name"
    ):
        opened(URL)
    assert f"{ROOT}/part-000099.parquet" in contents()


@pytest.mark.parametrize(
    ("number", "content", "sentence"),
    [
        pytest.param(3, b"torn", "000003.json.gz is damaged", id="no-gzip"),
        pytest.param(3, gzip.compress(b"{}"), "000003.json.gz is damaged", id="no-manifest"),
        pytest.param(3, gzip.compress(b"{}" * 99)[:30], "000003.json.gz is damaged", id="cut"),
        pytest.param(3, None, "_ledger lacks manifest 000003", id="missing"),
        pytest.param(1, None, "_ledger lacks manifest 000002", id="first-missing"),
    ],
)
def test_a_ledger_that_can_not_be_trusted_is_refused(
    number: int, content: bytes | None, sentence: str
) -> None:
    """Whoever wants it anew says so."""
    export_all()
    path = f"{ROOT}/_ledger/{number:06}.json.gz"
    STORE.rm_file(path)
    if content is not None:
        STORE.pipe_file(path, content)

    with pytest.raises(OutputMismatchError, match=f"{sentence}: put it back as it was, or give --fresh"):
        opened(URL)

    export_all(fresh=True)
    assert (expected(*MEMBERS), 3) == (rows(), len(parts()))


def test_a_ledger_of_another_version_is_refused() -> None:
    """By the name of the folder."""
    with closing(opened(URL)) as target:
        target.ledger.commit((), {"schema_version": "9"})

    with pytest.raises(
        OutputMismatchError, match="_ledger is of version 9, and this release writes 1: go on with"
    ):
        opened(URL)


# Names


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket.parquet",
        "s3:///out.parquet",
        "s3://id:hush@bucket/out.parquet",
        "s3://bucket/out.parquet?hush=1",
        "s3://bucket/a?hush/out.parquet",
        "s3://bucket/a::s3://b/out.parquet",
        "https://hush.example.com/out.parquet",
        "file:///tmp/out.parquet",
        "simplecache::s3://bucket/out.parquet",
    ],
)
def test_another_address_is_refused(url: str) -> None:
    """Before anything is asked; what may be a secret is not repeated."""
    with pytest.raises(
        ConfigurationError, match="^(an object store is named as|object stores take)"
    ) as refused:
        Target(url, "points")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "sqlite", "txt"])
def test_other_formats_are_refused(suffix: str) -> None:
    """They grow or change in place, which objects can't."""
    with pytest.raises(
        ConfigurationError, match=r"^object stores take Parquet alone: name OUT.parquet there, or"
    ):
        Target(f"memory://bucket/out.{suffix}", "points")
    assert {} == contents()


def test_merging_is_refused() -> None:
    """There is nothing to be merged."""
    with pytest.raises(
        ConfigurationError, match=r"^object stores take Parquet alone, which needs no merging: it is"
    ):
        merge(URL)


def test_a_slash_at_the_end_is_nothing() -> None:
    """As tools print folders."""
    export_all(f"{URL}/")

    assert expected(*MEMBERS) == rows()


def test_an_output_may_be_at_the_top_of_the_memory() -> None:
    """A bucket is for stores that have some."""
    with closing(opened("memory://out.parquet")) as target:
        target.writer.commit([mark_of("a", "failed")])
        assert "memory://out.parquet.errors.jsonl" == target.write_errors("id")

    assert STORE.exists("/out.parquet.errors.jsonl")


@pytest.mark.parametrize(
    ("module", "url", "packages"),
    [
        pytest.param("fsspec.core", URL, r"crowdtwist-async\[s3\]', or \[gcs\]; .*", id="fsspec"),
        pytest.param("s3fs", "s3://bucket/out.parquet", r"crowdtwist-async\[s3\]'", id="s3fs"),
        pytest.param("gcsfs", "gs://bucket/out.parquet", r"crowdtwist-async\[gcs\]'", id="gcsfs"),
    ],
)
def test_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, url: str, packages: str
) -> None:
    """As nothing of it comes with the package itself."""
    for protocol in ("s3", "gs"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigurationError, match=rf"^\S+ \S+ .*pip install '{packages}$"):
        Objects.at(url)


def test_a_local_export_does_not_load_it(tmp_path: Path) -> None:
    """Only an address does."""
    program = f"""
import sys
from crowdtwist_async.export.target import Target
target = Target({str(tmp_path / "out.parquet")!r}, "points")
target.begin({{}})
target.complete()
target.close()
print([name for name in sys.modules if "fsspec" in name or "export.remote" in name])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    assert "[]\n" == done.stdout


# Exports


@pytest.fixture
def emulator() -> Emulator:
    """An API."""
    return Emulator(members=16, api_key=KEY)


async def exported_to(
    emulator: Emulator, output: Any, instead: Callable[[str], Answer] = lambda _: None, **options: Any
) -> ExportReport:
    """Export everybody's purchases."""
    detour = Detour(emulator, instead)
    async with emulator.client(retry=ONCE, transport=detour) as client:
        report = await export(
            client, "purchases", list(emulator.member_ids()), output, **{"date_end": DAY, **options}
        )
    assert len(detour.asked) == report.requests
    return report


def sorted_rows(table: Any) -> list[Any]:
    """All rows of a table, in an order of their own."""
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


def remote_rows() -> list[Any]:
    """All rows, in an order of their own."""
    return sorted_rows(ds.dataset(ROOT, filesystem=STORE, format="parquet").to_table())


@pytest.mark.anyio
async def test_an_export_is_what_a_local_one_is(emulator: Emulator, tmp_path: Path) -> None:
    """The same rows and the same report; exported again, no request, and not a byte is changed."""
    local = await exported_to(emulator, tmp_path / "out.parquet")
    remote = await exported_to(emulator, URL)

    assert sorted_rows(pq.read_table(tmp_path / "out.parquet")) == remote_rows()
    for field in ("status", "members", "rows", "requests", "without_rows", "errors_file"):
        assert getattr(local, field) == getattr(remote, field)
    before = contents()
    again = await exported_to(emulator, URL)
    assert ("already_complete", 0, remote.rows) == (again.status, again.requests, again.rows)
    assert before == contents()


@pytest.mark.anyio
async def test_an_export_that_is_stopped_goes_on(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Again and again, without a lease in its way, until it is whole."""
    monkeypatch.setattr(PartWriter, "limits", PartWriter.limits._replace(members=3))
    report = None
    for _ in range(20):
        stop = anyio.Event()

        def stop_soon(report: ExportReport, stop: anyio.Event = stop) -> None:
            if report.requests > 5:
                stop.set()

        report = await exported_to(emulator, URL, concurrency=2, progress=stop_soon, stop=stop)
        if report.status == "complete":
            break
    assert report is not None
    assert ("complete", 16) == (report.status, report.done)
    await exported_to(emulator, tmp_path / "out.parquet")
    assert sorted_rows(pq.read_table(tmp_path / "out.parquet")) == remote_rows()


@pytest.mark.anyio
async def test_the_store_is_not_asked_on_the_event_loop(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call of it, from the first to the last."""
    asking: set[int] = set()

    class Noting(Breaking):
        def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*arguments: Any, **options: Any) -> Any:
                asking.add(threading.get_ident())
                return call(*arguments, **options)

            return noted

    Noting(monkeypatch)
    await exported_to(emulator, URL)

    assert asking
    assert threading.get_ident() not in asking


@pytest.mark.anyio
async def test_failed_members_stand_beside_it(emulator: Emulator) -> None:
    """Until they are tried again."""
    failing = list(emulator.member_ids())[:2]
    report = await exported_to(
        emulator,
        URL,
        lambda user_id: Reply(status=400, body=b"{}", headers={}) if user_id in failing else None,
    )
    lines = [json.loads(line) for line in STORE.cat_file(ERRORS).splitlines()]
    assert (2, f"{URL}.errors.jsonl", failing) == (
        report.failed,
        report.errors_file,
        [line["requested_id"] for line in lines],
    )

    report = await exported_to(emulator, URL, retry_failed=True)

    assert ("complete", 0, 16, None) == (report.status, report.failed, report.done, report.errors_file)
    assert not STORE.exists(ERRORS)
    assert len(remote_rows()) == report.rows


@pytest.mark.anyio
async def test_other_arguments_and_an_old_output_are_refused(emulator: Emulator) -> None:
    """As with files; `fresh` begins anew with numbers that were never used."""
    await exported_to(emulator, URL)
    with pytest.raises(
        OutputMismatchError, match="was begun otherwise: date-end was 2026-09-30 and is 2026-09-29"
    ):
        await exported_to(emulator, URL, date_end="2026-09-29")
    with pytest.raises(OutputMismatchError, match="which is longer ago than you allow: give --fresh"):
        await exported_to(emulator, URL, max_age=timedelta(days=-1))
    earlier = names()

    report = await exported_to(emulator, URL, date_end="2026-09-29", fresh=True)

    assert "complete" == report.status
    assert not {*earlier} & {*names()}
    assert len(remote_rows()) == report.rows


@pytest.mark.anyio
async def test_the_last_day_stays_what_it_was(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day of the beginning, which a manifest holds."""
    await exported_to(emulator, URL, date_end=None)

    pinned = [manifest["state"].get("date_end_pinned") for manifest in manifests()]

    assert [day for day in pinned if day] in (
        [f"{datetime.now(UTC) - timedelta(days=ago):%Y-%m-%d}"] for ago in (0, 1)
    )


@pytest.mark.anyio
async def test_shards_have_ledgers_and_leases_of_their_own(emulator: Emulator, tmp_path: Path) -> None:
    """In one folder, which is read as one table."""
    whole = await exported_to(emulator, tmp_path / "out.parquet")
    reports = [await exported_to(emulator, URL, shard=f"{index}/3") for index in (2, 0, 1, 2)]

    assert ["complete", "complete", "complete", "already_complete"] == [report.status for report in reports]
    assert whole.rows == sum(report.rows for report in reports[:3])
    assert sorted_rows(pq.read_table(tmp_path / "out.parquet")) == remote_rows()
    assert {"0-of-3", "1-of-3", "2-of-3"} == {name.split("/")[1] for name in names() if "/" in name}


@pytest.mark.anyio
async def test_shards_are_not_mixed(emulator: Emulator) -> None:
    """With those of another number, or with an export of all."""
    await exported_to(emulator, URL, shard="0/3")
    before = contents()
    for shard, sentence in (("0/2", "give that number of shards"), (None, "give the shard, move")):
        with pytest.raises(
            OutputMismatchError,
            match=f"is made with --shard i/3, as part-0-of-3-000002.parquet shows: {sentence}",
        ):
            await exported_to(emulator, URL, shard=shard)
    assert before == contents()

    whole = "memory://bucket/whole.parquet"
    await exported_to(emulator, whole)
    with pytest.raises(OutputMismatchError, match=r"is made without --shard, as \S+ shows"):
        await exported_to(emulator, whole, shard="0/3")


def test_a_shard_begins_anew_alone() -> None:
    """The parts and manifests of the others stay."""
    for shard in (Shard(0, 2), Shard(1, 2)):
        with closing(opened(URL, shard=shard)) as target:
            commit(target, f"{shard}")
            target.complete()
    others = [name for name in names() if "1-of-2" in name]
    with closing(opened(URL, shard=Shard(0, 2), fresh=True)) as target:
        commit(target, "new")
        target.complete()

    assert others == [name for name in names() if "1-of-2" in name]
    assert sorted(expected("1/2", "new")) == rows()


def test_the_command_takes_an_address(crowdtwist: Command) -> None:
    """And says what it says of files."""
    arguments = ("export", "purchases", "--emulator", "--members", "20", "-o", URL)
    ended, again = crowdtwist(*arguments), crowdtwist(*arguments)

    assert (0, 0) == (ended.code, again.code), ended.err + again.err
    assert URL in ended.err
    assert "is complete since" in again.err
    assert rows()
