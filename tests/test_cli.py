"""
The command: what it prints where, its exit codes, and what it never says.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import fields
from command import (  # noqa: F401 - fixtures
    MEMBERS,
    USER,
    Command,
    asked_on_a_socket,
    count_of,
    count_of_all,
    emulated,
    ids_of_all,
    in_this_process,
    no_account,
    on_every_name,
    python_m,
    requests_over_aiohttp,
    server_over_a_socket,
)
from conftest import KEY, PRIVATE_KEY, PUBLIC_KEY, leaks
from signatures import PAIR

import crowdtwist_async.cli
from crowdtwist_async import PointsAwaitingFulfillment, Purchase, Reward
from crowdtwist_async.__about__ import __version__
from crowdtwist_async.cli import main
from crowdtwist_async.cli._connect import Connection
from crowdtwist_async.emulator import Emulator, Fault

MODELS = {"points": PointsAwaitingFulfillment, "rewards": Reward, "purchases": Purchase}
COMMANDS: list[list[str]] = [
    [],
    ["points"],
    ["rewards"],
    ["purchases"],
    ["export"],
    ["export", "points"],
    ["export", "rewards"],
    ["export", "purchases"],
    ["plan"],
    ["emulator"],
]


# One member


@on_every_name
def test_one_member_is_printed_as_json_lines(crowdtwist: Command, emulator: Emulator, name: str) -> None:
    """Every row of every page, with the reference's fields."""
    ended = crowdtwist(name, USER, "--emulator")

    assert (0, "") == (ended.code, ended.err)
    assert [[field.name for field in fields(MODELS[name])]] * count_of(emulator, name) == [
        list(row) for row in ended.rows
    ]


@on_every_name
def test_the_real_api_is_where_the_environment_says(
    crowdtwist: Command, server: Emulator, emulator: Emulator, name: str
) -> None:
    """The same rows, from a socket, with the key of a variable."""
    ended = crowdtwist(name, USER)

    assert (0, "", count_of(server, name)) == (ended.code, ended.err, len(ended.rows))
    assert ended.rows == crowdtwist(name, USER, "--emulator").rows


@on_every_name
@pytest.mark.parametrize(("flags", "over_aiohttp"), [([], 0), (["httpx"], 0), (["aiohttp"], 1)], ids=str)
def test_the_transport_is_chosen(
    crowdtwist: Command,
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    flags: list[str],
    over_aiohttp: int,
) -> None:
    """The same rows over either; httpx where nothing is said."""
    sent = requests_over_aiohttp(monkeypatch)

    ended = crowdtwist(name, USER, *(["--transport", *flags] if flags else []))

    assert (0, "", count_of(server, name)) == (ended.code, ended.err, len(ended.rows))
    assert over_aiohttp * server.stats.requests == len(sent)


@on_every_name
def test_the_key_may_be_in_a_file(
    crowdtwist: Command,
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ids: Path,
    name: str,
) -> None:
    """With the newline that an editor leaves, for single members and exports."""
    (tmp_path / "key").write_text(KEY + "\n")
    monkeypatch.delenv("CROWDTWIST_API_KEY")
    monkeypatch.setenv("CROWDTWIST_API_KEY_FILE", str(tmp_path / "key"))

    assert (0, count_of(server, name)) == ((one := crowdtwist(name, USER)).code, len(one.rows))
    many = crowdtwist("export", name, "--ids", ids, "-o", "-", "--per-minute", "inf")
    assert (0, count_of_all(server, name)) == (many.code, len(many.rows))


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        pytest.param(["purchases", "--max-items", "11"], 11, id="max-purchases"),
        pytest.param(["rewards", "--max-items", "0"], 0, id="no-rewards"),
        pytest.param(["points", "--id-type", "mobile_phone_number", "--user", "5550000001"], 1, id="phone"),
        pytest.param(["rewards", "--id-type", "twitter_user_id", "--user", "2000000001"], None, id="twitter"),
        pytest.param(["purchases", "--date-end", "1999-12-31"], 0, id="dates"),
        pytest.param(["purchases", "--user", "10000002"], 0, id="member-without-purchases"),
    ],
)
def test_flags_narrow_what_is_printed(
    crowdtwist: Command, emulator: Emulator, arguments: list[str], count: int | None
) -> None:
    """They are the arguments of the client's methods."""
    user = [] if "--user" in arguments else [USER]

    ended = crowdtwist(*arguments, *user, "--emulator")

    assert (0, emulator.rewards_of(USER) if count is None else count) == (ended.code, len(ended.rows))


