"""
Every gate of the project; `nox` runs those that `.ci/run` runs.
"""

from __future__ import annotations

import re
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
    "_page_walk",
    "_pager",
    "_progress",
    "_protocol",
    "_replies",
    "_retry",
    "_send",
    "_slots",
    "_walk",
)

# A minute and a half of kills and of recipes in shells: what other tests call once, again and again.
SAME_WITH_ANY_VERSION = ("test_docs_sharding", "test_export_remote_breaks", "test_kills")

nox.options.sessions = ["lint", "typing", "tests", "docs", "remote", "lowest", "build", "bench"]
nox.options.default_venv_backend = "venv"


def _install(session: nox.Session, *groups: str) -> None:
    session.install("-q", "-U", "pip")
    session.install("-q", "-e", ".[all]", *(f"--group={group}" for group in groups))


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, in parallel and in random order."""
    _install(session, "tests")
    session.run("pytest", "-q", "-n", "auto", "--cov", "--cov-report=", *session.posargs)
    session.notify("coverage")


@nox.session
def coverage(session: nox.Session) -> None:
    """Judge the latest run of the tests: the core is covered whole, the rest at 95 %."""
    session.install("-q", "coverage")
    session.run("coverage", "report", "--skip-covered", "--fail-under=95")
    core = ",".join(f"crowdtwist_async/{name}.py" for name in CORE)
    session.run("coverage", "report", f"--include={core}", "--fail-under=100")


@nox.session
def docs(session: nox.Session) -> None:
    """Run every block of the pages in `docs`, with the tools that they are for."""
    _install(session, "tests", "docs")
    session.run("pytest", "-q", "-n", "auto", "tests/test_docs.py", *session.posargs)


@nox.session
def remote(session: nox.Session) -> None:
    """Export to a server that speaks S3, kill that, and run the page on object stores."""
    _install(session, "tests", "remote")
    tests = ("tests/test_export_remote_s3.py", "tests/test_docs_object_stores.py")
    session.run("pytest", "-q", "-n", "auto", *tests, *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests, but for the longest, with the lowest versions that `pyproject.toml` allows."""
    session.install("-q", "-U", "pip")
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [*PYPROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    found = [re.match(r"([\w-]+)>=([\d.]+)", line) for line in wanted]
    pins = [f"{match[1]}=={match[2]}" for match in found if match]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "lowest.txt")
        constraints.write_text("\n".join(pins))
        session.install("-q", "-e", ".[all]", "--group=tests", f"--constraint={constraints}")
    left_out = [f"--ignore=tests/{name}.py" for name in SAME_WITH_ANY_VERSION]
    session.run("pytest", "-q", "-n", "auto", *left_out, *session.posargs)


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types with mypy and pyright, those that users see included."""
    _install(session, "tests", "typing")
    session.install("-q", "nox")
    session.run("mypy")
    session.run("pyright")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("-q", *PYPROJECT["dependency-groups"]["lint"])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def build(session: nox.Session) -> None:
    """Build both distributions, check their metadata, and run the command from the wheel alone."""
    session.install("-q", *PYPROJECT["dependency-groups"]["build"])
    folder = session.create_tmp()
    session.run("python", "-m", "build", "-q", "--outdir", folder, str(ROOT))
    packages = sorted(Path(folder).glob("*-*"))
    session.run("twine", "check", "--strict", *map(str, packages))
    wheel = next(package for package in packages if package.suffix == ".whl")
    session.install("-q", "--force-reinstall", f"{wheel}[cli]")
    with session.chdir(folder):
        session.run(
            "crowdtwist", "export", "purchases", "--emulator", "--members", "20", "--fresh", "-o", "out.csv"
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
    """Run every test file 50 times in random order; what was begun is gone on with."""
    _install(session, "tests")
    session.run("python", "tests/repeat.py", *session.posargs)


@nox.session
def dask(session: nox.Session) -> None:
    """Export 20,000 members on Dask, kill workers and the whole cluster, and search what Dask keeps."""
    session.install("-q", "-e", ".[cli,dask,parquet]")
    session.run("python", "-m", "benchmarks.dask_export", *session.posargs)
