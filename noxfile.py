"""
Every gate of the project; `nox` runs those that `.ci/run` runs.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = (
    "_arguments",
    "_convert",
    "_cursor",
    "_keys",
    "_line",
    "_page_walk",
    "_pager",
    "_permits",
    "_progress",
    "_protocol",
    "_quota",
    "_replies",
    "_reply_time",
    "_retry",
    "_send",
    "_signing",
    "_slots",
    "_tasks",
    "_telemetry",
    "_waits",
    "_walk",
)

FORMS = {
    "github-workflows": "workflows/*.yml",
    "dependabot": "dependabot.yml",
    "github-issue-forms": "ISSUE_TEMPLATE/[!c]*.yml",
    "github-issue-config": "ISSUE_TEMPLATE/config.yml",
}
# What these cover must be the whole core.
CORE_TESTS = (
    *("arguments", "client", "convert", "cursor", "fanout_line", "keys", "overload", "page_walk", "pager"),
    *(
        "permits",
        "prefetch",
        "protocol",
        "quota",
        "replies",
        "retry",
        "send",
        "signing",
        "slots",
        "telemetry",
    ),
    *("walk",),
)
# Whole worlds, many times over: other tests run the same lines, and following each takes minutes here.
LONG_WHEN_FOLLOWED = (
    *("whatever_the_server", "an_honest_server", "in_any_order_leave", "a_lying_server", "everyday_faults"),
    *("takes_no_more_than_its_share", "is_a_result_or_an_error_of_ours", "costs_no_row"),
    *("any_change_to_a_good_body", "more_clients_than_permits", "all_blocks_of_the_page"),
)
# The wire, the models, the command, the formats and stores, Dask, telemetry: a version could change them.
TOUCHED_BY_VERSIONS = (
    *("cancelling", "cli", "cli_budget", "cli_progress", "client", "config", "convert", "emulator_client"),
    *("emulator_server", "errors", "export_api", "export_csv", "export_dask", "export_parquet"),
    *("export_remote", "export_remote_lease", "export_remote_objects", "export_sqlite", "fanout_line"),
    *("guards", "keys", "models", "network_faults", "prefetch_line", "redis_budget", "redis_settings"),
    *("replies", "send", "telemetry", "threads", "transport_conformance", "transports_aiohttp"),
    *("transports_environment", "transports_faults", "transports_httpx", "web_app"),
)

LOCKS = ROOT / ".ci" / "requirements"
# A lock has what the group of its name wants, and the project with these extras: none for "core".
LOCKED_WITH = {"core": [], "tests": ["all"], "typing": ["all"]}
LOCKED = ("api", "audit", "build", "lint", "nox", "supply", *LOCKED_WITH)

nox.options.sessions = [
    *("lint", "typing", "tests", "coverage", "docs", "site", "remote", "httpx2", "openapi", "lowest"),
    *("bench", "api", "supply", "release-check"),
]
nox.options.default_venv_backend = "uv|venv"  # uv where it is: an environment in seconds
# As pip does: a proxy's own authority is in the system's list.
SYSTEM_CERTIFICATES = {"UV_SYSTEM_CERTS": "1"}


def _locked(session: nox.Session, lock: str, *, project: bool = False) -> None:
    session.install("-q", "--require-hashes", "-r", str(LOCKS / f"{lock}.txt"))
    if project:
        session.install("-q", "--no-deps", "-e", ".")


def _install(session: nox.Session, *groups: str) -> None:
    session.install("-q", "-U", "pip")
    session.install("-q", "-e", ".[all]", *(f"--group={group}" for group in groups))


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, in parallel and in random order."""
    _locked(session, "tests", project=True)
    session.run("pytest", "-q", "-n", "auto", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the core's tests, which cover it whole; `-- all` runs all, which cover 95 % of the rest."""
    _locked(session, "tests", project=True)
    of_all = session.posargs == ["all"]
    tests = [] if of_all else [f"tests/test_{name}.py" for name in CORE_TESTS]
    if not of_all:
        # One event loop does, but for a line after a cancelled wait, which a tracer sees on trio alone.
        one_loop = "not (trio and not test_send)"
        tests += ["-k", f"{one_loop} and not ({' or '.join(LONG_WHEN_FOLLOWED)})"]
    # Following every line doubles the time that tests take.
    session.run("pytest", "-q", "-n", "auto", "--cov", "--cov-report=", *tests)
    if of_all:
        session.run("coverage", "report", "--skip-covered", "--fail-under=95")
    core = ",".join(f"crowdtwist_async/{name}.py" for name in CORE)
    session.run("coverage", "report", f"--include={core}", "--fail-under=100")


@nox.session
def docs(session: nox.Session) -> None:
    """Run every block of the pages in `docs`, with the tools that they are for."""
    _install(session, "tests", "docs")
    session.run("pytest", "-q", "-n", "auto", "tests/test_docs.py", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Build the site into `build/site`, every warning an error; check its links and what it loads."""
    session.install("-q", *PYPROJECT["dependency-groups"]["site"])
    folder = session.posargs[0] if session.posargs else "build/site"
    session.run("python", "-W", "error", "-m", "website", folder, env={"NO_COLOR": "1"})


@nox.session
def remote(session: nox.Session) -> None:
    """Export to a server that speaks S3, kill that, and run the page on object stores."""
    _install(session, "tests", "remote")
    tests = ("tests/test_export_remote_s3.py", "tests/test_docs_object_stores.py")
    session.run("pytest", "-q", "-n", "auto", *tests, *session.posargs)


@nox.session
def httpx2(session: nox.Session) -> None:
    """Send over an injected client of httpx2's: the tests of all transports, and those of httpx's own."""
    _install(session, "tests", "httpx2")
    names = ("transport_conformance", "transports_httpx", "transports_environment")
    tests = [f"tests/test_{name}.py" for name in names]
    # Without httpx2 none of them is there, and pytest fails.
    session.run("pytest", "-q", "-n", "auto", "-k", "httpx2", *tests, *session.posargs)


@nox.session
def openapi(session: nox.Session) -> None:
    """Check the OpenAPI document, open the emulator's page in Chromium, and fuzz the emulator by it."""
    if shutil.which("chromium") is None:
        session.error("the emulator's page is tested in Chromium, and none is here: apt-get install chromium")
    _install(session, "tests", "openapi")
    tests = ("tests/test_openapi.py", "tests/test_openapi_checks.py", "tests/test_openapi_page.py")
    session.run("pytest", "-q", "-n", "auto", *tests, "tests/test_docs_openapi.py")
    session.run("python", "tests/fuzz_openapi.py", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests of what versions can change, with the lowest that `pyproject.toml` allows."""
    session.install("-q", "-U", "pip")
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [*PYPROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    found = [re.match(r"([\w-]+)>=([\d.]+)", line) for line in wanted]
    pins = [f"{match[1]}=={match[2]}" for match in found if match]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "lowest.txt")
        constraints.write_text("\n".join(pins))
        session.install("-q", "-e", ".[all]", "--group=tests", f"--constraint={constraints}")
    tests = [f"tests/test_{name}.py" for name in TOUCHED_BY_VERSIONS]
    session.run("pytest", "-q", "-n", "auto", *tests, *session.posargs)


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types with mypy and pyright, those that users see included."""
    _locked(session, "typing", project=True)
    session.run("mypy")
    session.run("mypy", "examples/loyalty_app")
    session.run("pyright")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    _locked(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def api(session: nox.Session) -> None:
    """Compare the public interface with what was promised; `-- --accept` writes down what is there."""
    _locked(session, "api")
    session.run("python", "tests/interface.py", *session.posargs)


@nox.session
def supply(session: nox.Session) -> None:
    """Check the workflows and forms of `.github`, without a network."""
    _locked(session, "supply")
    session.run("zizmor", "--quiet", "--offline", "--pedantic", ".github")
    for schema, pattern in FORMS.items():
        files = map(str, sorted((ROOT / ".github").glob(pattern)))
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


@nox.session(name="release-check")
def release_check(session: nox.Session) -> None:
    """Build what would be released into `dist`: twice, byte for byte; judge it, and try each extra alone."""
    _locked(session, "build")
    quiet = {"PYTHONWARNINGS": "", **SYSTEM_CERTIFICATES}
    session.run("python", ".ci/distributions.py", str(LOCKS / "core.txt"), env=quiet)
    packages = [path for path in sorted((ROOT / "dist").iterdir()) if path.suffix in (".gz", ".whl")]
    session.run("twine", "check", "--strict", *map(str, packages))


@nox.session
def lock(session: nox.Session) -> None:
    """Write the locks anew where `pyproject.toml` wants it; `-- --upgrade` takes the newest versions."""
    _locked(session, "build")
    backend = Path(session.create_tmp(), "backend.in")
    backend.write_text("\n".join(PYPROJECT["build-system"]["requires"]))
    for name in LOCKED:
        extras = [f"--extra={extra}" for extra in LOCKED_WITH.get(name, ())]
        groups = ["typing", "tests", "nox"] if name == "typing" else [name] * (name != "core")
        sources = ["pyproject.toml"] * (name in LOCKED_WITH) + [str(backend)] * (name == "build")
        session.run(
            *("uv", "pip", "compile", "-q", "--universal", "--python-version=3.11", "--generate-hashes"),
            # With extras: an older pip takes `coverage[toml]` for another package than the pinned one.
            *("--no-strip-extras", "--no-annotate", "--custom-compile-command=nox -s lock"),
            f"--output-file={LOCKS / name}.txt",
            *(f"--group={group}" for group in groups),
            *(*extras, *sources, *session.posargs),
            env=SYSTEM_CERTIFICATES,
        )


@nox.session
def bench(session: nox.Session) -> None:
    """Measure this client against its peers; `nox -s bench -- --quick` for a smoke run of the core alone."""
    peers = () if "--quick" in session.posargs else ("bench",)
    _install(session, *peers)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def ceiling(session: nox.Session) -> None:
    """Run 70 seconds under load, four ways, and judge every 60 seconds of it; 105 seconds in all."""
    _install(session)
    session.run("python", "-m", "benchmarks.ceiling", *session.posargs)


@nox.session(name="shared-budget")
def shared_budget(session: nox.Session) -> None:
    """Share one rate between four processes over Redis, kill one, stop Redis, judge every 60 seconds."""
    _install(session)
    session.run("python", "-m", "benchmarks.shared_budget", *session.posargs)


@nox.session
def plan(session: nox.Session) -> None:
    """Compare plans with runs at 600 requests a minute; 11 minutes."""
    _install(session)
    session.run("python", "-m", "benchmarks.plan", *session.posargs)


@nox.session
def resilience(session: nox.Session) -> None:
    """Measure outages, faults, a thousand cancels, prefetch, the memory of a fan-out, and a faulty export."""
    _install(session)
    session.run("python", "-m", "benchmarks.resilience", *session.posargs)
    session.run("python", "-m", "benchmarks.faulty_export")


@nox.session
def kill(session: nox.Session) -> None:
    """Kill exports 200 times in each format, resume them, and compare every row; 6 minutes."""
    _install(session)
    session.run("python", "tests/kills.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Read a million odd replies twice, and try 100,000 odd arguments and 2,000 odd walks and exports."""
    _install(session, "tests", "fuzz")
    session.run("python", "tests/fuzz/fuzzing.py", *session.posargs)
    if not session.posargs:
        session.run("python", "tests/fuzz/fuzzing.py", "--guided")
        session.run("python", "tests/fuzz/fuzzing.py", "--runs", "2000", "--steps", "50")


@nox.session
def mutation(session: nox.Session) -> None:
    """Change one thing at a time in the walk, the retries, the ledger, ...: which changes no test notices."""
    _install(session, "tests")
    session.run("python", "tests/mutation/mutate.py", *session.posargs)


@nox.session
def repeat(session: nox.Session) -> None:
    """Run all tests 50 times in random orders; what was begun is gone on with."""
    _install(session, "tests", "docs", "openapi", "remote")
    session.run("python", "tests/repeat.py", *session.posargs)


@nox.session
def dask(session: nox.Session) -> None:
    """Export 20,000 members on Dask, kill workers and the whole cluster, and search what Dask keeps."""
    session.install("-q", "-e", ".[cli,dask,parquet]")
    session.run("python", "-m", "benchmarks.dask_export", *session.posargs)