def test_sold_out_rewards_are_printed_when_wanted(crowdtwist: Command, emulator: Emulator) -> None:
    """By default the API leaves them out."""
    ended = crowdtwist("rewards", USER, "--emulator", "--include-soldout")

    assert emulator.rewards_of(USER, include_soldout=True) == len(ended.rows) > emulator.rewards_of(USER)


@pytest.mark.parametrize(("members", "code"), [(2, 0), (1, 1)])
def test_members_size_the_emulator(crowdtwist: Command, members: int, code: int) -> None:
    """The second member of one is unknown."""
    assert code == crowdtwist("points", USER, "--emulator", "--members", members).code


def test_rows_are_printed_as_they_come(crowdtwist: Command, emulator: Emulator) -> None:
    """What came before a failure is there, and the exit code says that it is not all."""
    emulator.script(None, None, Fault.status(500, reason="not_configured"))

    ended = crowdtwist("purchases", USER, "--emulator")

    assert (1, 20) == (ended.code, len(ended.rows))
    assert re.fullmatch(
        r"crowdtwist: 500 not_configured: Emulated fault\. \(user_purchases at .*\)\n", ended.err
    )


# Refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["nonsense"], "there is no such command: see crowdtwist --help", id="command"),
        pytest.param(
            ["purchase", USER],
            r"there is no such command \(did you mean purchases\?\): see crowdtwist --help",
            id="nearly-a-command",
        ),
        pytest.param(
            ["points", USER, "--emulater"],
            r"there is no flag --emulater \(did you mean --emulator\?\): see crowdtwist points --help",
            id="nearly-a-flag",
        ),
        pytest.param(
            ["export", USER], "there is no such command: see crowdtwist export --help", id="export-command"
        ),
        pytest.param(["points"], "--user is missing: see crowdtwist points --help", id="no-user"),
        pytest.param(
            ["points", USER, "10000002"],
            "there are more arguments than it takes: see crowdtwist points --help",
            id="two-users",
        ),
        pytest.param(
            ["points", USER, "--bogus"],
            "there is no flag --bogus: see crowdtwist points --help",
            id="unknown-flag",
        ),
        pytest.param(
            ["points", USER, "-x"],
            "there is no such flag: see crowdtwist points --help",
            id="unknown-short-flag",
        ),
        pytest.param(
            ["points", USER, "--emulator", "--emulator"],
            "--emulator is given twice: see crowdtwist points --help",
            id="twice",
        ),
        pytest.param(
            ["points", USER, "--members", "10000000a"],
            "the value of --members is not one that it takes \\(a whole number\\): see crowdtwist points --help",
            id="no-number",
        ),
        pytest.param(
            ["points", USER, "--id-type", "username"],
            "the value of --id-type is not one that it takes \\(id, email, third_party_id, mobile_phone_number\\): see crowdtwist points --help",
            id="id-type-of-another-endpoint",
        ),
        pytest.param(
            ["purchases", USER, "--date-start", "yesterday"],
            "the value of --date-start is not one that it takes \\(a day like 2026-01-31\\): see crowdtwist purchases --help",
            id="no-date",
        ),
        pytest.param(
            ["export", "points", "--emulator"],
            "--output is missing: see crowdtwist export points --help",
            id="no-output",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o"],
            "-o is given without a value, or with one that begins with a hyphen: see crowdtwist export points --help",
            id="output-without-a-name",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "x.csv", "--max-age", "-5h"],
            "--max-age is given without a value, or with one that begins with a hyphen: see crowdtwist export points --help",
            id="negative",
        ),
        pytest.param(
            ["export", "points", "-o", "-", "--concurrency", "many"],
            "the value of --concurrency is not one that it takes \\(a whole number\\): see crowdtwist export points --help",
            id="concurrency",
        ),
        pytest.param(
            ["points", USER], "there is no key: give --emulator, or set CROWDTWIST_API_KEY or .*", id="no-key"
        ),
        pytest.param(
            ["points", USER, "--members", "5"],
            "--members sizes the emulator: give --emulator too",
            id="members-alone",
        ),
        pytest.param(
            ["points", USER, "--emulator", "--members", "0"], "--members must be 1 or more", id="no-members"
        ),
        pytest.param(
            ["points", USER, "--emulator", "--transport", "aiohttp"],
            "--transport is for requests over a network, and --emulator makes none: leave one of them out",
            id="transport-of-the-emulator",
        ),
        pytest.param(
            ["points", USER, "--transport", "carrier-pigeon"],
            "the value of --transport is not one that it takes \\(httpx, aiohttp\\): see crowdtwist points --help",
            id="unknown-transport",
        ),
        pytest.param(["points", " ", "--emulator"], "user_id is empty or blank: give .*", id="blank-user"),
        pytest.param(
            ["rewards", USER, "--emulator", "--max-items", "-1"],
            "--max-items must be 0 or more",
            id="max-items",
        ),
        pytest.param(
            ["purchases", USER, "--emulator", "--date-start", "2026-02-01", "--date-end", "2026-01-01"],
            "--date-end is before --date-start: swap them",
            id="dates",
        ),
        pytest.param(
            "export purchases --emulator -o x.csv --date-start 2026-02-01 --date-end 2026-01-01".split(),  # noqa: SIM905 - as typed
            "--date-end is before --date-start: swap them",
            id="dates-of-all",
        ),
        pytest.param(
            ["export", "points", "-o", "x.csv"],
            "give --ids FILE with one member id a line, or --ids - for standard input",
            id="no-ids",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "x.txt"],
            r"x\.txt has no known format: it must end in \.jsonl, \.csv, \.parquet, \.sqlite, or be -",
            id="format",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "-", "--concurrency", "0"],
            "--concurrency must be an int of 1 or more",
            id="no-concurrency",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "-", "--per-minute", "0"],
            "--per-minute must be a positive number of requests, or inf",
            id="no-rate",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "x.csv", "--max-failed", "-1"],
            "--max-failed must be 0 or more",
            id="max-failed",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "x.csv", "--column", "id"],
            "--column is one of the ids' file: give --ids FILE too",
            id="column-alone",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "x.csv", "--max-age", "1w"],
            "--max-age takes a time like 90s, 15m, 20h or 2d",
            id="max-age",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "x.csv", "--max-outage", "5"],
            "--max-outage takes a time like 90s, 15m, 20h or 2d",
            id="max-outage",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "-", "--fresh"],
            "standard output holds no earlier export: name a file",
            id="fresh-standard-output",
        ),
        pytest.param(
            ["export", "points", "--emulator", "-o", "x.jsonl", "--disarm-formulas"],
            "disarming formulas is for CSV alone: no other format has any",
            id="formulas",
        ),
        pytest.param(
            ["emulator", "--members", "-1"], "--members must be an integer of 0 or more", id="emulator"
        ),
        pytest.param(
            ["emulator", "--per-minute", "0"],
            "--per-minute must be an integer of 1 or more",
            id="emulator-per-minute",
        ),
        pytest.param(["emulator", "--fault-rate", "2"], "--fault-rate must be from 0 to 1", id="fault-rate"),
        pytest.param(
            ["emulator", "--port", "65536"],
            "--port must be from 0 to 65535; 0 takes a free one",
            id="port-too-high",
        ),
        pytest.param(
            ["emulator", "--port", "-1"],
            "--port must be from 0 to 65535; 0 takes a free one",
            id="port-too-low",
        ),
    ],
)
def test_what_can_not_work_is_refused(
    crowdtwist: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    """One sentence says what to do instead; it repeats no value, which may be an id. No file is left."""
    monkeypatch.chdir(tmp_path)

    ended = crowdtwist(*arguments)

    assert ended.refused(2, sentence), ended
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        pytest.param("CLIENT_ID", "20a", "CROWDTWIST_CLIENT_ID must be the digits .*", id="client-id"),
        pytest.param(
            "ENVIRONMENT", "SB", "CROWDTWIST_ENVIRONMENT must be a host prefix: .*", id="environment"
        ),
        pytest.param("POS_URL", "http://example.com", "CROWDTWIST_POS_URL must be https; .*", id="url"),
        pytest.param("PER_MINUTE", "many", "CROWDTWIST_PER_MINUTE must be a number .*", id="rate"),
        pytest.param("API_KEY_FILE", "x", "set CROWDTWIST_API_KEY or .*, not both", id="two-keys"),
        pytest.param("API_KEY", "with space " + KEY, "CROWDTWIST_API_KEY holds a space, .*", id="key"),
    ],
)
def test_settings_that_can_not_work_are_refused(
    crowdtwist: Command,
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    sentence: str,
) -> None:
    """Before any request, for single members and exports."""
    monkeypatch.setenv(f"CROWDTWIST_{name}", value)

    for arguments in (["points", USER], ["export", "points", "--ids", "ids.txt", "-o", "-"]):
        assert crowdtwist(*arguments).refused(2, sentence)
    assert 0 == server.stats.requests


