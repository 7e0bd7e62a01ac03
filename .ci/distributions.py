"""
Judge what would be released: reproducible, complete, nothing else in it, and no extra too small.

`nox -s release-check` runs this. It leaves the wheel, the sdist and the wheel's bill of materials in `dist`.
"""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path
from typing import NamedTuple

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SDIST = frozenset(
    {
        *("crowdtwist_async", "tests", "benchmarks", "docs", "examples", "website", ".ci"),
        *(
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "LICENSE",
            "README.md",
            "SECURITY.md",
            "noxfile.py",
            "pyproject.toml",
        ),
        *(".gitignore", "PKG-INFO"),
    }
)
"""All that lies at the top of the sdist: the last line is hatchling's."""
WHEEL_INFO = frozenset({"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"})
BUILDS = (
    ({"TZ": "UTC", "PYTHONHASHSEED": "1"}, 0o022, ()),
    ({"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}, 0o077, ("--sdist", "--wheel")),
)
"""The environment, the umask and the options of each; without options the wheel is made from the sdist."""
IMPORTED = "import crowdtwist_async"
PAGE = "from crowdtwist_async.emulator.openapi.pages import page; assert page('/docs/page.js', 'GET', '')"
EXPORT = (
    "from crowdtwist_async.cli import main; "
    "raise SystemExit(main(['export', 'purchases', '--emulator', '--members=20', '-o', '-']))"
)
PARQUET = "import crowdtwist_async.export.formats.parquet"
STORE = "from crowdtwist_async.export.remote.objects import Objects; Objects.at('{}')"
MEMORY = STORE.format("memory://folder/OUT.parquet")


class Extra(NamedTuple):
    """A program that works with an extra, and one that names the extra where it is missing, if any does."""

    works: str
    refused: str
    without: str = "core"
    """Which environment has everything else that the second one needs."""


EXTRAS = {
    "aiohttp": Extra(*["from crowdtwist_async.transports.aiohttp import AiohttpTransport"] * 2),
    "cli": Extra(*[EXPORT] * 2),
    "dask": Extra(*["from crowdtwist_async.export.dask.cluster import _classes, cluster_at; _classes()"] * 2),
    "gcs": Extra("import gcsfs; " + PARQUET, STORE.format("gs://bucket/OUT.parquet"), "remote"),
    "otel": Extra("from crowdtwist_async._telemetry import Telemetry", ""),
    "parquet": Extra(PARQUET, PARQUET),
    "redis": Extra(*["from crowdtwist_async.budgets.redis import RedisBudget"] * 2),
    "remote": Extra(MEMORY, MEMORY, "parquet"),
    "s3": Extra("import s3fs; " + PARQUET, STORE.format("s3://bucket/OUT.parquet"), "remote"),
}


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command, and return what it printed; all that it printed is told if it fails."""
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def want(expected: object, found: object, what: str) -> None:
    """End with both if they differ, or with what differs of two sets."""
    if isinstance(expected, (set, frozenset)) and isinstance(found, set):
        expected, found = expected - found, found - expected
    if expected != found:
        raise SystemExit(f"{what}: expected {expected}, found {found}")


def tracked() -> list[str]:
    """The files that belong to the project, those that are not committed yet included."""
    listed = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def built(
    folder: Path, names: Sequence[str], environment: Mapping[str, str], umask: int, options: Sequence[str]
) -> Path:
    """Copy the files, with modes and times of their own, and build both distributions from them."""
    for name in names:
        copy = folder / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
        copy.chmod((0o777 if (ROOT / name).stat().st_mode & 0o100 else 0o666) & ~umask)
    epoch = run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    program = f"import os, runpy; os.umask({umask}); runpy.run_module('build', run_name='__main__')"
    run(
        *(sys.executable, "-c", program, "--no-isolation", *options),
        *("--outdir", folder / "dist", folder / "source"),
        environment={**environment, "SOURCE_DATE_EPOCH": epoch},
    )
    return folder / "dist"


def check_same(first: Path, second: Path) -> None:
    """Byte for byte."""
    names = {path.name for path in first.iterdir()}
    want(names, {path.name for path in second.iterdir()}, "what is built")
    for path in first.iterdir():
        if path.read_bytes() != (second / path.name).read_bytes():
            raise SystemExit(f"{path.name} differs from one build to the next")


def check_wheel(wheel: Path, names: Sequence[str]) -> Message:
    """The package's files and the metadata, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
        info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
        package = {name for name in names if name.startswith("crowdtwist_async/")}
        want({*package, *(f"{info}/{name}" for name in WHEEL_INFO)}, found, "the wheel's files")
        want({"crowdtwist_async/py.typed"}, found & {"crowdtwist_async/py.typed"}, "py.typed")
        return email.message_from_bytes(archive.read(f"{info}/METADATA"))


def check_sdist(sdist: Path, names: Sequence[str]) -> None:
    """The tracked files below each name at its top, all of them and nothing else."""
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    want(SDIST, {name.partition("/")[0] for name in found}, "the top of the sdist")
    want(
        {name for name in names if name.partition("/")[0] in SDIST} | {"PKG-INFO"}, found, "the sdist's files"
    )


def check_metadata(metadata: Message) -> None:
    """What an installer and the index read."""
    want("crowdtwist-async", metadata["Name"], "the name")
    want("MIT", metadata["License-Expression"], "the licence")
    want(["LICENSE"], metadata.get_all("License-File"), "the licence's file")
    want(SpecifierSet(PROJECT["requires-python"]), SpecifierSet(metadata["Requires-Python"]), "Python")
    extras = sorted(PROJECT["optional-dependencies"])
    want(extras, sorted(metadata.get_all("Provides-Extra", [])), "the extras")
    want(extras, sorted([*EXTRAS, "all"]), "the extras that are tried here")
    # No address is known yet; one that is added here must be looked at by hand once.
    want(None, metadata.get_all("Project-URL"), "addresses")


def environment_with(folder: Path, name: str, *wanted: str) -> Path:
    """The interpreter of a new environment with nothing but these."""
    python = folder / name / "bin" / "python"
    run("uv", "venv", "-q", "--python", sys.executable, folder / name)
    run("uv", "pip", "install", "-q", "--python", python, *wanted)
    return python


def check_extras(folder: Path, wheel: Path) -> None:
    """The core alone, and each extra alone: enough for what it serves, and named where it is missing."""
    programs = {name: extra.works for name, extra in EXTRAS.items()}
    # The command ends its program, and the stores of `all` are those that `remote` knows.
    every = "\n".join(program for name, program in programs.items() if name not in ("cli", "gcs", "s3"))

    def tried(named: tuple[str, str]) -> tuple[str, Path]:
        name, program = named
        python = environment_with(folder, name, str(wheel) if name == "core" else f"{wheel}[{name}]")
        run(python, "-I", "-c", f"{IMPORTED}\n{PAGE}\n{program}")
        return name, python

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pythons = dict(pool.map(tried, [("all", every), *programs.items(), ("core", "")]))
    for name, extra in EXTRAS.items():
        if not extra.refused:
            continue
        command = [str(pythons[extra.without]), "-I", "-c", extra.refused]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode or f"crowdtwist-async[{name}]" not in done.stdout + done.stderr:
            raise SystemExit(f"without [{name}]: {done.stdout}{done.stderr}")


def write_bill(folder: Path, wheel: Path, lock: Path) -> Path:
    """The wheel and what the lock of the core gives it, the same for the same lock."""
    python = environment_with(folder, "locked", "--require-hashes", "-r", str(lock))
    run("uv", "pip", "install", "-q", "--python", python, "--no-deps", wheel)
    # Else the bill would tell where on this machine the wheel was.
    next((folder / "locked").rglob("crowdtwist_async-*.dist-info/direct_url.json")).unlink()
    bill = folder / "sbom.cdx.json"
    run(
        *("cyclonedx-py", "environment", "--output-reproducible", "--of=JSON", "--output-file", bill),
        *("--pyproject", ROOT / "pyproject.toml", "--mc-type=library", python),
    )
    told = json.loads(bill.read_text())
    version = wheel.name.split("-")[1]
    told["metadata"]["component"] |= {"version": version, "purl": f"pkg:pypi/crowdtwist-async@{version}"}
    bill.write_text(json.dumps(told, indent=2) + "\n")
    if (place := str(folder)) in bill.read_text():
        raise SystemExit(f"the bill of materials names {place}")
    return bill


def main(lock: Path) -> None:
    """Build, judge, and leave what is to be released."""
    names = tracked()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, f"build-{number}") for number in range(len(BUILDS))]
        first, second = (built(folder, names, *build) for folder, build in zip(folders, BUILDS, strict=True))
        check_same(first, second)
        wheel, sdist = next(first.glob("*.whl")), next(first.glob("*.tar.gz"))
        check_metadata(check_wheel(wheel, names))
        check_sdist(sdist, names)
        check_extras(Path(scratch), wheel)
        bill = write_bill(Path(scratch), wheel, lock)
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        for path in (wheel, sdist, bill):
            shutil.copy(path, DIST)
            print(path.name, path.stat().st_size, "bytes")
    print(f"two builds alike; the core and {len(EXTRAS) + 1} extras work, each in an environment of its own")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
