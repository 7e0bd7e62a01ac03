"""
`--shard` and `crowdtwist merge`: what they print, warn of and refuse, and a shard that is killed.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import pytest
from command import (  # noqa: F401 - fixtures
    Command,
    Ended,
    asked_on_a_socket,
    checked,
    count_of,
    count_of_all,
    emulated,
    ids_of_all,
    in_this_process,
    no_account,
    python_m,
    server_over_a_socket,
)
from conftest import KEY
from outputs import SUFFIXES
from shards import COUNT, contents, ledger_of_shard, own, rows_of

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import Shard

PATIENCE = 30.0
TOGETHER = (
    "crowdtwist: warning: --per-minute is that of one process: 7 shards at 5,000 may send 35,070 in a minute,"
    " bursts of 10 included, and the contract allows a program 10,000 requests a minute, its live site"
    " included: give each --per-minute 1418 or less\n"
)
NO_SHARD = (
    "a shard is i/n, such as 0/7 to 6/7: i counts from 0 and is less than n, the number of shards, 99,999 at"
    " most"
)


@pytest.fixture(params=SUFFIXES)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for an export of each format."""
    return tmp_path / f"out.{request.param}"


def shards(output: Path, *flags: object) -> Iterator[tuple[object, ...]]:
    """The command for each of three shards, in any order."""
    for index in random.sample(range(3), 3):
        yield (
            *("export", "purchases", "--shard", f"{index}/3", "-o", output),
            *("--date-end", "2026-09-30", *flags),
        )


def test_shards_are_exported_and_merged(
    crowdtwist: Command, server: Emulator, ids: Path, output: Path
) -> None:
    """Each twice: every row once, and no request twice."""
    for command in [*shards(output, "--ids", ids), *shards(output, "--ids", ids)]:
        assert 0 == crowdtwist(*command).code
    asked = server.stats.requests
    ended = crowdtwist("merge", output)

    where = f"all complete; readers take {output} as one table as it is"
    assert (0, "") == (ended.code, ended.err)
    rows = count_of_all(server, "purchases")
    assert (
        f"purchases: 3 shards, 12 members, {rows:,} rows:"
        f" {where if output.suffix == '.parquet' else f'merged to {output}'}.\n"
    ) == ended.out
    assert rows == len(rows_of(output))
    assert asked == server.stats.requests
    again = crowdtwist("merge", output)
    assert 0 == again.code
    assert output.suffix == ".parquet" or again.out.endswith(f": {output} holds them already.\n")


def test_a_shard_says_which_it_is(crowdtwist: Command, server: Emulator, ids: Path, tmp_path: Path) -> None:
    """In its plan, its summary and its file of both; the ids of others are counted."""
    output, summary = tmp_path / "out.csv", tmp_path / "summary.json"
    ended = crowdtwist(
        *("export", "points", "--ids", ids, "-o", output, "--shard", "2/7", "--per-minute", 1000),
        *("--summary", summary),
    )

    told = json.loads(summary.read_text())
    assert ("2/7", str(own(output)), 12) == (
        told["shard"],
        told["output"],
        told["ids"] + told["other_shards"],
    )
    plan, total, counts = ended.err.splitlines()
    members = "1 member" if told["ids"] == 1 else f"{told['ids']} members"
    assert plan.startswith(f"points, shard 2/7: {members}, at least ")
    assert total.startswith(f"points, shard 2/7: {members}, ")
    assert total.endswith(f"Written to {own(output)}.")
    assert f"Ids of other shards: {told['other_shards']}." in counts


def test_a_failed_shard_has_a_summary(crowdtwist: Command, server: Emulator, tmp_path: Path) -> None:
    """That names it."""
    summary = tmp_path / "summary.json"
    ended = crowdtwist(
        *("export", "points", "--ids", tmp_path / "missing", "-o", tmp_path / "out.csv", "--shard", "0/1"),
        *("--summary", summary),
    )

    assert 2 == ended.code
    assert ("failed", "0/1") == (
        json.loads(summary.read_text())["status"],
        json.loads(summary.read_text())["shard"],
    )


