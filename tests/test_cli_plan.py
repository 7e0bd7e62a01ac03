"""
`crowdtwist plan`: what it prints, warns of and refuses, without an account and without a request.
"""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from struct import unpack
from termios import FIONREAD
from time import monotonic, sleep

import pytest

from crowdtwist_async.cli import main

PATIENCE = 30.0
WARNING = (
    "crowdtwist: warning: the contract allows a program 10,000 requests a minute, its live site included\n"
)
MORE_PAGES = (
    "One page a member is the least: 10 entries fill a page, and --pages-per-member X reckons with more.\n"
)
ADVICE = (
    "Every member takes a request, even one without rows. A date range saves pages, never members:"
    " what saves time is a list of the members who were active.\n"
)
Planned = Callable[..., tuple[int, str, str]]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Planned:
    """Run `crowdtwist plan` where the environment names no account."""
    for name in os.environ:
        if name.startswith("CROWDTWIST_"):
            monkeypatch.delenv(name)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["plan", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    """A file with 12,000 members."""
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{number}\n" for number in range(12_000)))
    return path


def test_a_plan_is_printed(planned: Planned, ids: Path) -> None:
    """At half of what a program may send, and at nearly all of it."""
    said = (
        "purchases: 12,000 members, at least 12,000 requests: 2.4 minutes at 5,000 requests a minute.\n"
        "At 9,700 a minute, nearly all that a program may send: 74.2 seconds.\n"
    )

    assert (0, said + MORE_PAGES + ADVICE, "") == planned("--ids", ids, "--endpoint", "purchases")


def test_points_take_one_request_each(planned: Planned, ids: Path) -> None:
    """Their plan has no pages."""
    said = (
        "points: 12,000 members, at least 12,000 requests: 2.4 minutes at 5,000 requests a minute.\n"
        "At 9,700 a minute, nearly all that a program may send: 74.2 seconds.\n"
    )

    assert (0, said + ADVICE, "") == planned("--ids", ids, "--endpoint", "points")


def test_pages_multiply_the_requests(planned: Planned, ids: Path) -> None:
    """What is given is not explained; nor is the whole rate, if it is the one that was asked for."""
    said = "rewards: 12,000 members, at least 18,000 requests: 111.3 seconds at 9,700 requests a minute.\n"

    assert (0, said + ADVICE, "") == planned(
        "--ids", ids, "--endpoint", "rewards", "--pages-per-member", 1.5, "--per-minute", 9700
    )


def test_blank_lines_are_told(planned: Planned, tmp_path: Path) -> None:
    """They may be where ids were lost. The file may be packed, and the ids in a column."""
    path = tmp_path / "members.csv.gz"
    path.write_bytes(gzip.compress(b"name,id\nA,1\nB\nC,\n"))

    code, out, err = planned("--ids", path, "--column", "id", "--endpoint", "points")

    assert (0, "") == (code, err)
    assert out.startswith("points: 1 member, at least 1 request: ")
    assert "\n2 blank lines passed over.\n" in out


def test_the_environment_sets_the_rate_as_for_an_export(
    planned: Planned, ids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag comes first."""
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", "1200")

    assert "10.0 minutes at 1,200 requests" in planned("--ids", ids, "--endpoint", "points")[1]
    assert (
        "20.0 minutes at 600 requests"
        in planned("--ids", ids, "--endpoint", "points", "--per-minute", 600)[1]
    )


@pytest.mark.parametrize(
    ("rate", "warning"),
    [
        pytest.param("10000", "", id="ceiling"),
        pytest.param("10000.5", WARNING, id="above"),
        pytest.param("inf", WARNING, id="no-limit"),
    ],
)
def test_more_than_the_contract_allows_is_warned_about(
    planned: Planned, ids: Path, rate: str, warning: str
) -> None:
    """On standard error, where the plan is not."""
    code, out, err = planned("--ids", ids, "--endpoint", "points", "--per-minute", rate)

    assert (0, warning) == (code, err)
    assert out.startswith("points: 12,000 members, at least 12,000 requests")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        *[
            pytest.param(
                ["--per-minute", rate],
                "--per-minute must be a positive number of requests, or inf",
                id=f"rate-{rate}",
            )
            for rate in ("0", "-5", "nan")
        ],
        *[
            pytest.param(
                ["--pages-per-member", pages],
                "--pages-per-member must be a number from 1, as no member takes less than a request,"
                " to 100,000, as none is walked further",
                id=f"pages-{pages}",
            )
            for pages in ("0", "0.5", "-1", "nan", "inf", "1e308")
        ],
        pytest.param(
            ["--per-minute", "many"],
            "the value of --per-minute is not one that it takes (a number): see crowdtwist plan --help",
            id="no-number",
        ),
    ],
)
def test_wrong_numbers_are_refused(planned: Planned, arguments: list[str], sentence: str) -> None:
    """Before the ids are read: counting them may take a while."""
    ended = planned("--ids", "missing.txt", "--endpoint", "purchases", *arguments)

    assert (2, "", f"crowdtwist: {sentence}\n") == ended


def test_pages_of_points_are_refused(planned: Planned, ids: Path) -> None:
    """They have none."""
    ended = planned("--ids", ids, "--endpoint", "points", "--pages-per-member", 2)

    assert (
        2,
        "",
        "crowdtwist: points take one request a member: leave --pages-per-member out\n",
    ) == ended


def test_ids_that_can_not_be_read_are_refused(planned: Planned, tmp_path: Path) -> None:
    """By the sentence of an export."""
    path = tmp_path / "missing.txt"
    sentence = f"the ids in {path} can't be read: No such file or directory; give a file that can"

    assert (2, "", f"crowdtwist: {sentence}\n") == planned("--ids", path, "--endpoint", "points")


def plan_of_standard_input() -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "crowdtwist_async",
            "plan",
            "--ids",
            "-",
            "--endpoint",
            "points",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_ids_may_come_from_standard_input() -> None:
    """Packed too."""
    with plan_of_standard_input() as running:
        out, err = running.communicate(gzip.compress(b"1\n2\n"), PATIENCE)

    assert (0, b"") == (running.returncode, err)
    assert out.startswith(b"points: 2 members, ")


def is_asleep(pid: int) -> bool:
    """Whether a process waits for something, as far as the system tells."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "S"


def test_a_silent_standard_input_can_be_interrupted() -> None:
    """By the usual key, with the usual exit code, and nothing left on standard error but the word."""
    with plan_of_standard_input() as running:
        assert running.stdin is not None
        reader, end = running.stdin.fileno(), monotonic() + PATIENCE
        running.stdin.write(b"1\n")
        running.stdin.flush()
        # A signal in the moment between two reads waits for the second to end.
        while unpack("i", ioctl(reader, FIONREAD, bytes(4))) != (0,) or not is_asleep(running.pid):
            assert monotonic() < end
            sleep(0.05)
        running.send_signal(signal.SIGINT)
        running.wait(PATIENCE)
        assert running.stdout is not None
        assert running.stderr is not None
        ended = (running.returncode, running.stdout.read(), running.stderr.read())

    assert (130, b"", b"crowdtwist: interrupted\n") == ended
