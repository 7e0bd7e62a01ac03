"""
The pages on errors, rulings, deployment and the design: their blocks run, and what they say of the code is so.

Docker and Kubernetes are not there: what they would run is run as a shell does.
"""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent, indent

import httpx
import pytest
from blocks import MEMBERS, ROOT, blocks_of, emulated, python, run
from conftest import KEY, leaks
from redis_server import RedisServer, free_port, one_for_all  # noqa: F401 - a fixture

from crowdtwist_async import CrowdTwistClient, errors

DOCS = ROOT / "docs"
PAGES = ("errors", "api-rulings", "deployment", "design")
ENVIRONMENTS = ("", "us2-", "de-", "sb-", "sb2-")
CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__
]
PATIENCE = 60.0


def text_of(page: str) -> str:
    """A page of the folder."""
    return (DOCS / f"{page}.md").read_text()


def the_block(page: str, language: str) -> str:
    """The one block of a language."""
    [text] = [block.text for block in blocks_of(DOCS / f"{page}.md") if block.language == language]
    return text


@pytest.fixture(name="environment")
def in_a_folder(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the blocks need: the emulator, a list of members."""
    with emulated(tmp_path) as environment:
        yield environment


def test_every_block_is_run_by_a_test() -> None:
    """A new one is of a language that a test below knows."""
    found = {page: [block.language for block in blocks_of(DOCS / f"{page}.md")] for page in PAGES}

    assert {
        "errors": ["", "python"],
        "api-rulings": ["python"],
        "deployment": ["python", "sh", "dockerfile", "yaml"],
        "design": [],
    } == found


@pytest.mark.parametrize("page", ["errors", "api-rulings"])
def test_programs_run(page: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Each prints something and complains about nothing."""
    ran = run(python(the_block(page, "python")), environment, tmp_path)

    assert (0, "") == (ran.returncode, ran.stderr)
    assert ran.stdout
    assert not leaks(ran.stdout)


# Errors


def sections() -> dict[str, str]:
    """What the page says of each class."""
    _, *parts = re.split(r"^### (\w+)\n", text_of("errors"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_each_error_has_a_section() -> None:
    """All classes, and no other."""
    names = [*sections()]

    assert {kind.__name__ for kind in CLASSES} == {*names}
    assert len(names) == len({*names})


@pytest.mark.parametrize("kind", CLASSES, ids=[kind.__name__ for kind in CLASSES])
def test_the_section_of_an_error_is_complete(kind: type) -> None:
    """It says when the error comes, what to do, and names each attribute that is the class's own."""
    section = sections()[kind.__name__]

    assert ["When", "What to do"] == re.findall(r"^\* \*\*([\w ]+)\*\*: \S", section, re.MULTILINE)
    for name in inspect.get_annotations(kind):
        assert f"`{name}`" in section or (name == "retryable" and "ried again" in section)


def test_the_tree_is_that_of_the_module() -> None:
    """Line by line."""
    assert indent(the_block("errors", ""), "    ") in (errors.__doc__ or "")


# Rulings


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=[name or "us" for name in ENVIRONMENTS])
def test_the_page_lists_the_environments(environment: str) -> None:
    """With the hosts that the client asks."""
    text = text_of("api-rulings")
    client = CrowdTwistClient(api_key=KEY, client_id=201, environment=environment)
    settings = client._session.settings

    assert f"| `{environment}` |" in text or (not environment and "| US production | none |" in text)
    for base in (settings.api, settings.pos):
        template = base.origin.replace(f"//{environment}", "//{environment}", 1).replace("201", "{client_id}")
        assert f"`{template}`" in text


# Deployment


@contextmanager
def serving(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A server for as long as a block lasts; it must end in order."""
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(PATIENCE)


def answered(url: str, log: Path) -> httpx.Response:
    """What a server says as soon as it answers."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            return httpx.get(url, timeout=PATIENCE, trust_env=False)
        except httpx.ConnectError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_the_app_answers_in_two_workers(
    environment: dict[str, str], tmp_path: Path, shared_redis: RedisServer
) -> None:
    """For members, those who are none, and a check of its health; all that is changed are the port and the number."""
    environment["CROWDTWIST_BUDGET"] = shared_redis.url
    (tmp_path / "app.py").write_text(the_block("deployment", "python"))
    url = f"http://127.0.0.1:{(port := free_port())}"
    words = the_block("deployment", "sh").split()
    replaced = {"uvicorn": [sys.executable, "-m", "uvicorn"], "4": ["2"], "8000": [str(port)]}
    command = [part for word in words for part in replaced.get(word, [word])]
    log = tmp_path / "server.log"
    with serving(command, environment, tmp_path):
        health = answered(f"{url}/health", log)
        found = [answered(f"{url}/members/{10_000_000 + number}/points", log) for number in range(10)]
        missing = answered(f"{url}/members/nobody/points", log)
        refused = answered(f"{url}/members/%20/points", log)

    assert {"requests", "retries"} == health.json().keys()
    assert [200] * 10 == [response.status_code for response in found], log.read_text()
    assert all(response.json()["points"] >= 0 for response in found)
    assert (404, 422) == (missing.status_code, refused.status_code)
    assert 2 == log.read_text().count("Application startup complete.")
    assert 2 == log.read_text().count("Application shutdown complete.")
    assert not leaks(log.read_text())


def test_the_nightly_job_exports(environment: dict[str, str], tmp_path: Path) -> None:
    """A pod's script, with the key in a file; a second pod has nothing left to do."""
    text = the_block("deployment", "yaml")
    [script] = re.findall(r"^ +- \|\n((?: {18}.*\n)+)", text, re.MULTILINE)
    (tmp_path / "key").write_text(f"{environment.pop('CROWDTWIST_API_KEY')}\n")
    pod = {**environment, "CROWDTWIST_API_KEY_FILE": str(tmp_path / "key"), "CROWDTWIST_PER_MINUTE": "9000"}
    for _ in range(2):
        ran = run(["/bin/sh", "-c", dedent(script)], pod, tmp_path)
        assert 0 == ran.returncode, ran.stderr
        assert not leaks(ran.stdout + ran.stderr)

    assert 1 == len([*tmp_path.glob("purchases-*.parquet")])
    assert MEMBERS == (tmp_path / "members.txt").read_text().count("\n") + 1


def test_the_nightly_job_is_a_cron_job() -> None:
    """Its volumes are mounted, and the codes that end it are such as no try mends."""
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with the extra [dask]")
    job = yaml.safe_load(the_block("deployment", "yaml"))
    spec = job["spec"]["jobTemplate"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    codes = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    table = re.findall(r"^\| (\d+)(?:, \d+)? \|", text_of("exporting"), re.MULTILINE)

    assert ("batch/v1", "CronJob", "Never") == (job["apiVersion"], job["kind"], pod["restartPolicy"])
    assert {volume["name"] for volume in pod["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }
    assert [2, 3, 4] == codes
    assert {*map(str, codes)} <= {*table}


def test_the_container_installs_what_there_is() -> None:
    """Extras of the package, and its command in the form that gets signals."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = the_block("deployment", "dockerfile")
    [extras] = re.findall(r"'crowdtwist-async\[([\w,]+)\]'", text)
    [entry] = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)

    assert {*extras.split(",")} <= project["optional-dependencies"].keys()
    assert {*json.loads(entry)} <= project["scripts"].keys()


# Design


@pytest.mark.parametrize(
    "figure",
    [
        "1,134",
        "1,231",
        "1,251",
        "1,529",
        "20 seconds",
        "200 kills",
        "34.5",
        "4,746",
        "5,361",
        "9,746 requests",
        "99.98 %",
    ],
)
def test_the_figures_of_the_design_are_measured(figure: str) -> None:
    """They are those of the README."""
    for page in ("README.md", "docs/design.md"):
        assert re.search(rf"(?<![\d,]){re.escape(figure)}(?!\d)", " ".join((ROOT / page).read_text().split()))


def test_the_design_names_modules_that_are_there() -> None:
    """Each in the table of layers."""
    [table] = re.findall(r"^\| layer .*\n\|.*\n((?:\|.*\n)+)", text_of("design"), re.MULTILINE)
    named = [name for row in table.splitlines() for name in re.findall(r"`([a-z_]+)`", row.split("|")[2])]
    package = ROOT / "crowdtwist_async"

    assert named
    assert [] == [
        name for name in named if not (package / name).is_dir() and not (package / f"{name}.py").is_file()
    ]