@pytest.mark.parametrize("name", ["out.2-of-7.csv", "out.2-of-7.csv.ledger.sqlite", "out.csv"])
def test_a_summary_takes_no_place_of_the_shard(
    crowdtwist: Command, ids: Path, tmp_path: Path, name: str
) -> None:
    """Nor of the output that the shards make."""
    ended = crowdtwist(
        *("export", "points", "--emulator", "-o", tmp_path / "out.csv", "--shard", "2/7"),
        *("--summary", tmp_path / name),
    )

    assert ended.refused(2, "--summary names a file of the export itself: name another")


@pytest.mark.parametrize("text", ["7/7", "1", "a/b"])
@pytest.mark.parametrize(
    "command",
    [("export", "points", "--emulator", "-o", "out.csv"), ("plan", "--ids", "-", "--endpoint", "points")],
)
def test_what_is_no_shard_is_refused(
    crowdtwist: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, command: tuple[str, ...]
) -> None:
    """In one sentence, which says how they are counted."""
    monkeypatch.chdir(tmp_path)

    assert crowdtwist(*command, "--shard", text).refused(2, NO_SHARD)


def test_a_shard_of_purchases_needs_its_last_day(crowdtwist: Command, tmp_path: Path) -> None:
    """As each may begin on another day."""
    ended = crowdtwist("export", "purchases", "--emulator", "--shard", "0/7", "-o", tmp_path / "out.csv")

    assert 2 == ended.code
    assert "a shard of purchases needs --date-end: shards that begin on different days" in ended.err


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        pytest.param(["--shard", "0/7"], TOGETHER, id="usual"),
        pytest.param(["--shard", "0/7", "--per-minute", "1418"], "", id="shared-out"),
        pytest.param(["--shard", "0/2", "--per-minute", "4990"], "", id="two"),
        pytest.param([], "", id="none"),
    ],
)
def test_a_rate_that_shards_exceed_together_is_warned_of(
    crowdtwist: Command, server: Emulator, ids: Path, flags: list[str], warned: str
) -> None:
    """By the export, and by the plan."""
    exported = crowdtwist("export", "points", "--ids", ids, "-o", "-", *flags)
    planned = crowdtwist("plan", "--ids", ids, "--endpoint", "points", *flags)

    assert (0, 0, warned) == (exported.code, planned.code, planned.err)
    assert exported.err.startswith(f"{warned}points")


def test_too_many_shards_have_no_rate(crowdtwist: Command, ids: Path) -> None:
    """None that helps: their bursts alone are above the ceiling."""
    ended = crowdtwist("plan", "--ids", ids, "--endpoint", "points", "--shard", "0/1000")

    assert ended.err.endswith("its live site included: run fewer of them at once\n")


def test_a_plan_of_a_shard_is_of_its_members(crowdtwist: Command, tmp_path: Path) -> None:
    """Those of all shards together are those of all."""
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(map(str, range(7_000))))
    members = []
    for index in range(COUNT):
        ended = crowdtwist(
            *("plan", "--ids", ids, "--endpoint", "points", "--shard", f"{index}/7", "--per-minute", 600)
        )
        first, others, *_ = ended.out.splitlines()
        members.append(int(first.removeprefix(f"points, shard {index}/7: ").split()[0].replace(",", "")))
        assert f"{7_000 - members[-1]:,} ids of other shards." == others

    assert 7_000 == sum(members)


def test_failed_members_make_the_exit_code(
    crowdtwist: Command, server: Emulator, ids: Path, tmp_path: Path
) -> None:
    """Of a merge too, unless so many are allowed."""
    output = tmp_path / "out.csv"
    ids.write_text(ids.read_text() + "\n..\n")
    codes = [
        crowdtwist("export", "points", "--ids", ids, "--shard", f"{index}/3", "-o", output).code
        for index in range(3)
    ]

    ended = crowdtwist("merge", output)

    assert [0, 0, 3] == sorted(codes)
    assert 3 == ended.code
    assert ended.out.endswith(
        f"Failed members: 1. They are in {output}.errors.jsonl; exporting their shards with --retry-failed"
        " tries them again.\n"
    )
    assert 0 == crowdtwist("merge", output, "--max-failed", 1).code
    assert crowdtwist("merge", output, "--max-failed", -1).refused(2, "--max-failed must be 0 or more")