def test_a_key_file_that_is_missing_is_told(crowdtwist: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its variable: the path may be a secret too."""
    monkeypatch.setenv("CROWDTWIST_API_KEY_FILE", "missing.key")

    assert crowdtwist("points", USER).refused(2, "CROWDTWIST_API_KEY_FILE can't be read: No such file or .*")


def test_an_unknown_member_is_told(crowdtwist: Command) -> None:
    """In the API's own words, without the id."""
    ended = crowdtwist("purchases", "19999999", "--emulator")

    assert ended.refused(1, r"404 user_not_found: User does not exist \(user_purchases at localhost, 1 .*\)")


# The key


@on_every_name
def test_a_refused_key_is_told(
    crowdtwist: Command, server: Emulator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By an exit code of its own, for every endpoint."""
    monkeypatch.setenv("CROWDTWIST_API_KEY", "another" + KEY)

    assert crowdtwist(name, USER).refused(4, r"403 invalid_auth: Invalid access credentials\. \(.*\)")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "crowdtwist")
def test_no_flag_takes_a_key(crowdtwist: Command, command: list[str]) -> None:
    """It would stand in the shell's history, and in every list of processes."""
    ended = crowdtwist(*command, "--help")

    assert (0, "") == (ended.code, ended.err)
    assert not re.search(r"--\S*(key|secret|token|password)", ended.out, re.IGNORECASE)
    assert ended.out.startswith(f"Usage: crowdtwist {' '.join(command)}".rstrip())


@pytest.mark.parametrize("flag", ["--api-key", "--key", "-k", "--token"])
@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
@pytest.mark.parametrize(
    "command",
    [["points", USER], ["rewards", USER], ["purchases", USER], ["export", "points", "-o", "-"], ["emulator"]],
    ids=lambda command: " ".join(command),
)
def test_a_key_on_the_command_line_is_refused(
    crowdtwist: Command, command: list[str], flag: str, joined: bool
) -> None:
    """And not repeated."""
    ended = crowdtwist(*command, *([f"{flag}={KEY}"] if joined else [flag, KEY]))

    assert (2, "") == (ended.code, ended.out)
    assert re.fullmatch(r"crowdtwist: there (is|are) .*: see crowdtwist .* --help\n", ended.err)


def test_a_server_that_echoes_everything_tells_no_key(crowdtwist: Command, server: Emulator) -> None:
    """Neither in a row nor in an error, and no id either."""
    echo = json.dumps({"error": {"errors": [{"reason": KEY, "message": f"{USER} with {KEY}"}]}}).encode()
    server.script(None, Fault.status(400, body=echo))

    ended = crowdtwist("purchases", USER)

    assert (1, 10) == (ended.code, len(ended.rows))
    assert "***" in ended.err


# Standard output


class FailingStdout:
    """A standard output that can't be written."""

    def write(self, _: str) -> int:
        """Fail as a full disk does."""
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("stdout", "sentence"),
    [
        pytest.param(FailingStdout(), "standard output can't be written: No space left on device", id="full"),
        pytest.param(None, "standard output is closed: open it, or send it to a file", id="closed"),
    ],
)
def test_a_member_that_can_not_be_printed_is_told(
    crowdtwist: Command, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, stdout: Any, sentence: str
) -> None:
    """On standard error, which is another file."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        ended = crowdtwist("purchases", USER, "--emulator")
        document = crowdtwist("openapi")

    assert ended.refused(1, sentence)
    assert document.refused(1, sentence)


def test_a_reader_that_leaves_is_no_error(
    capfd: pytest.CaptureFixture[str], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`| head -1` has what it wanted: nothing is said, and nothing fails at the interpreter's end."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", pipe)
        code = main(["purchases", USER, "--emulator"])
        pipe.write("what the interpreter still had to flush")

    assert (1, "") == (code, capfd.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["points", USER, "--emulator"], id="points"),
        pytest.param(["openapi"], id="openapi"),
        pytest.param(["plan", "--ids", "-", "--endpoint", "points"], id="plan"),
    ],
)
def test_an_output_that_can_not_be_written_ends_the_process(ids: Path, arguments: list[str]) -> None:
    """With one sentence, and the exit code of a failure: the interpreter has no complaint of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    # A file that is open for reading alone.
    with ids.open() as unwritable:
        ended = subprocess.run(
            python_m(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=unwritable,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=60,
        )

    assert 1 == ended.returncode
    assert re.fullmatch(r"crowdtwist: standard output can't be written: .+\r?\n", ended.stderr.decode())


def test_a_closed_pipe_ends_the_process() -> None:
    """Also at its real end."""
    command = python_m("purchases", USER, "--emulator")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        said = running.stderr.read()

    assert (1, "") == (running.returncode, said)


# Interruptions


def test_an_interruption_is_told(crowdtwist: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a word, and the exit code that shells give it."""

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("crowdtwist_async.cli._app.run", interrupt)

    assert crowdtwist("points", USER).refused(130, "interrupted")


def test_the_emulator_serves_until_it_is_interrupted() -> None:
    """On a free port, which it names with what to set; the key in it is no secret."""
    command = python_m("emulator", "--port", "0", "--members", "3")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = "".join(running.stderr.readline() for _ in range(3))
        variables = dict(re.findall(r"(CROWDTWIST_\w+)=(\S+)", said))
        header = {"X-CT-Authorization": f"CTApiKey {variables['CROWDTWIST_API_KEY']}"}
        url = variables["CROWDTWIST_POS_URL"]
        got = httpx.get(f"{url}/users/10000000/purchases", headers=header, trust_env=False)
        [page] = re.findall(r"\S+/docs", said)
        shown = httpx.get(page, trust_env=False)
        environment = {**os.environ, **variables}
        asked = subprocess.run(
            python_m(*said.splitlines()[-1].split()[1:]), env=environment, capture_output=True, text=True
        )
        running.send_signal(signal.SIGINT)
        rest = running.communicate(timeout=30)

    assert (200, 0, "") == (got.status_code, asked.returncode, asked.stderr)
    assert 'value="emulator-key"' in shown.text
    assert got.json()["paging"]["total"] == len(asked.stdout.splitlines())
    assert (0, ("", "")) == (running.returncode, rest)


def test_the_emulator_gets_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it is given."""
    made: list[dict[str, Any]] = []
    calls: list[tuple[object, ...]] = []

    def make(**options: Any) -> Emulator:
        made.append(options)
        return Emulator(**options)

    monkeypatch.setattr("crowdtwist_async.cli._app.Emulator", make)
    monkeypatch.setattr(
        "crowdtwist_async.emulator.server.serve", lambda *arguments: calls.append(arguments[1:3])
    )
    flags = "--host ::1 --port 1234 --members 7 --seed 3 --fault-rate 0.5 --per-minute 60"

    assert 0 == main(["emulator", *flags.split()])
    assert [{"members": 7, "seed": 3, "fault_rate": 0.5, "per_minute": 60, "signing": None}] == made
    assert [("::1", 1234)] == calls


def test_a_taken_port_is_told(crowdtwist: Command) -> None:
    """With the system's reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = crowdtwist("emulator", "--port", port)

    assert ended.refused(
        2, rf"the emulator can't listen on 127\.0\.0\.1 port {port}: Address already in use.*"
    )


def test_the_emulator_listens_nowhere_by_mistake(crowdtwist: Command) -> None:
    """An empty host, of a variable that is not set, would be every interface."""
    assert crowdtwist("emulator", "--host", "").refused(
        2, "--host is empty, which would be all interfaces: .*"
    )


def test_no_columns_are_as_many_as_are_usual(crowdtwist: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is told would be cropped, and help end in a traceback."""
    monkeypatch.setenv("COLUMNS", "0")
    ended = crowdtwist("export", "points", "--emulator", "--members", 2, "-o", "-")
    assert (0, True) == (ended.code, "points: 2 members" in ended.err)


def test_the_emulator_says_how_to_ask_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines to paste."""

    def serve(_: Emulator, host: str, port: int, announce: Callable[[str], object]) -> None:
        announce(f"http://{host}:{port}")

    monkeypatch.setattr("crowdtwist_async.emulator.server.serve", serve)

    assert 0 == main(["emulator"])
    url = "http://127.0.0.1:8777"
    expected = (
        f"The emulator listens on {url}, and {url}/docs describes it. To ask it:\n"
        f"  export CROWDTWIST_API_URL={url} CROWDTWIST_POS_URL={url} CROWDTWIST_API_KEY=emulator-key\n"
        "  crowdtwist purchases 10000000\n"
    )
    assert ("", expected) == capsys.readouterr()


def test_the_emulator_takes_its_pair_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No flag takes a key, and what it prints holds none."""
    served: list[Emulator] = []

    def serve(emulator: Emulator, host: str, port: int, announce: Callable[[str], object]) -> None:
        served.append(emulator)
        announce(f"http://{host}:{port}")

    monkeypatch.setattr("crowdtwist_async.emulator.server.serve", serve)
    (tmp_path / "private").write_text(f"{PRIVATE_KEY}\n")
    monkeypatch.setenv("CROWDTWIST_HMAC_PUBLIC_KEY", PUBLIC_KEY)
    monkeypatch.setenv("CROWDTWIST_HMAC_PRIVATE_KEY_FILE", str(tmp_path / "private"))

    assert 0 == main(["emulator"])
    [emulator] = served
    assert emulator.signing is not None
    assert PRIVATE_KEY == emulator.signing.private_key.reveal()
    printed = capsys.readouterr().err
    assert printed.endswith("\nIt accepts signatures too: set CROWDTWIST_HMAC_... there as here.\n")
    assert not leaks(printed)


# Signing


@pytest.fixture(name="signed")
def asked_with_signatures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An API on a socket; the environment has a pair, and a key that is refused."""
    made = Emulator(members=MEMBERS, api_key="another-key", rewards=25, signing=PAIR)
    with asked_on_a_socket(made, monkeypatch):
        monkeypatch.setenv("CROWDTWIST_HMAC_PUBLIC_KEY", PUBLIC_KEY)
        monkeypatch.setenv("CROWDTWIST_HMAC_PRIVATE_KEY", PRIVATE_KEY)
        yield made


@pytest.mark.parametrize("transport", [[], ["--transport", "aiohttp"]], ids=["httpx", "aiohttp"])
def test_commands_sign_with_the_pair_of_the_environment(
    crowdtwist: Command, signed: Emulator, ids: Path, tmp_path: Path, transport: list[str]
) -> None:
    """Single members and exports."""
    assert signed.rewards_of(USER) == len(crowdtwist("rewards", USER, *transport).rows)
    output = tmp_path / "out.jsonl"
    ended = crowdtwist("export", "rewards", "--ids", ids, "-o", output, "--quiet", *transport)
    assert (0, "") == (ended.code, ended.err)
    assert count_of_all(signed, "rewards") == len(output.read_text().splitlines())


def test_a_refused_signature_ends_a_command_with_what_to_check(
    crowdtwist: Command, signed: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a refused key does."""
    monkeypatch.setenv("CROWDTWIST_HMAC_DIGEST", "raw")

    assert crowdtwist("rewards", USER).refused(4, r"403 invalid_auth: .* \(the request was signed: check .*")
    assert {403: 1} == signed.stats.by_status


def test_half_a_pair_is_a_usage_error(
    crowdtwist: Command, signed: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any request."""
    monkeypatch.delenv("CROWDTWIST_HMAC_PUBLIC_KEY")

    assert crowdtwist("rewards", USER).refused(2, "signing takes two keys: set .*")
    assert 0 == signed.stats.requests


# The rate


@pytest.mark.parametrize(
    ("flag", "variable", "usual", "expected"),
    [
        pytest.param(None, None, None, 9_700, id="client"),
        pytest.param(None, None, 5_000, 5_000, id="export"),
        pytest.param(None, "700", 5_000, 700, id="environment"),
        pytest.param(60.0, "700", 5_000, 60, id="flag"),
    ],
)
def test_the_rate_is_the_nearest_that_is_given(
    monkeypatch: pytest.MonkeyPatch,
    flag: float | None,
    variable: str | None,
    usual: float | None,
    expected: float,
) -> None:
    """A flag before the environment, that before the export's usual rate, half of the contract's."""
    monkeypatch.setenv("CROWDTWIST_API_KEY", KEY)
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", variable or "")

    client = Connection(per_minute=flag).client(None, usual)

    assert expected == getattr(client._session.budget, "per_minute", None)


@pytest.mark.parametrize(("flag", "expected"), [(None, float("inf")), (60.0, 60.0)])
def test_the_emulator_is_not_paced_unless_told(flag: float | None, expected: float) -> None:
    """It has nobody to share with."""
    connection = Connection(emulated=True, per_minute=flag)
    emulator = connection.make_emulator()

    assert emulator is not None
    assert expected == getattr(connection.client(emulator, 5_000)._session.budget, "per_minute", None)


# The command itself


def test_it_tells_its_version(crowdtwist: Command) -> None:
    """And nothing else."""
    assert (0, f"{__version__}\n", "") == crowdtwist("--version")


def test_without_a_command_it_helps(crowdtwist: Command) -> None:
    """All commands are listed."""
    ended = crowdtwist()

    assert 0 == ended.code
    assert all(f" {name} " in ended.out for name in ("points", "rewards", "purchases", "export", "emulator"))


def test_arguments_come_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where none are given to `main`."""
    monkeypatch.setattr(sys, "argv", ["crowdtwist", "--version"])

    assert (0, f"{__version__}\n") == (main(), capsys.readouterr().out)


def _without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let the import of a package fail, as where it is not installed."""
    for name in list(sys.modules):
        parent, _, child = name.rpartition(".")
        if parent in ("crowdtwist_async.cli", "crowdtwist_async.emulator"):
            monkeypatch.delattr(sys.modules[parent], child)
            monkeypatch.delitem(sys.modules, name)
        elif name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def test_a_system_error_is_told(crowdtwist: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence too, wherever it comes from."""
    error = OSError(24, "Too many open files", "the file")

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("crowdtwist_async.cli._app.run", fail)

    assert crowdtwist("points", USER).refused(1, "the file: Too many open files")


def test_without_standard_error_nothing_is_said(crowdtwist: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is for rows."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", None)
        ended = crowdtwist("points")

    assert (2, "", "") == ended


@pytest.mark.parametrize("package", ["cyclopts", "uvicorn", "rich"])
def test_a_missing_extra_is_named(crowdtwist: Command, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """With the line that installs it."""
    _without(monkeypatch, package)

    ended = crowdtwist("emulator") if package == "uvicorn" else crowdtwist("points", USER, "--emulator")

    assert ended.refused(2, r"the command needs more packages: pip install 'crowdtwist-async\[cli\]'")


@pytest.mark.parametrize("command", [["points", USER], ["export", "points", "--ids", "ids.txt", "-o", "-"]])
def test_a_missing_transport_is_named(
    crowdtwist: Command, server: Emulator, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """With the line that installs it, and no request is made over the other one instead."""
    monkeypatch.delitem(sys.modules, "crowdtwist_async.transports.aiohttp", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    ended = crowdtwist(*command, "--transport", "aiohttp")

    extra = r"--transport aiohttp needs one more package: pip install 'crowdtwist-async\[aiohttp\]'"
    assert ended.refused(2, extra)
    assert 0 == server.stats.requests


def test_another_import_error_is_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is not cured by the extra."""
    _without(monkeypatch, "msgspec")

    with pytest.raises(ImportError, match="msgspec"):
        main(["points", USER, "--emulator"])


def test_the_exit_codes_are_the_documented_ones() -> None:
    """Scripts depend on them."""
    names = [
        "COMPLETE",
        "FAILED",
        "USAGE",
        "COMPLETE_WITH_FAILURES",
        "AUTHENTICATION",
        "STOPPED",
        "INTERRUPTED",
    ]

    assert [0, 1, 2, 3, 4, 75, 130] == [getattr(crowdtwist_async.cli, name) for name in names]