def test_unknown_members_are_told(crowdtwist: Command, server: Emulator, ids: Path, tmp_path: Path) -> None:
    """As an export tells them."""
    ids.write_text("10000001\n99999999\n")
    crowdtwist("export", "points", "--ids", ids, "--shard", "0/1", "-o", tmp_path / "out.csv")

    ended = crowdtwist("merge", tmp_path / "out.csv")

    assert (0, "Unknown ids: 1.") == (ended.code, ended.out.splitlines()[-1])


def test_merging_is_refused_in_a_sentence(
    crowdtwist: Command, server: Emulator, ids: Path, output: Path
) -> None:
    """With the exit codes of an export."""
    assert crowdtwist("merge", output).refused(
        1, f"no shard of {output} is there: export them with --shard i/n"
    )
    crowdtwist("export", "points", "--ids", ids, "--shard", "0/7", "-o", output)
    assert crowdtwist("merge", output).refused(
        1, f"shard 1/7 of {output} is not there: export it, and merge again"
    )
    assert 2 == crowdtwist("merge", "out.txt").code


def killed(output: Path, emulator: Emulator, ids: Path) -> None:
    """Kill a shard when its ledger has members, or a part is being written."""
    command = ["export", "purchases", "--ids", ids, "--shard", "1/3", "-o", output, "--per-minute", "120"]
    with subprocess.Popen(
        python_m(*command, "--date-end", "2026-09-30"), stderr=subprocess.PIPE, text=True
    ) as running:
        end = monotonic() + PATIENCE
        while not begun(output, emulator):
            assert running.poll() is None
            assert monotonic() < end
            sleep(0.05)
        running.kill()
        assert running.stderr is not None
        err = running.stderr.read()
    checked(Ended(running.returncode, "", err))
    assert -9 == running.returncode


def begun(output: Path, emulator: Emulator) -> bool:
    """Whether the shard has members; the parts of Parquet come late, so there its requests count."""
    ledger = ledger_of_shard(output, 1, 3)
    if output.suffix == ".parquet":
        return emulator.stats.requests > 15
    if not ledger.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
            [(members,)] = connection.execute("SELECT count(*) FROM members")
    except sqlite3.OperationalError:
        return False
    return int(members) > 0


def test_a_killed_shard_goes_on_beside_the_others(
    crowdtwist: Command, monkeypatch: pytest.MonkeyPatch, output: Path, tmp_path: Path
) -> None:
    """No file of another is touched, and every row is there once."""
    emulator = Emulator(members=60, api_key=KEY)
    ids = tmp_path / "ids.txt"
    # Enough of the one that is killed, 20 seconds of requests, and a few of each other.
    held = [Shard(index, 3).held(emulator.member_ids()) for index in range(3)]
    members = [user for index, users in enumerate(held) for user in users[: None if index == 1 else 3]]
    ids.write_text("\n".join(members))
    with asked_on_a_socket(emulator, monkeypatch):
        for command in shards(output, "--ids", ids, "--per-minute", "inf"):
            if "1/3" not in command:
                assert 0 == crowdtwist(*command).code
        before = contents(tmp_path)
        emulator.reset_stats()
        killed(output, emulator, ids)

        assert crowdtwist("merge", output).refused(
            1, f"shard 1/3 of {output} is not complete: export it again to go on, and merge then"
        )
        [again] = [
            command for command in shards(output, "--ids", ids, "--per-minute", "inf") if "1/3" in command
        ]
        assert 0 == crowdtwist(*again).code

    after = contents(tmp_path)
    assert before == {name: after[name] for name in before}
    assert 0 == crowdtwist("merge", output).code
    assert sum(count_of(emulator, "purchases", user) for user in members) == len(rows_of(output))
    assert len({str(row) for row in rows_of(output)}) == len(rows_of(output))


def test_merging_prints_any_name(crowdtwist: Command, emulator: Emulator, tmp_path: Path) -> None:
    """Also that of a file that is no UTF-8."""
    output = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")
    for shard in ("0/2", "1/2"):
        assert (
            0 == crowdtwist("export", "points", "--emulator", "-o", output, "--shard", shard, "--quiet").code
        )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(python_m("merge", output), env=environment, capture_output=True, timeout=60)
    assert (0, b"") == (done.returncode, done.stderr)
    assert b"merged to " + os.fsencode(output) in done.stdout
